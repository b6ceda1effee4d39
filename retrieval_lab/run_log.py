"""The run log: one JSON line for every training run, so that a number can be traced to what made it.
Taught in lesson 07; `retrieval-lab runs` prints the table.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

from retrieval_lab.profiles import say

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "datasets")
COLUMNS = (
    "when",
    "model",
    "loss",
    "rows",
    "steps",
    "metric",
    "before",
    "after",
    "train_loss",
    "seconds",
    "peak_mb",
    "output_dir",
)


def file() -> Path:
    """Where the log is: ``runs/log.jsonl``, or in the folder named by ``RETRIEVAL_LAB_RUNS``."""
    return Path(os.environ.get("RETRIEVAL_LAB_RUNS", "runs")) / "log.jsonl"


def read(path: str | Path | None = None) -> list[dict]:
    """The runs, oldest first; none where there is no log yet.

    Raises
    ------
    ValueError
        If a line is not JSON; the message has its number.
    """
    path = Path(path or file())
    if not path.is_file():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                runs.append(json.loads(line))
            except json.JSONDecodeError as error:
                problem = say(en=f"{error}; delete the line", zh=f"{error}；删掉这一行")
                raise ValueError(f"{path}:{number}: {problem}") from None
    return runs


def table(runs: list[dict]):
    """The runs as a pandas.DataFrame, one row a run, without configuration and versions."""
    import pandas as pd

    return pd.DataFrame([{name: run.get(name, "") for name in COLUMNS} for run in runs], columns=list(COLUMNS)).fillna(
        ""
    )


def data_hash(data) -> str:
    """Short hash of a dataset's rows and column names, the same however the rows were put together.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"query": ["a", "b"]})
    >>> data_hash(rows) == data_hash(Dataset.from_dict({"query": ["b", "a"]}).select([1, 0]))
    True
    """
    digest = hashlib.sha256()
    for batch in data.with_format("arrow").iter(1000):
        for name in sorted(batch.column_names):
            digest.update(name.encode())
            for value in batch[name].to_pylist():
                digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def peak_mb() -> int:
    """The most memory that this process has held so far, in MB; of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset // 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB, on macOS bytes
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


class Run:
    """One run from its start to its line in the log."""

    def __init__(self, model, data, loss, config):
        self.config, self.data_hash, self.rows = config, data_hash(data), len(data)
        self.model, self.loss = base(model, config.model_name_or_path), type(loss).__name__
        self.seconds = 0.0

    @contextlib.contextmanager
    def measured(self):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - start

    def finish(self, trainer, before: dict | None, findings: list[str]) -> dict:
        """Add the line to the log (one process does) and return it."""
        state, metric = trainer.state, trainer.args.metric_for_best_model
        line = {
            "when": time.strftime("%Y-%m-%d %H:%M:%S"),
            "model": self.model,
            "loss": self.loss,
            "rows": self.rows,
            "steps": state.global_step,
            "epochs": round(state.epoch or 0, 3),
            "metric": metric,
            "before": before and before.get(metric),
            "after": state.best_metric,
            "train_loss": next((log["train_loss"] for log in reversed(state.log_history) if "train_loss" in log), None),
            "seconds": round(self.seconds, 1),
            "peak_mb": peak_mb(),
            "output_dir": self.config.output_dir,
            "findings": findings,
            "data_hash": self.data_hash,
            "seed": self.config.seed,
            "config": self.config.model_dump(mode="json"),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        }
        if state.is_world_process_zero:
            _append(line)
        return line


def _append(line: dict) -> None:
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")  # one write: runs side by side do not mix


def base(model, named: str | None = None) -> str:
    """The name that the model was loaded by, if it is not ``named``; of a path its last part, since folders differ between machines."""
    name = named or next(
        (m.config._name_or_path for m in model.modules() if hasattr(getattr(m, "config", None), "_name_or_path")), ""
    )
    return Path(name).name if Path(name).is_absolute() else name
