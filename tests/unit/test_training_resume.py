"""A run killed in the middle of an epoch and continued ends at the same weights as one that was left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

RUN = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
from retrieval_lab import embedding, formats, tiny, training

folder, file, kill_at, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    model = tiny.encoder()
    data = formats.read(file, "triplet", neg_nums=2, redraw=True)
    config = training.Config(
        output_dir=folder, epoch=3, batch_size=4, gradient_accumulation_steps=2, lr=1e-2, dropout=True, seed=5,
        save_strategy="steps", save_steps=1, num_max_checkpoints=1, resume=resume,
    )
    fit = training.fit
    embedding.fit = lambda *args, **options: fit(*args, **(options | {"callbacks": [Kill()]}))
    embedding.train(model, data, config)
    return {name: value for name, value in model.state_dict().items()}


if __name__ == "__main__":
    torch.save(main(), folder + ".pt")
"""


def triplets(tmp_path) -> Path:
    words = [f"{chr(97 + i)}{'xyz' * (1 + i % 5)}" for i in range(21)]
    lines = [{"query": word, "pos": word[::-1], "neg": [f"{word} {i}" for i in range(5)]} for word in words]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run(tmp_path, name: str, kill_at: int, resume: str = "no") -> int:
    (tmp_path / "run.py").write_text(RUN)
    words = [
        sys.executable,
        str(tmp_path / "run.py"),
        str(tmp_path / name),
        str(triplets(tmp_path)),
        str(kill_at),
        resume,
    ]
    environment = os.environ | {"RETRIEVAL_LAB_RUNS": str(tmp_path / "log"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def test_run_killed_at_a_step_and_resumed_ends_at_the_same_weights(tmp_path):
    """21 rows in batches of 4, two a step: three steps an epoch; step 5 is in the middle of the second."""
    assert run(tmp_path, "whole", kill_at=-1) == 0
    assert run(tmp_path, "killed", kill_at=5) == -signal.SIGKILL
    assert not (tmp_path / "killed.pt").exists()
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-4"]
    assert run(tmp_path, "killed", kill_at=-1, resume="resume") == 0
    whole, resumed = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
