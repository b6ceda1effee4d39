"""Write the notebooks of both languages and the READMEs' lesson tables from the sources.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import re
from pathlib import Path

import nbformat
from lessons_card import lesson_card, readme_text, setup_code
from lessons_outputs import keep_outputs
from lessons_register import Entry, Lessons
from lessons_source import (
    LANGS,
    RESERVED,
    SOLUTION,
    LessonError,
    digest,
    in_language,
    parse,
    read_text,
    slug_of,
    solution,
    structure_faults,
    stub,
    tags_of,
    write_text,
)
from nbformat import NotebookNode

COLLAPSED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's way, Colab's way
SOLUTION_TITLE = "# @title Solution / 参考答案\n"  # the line that a collapsed cell still shows
CHECK_CALL = re.compile(r"\bcheck\w*\(")


def learner_cells(cells: list[NotebookNode]) -> list[NotebookNode]:
    """One language's cells as the learner gets them: exercise stub, its check, its collapsed solution."""
    code_at = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    made, due = [], {}  # due: cell number -> solutions that follow that cell
    for i, cell in enumerate(cells):
        if cell.cell_type == "code" and "exercise" in tags_of(cell):
            made.append(_cell(cell, stub(cell.source)))
            after = i
            for later in code_at[code_at.index(i) + 1 :]:
                if not is_check(cells[later]):
                    break
                after = later
            due.setdefault(after, []).append(_solution_cell(cell))
        else:
            made.append(_cell(cell, cell.source))
        made += due.get(i, [])
    return made


def is_check(cell: NotebookNode) -> bool:
    """Whether a code cell checks the exercise before it: tagged `check`, or calling `check(...)`."""
    return "exercise" not in tags_of(cell) and ("check" in tags_of(cell) or bool(CHECK_CALL.search(cell.source)))


def _cell(cell: NotebookNode, text: str) -> NotebookNode:
    metadata = {"tags": tags_of(cell)} if tags_of(cell) else {}
    if {"solution", "hide-input"} & set(tags_of(cell)):
        metadata |= COLLAPSED
    return make_cell(cell.cell_type, slug_of(cell), text, metadata)


def _solution_cell(cell: NotebookNode) -> NotebookNode:
    metadata = {"tags": ["solution"], **COLLAPSED}
    return make_cell("code", slug_of(cell) + SOLUTION, SOLUTION_TITLE + solution(cell.source), metadata)


def make_cell(kind: str, slug: str, text: str, metadata: dict) -> NotebookNode:
    """A notebook cell whose id is its slug and whose `base` is the hash of the text it was built with."""
    make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    return make(text, id=slug, metadata={"slug": slug, "base": digest(text), **metadata})


def render(
    lessons: Lessons, entry: Entry, cells: list[NotebookNode], lang: str, old: NotebookNode | None
) -> NotebookNode:
    """The notebook of one language, with the outputs of `old` that its code still deserves."""
    made = [
        make_cell("markdown", RESERVED[0], lesson_card(lessons, entry, lang), {}),
        make_cell("code", RESERVED[1], setup_code(lessons, lang), {}),
        *learner_cells(in_language(cells, lang)),
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "retrieval_lab": {"lesson": entry.id, "lang": lang, "order": order_hash(made)},
    }
    notebook = nbformat.v4.new_notebook(cells=made, metadata=metadata)
    notebook.nbformat_minor = 5
    if old is not None:
        keep_outputs(notebook, old, root=lessons.root)
    return notebook


def order_hash(cells: list[NotebookNode]) -> str:
    """Hash of the slugs in order, by which `pull` sees that a cell was moved or deleted."""
    return digest(" ".join(slug_of(cell) for cell in cells))


def unpulled(old: NotebookNode, new: NotebookNode) -> list[str]:
    """Slugs of cells in `old` that someone changed or added by hand and that `new` would lose."""
    texts = {slug_of(cell): cell.source.strip() for cell in new.cells}
    slugs = [slug_of(cell) for cell in old.cells]
    return [
        slug_of(cell) or "a new cell"
        for cell in old.cells
        if cell.source.strip() != texts.get(slug_of(cell))
        and (digest(cell.source) != cell.metadata.get("base") or slugs.count(slug_of(cell)) > 1)
        and (cell.source.strip() or slug_of(cell))
    ]


def read_notebook(path: Path) -> NotebookNode | None:
    """The notebook, or None where there is none.

    Raises
    ------
    LessonError
        If the file is no notebook.
    """
    if not path.exists():
        return None
    try:
        return nbformat.reads(read_text(path), as_version=4)
    except (nbformat.reader.NotJSONError, AttributeError, KeyError) as error:
        raise LessonError(f"{path}: not a notebook ({error}); delete it and run lessons.py build") from error


def dumps(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def read_source(lessons: Lessons, entry: Entry) -> list[NotebookNode]:
    """Cells of a lesson's source.

    Raises
    ------
    LessonError
        If the source is missing or its slugs and languages do not fit together.
    """
    path = lessons.source(entry)
    if not path.exists():
        raise LessonError(
            f"{lessons.name(path)}: the register lists it but it does not exist; write it or drop the row"
        )
    cells = parse(read_text(path))
    if faults := structure_faults(lessons.name(path), cells):
        raise LessonError("\n".join(str(fault) for fault in faults))
    return cells


def rebuilt(lessons: Lessons, entry: Entry, lang: str, force: bool) -> NotebookNode:
    """What `build` writes for one notebook.

    Raises
    ------
    LessonError
        If that would lose an edit made in the notebook, unless `force`.
    """
    old = read_notebook(lessons.notebook(entry, lang))
    new = render(lessons, entry, read_source(lessons, entry), lang, old)
    if old is not None and not force and (lost := unpulled(old, new)):
        raise LessonError(
            f"{lessons.name(lessons.notebook(entry, lang))}: edited by hand, building would lose: {', '.join(lost)}; "
            "run lessons.py pull first, or build --force to drop these edits"
        )
    return new


def build(lessons: Lessons, wanted: list[str], *, force: bool = False) -> list[str]:
    """Write the notebooks of the wanted lessons and the README tables; return the lessons that could not be built."""
    problems = []
    for entry in lessons.select(wanted):
        try:
            made = {lang: rebuilt(lessons, entry, lang, force) for lang in LANGS}
        except LessonError as error:
            problems.append(str(error))
            continue
        for lang, notebook in made.items():
            write_text(lessons.notebook(entry, lang), dumps(notebook))
    for lang in LANGS:
        if texts := readme_text(lessons, lang):
            write_text(lessons.readme(lang), texts[1])
    return problems
