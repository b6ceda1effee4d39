"""The data doctor: every finding on a file that has it and on one that has not, in both languages."""

import json
import os
import re
from pathlib import Path

import pytest

from retrieval_lab import doctor_checks, doctor_counts
from retrieval_lab.doctor import SEVERITIES, diagnose

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("RETRIEVAL_LAB_DATA") or HERE.parents[2].parent / "shared" / "datasets") / "seed_formats"
real = pytest.mark.skipif(not (DATA / "lmsft.jsonl").is_file(), reason="no seed_formats; set RETRIEVAL_LAB_DATA")

CLEAN = [
    {"query": "when does the pool open", "pos": ["it opens at seven"], "neg": ["it stands on a hill"]},
    {"query": "where is the library", "pos": ["beside the river"], "neg": ["closed on Mondays"]},
    {"query": "how much is the ferry", "pos": ["two coins a ride"], "neg": ["it leaves every hour"]},
]


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.delenv("RETRIEVAL_LAB_LANG", raising=False)


def write(folder: Path, rows, name: str = "train.jsonl") -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder / name


def changed(line: int, **fields) -> list[dict]:
    """The clean rows with one of them, counted from 1, changed."""
    return [row | fields if number == line else row for number, row in enumerate(CLEAN, 1)]


MOJIBAKE = "图书馆在河边".encode().decode("cp1252", errors="replace")
# (id, severity, count, lines, rows, options, a part of the English cause)
FINDINGS = [
    ("pos_and_neg", "error", 1, [2], changed(2, neg=["closed", "beside  the\u3000river"]), {}, "a positive and a negative of one query"),
    ("other_positive", "warning", 2, [1, 3], [CLEAN[0] | {"neg": ["beside the river"]}, CLEAN[1], CLEAN[2] | {"neg": ["beside the river"]}], {}, "a positive of another one"),
    ("shared_positive", "info", 2, [1, 2], changed(2, pos=["it opens at seven"]), {}, "the positive of several queries"),
    ("duplicate_exact", "warning", 1, [3], changed(3, pos=["two coins a ride", "two coins a ride"]), {}, "it counts twice"),
    ("duplicate_normalised", "warning", 1, [3], changed(3, pos=["two coins a ride", "ｔｗｏ coins a  ride "]), {}, "apart from blanks"),
    ("duplicate_query", "warning", 1, [4], [*CLEAN, {"query": " where is the  library", "pos": "north", "neg": "x"}], {}, "stands on an earlier line"),
    ("score_conflict", "error", 1, [2], [["a", "b", 1], ["a", "b ", 0], ["c", "d", 0]], {}, "two different scores"),
    ("constant_label", "error", 2, [1, 2], [["a", "b", 1], ["c", "d", 1]], {}, "every label is 1"),
    ("single_document", "warning", 1, [2], [{"query": "a", "pos": ["b", "c"], "scores": [1, 2]}, {"query": "d", "pos": "e", "scores": 3}], {}, "no gradient"),
    ("prompt_mixed", "warning", 2, [1, 3], changed(2, prompt_for_query="find: "), {}, "where 1/3 lines have one"),
    ("query_is_text", "warning", 1, [3], changed(3, pos=["How much is the ferry".lower()]), {}, "the positive is the query itself"),
    ("replacement", "warning", 1, [2], changed(2, neg=["caf\ufffd"]), {}, "U+FFFD"),
    ("mojibake", "warning", 1, [2], changed(2, neg=[MOJIBAKE]), {}, "UTF-8 read as Windows-1252"),
    ("mojibake", "warning", 1, [1], changed(1, query="cafÃ© crÃ¨me"), {}, "UTF-8 read as Windows-1252"),
    ("truncation", "warning", 1, [1], changed(1, pos=["one two three four five six"]), {"tokenizer": str.split, "max_length": 5}, "positives: 1/3 texts (33.3%) are longer than 5 tokens and lose their end; the longest has 6"),
    ("languages", "info", 1, [2], changed(2, query="图书馆在哪里"), {}, "queries are in several languages: Latin script 2, Chinese 1"),
    ("format_problems", "error", 2, [4, 5], [*CLEAN, {"query": ""}, 7], {}, "2/5 lines cannot be read"),
    ("file_problem", "error", 1, [0], [], {}, "the file holds no line"),
]  # fmt: skip


@pytest.mark.parametrize("id, severity, count, lines, rows, options, part", FINDINGS, ids=[c[0] for c in FINDINGS])
def test_a_finding_names_its_lines_cause_and_remedy(tmp_path, id, severity, count, lines, rows, options, part):
    diagnosis = diagnose(write(tmp_path, rows), **options)
    found = diagnosis.find(id)
    assert (found.severity, found.count, found.lines) == (severity, count, lines)
    assert part in found.cause and found.cause in str(diagnosis) and found.remedy in str(diagnosis)
    assert diagnosis.ok == (severity != "error")
    chinese = diagnose(tmp_path / "train.jsonl", **options, lang="zh")
    assert [(f.id, f.places) for f in chinese.findings] == [(f.id, f.places) for f in diagnosis.findings]
    assert re.search("[一-鿿]", chinese.find(id).cause) and chinese.find(id).remedy in str(chinese)


def test_a_clean_file_gives_no_finding(tmp_path):
    options = {
        "tokenizer": str.split,
        "max_length": 5,
        "validation": write(tmp_path, [CLEAN[0] | {"query": "new", "pos": "x"}], "v.jsonl"),
    }
    diagnosis = diagnose(write(tmp_path, CLEAN), **options)
    assert diagnosis.findings == [] and diagnosis.ok and diagnosis.find("truncation") is None
    assert str(diagnosis) == "train.jsonl: 3 lines, 3 training rows; nothing found"
    assert str(diagnose(write(tmp_path, CLEAN), lang="zh")) == "train.jsonl：3 行，3 条训练样本；没有发现问题"


def test_a_query_on_two_lines_can_contradict_itself(tmp_path):
    rows = [{"query": "a", "pos": "b", "neg": "c"}, {"query": "a ", "pos": "d", "neg": "ｂ"}]
    assert diagnose(write(tmp_path, rows)).find("pos_and_neg").lines == [2]
    assert diagnose(write(tmp_path, rows)).find("other_positive") is None


def test_several_files_are_one_training_set(tmp_path):
    files = [
        write(tmp_path, CLEAN[:1], "a.jsonl"),
        write(tmp_path, changed(2, neg=["it opens at seven"])[1:], "b.jsonl"),
    ]
    diagnosis = diagnose(files)
    assert diagnosis.find("other_positive").places == (("b.jsonl", 1),)
    assert (diagnosis.files, diagnosis.n_lines, diagnosis.n_rows) == (["a.jsonl", "b.jsonl"], 3, 3)


def test_two_files_of_one_name_are_told_apart(tmp_path):
    for folder, rows in [("a", CLEAN), ("b", CLEAN[:1])]:
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, rows)
    diagnosis = diagnose(tmp_path / "a" / "train.jsonl", validation=tmp_path / "b" / "train.jsonl")
    assert diagnosis.find("leak_query").places == ((str(tmp_path / "b" / "train.jsonl"), 1),)
    assert diagnosis.files == [str(tmp_path / "a" / "train.jsonl")]


def test_a_leak_is_found_by_query_and_by_text(tmp_path):
    validation = [
        CLEAN[1] | {"query": "Ｗhere is the library ".replace("Ｗ", "ｗ"), "pos": "new"},
        {"query": "new", "pos": ["two coins a ride", "y"], "neg": "closed"},
    ]
    diagnosis = diagnose(write(tmp_path, CLEAN), validation=write(tmp_path, validation, "val.jsonl"))
    query, text = diagnosis.find("leak_query"), diagnosis.find("leak_text")
    assert query.places == (("val.jsonl", 1),) and query.severity == "error" and "1/2 validation queries" in query.cause
    assert text.places == (("val.jsonl", 2),) and text.severity == "warning" and "1/3 relevant texts" in text.cause
    assert "1/2 条验证查询" in str(diagnose(tmp_path / "train.jsonl", validation=[tmp_path / "val.jsonl"], lang="zh"))


def test_a_negative_of_validation_may_stand_in_training(tmp_path):
    validation = write(tmp_path, [{"query": "new", "pos": "y", "neg": "two coins a ride"}], "val.jsonl")
    assert diagnose(write(tmp_path, CLEAN), validation=validation).findings == []


def test_bad_lines_are_reported_and_the_others_examined(tmp_path):
    rows = [*changed(2, neg=["beside the river"]), {"query": "d"}]
    diagnosis = diagnose(write(tmp_path, rows))
    assert [f.id for f in diagnosis.findings] == ["format_problems", "pos_and_neg"]
    assert "line 4, pos: the field is missing" in str(diagnosis) and "line 4, pos" in diagnosis.to_markdown()


def test_a_missing_file_is_a_finding(tmp_path):
    diagnosis = diagnose([write(tmp_path, CLEAN), tmp_path / "no.jsonl"])
    assert diagnosis.find("file_problem").places == (("no.jsonl", 0),)
    assert "[error] file_problem x1, no.jsonl: the file was not examined: there is no such file" in str(diagnosis)


def test_repeated_queries_and_documents_are_what_flat_files_are_made_of(tmp_path):
    rows = [["a", "b", 1], ["a", "c", 0], ["d", "b", 0.5]]
    assert diagnose(write(tmp_path, rows)).findings == []


def test_labels_are_histogrammed(tmp_path):
    rows = [
        {"query": "a", "pos": list("bcde"), "pos_scores": [0, 1, 1, 3]},
        {"query": "f", "pos": "g", "pos_scores": 3},
    ]
    assert diagnose(write(tmp_path, rows), max_label=3).histograms["labels"] == {"labels": {"0": 1, "1": 2, "3": 2}}
    assert diagnose(write(tmp_path, CLEAN)).histograms["labels"] == {"labels": {"positive": 3, "negative": 3}}


def test_many_labels_fall_into_ten_steps():
    steps = doctor_counts.label_bins([i / 100 for i in range(101)])
    assert list(steps)[:2] == ["0..0.1", "0.1..0.2"] and list(steps)[-1] == "0.9..1"
    assert sum(steps.values()) == 101 and max(steps.values()) <= 12


def test_lengths_texts_a_query_and_languages_are_histogrammed(tmp_path):
    rows = [{"query": "ab", "pos": ["abc", "a", "你好吗？"]}, {"query": "你好", "pos": "12"}]
    histograms = diagnose(write(tmp_path, rows)).histograms
    assert histograms["length_chars"] == {"query": {"2-3": 2}, "positive": {"1": 1, "2-3": 2, "4-7": 1}}
    assert histograms["documents_per_query"] == {"positive": {"1": 1, "2-3": 1}}
    assert histograms["languages"] == {"query": {"en": 1, "zh": 1}, "positive": {"en": 2, "zh": 1, "other": 1}}
    assert json.loads(json.dumps(histograms)) == histograms


def test_truncation_counts_the_prompt_and_each_query_of_a_flat_file_once(tmp_path):
    rows = [{"query": "a b", "content": c, "score": 1, "prompt": "find this : "} for c in ("c", "d e f g h i")]
    diagnosis = diagnose(write(tmp_path, rows), kind="scored", tokenizer=str.split, max_length=5)
    assert diagnosis.histograms["truncation"] == {
        "query": {"texts": 1, "truncated": 0, "longest": 5},
        "document": {"texts": 2, "truncated": 1, "longest": 6},
    }
    assert diagnosis.histograms["length_tokens"] == {"query": {"4-7": 1}, "document": {"1": 1, "2-3": 0, "4-7": 1}}


def test_a_reranker_reads_query_and_document_as_one_input(tmp_path):
    rows = [["a b c", "d e f", 1], ["a b c", "d", 0]]
    diagnosis = diagnose(write(tmp_path, rows), tokenizer=str.split, max_length=5)
    assert diagnosis.histograms["truncation"]["pair"] == {"texts": 2, "truncated": 1, "longest": 6}
    assert "query + document: 1/2 texts (50.0%)" in diagnosis.find("truncation").cause


def test_special_tokens_of_a_transformers_tokenizer_count(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[CLS]", "[SEP]", "[UNK]", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4)
    assert doctor_counts.token_counts(["a b", "a a a a a a"], fast) == [4, 8]
    assert doctor_counts.token_counts([], fast) == []
    diagnosis = diagnose(write(tmp_path, [["a", "b b", 1], ["a", "b", 0]]), tokenizer=fast, max_length=5)
    longest = {part: counts["longest"] for part, counts in diagnosis.histograms["truncation"].items()}
    assert longest == {"query": 3, "document": 4, "pair": 6}  # [CLS] a [SEP] b b [SEP]


@pytest.mark.parametrize("options", [{"max_length": 5}, {"tokenizer": str.split}, {"tokenizer": len, "max_length": 0}])
def test_tokenizer_and_length_belong_together(tmp_path, options):
    with pytest.raises(ValueError, match="tokenizer and max_length belong together"):
        diagnose(write(tmp_path, CLEAN), **options)


@pytest.mark.parametrize(
    "text, language",
    [
        ("图书馆在哪里", "zh"),
        ("用 Python 写的 FastAPI 服务怎么部署", "zh"),
        ("The word 你好 means hello", "en"),
        ("où est la piscine", "en"),
        ("これはペンです", "other"),
        ("где бассейн", "other"),
        ("12:30 — 14:00", "other"),
    ],
)
def test_language_is_told_by_script(text, language):
    assert doctor_checks.language(text) == language


@pytest.mark.parametrize(
    "text",
    ["Où est le café ? Très près, à côté.", "«été» – “naïve” Ångström ÄÖÜ", "中文，标点。“引号”", "50 °C ± 2 µm²"],
)
def test_good_accents_are_no_mojibake(tmp_path, text):
    assert diagnose(write(tmp_path, changed(1, pos=[text]))).find("mojibake") is None


def test_findings_come_worst_first(tmp_path):
    rows = changed(2, query="图书馆在哪里", neg=["beside the river", "two coins a ride"])
    severities = [found.severity for found in diagnose(write(tmp_path, rows)).findings]
    assert severities == ["error", "warning", "info"] == list(SEVERITIES)
    title = str(diagnose(tmp_path / "train.jsonl")).split("\n")[0]
    assert title == "train.jsonl: 3 lines, 3 training rows; 1 error, 1 warning, 1 info"


def test_many_lines_are_counted_in_text_and_kept_in_the_finding(tmp_path):
    rows = [{"query": f"q{i}", "pos": f"p{i}", "neg": f"p{i}"} for i in range(0, 40)]
    diagnosis = diagnose(write(tmp_path, [row for i, row in enumerate(rows)]))
    assert "train.jsonl line 1-10 and 30 more:" in str(diagnosis)
    assert "train.jsonl 第 1-10 等 40 行：" in str(diagnose(tmp_path / "train.jsonl", lang="zh"))
    assert diagnosis.find("pos_and_neg").lines == list(range(1, 41))


def test_markdown_holds_findings_and_histograms(tmp_path):
    path = write(tmp_path, changed(2, neg=["beside the river"], pos=["beside the river", "a|b\nc"]))
    english, chinese = diagnose(path).to_markdown(), diagnose(path, lang="zh").to_markdown()
    assert (
        "| severity | count | where | cause | remedy |" in english and "| error | 1 | train.jsonl line 2 |" in english
    )
    assert "**Length in characters**" in english and "|  | queries | positives | negatives |" in english
    assert "| 级别 | 次数 | 位置 | 原因 | 办法 |" in chinese and "| 错误 | 1 | train.jsonl 第 2 行 |" in chinese
    assert "**语言（按文字）**" in chinese and "| 拉丁字母 | 3 | 4 | 3 |" in chinese
    for line in (english + chinese).split("\n"):
        assert not line.startswith("|") or line.endswith("|")


@real
def test_real_overlaps_and_conflicts_are_found():
    diagnosis = diagnose(DATA / "t2rank_100.jsonl")
    both, other = diagnosis.find("pos_and_neg"), diagnosis.find("other_positive")
    assert (both.count, both.lines) == (6, [10, 19, 47, 52, 82, 83])
    rows = [json.loads(line) for line in (DATA / "t2rank_100.jsonl").read_text(encoding="utf-8").split("\n") if line]
    owners = {text: {row["query"] for row in rows if text in row["pos"]} for row in rows for text in row["pos"]}
    brute = [i for i, row in enumerate(rows, 1) for text in row["neg"] if owners.get(text, set()) - {row["query"]}]
    assert [place.line for place in other.places] == brute and len(brute) == 9


@real
def test_real_validation_file_leaks_in_full():
    diagnosis = diagnose(DATA / "t2rank_100.jsonl", validation=DATA / "t2rank_100.small.jsonl")
    assert diagnosis.find("leak_query").lines == list(range(1, 12))
    assert "11/11 validation queries" in diagnosis.find("leak_query").cause
    assert "61/61 relevant texts" in diagnosis.find("leak_text").cause


@real
@pytest.mark.parametrize("name", ["t2rank_100.distill.jsonl", "t2rank_100.distill.standard.jsonl"])
def test_real_distillation_files_hold_six_pairs_twice(name):
    diagnosis = diagnose(DATA / name)
    assert diagnosis.find("duplicate_exact").count == 6 and diagnosis.ok
