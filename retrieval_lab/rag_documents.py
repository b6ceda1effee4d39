"""Files become LangChain documents, and documents become chunks that end where a sentence ends, in English and in Chinese.
Taught in lesson 05.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from langchain_core.documents import Document

from retrieval_lab import rag_html
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say

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
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")


def load(path: str | Path) -> list[Document]:
    """The documents of a file, or of every Markdown, HTML, PDF and text file below a folder, in the order of their names.

    Parameters
    ----------
    path : ``.md .markdown .html .htm .pdf .txt``, or a folder; text in UTF-8

    Returns
    -------
    Documents whose metadata hold ``source`` (the path below ``path``) and ``title``; of a PDF one a page, with ``page``
    counted from 1.

    Raises
    ------
    FileNotFoundError
        If nothing is there, or the folder holds no file of these types.
    ValueError
        If a file is of another type, is not UTF-8, is no readable PDF, or holds no text.

    Source: lesson 05.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return load_bytes(_existing(path).read_bytes(), path.name)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in LOADERS and file.is_file())
    if not files:
        raise FileNotFoundError(
            say(
                en=f"{path} holds no file of the types {_types()}; put some there",
                zh=f"{path} 里没有这些类型的文件：{_types()}；先放几个进去",
            )
        )
    names = [file.relative_to(path).as_posix() for file in files]
    return [doc for file, name in zip(files, names, strict=True) for doc in load_bytes(file.read_bytes(), name)]


def load_bytes(content: bytes, name: str) -> list[Document]:
    """The documents of one file's content; ``name`` says its type and becomes the ``source``.

    Raises
    ------
    ValueError
        See `load`.

    >>> load_bytes(b"# Ferry\\n\\nEvery hour.", "ferry.md")[0].metadata
    {'source': 'ferry.md', 'title': 'Ferry'}
    """
    reader = LOADERS.get(Path(name).suffix.lower())
    if reader is None:
        raise _broken(name, f"the type is none of {_types()}", f"类型不在 {_types()} 之内", "convert it", "先转换格式")
    documents = [doc for doc in reader(content, name) if doc.page_content.strip()]
    if not documents:
        en, zh = "it holds no text (a scan?)", "里面没有文字（是扫描件吗？）"
        raise _broken(name, en, zh, "run text recognition first", "先做文字识别")
    return documents


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(say(en=f"{path} is not there; check the path", zh=f"{path} 不存在；检查一下路径"))
    return path


def _types() -> str:
    return " ".join(LOADERS)


def _broken(name: str, en: str, zh: str, do_en: str, do_zh: str) -> ValueError:
    return ValueError(say(en=f"{name}: {en}; {do_en}", zh=f"{name}：{zh}；{do_zh}"))


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        en, zh = f"not UTF-8 (byte {problem.start})", f"不是 UTF-8 编码（第 {problem.start} 字节）"
        raise _broken(name, en, zh, "save it as UTF-8", "另存为 UTF-8") from None


def _document(text: str, name: str, title: str = "", **metadata) -> Document:
    return Document(text, metadata={"source": name, "title": title or Path(name).stem, **metadata})


def _markdown(content: bytes, name: str) -> list[Document]:
    text = _decoded(content, name)
    first = next((title for level, title, _ in _sections(text) if level == 1), "")
    return [_document(text, name, first)]


def _plain(content: bytes, name: str) -> list[Document]:
    return [_document(_decoded(content, name), name)]


def _html(content: bytes, name: str) -> list[Document]:
    """Headings become Markdown's, so that one splitter serves both."""
    from bs4.builder import ParserRejectedMarkup

    try:
        title, text = rag_html.title_and_text(content)
    except ParserRejectedMarkup as problem:
        reason = str(problem).split("\n")[-1].strip()
        en, zh = f"no readable HTML ({reason})", f"不是可读的 HTML（{reason}）"
        raise _broken(name, en, zh, "save it again from a browser", "用浏览器打开后重新保存") from None
    return [_document(text, name, title)]


def _pdf(content: bytes, name: str) -> list[Document]:
    from io import BytesIO

    from pypdf import PdfReader

    try:
        pages = [page.extract_text() for page in PdfReader(BytesIO(content)).pages]
    except Exception as problem:  # on broken files pypdf raises nearly anything; the message says which file it was
        en, zh = f"no readable PDF ({problem})", f"不是可读的 PDF（{problem}）"
        raise _broken(name, en, zh, "save it again without a password", "去掉密码，重新保存") from None
    return [_document(_unwrapped(text), name, page=number) for number, text in enumerate(pages, 1)]


def _unwrapped(text: str) -> str:
    """Lines of a printed column joined to sentences: with a blank, or between Chinese characters without one."""
    text = rag_html.BETWEEN_HAN.sub("", text)
    return re.sub(r"(?<=[^\n.:!?])\n(?=[^\n])", " ", text)


LOADERS: dict[str, Callable[[bytes, str], list[Document]]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".txt": _plain,
}


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
    """A function that counts a text's tokens as the model's tokenizer cuts it, without the special ones."""
    return lambda text: len(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _titled_sections(document: Document) -> Iterator[tuple[str, str]]:
    """(title line, body) of each section that has a body."""
    title, text = document.metadata.get("title", ""), document.page_content
    if text.startswith(f"{title}\n"):  # a collection's text holds its title already
        text = text[len(title) + 1 :]
    for _, heading, body in _sections(text):
        if body.strip():
            yield " › ".join(dict.fromkeys(part for part in (title, heading) if part)), body


def _sections(text: str) -> Iterator[tuple[int, str, str]]:
    """(level, heading, body) of a Markdown text; the part before the first heading has level 0. ``#`` in code is none."""
    level, heading, lines, in_code = 0, "", [], False
    for line in text.split("\n"):
        in_code ^= line.lstrip().startswith(("```", "~~~"))
        match = None if in_code else _HEADING.match(line)
        if match:
            yield level, heading, "\n".join(lines)
            level, heading, lines = len(match[1]), match[2].rstrip().rstrip("#").rstrip(), []
        else:
            lines.append(line)
    yield level, heading, "\n".join(lines)


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
        piece = text[start:end]
        if not piece.endswith("\n") and end < len(text) and _goes_on(piece.rstrip(), text[end]):
            continue
        found.append(piece.strip())
        start = end
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def _goes_on(piece: str, following: str) -> bool:
    """Whether a full stop ends an abbreviation and not the sentence: "St. Anne", "No. 4"."""
    return bool(_ABBREVIATION.search(piece) or (following.isdigit() and re.search(r"\b[Nn]os?\.$", piece)))
