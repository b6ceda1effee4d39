"""Execute notebooks, one after another, each in a fresh kernel.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import copy
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from lessons_build import dumps, rebuilt
from lessons_outputs import clean_outputs, code_cells, code_hash, outputs_hash
from lessons_register import Entry, Lessons
from lessons_source import slug_of, write_text
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """How one notebook ran: seconds in all and of each cell, and the failure if there was one."""

    lesson: str
    lang: str
    seconds: float = 0.0
    cells: dict[str, float] = field(default_factory=dict)
    failed_at: str = ""
    error: str = ""

    def __str__(self) -> str:
        slowest = sorted(self.cells.items(), key=lambda item: -item[1])[:3]
        shown = ", ".join(f"{slug} {seconds:.1f}" for slug, seconds in slowest)
        if self.failed_at:
            return f"FAILED {self.lesson} {self.lang} in cell {self.failed_at}\n{self.error}"
        return f"{self.lesson} {self.lang} {self.seconds:.1f} s (slowest: {shown})"


def execute(notebook: NotebookNode, *, folder: Path, env: dict[str, str], timeout: int) -> Result:
    """Run a notebook in place, in a fresh kernel whose working directory is `folder`.

    Parameters
    ----------
    timeout : seconds that one cell may take
    """
    about = notebook.metadata["retrieval_lab"]
    result, began = Result(about["lesson"], about["lang"]), {}

    def start(cell: NotebookNode, **_) -> None:
        result.failed_at = slug_of(cell)  # until it has ended
        began[slug_of(cell)] = time.perf_counter()

    def end(cell: NotebookNode, **_) -> None:
        result.cells[slug_of(cell)] = time.perf_counter() - began[slug_of(cell)]

    options = {"timeout": timeout, "kernel_name": "python3", "record_timing": False, "store_widget_state": False}
    client = NotebookClient(
        notebook, resources={"metadata": {"path": str(folder)}}, on_cell_start=start, on_cell_executed=end, **options
    )
    clock = time.perf_counter()
    try:
        client.execute(env={**os.environ, **env})
        result.failed_at = ""
    except (CellControlSignal, DeadKernelError) as error:
        result.error = ANSI.sub("", str(error))
    result.seconds = time.perf_counter() - clock
    return result


def run_lesson(lessons: Lessons, entry: Entry, lang: str, *, profile: str, out: Path, timeout: int) -> Result:
    """Build and execute one notebook; write it below `out` unless it failed there where notebooks are committed."""
    committed = out == lessons.folder
    notebook = rebuilt(lessons, entry, lang, force=not committed)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    folder = lessons.notebook(entry, lang).parent
    folder.mkdir(parents=True, exist_ok=True)
    ran = copy.deepcopy(notebook)
    result = execute(ran, folder=folder, env={"RETRIEVAL_LAB_PROFILE": profile}, timeout=timeout)
    for cell, done in zip(code_cells(notebook), code_cells(ran), strict=True):
        cell.outputs = clean_outputs(done.outputs, lessons.root)
        cell.execution_count = done.execution_count
    record = {"profile": profile, "seconds": round(result.seconds)}
    record |= {"code_hash": code_hash(notebook), "outputs_hash": outputs_hash(notebook)}
    notebook.metadata["retrieval_lab"] |= record
    if not (result.failed_at and committed):
        write_text(out / lang / f"{entry.file}.ipynb", dumps(notebook))
    return result
