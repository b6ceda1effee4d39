"""Bring edits made in the notebooks back into the source (three-way), and stamp reviewed translations.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import re
from dataclasses import dataclass

from lessons_build import order_hash, read_notebook, read_source, render
from lessons_register import Entry, Lessons
from lessons_source import (
    LANGS,
    RESERVED,
    SOLUTION,
    LessonError,
    digest,
    headers,
    pairs,
    read_text,
    repeated,
    replace_bodies,
    slug_of,
    tags_of,
    write_text,
)
from nbformat import NotebookNode


@dataclass(frozen=True)
class Edit:
    """One cell that a notebook has otherwise than its source.

    ``verdict`` is "take" (goes into source cell number ``cell``), "conflict" (someone must decide)
    or "report" (cannot be pulled; ``message`` says what to do).
    """

    verdict: str
    place: str
    cell: int = -1
    text: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.place}: {self.message}"


def notebook_edits(lessons: Lessons, entry: Entry, cells: list[NotebookNode], lang: str) -> list[Edit]:
    """What one notebook changed since it was built, judged against the source of today."""
    path = lessons.notebook(entry, lang)
    notebook = read_notebook(path)
    if notebook is None:
        return []
    due = render(lessons, entry, cells, lang, None)
    texts = {slug_of(cell): cell.source.strip() for cell in due.cells}
    numbers = {slug_of(c): i for i, c in enumerate(cells) if c.cell_type == "code" or c.metadata.get("lang") == lang}
    twice = repeated(slug_of(cell) for cell in notebook.cells)
    edits = []
    for cell in notebook.cells:
        slug = slug_of(cell)
        place = f"{lessons.name(path)} [{slug or 'no slug'}]"
        if not slug and cell.source.strip():
            advice = "new cell, not pulled; write it into the source with a slug (prose: in both languages):"
            edits.append(Edit("report", place, message=f"{advice}\n{_quote(cell.source)}"))
        elif slug in twice:
            edits.append(
                Edit(
                    "report", place, message="split or copied: two cells have this slug; merge them, or edit the source"
                )
            )
        elif slug and digest(cell.source) != cell.metadata.get("base") and cell.source.strip() != texts.get(slug):
            edits.append(_judge(cell, place, cells, numbers))
    return edits + _missing(lessons.name(path), notebook, due)


def _judge(cell: NotebookNode, place: str, cells: list[NotebookNode], numbers: dict[str, int]) -> Edit:
    slug = slug_of(cell)
    if cell.get("attachments"):
        return Edit(
            "report", place, message="pasted images are not pulled; save them as files and link those in the source"
        )
    if slug in RESERVED:
        return Edit("report", place, message="this cell is written by build; edit notebooks/lessons.toml instead")
    owner = slug.removesuffix(SOLUTION)
    if owner in numbers and "exercise" in tags_of(cells[numbers[owner]]):
        advice = (
            f"exercises are not pulled; edit the lines marked # solution in the source cell {owner}, or build --force"
        )
        return Edit("report", place, message=advice)
    if slug not in numbers:
        return Edit("conflict", place, message=f"edited here, but the source no longer has it:\n{_quote(cell.source)}")
    source = cells[numbers[slug]]
    if source.cell_type != cell.cell_type:
        return Edit(
            "report", place, message=f"changed from {source.cell_type} to {cell.cell_type}; do that in the source"
        )
    if digest(source.source) == cell.metadata.get("base"):
        return Edit("take", place, numbers[slug], cell.source.strip(), "edited here only")
    message = f"edited here and in the source\n  notebook:\n{_quote(cell.source)}\n  source:\n{_quote(source.source)}"
    return Edit("conflict", place, numbers[slug], message=message)


def _quote(text: str) -> str:
    return "\n".join(f"    | {line}" for line in text.strip().split("\n"))


def _missing(name: str, notebook: NotebookNode, due: NotebookNode) -> list[Edit]:
    """Cells deleted or moved in the notebook; a notebook that is merely old keeps the order it was built with."""
    slugged = [cell for cell in notebook.cells if slug_of(cell)]
    if notebook.metadata.get("retrieval_lab", {}).get("order") in (None, order_hash(slugged)):
        return []
    here = {slug_of(cell) for cell in slugged}
    gone = [slug_of(cell) for cell in due.cells if slug_of(cell) not in here]
    what = f"cells deleted here: {', '.join(gone)}" if gone else "cells were moved or copied here"
    return [Edit("report", name, message=f"{what}; not pulled: do it in the source, for both languages")]


def across_languages(edits: list[Edit]) -> list[Edit]:
    """The same edit of a code cell in both notebooks once; two different ones as a conflict."""
    by_cell: dict[int, list[Edit]] = {}
    for edit in edits:
        if edit.verdict == "take":
            by_cell.setdefault(edit.cell, []).append(edit)
    disputed = {edit.cell for edit in edits if edit.verdict == "conflict"}
    settled = [edit for edit in edits if edit.verdict != "take"]
    for cell, takes in by_cell.items():
        if len({edit.text for edit in takes}) > 1:
            versions = "\n".join(f"  {edit.place}:\n{_quote(edit.text)}" for edit in takes)
            settled.append(
                Edit("conflict", takes[0].place, cell, message=f"two different edits of one cell\n{versions}")
            )
        elif cell not in disputed:
            settled.append(takes[0])
    return settled


def pull(lessons: Lessons, wanted: list[str], *, partial: bool = False) -> list[Edit]:
    """Write the notebooks' edits into the sources; nothing at all if there is a conflict, unless `partial`."""
    found = {}
    for entry in lessons.select(wanted):
        if lessons.source(entry).exists():
            cells = read_source(lessons, entry)
            edits = [edit for lang in LANGS for edit in notebook_edits(lessons, entry, cells, lang)]
            found[entry.file] = (entry, across_languages(edits))
    every = [edit for _, edits in found.values() for edit in edits]
    if partial or not any(edit.verdict == "conflict" for edit in every):
        new = {}
        for entry, edits in found.values():
            if texts := {edit.cell: edit.text for edit in edits if edit.verdict == "take"}:
                path = lessons.source(entry)
                new[path] = replace_bodies(read_text(path), texts, lessons.name(path))
        for path, text in new.items():
            write_text(path, text)
    return every


def stamp(lessons: Lessons, slugs: list[str], lesson: str | None) -> list[str]:
    """Write today's hash of the English into the `of` of these translations, or of all with no slugs; say what changed.

    Raises
    ------
    LessonError
        If a slug is no prose of the lesson, or of several lessons and none is named.
    """
    entries = [e for e in lessons.select([lesson] if lesson else []) if lessons.source(e).exists()]
    texts = {entry.id: {slug_of(zh): (en, zh) for en, zh in pairs(read_source(lessons, entry))} for entry in entries}
    for slug in slugs:
        having = [entry.id for entry in entries if slug in texts[entry.id]]
        if len(having) != 1:
            where = (
                f"in lessons {', '.join(having)}: name one with --lesson"
                if having
                else "in no lesson as prose in both languages"
            )
            raise LessonError(f"slug {slug!r} is {where}")
    return [line for entry in entries for line in _stamp_lesson(lessons, entry, texts[entry.id], slugs)]


def _stamp_lesson(lessons: Lessons, entry: Entry, texts: dict, slugs: list[str]) -> list[str]:
    path = lessons.source(entry)
    text, cells = read_text(path), read_source(lessons, entry)
    lines, starts, done = text.split("\n"), headers(text, cells, lessons.name(path)), []
    for start, cell in zip(starts, cells, strict=True):
        slug = slug_of(cell)
        if cell.metadata.get("lang") != "zh" or (slugs and slug not in slugs):
            continue
        now = digest(texts[slug][0].source)
        if str(cell.metadata.get("of")) != now:
            lines[start] = _with_of(lines[start], now)
            done.append(f"{lessons.name(path)} [{slug}]: of {cell.metadata.get('of')} -> {now}")
    if done:
        write_text(path, "\n".join(lines))
    return done


def _with_of(header: str, value: str) -> str:
    if re.search(r"\sof=[\"'][^\"']*[\"']", header):
        return re.sub(r"(\sof=)[\"'][^\"']*[\"']", rf'\g<1>"{value}"', header)
    end = len(header.rstrip())
    return f'{header[:end]} of="{value}"{header[end:]}'
