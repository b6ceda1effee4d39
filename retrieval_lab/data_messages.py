"""Every message about a training file, in English and in Chinese: the cause, then what to do about it.
Used by `formats`, `converters` and `doctor`; taught in lesson 07.
"""

from retrieval_lab import doctor_messages, profiles

# One entry: its code, then `en: cause → remedy` and `zh: cause → remedy`. Names in braces are filled in by `text`.
_TABLE = """
file_missing
en: there is no such file → check the path; the folder searched is {folder}
zh: 没有这个文件 → 检查路径；查找的文件夹是 {folder}
file_empty
en: the file holds no line → write at least one line
zh: 文件里一行也没有 → 至少写入一行
encoding
en: byte {byte} of this line is {value}, which is not UTF-8; the file looks like {guess} → save it as UTF-8: {command}
zh: 这一行的第 {byte} 个字节是 {value}，不是 UTF-8；文件看起来是 {guess} 编码 → 另存为 UTF-8：{command}
encoding_utf16
en: the file is UTF-16, not UTF-8 → save it as UTF-8: {command}
zh: 文件是 UTF-16 编码，不是 UTF-8 → 另存为 UTF-8：{command}
bom
en: a byte order mark stands before the first character; it is left out → nothing to do; save as "UTF-8 without BOM" to be rid of it
zh: 行首有字节顺序标记（BOM），读取时已略去 → 不必处理；想去掉它，另存为“UTF-8 无 BOM”
crlf
en: lines that end in CRLF (Windows): {count}; they are read like LF → nothing to do
zh: 有 {count} 行以 CRLF（Windows 换行）结尾，按 LF 读取 → 不必处理
blank_line
en: the line is blank → delete it
zh: 这一行是空行 → 删掉这一行
broken_json
en: not JSON at column {column}: {reason}; it reads {near} → mend the line, or write the file with json.dumps(row, ensure_ascii=False)
zh: 第 {column} 列起不是合法的 JSON：{reason}；此处是 {near} → 改正这一行，或用 json.dumps(row, ensure_ascii=False) 重新写出文件
single_quotes
en: this is a Python dictionary in single quotes, not JSON → write the file with json.dumps(row, ensure_ascii=False)
zh: 这是单引号的 Python 字典，不是 JSON → 用 json.dumps(row, ensure_ascii=False) 重新写出文件
array_broken
en: the JSON array breaks at column {column}: {reason}; what follows cannot be told apart → mend it, or write one object a line (JSON lines)
zh: JSON 数组在第 {column} 列断开：{reason}；后面的内容无法辨认 → 改正此处，或改成每行一个对象（JSON lines）
repeated_key
en: the key {key} stands twice in one object; JSON would keep the last only → keep one; several texts go into one list
zh: 同一个对象里 {key} 出现了两次，JSON 只会保留最后一个 → 只留一个；多条文本放进一个列表
not_a_record
en: the line holds {found}, not an object or a [query, document, label] list → write {{"query": ..., "pos": [...]}}
zh: 这一行是{found}，既不是对象，也不是 [query, document, label] 列表 → 写成 {{"query": ..., "pos": [...]}}
list_length
en: a list line has 3 items, query, document and label; this one has {count} → write ["query", "document", 1]
zh: 列表行应有 3 项：查询、文档、标签；这一行有 {count} 项 → 写成 ["query", "document", 1]
unknown_shape
en: no line holds the fields of a training format → each line needs "query" and one of: pos; pos and neg; pos and scores; content and score
zh: 没有一行带有训练格式的字段 → 每行都要有 "query"，再加上其中一种：pos；pos 和 neg；pos 和 scores；content 和 score
missing
en: the field is missing → add it, or delete the line
zh: 缺少这个字段 → 补上它，或删掉这一行
missing_near
en: the field is missing; {near} looks like it → rename {near} to "{wanted}"
zh: 缺少这个字段；{near} 与它相像 → 把 {near} 改名为 "{wanted}"
both_spellings
en: {first} and {second} are two spellings of one field and both are here → keep one
zh: {first} 和 {second} 是同一个字段的两种写法，这里都出现了 → 只留一个
empty_text
en: the text is empty → fill it in, or take it out of the list
zh: 文本是空的 → 补上文本，或把它从列表中去掉
empty_list
en: the list is empty → give at least one item, or delete the line
zh: 列表是空的 → 至少给一项，或删掉这一行
empty_optional
en: the list is empty → leave the field out of this line, or fill the list
zh: 列表是空的 → 在这一行去掉这个字段，或把列表填上
empty_negatives
en: the list of negatives is empty → mine negatives for this query, or delete the line; to train without negatives read with kind="pair"
zh: 负例列表是空的 → 为这条查询挖掘负例，或删掉这一行；不用负例训练时，以 kind="pair" 读取
wrong_type
en: {found} where {expected} belongs → write {expected}
zh: 这里应是{expected}，却是{found} → 改成{expected}
surrogate
en: half of a surrogate pair (such as \\ud83d alone), which no file can store → delete the broken character
zh: 含有半个代理对（例如单独的 \\ud83d），任何文件都存不下 → 删掉这个损坏的字符
not_finite
en: {found} is not a finite number → give a number, or delete the text that it belongs to
zh: {found} 不是有限的数 → 给出一个数，或删掉对应的文本
length
en: number of scores: {scores}, number of texts: {texts} → give one score a text
zh: {texts} 条文本却有 {scores} 个分数 → 每条文本给一个分数
out_of_range
en: label {found} lies outside {low}..{high} → pass min_label= and max_label= of your scale, or mend the label
zh: 标签 {found} 超出 {low}..{high} → 用 min_label= 和 max_label= 说明你的标度，或改正标签
mixed
en: this line is written as {shape}, while the file is {expected} (see line {first}) → one format a file: move such lines to their own file
zh: 这一行是 {shape} 格式，而文件是 {expected} 格式（见第 {first} 行） → 一个文件只用一种格式：把这样的行移到另一个文件
kind
en: the file is written as {shape}, which cannot be read as {kind} → read it as {choices}, or write lines with the fields that {kind} needs: {needs}
zh: 文件是 {shape} 格式，不能按 {kind} 读取 → 按 {choices} 读取，或写出带有 {kind} 所需字段的行：{needs}
kind_ambiguous
en: lines with query, pos and neg can train several families → say which: kind="triplet" (embedding, ColBERT) or kind="graded" (reranker)
zh: 含 query、pos、neg 的行可以训练几类模型 → 说明是哪一类：kind="triplet"（向量模型、ColBERT）或 kind="graded"（重排器）
no_rows
en: no line is left to train on → mend the lines above
zh: 没有剩下可以训练的行 → 先改正上面的行
prompt_twice
en: the query already begins with its prompt, which would then be there twice → take the prompt out of the query
zh: 查询开头已经带有提示词，再加一次就重复了 → 从查询里去掉提示词
unknown_field
en: lines with this field: {count}; no format knows it and it is not used → rename or delete it if it was meant to be used
zh: 有 {count} 行带有这个字段；没有格式认识它，不会使用 → 如果本想用它，就改名，否则删掉
unused_field
en: lines with this field: {count}; kind="{kind}" does not use it → read with another kind if it was meant to be used
zh: 有 {count} 行带有这个字段；kind="{kind}" 不使用它 → 如果本想用它，换一种 kind 读取
sidecar_missing
en: {name} is not there, so the shape of the vectors is unknown → teacher_embeddings.describe("{data}", dim=...) writes it
zh: 没有 {name}，不知道向量的形状 → 用 teacher_embeddings.describe("{data}", dim=...) 写出它
sidecar_broken
en: {name} should hold rows, dim, dtype and sha256, but {reason} → teacher_embeddings.describe("{data}", dim=...) writes it anew
zh: {name} 里应有 rows、dim、dtype、sha256，但是 {reason} → 用 teacher_embeddings.describe("{data}", dim=...) 重新写出
teacher_missing
en: kind="teacher" needs the file of vectors; {name} is not there → pass embeddings="..."
zh: kind="teacher" 需要向量文件，但没有 {name} → 传入 embeddings="..."
teacher_size
en: {rows} rows x {dim} dims of {dtype} are {expected} bytes, but the file has {found} → correct dim or dtype, or copy the file again
zh: {rows} 行 x {dim} 维的 {dtype} 应为 {expected} 字节，文件却有 {found} 字节 → 改正 dim 或 dtype，或重新复制文件
teacher_rows
en: {found} vectors for {expected} lines → encode the file again, every line in order
zh: 有 {expected} 行文本，却有 {found} 个向量 → 按行的顺序重新编码整个文件
teacher_dim
en: dim is {found}, but {expected} was asked for → use the embeddings of the right teacher, or correct the configuration
zh: 维数是 {found}，要求的却是 {expected} → 换用正确教师模型的向量，或改正配置
teacher_dtype
en: dtype is {found}, but {expected} was asked for → correct the configuration, or write the vectors in the other dtype
zh: 数据类型是 {found}，要求的却是 {expected} → 改正配置，或用另一种类型写出向量
teacher_hash
en: the bytes are not those that the side-car describes (sha256 {found}, expected {expected}) → copy the file again, or encode anew
zh: 文件内容与说明文件不符（sha256 为 {found}，应为 {expected}） → 重新复制文件，或重新编码
teacher_not_finite
en: vector {row} holds NaN or infinity → encode its line again; fp16 overflow is the usual cause
zh: 第 {row} 个向量含有 NaN 或无穷大 → 重新编码这一行；常见原因是 fp16 溢出
not_held_prompts
en: queries with a prompt, which {format} cannot hold: {count} → keep the prompt with the model
zh: 有 {count} 条查询带提示词，{format} 存不下 → 把提示词和模型存在一起
not_held_scores
en: queries with scores, which {format} cannot hold: {count} → keep the source file, or convert to flagembedding
zh: 有 {count} 条查询带分数，{format} 存不下 → 保留源文件，或转换为 flagembedding
not_held_grades
en: queries with grades, which {format} cannot hold: {count} → keep the source file, or convert to beir
zh: 有 {count} 条查询带等级标签，{format} 存不下 → 保留源文件，或转换为 beir
not_held_binary_scores
en: queries whose scores are all 0 or 1: {count}; {format} keeps which text is relevant, but reads back without scores → nothing to do for 0/1 labels
zh: 有 {count} 条查询的分数全是 0 或 1；{format} 记得哪些文本相关，但读回时没有分数 → 0/1 标签不必处理
not_held_ids
en: ids of queries and passages, which {format} cannot hold: {count} → keep the source file if you need the ids
zh: 有 {count} 个查询和段落的编号，{format} 存不下 → 需要编号就保留源文件
not_held_titles
en: titles, for which {format} has no field: {count}; each is put before its text, on a line of its own → nothing to do
zh: 有 {count} 个标题：{format} 没有标题字段，各自放在正文之前，单独一行 → 不必处理
not_held_negatives_kept
en: negatives: {count}; {format} keeps them as documents, but no longer knows whose negatives they are → keep the source file
zh: 有 {count} 条负例：{format} 只把它们当作普通文档，不再知道是哪条查询的负例 → 保留源文件
not_held_documents
en: documents that no query judges, left out of {format}: {count} → keep the source for indexing
zh: 有 {count} 篇文档没有任何查询判断过，{format} 不收 → 建索引时用源文件
not_held_queries
en: queries without a positive, left out of {format}: {count} → judge them, or keep the source file
zh: 有 {count} 条查询没有正例，{format} 不收 → 为它们补上判断，或保留源文件
not_held_contradictions
en: texts that are both positive and negative of one query: {count}; {format} holds one grade, the positive one → decide with the doctor's list
zh: 有 {count} 条文本对同一条查询既是正例又是负例；{format} 只能存一个等级，取正例 → 对照体检报告逐条决定
not_held_repeats
en: repeated texts of one query, kept once in {format}: {count} → nothing to do, unless the repetition was a weight
zh: 同一条查询的重复文本有 {count} 处，{format} 里只留一次 → 除非重复代表权重，否则不必处理
not_held_repeated_queries
en: lines whose query came before: {count}; read back from {format}, the lines of one query are one → nothing to do for training
zh: 有 {count} 行的查询前面出现过；从 {format} 读回时，同一条查询的各行会合成一行 → 训练时不必处理
not_held_split
en: queries: {count}; {format} keeps each label, but not which texts stood in pos and which in neg → nothing to do for graded training
zh: 有 {count} 条查询：{format} 保留每个标签，但不记得文本原来在 pos 还是 neg 里 → 分级训练不必处理
not_held_fields
en: the fields {names} are in the source and have no place in the result → keep the source file
zh: 源文件里的字段 {names} 在结果中没有位置 → 保留源文件
some_negatives
en: queries without negatives, while others have some: {count} → mine negatives for them before kind="triplet", or read with kind="pair"
zh: 有 {count} 条查询没有负例，其余的有 → 用 kind="triplet" 之前先为它们挖掘负例，或以 kind="pair" 读取
one_table
en: a table of columns cannot hold queries with and without {what} together → split the file in two
zh: 一张列表不能同时存放有{what}和没有{what}的查询 → 把文件拆成两个
unknown_id
en: {what} {id} is named here but is not in {where} → add it, or delete the judgement
zh: 这里提到{what} {id}，{where} 里却没有 → 补上它，或删掉这条判断
repeated_id
en: the id {id} stands for two different texts → give each text its own id
zh: 编号 {id} 对应两条不同的文本 → 让每条文本有自己的编号
id_space
en: the id {id} holds a blank, which separates the columns of TREC files → use ids without blanks, or convert to beir
zh: 编号 {id} 含有空白，而 TREC 文件用空白分列 → 改用不含空白的编号，或转换为 beir
no_qrels
en: no judgement file for this split; there is: {there} → pass split= one of these
zh: 没有这个划分的判断文件；现有：{there} → 用 split= 指定其中之一
which_split
en: there are several splits: {there} → pass split= one of them
zh: 有好几个划分：{there} → 用 split= 指定其中之一
bad_judgement
en: {found} is no judgement → write {expected}
zh: {found} 不是一条判断 → 写成 {expected}
"""


def _parse(table: str) -> dict[str, dict[str, tuple[str, str]]]:
    lines = table.strip().split("\n")
    entries = {}
    for code, english, chinese in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        pairs = {"en": english.removeprefix("en: "), "zh": chinese.removeprefix("zh: ")}
        entries[code] = {lang: tuple(pair.split(" → ", 1)) for lang, pair in pairs.items()}
    return entries


MESSAGES = _parse(_TABLE) | _parse(doctor_messages.TABLE)

_WORDS = {
    "en": {"str": "text", "int": "a number", "float": "a number", "list": "a list", "dict": "an object"},
    "zh": {"str": "文本", "int": "数字", "float": "数字", "list": "列表", "dict": "对象"},
}
_WORDS["en"] |= {"bool": "true/false", "NoneType": "null", "text_list": "text or a list of texts"}
_WORDS["zh"] |= {"bool": " true/false", "NoneType": " null", "text_list": "文本或文本列表"}
_WORDS["en"] |= {"number_list": "a number or a list of numbers", "id_query": "query", "id_document": "document"}
_WORDS["zh"] |= {"number_list": "数字或数字列表", "id_query": "查询", "id_document": "文档"}
_WORDS["en"] |= {"negatives": "negatives", "scores": "scores"} | doctor_messages.WORDS["en"]
_WORDS["zh"] |= {"negatives": "负例", "scores": "分数"} | doctor_messages.WORDS["zh"]


def text(code: str, lang: str, /, **values) -> tuple[str, str]:
    """Cause and remedy of one message in one language, its names filled in.

    Only our own templates go through ``str.format``; what a user wrote is a value and is never read as a template.

    Raises
    ------
    KeyError
        If the code or the language has no entry.

    >>> text("length", "en", scores=2, texts=3)
    ('number of scores: 2, number of texts: 3', 'give one score a text')
    >>> text("not_finite", "en", found="{x}")[0]
    '{x} is not a finite number'
    """
    cause, remedy = MESSAGES[code][lang]
    return cause.format(**values), remedy.format(**values)


def word(name: str, lang: str) -> str:
    """The name of a type or thing as a reader calls it.

    >>> word("NoneType", "en"), word("list", "zh")
    ('null', '列表')
    """
    return _WORDS[lang].get(name, name)


def shorten(value, width: int = 40) -> str:
    """A value as Python writes it, cut to ``width`` characters.

    >>> shorten("abcdefghij", width=8)
    "'abcd..."
    """
    shown = repr(value)
    return shown if len(shown) <= width else shown[: width - 3] + "..."


def language(lang: str | None) -> str:
    """``lang`` itself, or the reader's language (``RETRIEVAL_LAB_LANG``, else English) when it is None.

    Raises
    ------
    ValueError
        If the language is neither "en" nor "zh".

    >>> language("zh")
    'zh'
    """
    if lang is None:
        return profiles.language()
    if lang not in profiles.LANGUAGES:
        raise ValueError(f"lang={lang!r} is not known; use 'en' or 'zh' / lang={lang!r} 无效；可用 'en' 或 'zh'")
    return lang
