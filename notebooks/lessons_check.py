"""Everything that `check` reports: sources, register, notebooks, READMEs.
The tool behind every lesson; its commands are in `lessons.py`.
"""

from itertools import zip_longest

from lessons_build import dumps, read_notebook, render, unpulled
from lessons_card import readme_text
from lessons_outputs import code_cells, code_hash, outputs_hash
from lessons_register import Entry, Lessons
from lessons_source import LANGS, Fault, LessonError, parse, read_text, slug_of, structure_faults
from lessons_text import chinese_faults, lesson_faults, read_terms
from nbformat import NotebookNode

REGISTER = "notebooks/lessons.toml"


def check(lessons: Lessons, wanted: list[str]) -> list[Fault]:
    """All faults of the wanted lessons; of the register, READMEs and leftovers too when no lesson is named."""
    terms = read_terms(lessons.folder / "terminology.tsv")
    faults = [] if wanted else register_faults(lessons, terms) + orphan_faults(lessons) + readme_faults(lessons)
    for entry in lessons.select(wanted):
        faults += entry_faults(lessons, entry, terms)
    return faults


def register_faults(lessons: Lessons, terms: list[dict[str, str]]) -> list[Fault]:
    """Sources without a row, prerequisites that do not come before, Chinese of the register."""
    files = {entry.file for entry in lessons.entries}
    faults = [
        Fault(lessons.name(path), "", "this source is not in the register", f"add a [[lesson]] for it to {REGISTER}")
        for path in sorted((lessons.folder / "source").glob("*.py"))
        if path.stem not in files
    ]
    before: set[str] = set()
    for entry in lessons.entries:
        for name in [name for name in entry.prerequisites if name not in before]:
            faults.append(
                Fault(REGISTER, entry.id, f"prerequisite {name!r} is no earlier lesson", "correct the id or the order")
            )
        before.add(entry.id)
        chinese = chinese_faults(entry.title_zh, terms) + chinese_faults(entry.summary_zh, terms)
        faults += [Fault(REGISTER, entry.id, *fault) for fault in chinese]
    return faults


def orphan_faults(lessons: Lessons) -> list[Fault]:
    """Notebooks that no lesson of the register makes."""
    expected = {lessons.notebook(entry, lang) for entry in lessons.entries for lang in LANGS}
    found = [path for lang in LANGS for path in sorted((lessons.folder / lang).glob("*.ipynb"))]
    remedy = "delete it, or add its lesson to the register"
    return [
        Fault(lessons.name(path), "", "no lesson makes this notebook", remedy) for path in found if path not in expected
    ]


def readme_faults(lessons: Lessons) -> list[Fault]:
    """Lesson tables that are missing or out of date."""
    faults = []
    for lang in LANGS:
        file, texts = lessons.readme(lang).name, readme_text(lessons, lang)
        if texts is None:
            continue
        if "<!-- lessons:begin -->" not in texts[0] or "<!-- lessons:end -->" not in texts[0]:
            faults.append(
                Fault(
                    file,
                    "",
                    "no place for the lesson table",
                    "add <!-- lessons:begin --> and <!-- lessons:end --> lines",
                )
            )
        elif texts[0] != texts[1]:
            faults.append(Fault(file, "", "the lesson table is out of date", "run lessons.py build"))
    return faults


def entry_faults(lessons: Lessons, entry: Entry, terms: list[dict[str, str]]) -> list[Fault]:
    """Faults of one lesson's source and, if that can be built, of its notebooks."""
    path = lessons.source(entry)
    file = lessons.name(path)
    if not path.exists():
        return [Fault(file, "", "the register lists this source but it does not exist", "write it, or drop the row")]
    cells = parse(read_text(path))
    if faults := structure_faults(file, cells):
        return faults
    faults = [Fault(file, *fault) for fault in lesson_faults(cells, terms)]
    for lang in LANGS:
        name = lessons.name(lessons.notebook(entry, lang))
        faults += [Fault(name, *fault) for fault in notebook_faults(lessons, entry, cells, lang)]
    return faults


def notebook_faults(lessons: Lessons, entry: Entry, cells: list, lang: str) -> list[tuple[str, str, str]]:
    """(slug, cause, remedy) of one generated notebook."""
    path = lessons.notebook(entry, lang)
    try:
        now = read_notebook(path)
    except LessonError as error:
        return [("", str(error), "run lessons.py build")]
    if now is None:
        return [("", "the notebook does not exist", "run lessons.py build")]
    due = render(lessons, entry, cells, lang, now)
    if edited := unpulled(now, due):
        return [(slug, "edited in the notebook", "run lessons.py pull, then build") for slug in edited]
    found = []
    if "widgets" in now.metadata:
        found.append(("", "widget state in the metadata, which GitHub cannot show", "run lessons.py build"))
    if read_text(path) != dumps(due):
        found.append((_first_difference(now, due), "not what build writes from the source", "run lessons.py build"))
    return found + _output_faults(due)


def _first_difference(now: NotebookNode, due: NotebookNode) -> str:
    for a, b in zip_longest(now.cells, due.cells):
        if a != b:
            return slug_of(b or a)
    return ""


def _output_faults(notebook: NotebookNode) -> list[tuple[str, str, str]]:
    made_by = notebook.metadata["retrieval_lab"]
    if not any(cell.outputs for cell in code_cells(notebook)):
        return []
    remedy = "run lessons.py run for this lesson"
    if made_by.get("code_hash") != code_hash(notebook):
        return [("", "stale outputs: other code than today's made them", remedy)]
    if made_by.get("outputs_hash") != outputs_hash(notebook):
        return [("", "outputs that lessons.py run did not write", remedy)]
    return []
