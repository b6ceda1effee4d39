"""What a lesson is made of: the register, the bilingual source, exercises and their solutions.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import ast
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

LANGS = ("en", "zh")
RESERVED = ("lesson-card", "setup")  # slugs of the two cells that `build` writes itself
SOLUTION = "-solution"  # ending of the slug that an exercise's solution gets
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MARK = re.compile(r"(?P<code>.*?)\s*#\s*solution(:\s*(?P<hint>.*?))?\s*$")
HEADER = re.compile(r"# ?%%(\s|$)")
BARE_JUPYTEXT = {"jupytext": {"notebook_metadata_filter": "-all"}}


class LessonError(Exception):
    """A fault that stops a command; its text says what, where and what to do."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in one file, with its cause and its remedy."""

    file: str
    slug: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file} [{self.slug}]" if self.slug else self.file
        return f"{place}: {self.cause}\n    remedy: {self.remedy}"


def digest(text: str) -> str:
    """First 8 hex digits of the sha256 of the stripped text.

    >>> digest(" query ")
    'a8b77192'
    """
    return hashlib.sha256(text.strip().encode("utf-8")).hexdigest()[:8]


def repeated(values) -> list:
    """Values that occur more than once, in order of appearance.

    >>> repeated("abca")
    ['a']
    """
    return [value for value, n in Counter(values).items() if n > 1]


def read_text(path: Path) -> str:
    """The file's text with its line ends as they are."""
    return path.read_bytes().decode("utf-8")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def parse(text: str) -> list[NotebookNode]:
    """Cells of a percent file, as jupytext reads them; metadata holds slug, lang, of, tags."""
    return jupytext.reads(text, fmt="py:percent").cells


def slug_of(cell: NotebookNode) -> str:
    return str(cell.metadata.get("slug", ""))


def tags_of(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def in_language(cells: list[NotebookNode], lang: str) -> list[NotebookNode]:
    """The code cells and this language's prose, in order."""
    return [cell for cell in cells if cell.cell_type == "code" or cell.metadata.get("lang") == lang]


def pairs(cells: list[NotebookNode]) -> list[tuple[NotebookNode, NotebookNode]]:
    """(English, Chinese) prose cells that share a slug."""
    english = {slug_of(cell): cell for cell in cells if cell.metadata.get("lang") == "en"}
    chinese = [cell for cell in cells if cell.metadata.get("lang") == "zh"]
    return [(english[slug_of(cell)], cell) for cell in chinese if slug_of(cell) in english]


def stub(code: str) -> str:
    """Each run of lines that end in `# solution` becomes one `...`; its hints stay as a comment.

    >>> print(stub("def double(x):\\n    return 2 * x  # solution: add x to itself"))
    def double(x):
        ...  # add x to itself
    """
    lines: list[str] = []
    hints: list[str] | None = None  # of the run that we are in
    for line in code.split("\n"):
        marked = MARK.match(line)
        if not marked:
            hints = None
            lines.append(line)
            continue
        if hints is None:
            hints = []
            dots = line[: len(line) - len(line.lstrip())] + "..."
            lines.append(dots)
        if marked["hint"]:
            hints.append(marked["hint"])
            lines[-1] = f"{dots}  # {'; '.join(hints)}"
    return "\n".join(lines)


def solution(code: str) -> str:
    """The whole code without its `# solution` comments.

    >>> print(solution("def double(x):\\n    return 2 * x  # solution: add x to itself"))
    def double(x):
        return 2 * x
    """
    marked = [(line, MARK.match(line)) for line in code.split("\n")]
    kept = [mark["code"] if mark else line for line, mark in marked if not mark or mark["code"].strip()]
    return "\n".join(kept)


def parses(code: str) -> bool:
    """Whether plain Python (no notebook magics) can read the code."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def structure_faults(file: str, cells: list[NotebookNode]) -> list[Fault]:
    """Faults that keep a notebook from being built: slugs, languages, order, exercises."""
    faults = []
    for cell in cells:
        faults += [Fault(file, slug_of(cell) or _glimpse(cell), *fault) for fault in _cell_faults(cell)]
    prose = [cell for cell in cells if cell.cell_type != "code"]
    names = [slug_of(cell) for cell in cells if cell.cell_type == "code"]
    names += dict.fromkeys(slug_of(cell) for cell in prose)
    names += [slug_of(cell) + SOLUTION for cell in cells if "exercise" in tags_of(cell)]
    twice = repeated(names) + [slug for slug, _ in repeated((slug_of(c), c.metadata.get("lang")) for c in prose)]
    twice = [slug for slug in dict.fromkeys(twice) if slug]
    faults += [Fault(file, slug, "two cells have this slug", "give one of them another slug") for slug in twice]
    faults += _language_faults(file, cells)
    return faults


def _glimpse(cell: NotebookNode) -> str:
    return "no slug: " + cell.source[:30].split("\n")[0] + "…"


def _cell_faults(cell: NotebookNode) -> list[tuple[str, str]]:
    slug, code = slug_of(cell), cell.source
    found = []
    if not slug:
        found.append(("the cell has no slug", 'write slug="a-name" in its # %% line'))
    elif not SLUG.fullmatch(slug) or len(slug) > 50 or slug in RESERVED:
        found.append(
            ("the slug cannot be a cell id", "use a-z, 0-9 and single hyphens, at most 50, not lesson-card or setup")
        )
    if cell.cell_type != "code" and cell.metadata.get("lang") not in LANGS:
        found.append(("prose without a language", 'write lang="en" or lang="zh" in its # %% line'))
    if cell.cell_type == "code" and "exercise" in tags_of(cell):
        if stub(code) == code:
            found.append(("an exercise with nothing to fill in", "end the lines to remove with  # solution: hint"))
        elif parses(code) and not parses(stub(code)):
            found.append(
                ("the exercise without its solution lines is no Python", "mark the whole block, head and body")
            )
    return found


def _language_faults(file: str, cells: list[NotebookNode]) -> list[Fault]:
    """Prose in one language only, or at another place in one language than in the other."""
    order = {lang: [slug_of(cell) for cell in in_language(cells, lang)] for lang in LANGS}
    faults = []
    for lang, twin in (("en", "zh"), ("zh", "en")):
        alone = [slug for slug in dict.fromkeys(order[lang]) if slug and slug not in order[twin]]
        remedy = f'add the cell with the same slug and lang="{twin}" right beside it'
        faults += [Fault(file, slug, f"prose in {lang} only", remedy) for slug in alone]
    if not faults and order["en"] != order["zh"]:
        slug = next((a for a, b in zip(order["en"], order["zh"], strict=False) if a != b), "")
        faults.append(Fault(file, slug, "the two languages come in another order", "put zh right after its en"))
    return faults


def headers(text: str, cells: list[NotebookNode], file: str) -> list[int]:
    """Line number (from 0) of each cell's `# %%` line.

    Raises
    ------
    LessonError
        If the file has more or fewer such lines than jupytext reads cells.
    """
    found = [i for i, line in enumerate(text.split("\n")) if HEADER.match(line)]
    if len(found) != len(cells):
        raise LessonError(
            f"{file}: {len(found)} lines start with '# %%' but jupytext reads {len(cells)} cells; "
            "move text that stands before the first cell into a cell, and take '# %%' out of strings"
        )
    return found


def replace_bodies(text: str, texts: dict[int, str], file: str) -> str:
    """The source with new text in some cells (by number); every other byte stays.

    Raises
    ------
    LessonError
        If jupytext would not read the new texts back as they are.
    """
    cells, newline = parse(text), "\r\n" if "\r\n" in text else "\n"
    lines = text.split("\n")
    starts = [*headers(text, cells, file), len(lines)]
    for i in sorted(texts, reverse=True):
        cells[i].source = texts[i]
        old = lines[starts[i] + 1 : starts[i + 1]]
        gap = next((n for n, line in enumerate(reversed(old)) if line.strip()), len(old))
        single = nbformat.v4.new_notebook(cells=[cells[i]], metadata=BARE_JUPYTEXT)
        body = jupytext.writes(single, fmt="py:percent").rstrip("\n").split("\n")[1:]
        body = [line + newline[:-1] for line in body] + old[len(old) - gap :]
        lines[starts[i] + 1 : starts[i + 1]] = body
    new = "\n".join(lines)
    wanted = [cell.source.strip() for cell in cells]
    if [cell.source.strip() for cell in parse(new)] != wanted:
        raise LessonError(f"{file}: an edit does not survive being written as a percent file; edit the source by hand")
    return new
