"""Two processes on this machine (gloo) end where one process with the joint batch ends."""

import os
import subprocess
import sys

import pytest
import torch

from retrieval_lab import two_processes


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRIEVAL_LAB_RUNS", str(folder))
        return two_processes.train("one", folder=str(folder / "run"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_the_joint_batch(tmp_path, one, kind):
    """Negatives cross the processes: with its own four rows alone each would have less to tell apart."""
    file = tmp_path / "weights.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"RETRIEVAL_LAB_RUNS": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = [*launch, "-m", "retrieval_lab.two_processes", kind, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found, start = torch.load(file), two_processes.tiny.encoder().state_dict()
    assert max((one[name] - start[name]).abs().max() for name in one) > 1e-2
    for name in one:
        torch.testing.assert_close(found[name], one[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("lang, words", [("en", "use one of one, ddp, fsdp"), ("zh", "可用：one、ddp、fsdp")])
def test_unknown_kind_is_refused(monkeypatch, lang, words):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", lang)
    with pytest.raises(ValueError, match=words):
        two_processes.train("three")
