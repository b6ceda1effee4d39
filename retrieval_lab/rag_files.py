"""A file's bytes become LangChain documents: Markdown, HTML, PDF, text; what cannot be read is refused by name.
Taught in lesson 05; called as `rag_documents.load`.
"""

import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from langchain_core.documents import Document

from retrieval_lab import rag_html
from retrieval_lab.profiles import say

MAX_TEXT = 500_000  # characters of one file: a thick book; also the drawing steps of a PDF, some hundreds a page
MAX_PAGE = 100_000  # bytes that a PDF prints on one page
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")


def load(path: str | Path) -> list[Document]:
    """The documents of a file, or of every Markdown, HTML, PDF and text file below a folder, in the order of their names.

    Parameters
    ----------
    path : ``.md .markdown .html .htm .pdf .txt``, or a folder; text in UTF-8, HTML in the encoding that it declares

    Returns
    -------
    Documents whose metadata hold ``source`` (the path below ``path``) and ``title``; of a PDF one a page, with ``page``
    counted from 1.

    Raises
    ------
    FileNotFoundError
        If nothing is there, or the folder holds no file of these types.
    ValueError
        If a file is of another type, is not UTF-8, is no readable PDF, holds no text, or more than `MAX_TEXT` characters.

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
    if sum(len(doc.page_content) for doc in documents) > MAX_TEXT:
        raise _too_long(name)
    return documents


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(say(en=f"{path} is not there; check the path", zh=f"{path} 不存在；检查一下路径"))
    return path


def _types() -> str:
    return " ".join(LOADERS)


def _broken(name: str, en: str, zh: str, do_en: str, do_zh: str) -> ValueError:
    return ValueError(say(en=f"{name}: {en}; {do_en}", zh=f"{name}：{zh}；{do_zh}"))


def _too_long(name: str) -> ValueError:
    en = f"it holds more than {MAX_TEXT:,} characters, or drawings as large"
    zh = f"文字超过 {MAX_TEXT:,} 个字符，或图形过于复杂"
    return _broken(name, en, zh, "split it into several files", "拆成几个文件")


def _decoded(content: bytes, name: str, encoding: str = "UTF-8") -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        en, zh = f"not {encoding} (byte {problem.start})", f"不是 {encoding} 编码（第 {problem.start} 字节）"
    except (LookupError, ValueError):
        en, zh = f"declares the unknown encoding {encoding!r}", f"声明的编码 {encoding!r} 不存在"
    raise _broken(name, en, zh, "save it as UTF-8", "另存为 UTF-8")


def _encoding(content: bytes) -> str:
    """What a page says of itself by its first bytes or its head; UTF-8 when it says nothing. Never a guess."""
    from bs4.dammit import EncodingDetector

    by_mark = EncodingDetector.strip_byte_order_mark(content)[1]
    declared = by_mark or EncodingDetector.find_declared_encoding(content[:4096], is_html=True) or "UTF-8"
    larger = {"gb2312": "GB18030", "gbk": "GB18030"}  # browsers, too, read both as the larger set
    return larger.get(declared, declared.upper())


def _document(text: str, name: str, title: str = "", **metadata) -> Document:
    return Document(text, metadata={"source": name, "title": title or Path(name).stem, **metadata})


def _markdown(content: bytes, name: str) -> list[Document]:
    text = _decoded(content, name)
    first = next((title for level, title, _ in sections(text) if level == 1), "")
    return [_document(text, name, first)]


def _plain(content: bytes, name: str) -> list[Document]:
    return [_document(_decoded(content, name), name)]


def _html(content: bytes, name: str) -> list[Document]:
    """Headings become Markdown's, so that one splitter serves both."""
    from bs4.builder import ParserRejectedMarkup

    try:
        title, text = rag_html.title_and_text(_decoded(content, name, _encoding(content)))
    except ParserRejectedMarkup as problem:
        reason = str(problem).split("\n")[-1].strip()
        en, zh = f"no readable HTML ({reason})", f"不是可读的 HTML（{reason}）"
        raise _broken(name, en, zh, "save it again from a browser", "用浏览器打开后重新保存") from None
    return [_document(text, name, title)]


def _pdf(content: bytes, name: str) -> list[Document]:
    from io import BytesIO

    from pypdf import PdfReader

    try:
        pages = _texts(PdfReader(BytesIO(content)).pages)
    except _TooLong:
        raise _too_long(name) from None
    except Exception as problem:  # on broken files pypdf raises nearly anything; the message says which file it was
        en, zh = f"no readable PDF ({problem})", f"不是可读的 PDF（{problem}）"
        raise _broken(name, en, zh, "save it again without a password", "去掉密码，重新保存") from None
    return [_document(_unwrapped(text), name, page=number) for number, text in enumerate(pages, 1)]


class _TooLong(Exception):
    """A PDF has more to print than is read: two kilobytes can be packed to print millions of characters."""


def _texts(pages) -> list[str]:
    texts, steps, total = [], count(1), 0
    for page in pages:
        texts.append(_text(page, steps))
        total += len(texts[-1])
        if total > MAX_TEXT:
            raise _TooLong
    return texts


def _text(page, steps: Iterator[int]) -> str:
    """The text of a page, given up as soon as it takes too many drawing steps or too many bytes are printed."""
    printed = 0

    def limit(operator, operands, *_) -> None:
        nonlocal printed
        parts = [part for operand in operands for part in (operand if isinstance(operand, list) else [operand])]
        printed += sum(len(part) for part in parts if isinstance(part, str | bytes))
        if printed > MAX_PAGE or next(steps) > MAX_TEXT:
            raise _TooLong

    text = page.extract_text(visitor_operand_before=limit)
    if printed > MAX_PAGE:  # in a form within the page, whose errors pypdf only logs
        raise _TooLong
    return text


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


def sections(text: str) -> Iterator[tuple[int, str, str]]:
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
