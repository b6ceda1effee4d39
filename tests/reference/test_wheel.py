"""What a machine without a checkout gets, such as Colab: the built wheel, unpacked somewhere else, finds its corpus."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "retrieval_lab", "data")


def test_wheel_brings_the_corpus_with_it(tmp_path):
    for name in SOURCES:  # a copy: building leaves folders behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    code = (
        "from retrieval_lab import corpora; print(len(corpora.load('city_services', 'zh').queries), corpora.__file__)"
    )
    elsewhere = {"cwd": tmp_path / "out", "env": os.environ | {"PYTHONPATH": str(tmp_path / "installed")}}
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **elsewhere).stdout
    judged = {line.split("\t")[0] for line in _lines("data/city_services/zh/qrels/test.tsv")[1:]}
    assert found.split()[0] == str(len(judged))
    assert found.split()[1].startswith(str(tmp_path / "installed"))


def _lines(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()
