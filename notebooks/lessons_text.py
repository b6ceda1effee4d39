"""Rules of style that a program can check: prose of both languages, terms, code cells.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import csv
import re
from itertools import pairwise
from pathlib import Path

from lessons_build import learner_cells
from lessons_source import SOLUTION, digest, in_language, pairs, slug_of, tags_of
from nbformat import NotebookNode

MAX_WORDS, MAX_HAN, MAX_LINES, MAX_COLUMNS = 120, 260, 20, 88
HAN = "\u3400-\u4dbf\u4e00-\u9fff"
GAP = "\ue000"  # stands for code, formulas, links and HTML, whose neighbours we do not judge
NOT_PROSE = re.compile(
    r"```.*?```|~~~.*?~~~|(`+).+?\1|\$\$.+?\$\$|\$[^$\n]+\$|\]\([^)\s]*\)|<[^<>\n]+>|https?://[^\s，。；）]+", re.DOTALL
)
FORBIDDEN = {
    r"%%capture": "show the output, or quieten the call that prints it",
    r"filterwarnings\(\s*[\"']ignore": "fix the cause of the warning",
    r"import \*": "name what you import",
    r"\bsys\.path\b": "install the package: pip install -e .",
    r"\bgit clone\b": "the setup cell installs what Colab needs",
}
CHINESE = [  # (pattern, cause, remedy)
    (
        f"[{HAN}][,;:!?(]|[,;!?)][{HAN}]|[{HAN}]\\.(?=\\s|$|[{HAN}])",
        "half-width punctuation next to Han characters",
        "use full-width （，。：；？！）",
    ),
    ("您", "您 where this course says 你", "write 你"),
    (
        f"[{HAN}][A-Za-z0-9]|[A-Za-z0-9][{HAN}]",
        "no space between Han and Latin letters or digits",
        "put one half-width space between them",
    ),
]


def plain(text: str) -> str:
    """The words alone: code, formulas, link targets and HTML become one mark, emphasis goes.

    >>> plain("a **b** `c`").replace(GAP, "|")
    'a b |'
    """
    return NOT_PROSE.sub(GAP, text).replace("*", "")


def n_words(text: str) -> int:
    return len(re.findall(r"[A-Za-z0-9][\w'’.-]*", plain(text)))


def n_han(text: str) -> int:
    return len(re.findall(f"[{HAN}]", plain(text)))


def read_terms(path: Path) -> list[dict[str, str]]:
    """Rows of `terminology.tsv`: en, zh, avoid (Chinese variants that must not appear, comma-separated)."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def chinese_faults(text: str, terms: list[dict[str, str]]) -> list[tuple[str, str]]:
    """(cause, remedy) of punctuation, spacing, forms of address and terms."""
    words, found = plain(text), []
    for pattern, cause, remedy in CHINESE:
        if hit := re.search(pattern, words):
            around = words[max(0, hit.start() - 4) : hit.end() + 4].replace(GAP, "…").replace("\n", " ")
            found.append((f"{cause}: “{around}”", remedy))
    for term in terms:
        bad = [variant.strip() for variant in (term["avoid"] or "").split(",") if variant.strip() in words]
        found += [(f"“{v}” for {term['en']}", f"terminology.tsv says {term['zh']}") for v in bad if v]
    return found


def translation_faults(english: NotebookNode, chinese: NotebookNode, hash_now: str) -> list[tuple[str, str]]:
    """(cause, remedy) where the Chinese was not reviewed against the English of today, or is no Chinese."""
    found, stamped = [], chinese.metadata.get("of")
    if not stamped:
        found.append(("the translation has no of=", "review it, then run lessons.py stamp"))
    elif str(stamped) != hash_now:
        cause = f'the translation is stale: of="{stamped}", the English is {hash_now}'
        found.append((cause, "bring the Chinese up to date, then run lessons.py stamp"))
    same = english.source.strip() == chinese.source.strip()
    if same and re.search(r"[A-Za-z]{2}", plain(english.source)):
        found.append(("the Chinese text is the English text", "translate it"))
    return found


def length_faults(cells: list[NotebookNode], lang: str) -> list[tuple[str, str, str]]:
    """(slug, cause, remedy) of prose between two code cells that is too long; cells tagged `long` do not count."""
    count, most, unit = (n_words, MAX_WORDS, "words") if lang == "en" else (n_han, MAX_HAN, "Han characters")
    found, total, first = [], 0, ""
    for cell in in_language(cells, lang):
        if cell.cell_type != "code":
            first = first or slug_of(cell)
            total += 0 if "long" in tags_of(cell) else count(cell.source)
            continue
        if total > most:
            cause = f"{total} {unit} of {lang} prose before code cell {slug_of(cell)}, at most {most}"
            found.append((first, cause, 'shorten it, put code between, or tag a cell tags=["long"]'))
        total, first = 0, ""
    return found


def code_faults(cells: list[NotebookNode]) -> list[tuple[str, str, str]]:
    """(slug, cause, remedy) of the code that learners see."""
    code = [cell for cell in learner_cells(in_language(cells, "en")) if cell.cell_type == "code"]
    found = [(slug_of(cell), *fault) for cell in code for fault in _cell_faults(cell)]
    source = [cell for cell in cells if cell.cell_type == "code"]
    for cell, after in pairwise(source):
        if "exercise" in tags_of(cell) and re.search(r"^\s*assert\b", after.source, re.MULTILINE):
            cause = "a bare assert after an exercise ends Run all for whoever has not solved it"
            found.append((slug_of(after), cause, "use retrieval_lab.course.check, which prints"))
    return found


def _cell_faults(cell: NotebookNode) -> list[tuple[str, str]]:
    lines, found = cell.source.split("\n"), []
    n_lines = len(lines) - slug_of(cell).endswith(SOLUTION)  # its title line is ours
    if n_lines > MAX_LINES:
        found.append((f"{n_lines} lines of code, at most {MAX_LINES}", "split the cell at its second idea"))
    for n, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            found.append((f"line {n} has {len(line)} columns, at most {MAX_COLUMNS}", "break the line"))
    for pattern, remedy in FORBIDDEN.items():
        if hit := re.search(pattern, cell.source):
            found.append((f"{hit[0]} does not belong in a lesson", remedy))
    return found


def lesson_faults(cells: list[NotebookNode], terms: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """(slug, cause, remedy) of everything in one source that its own text shows."""
    slugs = {slug_of(cell) for cell in cells if cell.cell_type != "code"}
    found = [
        (slug, f"the lesson has no prose cell {slug}", f'add slug="{slug}" in both languages')
        for slug in ("objectives", "recap")
        if slug not in slugs
    ]
    for english, chinese in pairs(cells):
        slug = slug_of(chinese)
        found += [(slug, *f) for f in translation_faults(english, chinese, digest(english.source))]
        found += [(slug, *f) for f in chinese_faults(chinese.source, terms)]
    return found + length_faults(cells, "en") + length_faults(cells, "zh") + code_faults(cells)
