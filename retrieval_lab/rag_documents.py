"""Documents become chunks that end where a sentence ends, in English and in Chinese; `load` reads files.
Taught in lesson 05.
"""

import copy
import re
from collections.abc import Callable, Iterator

from langchain_core.documents import Document

from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say
from retrieval_lab.rag_files import LOADERS, load, load_bytes, sections

__all__ = ["LOADERS", "from_collection", "load", "load_bytes", "sentences", "split", "token_counter"]

NO_HEADINGS = (".txt", ".pdf")  # there a line that begins with "#" is text

# Tried in this order: a chunk is cut at the first of these that makes the pieces small enough.
SEPARATORS = (
    r"\n\n",  # paragraphs
    r"\n",
    r"(?<=[。！？!?])|(?<=[.;])\s+",  # sentences; a full stop without a blank after it may stand in a number
    r"(?<=[；;，、：])|(?<=,)\s+",  # clauses
    r"\s+",
    "",  # characters, so that no chunk is ever longer than asked
)
_SENTENCE_END = re.compile(
    r"(?<=[。！？!?])(?![”」』）)\"'’])|(?<=[。！？!?][”」』）)\"'’])|(?<=[.][\"'”’)])\s+|(?<=[.])\s+|\n"
)
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|approx|St|Mr|Mrs|Ms|Dr|[A-Z])\.$")
_MAYBE_ABBREVIATION = re.compile(r"\b(?:[ap]\.m|[Ss]ec|[Ff]ig|etc|[Nn]os?)\.$")  # if a digit or a small letter follows


def from_collection(collection: Collection) -> list[Document]:
    """One document a text of a collection; its id is the ``source``, its first line the title."""
    return [
        Document(text, metadata={"source": doc_id, "title": text.partition("\n")[0]})
        for doc_id, text in collection.corpus.items()
    ]


def split(documents: list[Document], size: int, overlap: int = 0, length: Callable[[str], int] = len) -> list[Document]:
    """Cut documents into chunks at headings, paragraphs, sentences, clauses and blanks, in this order of preference.

    Parameters
    ----------
    documents : left as they are
    size : most that a chunk's text may measure, without its heading
    overlap : how much of a chunk is repeated in the next; 0 because whole sentences lose little at the seam
    length : measure of a text, characters when not given; `token_counter` counts a model's tokens

    Returns
    -------
    Chunks that begin with a line "title › heading", with the document's metadata and ``chunk``, counted from 0 within a
    source. Without that line a chunk from the middle of a chapter does not say what it is about.

    Raises
    ------
    ValueError
        If ``size`` is below 1 or ``overlap`` is not below it.

    Source: lesson 05.

    >>> [chunk.page_content for chunk in split([Document("渡船停开。电车照常。", metadata={"source": "a"})], size=5)]
    ['渡船停开。', '电车照常。']
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(
            say(
                en=f"size={size}, overlap={overlap}; size must be 1 or more and overlap smaller than it",
                zh=f"size={size}，overlap={overlap}；size 至少为 1，overlap 要比它小",
            )
        )
    splitter = _splitter(size, overlap, length)
    chunks, counts = [], {}
    for document in documents:
        for title, body in _titled_sections(document):
            for text in splitter.split_text(body):
                number = counts[document.metadata.get("source")] = counts.get(document.metadata.get("source"), -1) + 1
                content = f"{title}\n{text}" if title else text
                chunks.append(Document(content, metadata={**document.metadata, "title": title, "chunk": number}))
    return chunks


def _splitter(size: int, overlap: int, length: Callable[[str], int]):
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    options = {"separators": list(SEPARATORS), "is_separator_regex": True, "keep_separator": "end"}
    # The library cuts a piece that is as long as the size; counted double, a sentence of just that size stays whole.
    sizes = {"chunk_size": 2 * size + 1, "chunk_overlap": 2 * overlap}
    return RecursiveCharacterTextSplitter(**sizes, length_function=lambda text: 2 * length(text), **options)


def token_counter(model) -> Callable[[str], int]:
    """A function that counts a text's tokens as the model's tokenizer cuts it, without the special ones.

    It counts with a copy: a tokenizer that another thread uses, to encode a question, must not be told here not to truncate.
    """
    tokenizer = copy.deepcopy(model.tokenizer)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _titled_sections(document: Document) -> Iterator[tuple[str, str]]:
    """(title line, body) of each section that has a body; of a heading with nothing below it, the heading is the body."""
    title, text = document.metadata.get("title", ""), document.page_content
    if text.startswith(f"{title}\n"):  # a collection's text holds its title already
        text = text[len(title) + 1 :]
    has_headings = not str(document.metadata.get("source", "")).lower().endswith(NO_HEADINGS)
    found = list(sections(text)) if has_headings else [(0, "", text)]
    path: dict[int, str] = {}
    for (level, heading, body), (next_level, *_) in zip(found, [*found[1:], (0, "", "")], strict=True):
        path = {outer: name for outer, name in path.items() if outer < level}
        if heading and not body.strip() and next_level <= level and heading != title:
            body, heading = heading, ""
        path |= {level: heading} if heading else {}
        if body.strip():
            yield _title_line(title, list(path.values())), body


def _title_line(title: str, path: list[str]) -> str:
    """Title › chapter › section; the title once where the first heading repeats it."""
    return " › ".join(part for part in (path if path[:1] == [title] else [title, *path]) if part)


def sentences(text: str) -> list[str]:
    """The sentences of a text, as they stand there: each is a part of the text, to the letter.

    >>> sentences("渡船停开！“真的？”他问。票价 2.40 元。")
    ['渡船停开！', '“真的？”', '他问。', '票价 2.40 元。']
    >>> sentences("Bring form No. 4. The fee is 2.40 crowns.")
    ['Bring form No. 4.', 'The fee is 2.40 crowns.']
    """
    found: list[str] = []
    start = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        piece, starts_line = text[start:end], not start or text[start - 1] == "\n"
        if not piece.endswith("\n") and end < len(text) and _goes_on(piece.rstrip(), text[end], starts_line):
            continue
        found.append(piece.strip())
        start = end
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def _goes_on(piece: str, following: str, starts_line: bool) -> bool:
    """Whether a full stop ends an abbreviation or a list's number and not the sentence: "St. Anne", "No. 4", "1. Fill in"."""
    unfinished = (following.isdigit() or following.islower()) and _MAYBE_ABBREVIATION.search(piece)
    return bool(_ABBREVIATION.search(piece) or unfinished or (starts_line and re.fullmatch(r"\s*\d{1,2}\.", piece)))
