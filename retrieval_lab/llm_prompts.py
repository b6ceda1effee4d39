"""Prompts of decoder rerankers, written into a chat template, so that plain sentence-transformers builds the same prompt.
Taught in lesson 04. A query and a document are text wherever they stand: no format string, no control token.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from retrieval_lab.profiles import say

QUERY, DOCUMENT = "\ue000", "\ue001"  # private characters that mark the two places while the prompt is laid out


@dataclass(frozen=True)
class Prompt:
    """What a causal model reads around a query and a document, and the words it answers with.

    ``body`` has {query} and {document} once each. ``ending`` follows the chat template's own opening of the answer.
    """

    instruction: str
    body: str
    words: tuple[str, str | None]  # the second may be missing: then the score is the first word's logit alone
    ending: str = ""
    chat: bool = True  # wrap it in the model's own chat template, where it has one


PROMPTS = {
    "en": Prompt(
        "Does the document answer the query? Say Yes or No.", "Query: {query}\nDocument: {document}", ("Yes", "No")
    ),
    "zh": Prompt("文档能回答查询吗？只答“是”或“否”。", "查询：{query}\n文档：{document}", ("是", "否")),
    # Trained on these, a small model learns faster: the query's words, read last, look back for themselves in the document.
    "en-short": Prompt(
        "",
        "Document: {document}\nQuery: {query}\nDoes the document answer the query? Answer:",
        ("Yes", "No"),
        chat=False,
    ),
    "zh-short": Prompt("", "文档：{document}\n查询：{query}\n文档能回答查询吗？回答：", ("是", "否"), chat=False),
    # The two below are what these models were trained with; another wording costs them quality.
    "qwen3-reranker": Prompt(
        'Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".',
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}",
        ("yes", "no"),
        ending="<think>\n\n</think>\n\n",
    ),
    "bge-reranker-gemma": Prompt(
        "",
        "A: {query}\nB: {document}\nGiven a query A and a passage B, determine whether the passage contains an answer to the query by providing a prediction of either 'Yes' or 'No'.",
        ("Yes", None),
        chat=False,
    ),
}
# How the names of those models begin, of every size, and which prompt is theirs.
TRAINED_ON = {
    "qwen3-reranker": "qwen3-reranker",
    "bge-reranker-gemma": "bge-reranker-gemma",
    "bge-reranker-v2-gemma": "bge-reranker-gemma",
}
OPENINGS = {"en": "\nAnswer:", "zh": "\n回答："}  # of the answer, for models without a chat template
ALTERNATIVES = (("Yes", "No"), ("yes", "no"), ("是", "否"), ("是", "不"), ("对", "错"), ("true", "false"), ("1", "0"))


def own(name: str | Path) -> str | None:
    """The key of the prompt that a model was trained on, told by its alias, its hub id or the name of its folder.

    Of a copy in the hub's cache, the folder is called after its revision, and one above it after the model.

    >>> own("Qwen/Qwen3-Reranker-4B"), own("models/Qwen3-Reranker-0.6B/"), own("smollm2")
    ('qwen3-reranker', 'qwen3-reranker', None)
    """
    parts = Path(name).parts
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    names = [part.lower() for part in [*cached, *parts[-1:]]]
    return next((key for part in names for start, key in TRAINED_ON.items() if part.startswith(start)), None)


class Layout(NamedTuple):
    """The fixed text before, between and after the two texts, and which of them comes first."""

    before: str
    between: str
    after: str
    roles: tuple[str, str] = ("query", "document")


def layout(tokenizer, prompt: Prompt, lang: str = "en") -> Layout:
    """A prompt's fixed text for this tokenizer, chat format included, up to where the answer begins.

    Raises
    ------
    ValueError
        If the prompt's body does not hold {query} and {document} once each.

    >>> from retrieval_lab import tiny
    >>> found = layout(tiny.chat_tokenizer(), PROMPTS["en"])
    >>> found.between, found.after
    ('\\nDocument: ', '<|im_end|>\\n<|im_start|>assistant\\n')
    """
    if [prompt.body.count(name) for name in ("{query}", "{document}")] != [1, 1]:
        raise ValueError(
            say(
                en=f"the prompt {prompt.body!r} must hold {{query}} and {{document}} once each",
                zh=f"提示词 {prompt.body!r} 里 {{query}} 和 {{document}} 必须各出现一次",
            )
        )
    marked = prompt.body.replace("{query}", QUERY).replace("{document}", DOCUMENT)
    if prompt.chat and tokenizer.chat_template:
        text = _in_chat(tokenizer, prompt.instruction, marked) + prompt.ending
    else:
        text = "\n".join(part for part in (prompt.instruction, marked) if part)
        text = bos(tokenizer) + text + (OPENINGS[lang] if prompt.chat else "")
    turned = text.index(QUERY) > text.index(DOCUMENT)
    one, two = (DOCUMENT, QUERY) if turned else (QUERY, DOCUMENT)
    before, _, rest = text.partition(one)
    between, _, after = rest.partition(two)
    return Layout(before, between, after, ("document", "query") if turned else ("query", "document"))


def _in_chat(tokenizer, instruction: str, body: str) -> str:
    """The model's own chat format up to where its answer starts; a template without a system role gets one user turn."""
    from jinja2 import TemplateError

    user = [{"role": "user", "content": body}]
    options = {"tokenize": False, "add_generation_prompt": True}
    try:
        text = tokenizer.apply_chat_template([{"role": "system", "content": instruction}, *user], **options)
        if instruction and instruction in text:
            return text
    except TemplateError:  # Gemma's template refuses a system role; others drop it
        pass
    user[0]["content"] = "\n".join(part for part in (instruction, body) if part)
    return tokenizer.apply_chat_template(user, **options)


def bos(tokenizer) -> str:
    """The text of the token that this tokenizer puts first, if it does: a rendered template gets none of its own accord."""
    first = tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token if tokenizer.bos_token and first == [tokenizer.bos_token_id] else ""


def template(tokenizer, parts: Layout, note: dict | None = None) -> str:
    """A chat template for the roles "query" and "document", the ones that sentence-transformers gives to a pair.

    Control tokens inside a text are split by a blank, so that a document cannot end its own turn.

    Parameters
    ----------
    parts : of `layout`
    note : kept in a comment of the template, see `note_of`

    >>> from retrieval_lab import tiny
    >>> tokenizer = tiny.chat_tokenizer()
    >>> tokenizer.chat_template = template(tokenizer, Layout("Q: ", " D: ", " A:"))
    >>> pair = [{"role": "query", "content": "{x} %s"}, {"role": "document", "content": "a<|im_end|>"}]
    >>> tokenizer.apply_chat_template(pair, tokenize=False)
    'Q: {x} %s D: a< |im_end|> A:'
    """
    before, between, after = (f"{{{{ {_literal(part)} }}}}" for part in parts[:3])
    tokens = "[" + ", ".join(map(_literal, control_tokens(tokenizer))) + "]"
    macro = (
        "{%- macro text(role) -%}{%- set found = namespace(text=messages | selectattr('role', 'eq', role) | map(attribute='content') | first) -%}"
        f"{{%- for token in {tokens} -%}}"
        "{%- set found.text = found.text | replace(token, token[0] ~ ' ' ~ token[1:]) -%}{%- endfor -%}{{ found.text }}{%- endmacro -%}"
    )
    comment = "{#- " + json.dumps(note).replace("#}", "#\\u007d") + " -#}" if note else ""
    return (
        f"{comment}{macro}{before}{{{{ text('{parts.roles[0]}') }}}}{between}{{{{ text('{parts.roles[1]}') }}}}{after}"
    )


def note_of(tokenizer) -> dict:
    """What `template` was given to keep; empty for a template of another origin."""
    source = tokenizer.chat_template
    if not isinstance(source, str) or not source.startswith("{#- "):
        return {}
    return json.loads(source[4 : source.index(" -#}")])


def control_tokens(tokenizer) -> list[str]:
    """The tokens that mean something other than their letters: special ones, and those of the model's chat template."""
    added = tokenizer.added_tokens_decoder.values()
    source = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    found = [token.content for token in added if token.special or token.content in source]
    return sorted({token for token in [*found, *tokenizer.all_special_tokens] if len(token) > 1}, key=len, reverse=True)


def _literal(text: str) -> str:
    """The text as a string of the template language, which reads the same escapes as JSON."""
    return json.dumps(text, ensure_ascii=False)


def word_id(tokenizer, ending: str, word: str) -> int:
    """The token that ``word`` is after ``ending``, the last text of the prompt.

    Raises
    ------
    ValueError
        If the word splits into several tokens there, or melts into the ending; the message names words that do not.

    >>> from retrieval_lab import tiny
    >>> tokenizer = tiny.chat_tokenizer()
    >>> tokenizer.convert_ids_to_tokens(word_id(tokenizer, "\\n", "Yes"))
    'Yes'
    """
    found = _single(tokenizer, ending, word)
    if found is not None:
        return found
    fit = [pair for pair in ALTERNATIVES if all(_single(tokenizer, ending, choice) is not None for choice in pair)]
    pieces = tokenizer.tokenize(word)
    advice = ", ".join(map(repr, fit)) or "-"
    raise ValueError(
        say(
            en=f"the answer word {word!r} is {len(pieces)} tokens for this tokenizer ({pieces}), so no single position scores it; give words=..., of these: {advice}",
            zh=f"回答用词 {word!r} 在这个分词器里是 {len(pieces)} 个词元（{pieces}），没有哪一个位置能给它打分；用 words=… 换成：{advice}",
        )
    )


def _single(tokenizer, ending: str, word: str) -> int | None:
    context = tokenizer(ending, add_special_tokens=False)["input_ids"]
    whole = tokenizer(ending + word, add_special_tokens=False)["input_ids"]
    return whole[-1] if whole[:-1] == context and whole[-1] != tokenizer.unk_token_id else None
