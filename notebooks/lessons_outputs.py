"""Outputs of notebooks: which of them a rebuilt notebook keeps, and what is taken out of them.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from lessons_source import RESERVED, digest, slug_of
from nbformat import NotebookNode

WIDGETS = "application/vnd.jupyter.widget"
PROGRESS = re.compile(r"\d+%\||\d+(it|ex|examples?|batch(es)?)? \[[\d:<?]|\d\.?\d*(it/s|s/it)")
KERNEL_FILE = re.compile(r"\S*ipykernel_\d+/\d+\.py")


def code_hash(notebook: NotebookNode) -> str:
    """Hash of all code but the setup cell, whose install line changes no result."""
    return digest("\0".join(cell.source for cell in _lesson_code(notebook)))


def outputs_hash(notebook: NotebookNode) -> str:
    """Hash of all outputs, by which `check` sees outputs that `run` did not write."""
    return digest(json.dumps([cell.outputs for cell in code_cells(notebook)], sort_keys=True))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _lesson_code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if slug_of(cell) != RESERVED[1]]


def keep_outputs(new: NotebookNode, old: NotebookNode, root: Path) -> None:
    """Carry outputs over from `old`, up to the first cell whose slug or code differs."""
    setups = [cell for notebook in (new, old) for cell in code_cells(notebook) if slug_of(cell) == RESERVED[1]]
    matches = [setups] if len(setups) == 2 and setups[0].source == setups[1].source else []
    for cell, before in zip(_lesson_code(new), _lesson_code(old), strict=False):
        if (slug_of(cell), cell.source) != (slug_of(before), before.source):
            break
        matches.append([cell, before])
    for cell, before in matches:
        cell.outputs = clean_outputs(before.outputs, root)
        cell.execution_count = before.execution_count
    made_by = old.metadata.get("retrieval_lab", {})
    if any(cell.outputs for cell in code_cells(new)):
        kept = {key: made_by[key] for key in ("code_hash", "outputs_hash", "profile", "seconds") if key in made_by}
        new.metadata["retrieval_lab"] |= kept


def clean_outputs(outputs: list[NotebookNode], root: Path) -> list[NotebookNode]:
    """Outputs fit to be committed: no widgets, no progress bars, no folders of this machine."""
    return [clean for output in outputs if (clean := _clean_output(NotebookNode(output), root))]


def _clean_output(output: NotebookNode, root: Path) -> NotebookNode | None:
    if output.output_type == "stream":
        text = _without_progress(output.text) if output.name == "stderr" else output.text
        output.text = _without_folders(text, root)
        return output if output.text.strip() else None
    if output.output_type == "error":
        output.traceback = [_without_folders(line, root) for line in output.traceback]
        return output
    data = {kind: value for kind, value in output.data.items() if not kind.startswith(WIDGETS)}
    if len(data) < len(output.data) and PROGRESS.search(data.get("text/plain", "")):
        return None
    texts = {kind: _without_folders(value, root) for kind, value in data.items() if kind.startswith("text/")}
    output.data = NotebookNode(data | texts)
    return output if data else None


def _without_progress(text: str) -> str:
    """Lines as a terminal shows them after carriage returns, less those that are progress bars."""
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(line for line in shown if not PROGRESS.search(line))


def _without_folders(text: str, root: Path) -> str:
    text = KERNEL_FILE.sub("[cell]", text)
    folders = {str(Path.home()): "~", tempfile.gettempdir(): "[tmp]", sys.prefix: "[env]", str(root.resolve()): "."}
    for folder in sorted(folders, key=len, reverse=True):
        if len(folder) > 1:
            text = re.sub(rf"(?<![\w.~-]){re.escape(folder)}(?![\w-])", folders[folder], text)
    return text
