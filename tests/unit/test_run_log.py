"""The run log: a line a run, readable by hand, and a hash that follows the data and nothing else."""

import json

import pytest
from datasets import Dataset

from retrieval_lab import cli, formats, run_log

ROWS = {"query": ["a", "b", "c"], "positive": ["x", "y", "z"]}


def test_hash_follows_the_rows():
    plain = Dataset.from_dict(ROWS)
    assert run_log.data_hash(plain) == run_log.data_hash(plain.select([2, 1, 0]).select([2, 1, 0]))
    assert run_log.data_hash(plain) == run_log.data_hash(plain.select_columns(["positive", "query"]))
    for other in (plain.select([0, 1]), plain.select([1, 0, 2]), plain.rename_column("positive", "document")):
        assert run_log.data_hash(other) != run_log.data_hash(plain)


def test_hash_of_redrawn_negatives_is_of_all_of_them(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"query": "a", "pos": "b", "neg": ["c", "d"]}) + "\n")
    data = formats.read(file, "triplet", redraw=True)
    before = run_log.data_hash(data)
    formats.set_epoch(data, 1)
    assert run_log.data_hash(data) == before


def test_no_log_is_no_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_RUNS", str(tmp_path))
    assert run_log.read() == [] and cli.main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs yet\n"


def test_table_shows_each_run(tmp_path, capsys):
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps({"model": "minilm", "after": 0.7}) + "\n" + json.dumps({"model": "e5-small"}) + "\n")
    assert cli.main(["runs", "--file", str(file)]) == 0
    out = capsys.readouterr().out
    assert "minilm" in out and "e5-small" in out and "0.7" in out


def test_broken_line_is_named(tmp_path, lang):
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match="log.jsonl:2: .*" + {"en": "delete the line", "zh": "删掉这一行"}[lang]):
        run_log.read(tmp_path / "log.jsonl")


def test_peak_memory_is_that_of_a_process_with_torch():
    assert 100 < run_log.peak_mb() < 100_000
