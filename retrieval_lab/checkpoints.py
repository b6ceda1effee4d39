"""Checkpoints of a run: which one to go on from, and which to delete, never one that the run did not write.
Taught in lesson 07.
"""

import contextlib
import copy
import json
import re
import shutil
from pathlib import Path

from sentence_transformers.base.sampler import BatchSamplers
from transformers import TrainerCallback

from retrieval_lab import llm_lora
from retrieval_lab.profiles import say

# What may differ between a run and its continuation without changing the final weights.
FREE = {
    "resume_from_checkpoint",
    "output_dir",
    "report_to",
    "logging_steps",
    "save_total_limit",
    "train_dataset",  # its content counts, by its hash
}


def whole(folder: str | Path) -> list[Path]:
    """The checkpoints of a folder that were written to their end, oldest first.

    The trainer writes ``trainer_state.json`` last; a run that was killed while saving leaves a folder without it.
    """
    return [path for path in _numbered(folder) if _readable(path / "trainer_state.json")]


def _numbered(folder: str | Path) -> list[Path]:
    folders = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=_step)


def _readable(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def start(config, data_hash: str) -> str | None:
    """Open ``output_dir`` for a run: write down what it trains, or find the checkpoint to go on from.

    Parameters
    ----------
    config : training.Config
    data_hash : of the training data

    Returns
    -------
    The last whole checkpoint where ``resume_from_checkpoint`` is on and there is one, else None.

    Raises
    ------
    ValueError
        If the folder holds checkpoints of another run, or of this one with other data or settings.
    """
    folder = Path(config.output_dir)
    settings = config.model_dump(mode="json", exclude=FREE)
    found = whole(folder) if config.resume_from_checkpoint else _numbered(folder)
    if found and not config.resume_from_checkpoint:
        raise ValueError(
            say(
                en=f"{folder} already holds {found[-1].name} of an earlier run; go on with it (resume_from_checkpoint: true), delete it, or choose another output_dir",
                zh=f"{folder} 里已有之前某次训练的 {found[-1].name}；可以接着训练（resume_from_checkpoint: true），删掉它，或换一个 output_dir",
            )
        )
    if found:
        _same_run(folder, {"data": data_hash, **settings})
        return str(found[-1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(
        json.dumps({"data": data_hash, **settings}, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    config.save(folder)
    return None


def _same_run(folder: Path, now: dict) -> None:
    if not (folder / "run.json").is_file():
        raise ValueError(
            say(
                en=f"{folder} holds checkpoints without run.json, so another program wrote them; choose another output_dir",
                zh=f"{folder} 里的检查点没有 run.json，是别的程序写的；换一个 output_dir",
            )
        )
    before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    changed = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
    if changed:
        differences = "; ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            say(
                en=f"{folder} was trained with other settings or data ({differences}); the result would be neither run: give the old ones, or another output_dir",
                zh=f"{folder} 之前用的设置或数据不同（{differences}）；接着训练得到的既不是旧的也不是新的：改回原来的，或换一个 output_dir",
            )
        )


class OwnCheckpoints(TrainerCallback):
    """Keeps the best and the last ``save_total_limit`` checkpoints of this run and deletes its others.

    The trainer's own limit would delete every folder called ``checkpoint-…``, a copy that somebody kept by hand too.
    When no checkpoints were asked for (``save_strategy: no``), those made to find the best epoch are deleted at the end.
    """

    def __init__(self, config):
        self.temporary = config.save_strategy == "no"
        self.limit = 1 if self.temporary else config.save_total_limit

    def on_save(self, args, state, control, **kwargs):
        if self.limit is not None and state.is_world_process_zero:
            # Folders with a higher number belong to nobody we know.
            older = [path for path in _numbered(args.output_dir) if _step(path) <= state.global_step]
            for path in older[: -self.limit]:
                if str(path) != str(Path(state.best_model_checkpoint or "")):
                    shutil.rmtree(path)

    def on_train_end(self, args, state, control, **kwargs):
        if self.temporary and state.is_world_process_zero:
            for path in _numbered(args.output_dir):
                shutil.rmtree(path)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def one_writer(trainer_class: type) -> type:
    """The trainer class, but only one process writes, sharded weights are written whole, and no best epoch is lost in silence.

    Adapters of a scalar head go back into the model at hand, because their folder alone makes no model (`llm_lora.is_scalar`).
    sentence-transformers 6.2 lets every process write the same files, leaves the gathered weights of FSDP aside, and when the
    best weights cannot be loaded it logs that and goes on with the last ones.
    """

    class OneWriter(trainer_class):
        def __init__(self, model, **options):
            super().__init__(model=model, **options)
            # Under FSDP the model's own weights become parts; the shell takes the gathered ones for saving.
            self.shell = copy.deepcopy(model).to("meta") if self.is_fsdp_enabled else None

        def _save(self, output_dir=None, state_dict=None):
            if not self.args.should_save:
                return
            if self.shell is None or state_dict is None:
                with self._without_sampler():
                    return super()._save(output_dir, state_dict)
            self.shell.load_state_dict(state_dict, assign=True)
            self.shell.save_pretrained(output_dir)

        @contextlib.contextmanager
        def _without_sampler(self):
            """The arguments are pickled into each checkpoint; a function that makes batches cannot be, nor the texts it holds."""
            sampler, self.args.batch_sampler = self.args.batch_sampler, BatchSamplers.BATCH_SAMPLER
            try:
                yield
            finally:
                self.args.batch_sampler = sampler

        def _load_best_model(self):
            if self.is_fsdp_enabled:
                return super()._load_best_model()
            self._load_from_checkpoint(self.state.best_model_checkpoint)

        def _load_from_checkpoint(self, checkpoint_path):
            if llm_lora.is_scalar(self.model) and llm_lora.has_adapter(self.model):
                llm_lora.restore(self.model, checkpoint_path)
            else:
                super()._load_from_checkpoint(checkpoint_path)

    OneWriter.__name__ = trainer_class.__name__
    return OneWriter
