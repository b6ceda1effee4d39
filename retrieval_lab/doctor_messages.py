"""What the data doctor says, in English and in Chinese, in the form of the table in `data_messages`, which joins it to its own.
Used by `doctor`; taught in lesson 07.
"""

TABLE = """
format_problems
en: {share} lines cannot be read, so they were not examined → mend them as the report below says, or train with skip_bad
zh: {share} 行读不了，所以没有检查 → 按下面的报告改正，或用 skip_bad 训练
file_problem
en: the file was not examined: {cause} → {remedy}
zh: 没有检查这个文件：{cause} → {remedy}
pos_and_neg
en: the same text is a positive and a negative of one query: the loss pulls both ways → decide which it is, and delete the other
zh: 同一条文本对同一条查询既是正例又是负例，损失会朝两个方向拉 → 判断它属于哪一边，删掉另一边
other_positive
en: a negative of this query is a positive of another one; it may answer this query too → read these pairs; drop the negative where it answers
zh: 这条查询的负例是另一条查询的正例，它可能也回答了这条查询 → 读一读这些配对；能回答的就不要当负例
shared_positive
en: texts that are the positive of several queries; as in-batch negatives they would be wrong → use a batch sampler without duplicates
zh: 有些文本是好几条查询的正例，当作批内负例就错了 → 使用不含重复文本的批采样器
duplicate_exact
en: the same query, text and role a second time: it counts twice in training → delete the repetition
zh: 相同的查询、文本和角色重复出现，训练时会算两次 → 删掉重复
duplicate_normalised
en: the same query, text and role again, apart from blanks and character width (NFKC) → delete the repetition
zh: 除空白和全半角（NFKC）之外，查询、文本和角色都相同 → 删掉重复
duplicate_query
en: the query stands on an earlier line too; in one batch each would take the other's positive as a negative → join the lines
zh: 这条查询在前面的行出现过；在同一批里，它们会互相把对方的正例当作负例 → 合并这些行
score_conflict
en: one query and text with two different scores → keep one of them
zh: 同一条查询和文本有两个不同的分数 → 只留一个
constant_label
en: every label is {label}: a model that always says so is perfect → add documents with other labels
zh: 所有标签都是 {label}：总是给出这个值的模型就满分了 → 加入其他标签的文档
single_document
en: queries with one scored document; compared within a query (KL), one document gives no gradient → add documents, or train on labels
zh: 有些查询只有一篇带分数的文档；在查询内部比较（KL）时，一篇文档没有梯度 → 补充文档，或按标签训练
prompt_mixed
en: lines without a prompt in a file where {share} lines have one → give all lines the prompt that the model will be saved with
zh: 文件里 {share} 行带提示词，这些行却没有 → 所有行都用将与模型一起保存的那个提示词
query_is_text
en: the positive is the query itself: nothing is learned from it → delete the text
zh: 正例就是查询本身，从中学不到东西 → 删掉这条文本
replacement
en: texts with U+FFFD (�): characters were lost when the file was decoded → go back to the source and decode it as what it is
zh: 文本里有 U+FFFD（�）：解码时丢了字符 → 回到源文件，用正确的编码解码
mojibake
en: texts that look like UTF-8 read as Windows-1252 (as in “{sample}”) → go back to the source and decode it as UTF-8
zh: 文本像是把 UTF-8 当成 Windows-1252 读出来的乱码（例如“{sample}”） → 回到源文件，按 UTF-8 解码
truncation
en: {field}: {share} texts ({percent}) are longer than {max_length} tokens and lose their end; the longest has {longest} → raise max_length, or cut into passages
zh: {field}：{share} 条文本（{percent}）超过 {max_length} 个词元，结尾会被截断；最长的有 {longest} 个 → 增大 max_length，或切分成段落
leak_query
en: {share} validation queries stand in the training files: their score says nothing about new queries → take them out of one side
zh: {share} 条验证查询出现在训练文件里：它们的得分说明不了新查询的效果 → 从其中一边去掉
leak_text
en: {share} relevant texts of the validation file are relevant texts in training too → fine for one shared collection, else split by document
zh: 验证文件的相关文本里，有 {share} 条在训练中也是相关文本 → 如果共用一个文档库，没有问题；否则按文档划分
languages
en: the {field} are in several languages: {shares} → train and evaluate with a multilingual model, and look at each language alone
zh: {field}有多种语言：{shares} → 用多语言模型训练和评估，并分语言查看结果
"""

WORDS = {
    "en": {"positive": "positives", "negative": "negatives", "document": "documents", "query": "queries"},
    "zh": {"positive": "正例", "negative": "负例", "document": "文档", "query": "查询"},
}
WORDS["en"] |= {"pair": "query + document", "error": "error", "warning": "warning", "info": "info", "other": "other"}
WORDS["zh"] |= {"pair": "查询 + 文档", "error": "错误", "warning": "警告", "info": "提示", "other": "其他"}
WORDS["en"] |= {"length_chars": "Length in characters", "length_tokens": "Length in tokens", "labels": "Labels"}
WORDS["zh"] |= {"length_chars": "长度（字符）", "length_tokens": "长度（词元）", "labels": "标签"}
WORDS["en"] |= {"languages": "Languages by script", "documents_per_query": "Texts a query", "truncation": "Truncation"}
WORDS["zh"] |= {"languages": "语言（按文字）", "documents_per_query": "每条查询的文本数", "truncation": "截断"}
WORDS["en"] |= {"texts": "texts", "truncated": "truncated", "longest": "longest"}
WORDS["zh"] |= {"texts": "文本数", "truncated": "截断数", "longest": "最长"}
WORDS["en"] |= {"zh": "Chinese", "en": "Latin script", "errors": "errors", "warnings": "warnings", "infos": "infos"}
WORDS["zh"] |= {"zh": "中文", "en": "拉丁字母", "errors": "项错误", "warnings": "项警告", "infos": "项提示"}
