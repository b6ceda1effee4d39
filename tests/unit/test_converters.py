"""From format to format: round trips, what each target cannot hold, and broken sources."""

import json
import os
from itertools import product
from pathlib import Path

import pytest

from retrieval_lab import formats
from retrieval_lab.converters import FORMATS, convert
from retrieval_lab.data_bundle import LOSES
from retrieval_lab.formats import DataError

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("RETRIEVAL_LAB_DATA") or HERE.parents[2].parent / "shared" / "datasets")
real = pytest.mark.skipif(not (DATA / "beir" / "scifact").is_dir(), reason="no collections; set RETRIEVAL_LAB_DATA")

TRIPLETS = [
    {
        "query": "When does the pool open?",
        "pos": ["At seven.", "Seven in the morning."],
        "neg": ["On the hill.", "Free."],
    },
    {"query": "图书馆在哪里？", "pos": ["在河边。"], "neg": ["周一闭馆。", "On the hill."]},
]
PAIRS = [{"query": row["query"], "pos": row["pos"]} for row in TRIPLETS]
GRADED = [
    {
        "query": "ferry {price} %s",
        "pos": ["Two coins.", "Line 3."],
        "neg": ["Hats."],
        "pos_scores": [3.0, 1.0],
        "neg_scores": [0.0],
    }
]
PROMPTED = [row | {"prompt_for_query": "find {}: "} for row in TRIPLETS]


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.delenv("RETRIEVAL_LAB_LANG", raising=False)


def write(path: Path, rows) -> Path:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def round_trip(folder: Path, rows: list[dict], through: str):
    """The rows after a way there and back, and the names of what was lost on each way."""
    source = write(folder / "source.jsonl", rows)
    there = convert(source, folder / "there", "lab", through)
    back = convert(folder / "there", folder / "back.jsonl", through, "lab")
    return lines(folder / "back.jsonl"), set(there.warnings), set(back.warnings)


@pytest.mark.parametrize("through", FORMATS)
def test_pairs_come_back_unchanged_from_every_format(tmp_path, through):
    rows, there, back = round_trip(tmp_path, PAIRS, through)
    assert rows == PAIRS
    assert there == set()
    assert back == ({"ids"} if through in ("tevatron", "beir", "trec", "llamaindex") else set())


@pytest.mark.parametrize("through", [name for name in FORMATS if name != "llamaindex"])
def test_triplets_come_back_unchanged_from_every_format_that_has_negatives(tmp_path, through):
    rows, there, _ = round_trip(tmp_path, TRIPLETS, through)
    assert (rows, there) == (TRIPLETS, set())


@pytest.mark.parametrize("through", ["lab", "flagembedding", "beir", "trec"])
def test_graded_lines_come_back_unchanged(tmp_path, through):
    assert round_trip(tmp_path, GRADED, through)[:2] == (GRADED, set())


@pytest.mark.parametrize("through", ["lab", "flagembedding"])
def test_prompts_come_back_unchanged(tmp_path, through):
    assert round_trip(tmp_path, PROMPTED, through)[:2] == (PROMPTED, set())


@pytest.mark.parametrize("through", ["sentence-transformers", "beir", "trec", "tevatron", "llamaindex"])
def test_lost_prompts_are_named(tmp_path, through):
    rows, there, _ = round_trip(tmp_path, PROMPTED, through)
    assert "prompts" in there
    assert all("prompt_for_query" not in row for row in rows)


def test_every_pair_of_formats_converts(tmp_path):
    write(tmp_path / "lab", PAIRS)
    for name in FORMATS[1:]:
        convert(tmp_path / "lab", tmp_path / name, "lab", name)
    for first, second in product(FORMATS, FORMATS):
        target = tmp_path / f"{first}-{second}"
        assert convert(tmp_path / first, target, first, second).n_queries == 2
        convert(target, tmp_path / f"{first}-{second}.jsonl", second, "lab")
        assert lines(tmp_path / f"{first}-{second}.jsonl") == PAIRS


def test_flagembedding_lines_are_as_its_trainer_reads_them(tmp_path):
    convert(write(tmp_path / "a.jsonl", PROMPTED), tmp_path / "b.jsonl", "lab", "flagembedding")
    assert lines(tmp_path / "b.jsonl")[0] == TRIPLETS[0] | {"prompt": "find {}: "}
    convert(write(tmp_path / "c.jsonl", PAIRS), tmp_path / "d.jsonl", "lab", "flagembedding")
    assert lines(tmp_path / "d.jsonl") == [row | {"neg": []} for row in PAIRS]


def test_lines_with_and_without_negatives_stay_apart_in_our_format(tmp_path):
    source = write(tmp_path / "a.jsonl", [TRIPLETS[0], PAIRS[1] | {"neg": []}])
    assert set(convert(source, tmp_path / "b.jsonl", "flagembedding", "lab").warnings) == {"some_negatives"}
    assert lines(tmp_path / "b.jsonl") == [TRIPLETS[0], PAIRS[1]]
    assert len(formats.read(tmp_path / "b.jsonl", "pair")) == 3
    with pytest.raises(DataError, match="line 2, neg: the field is missing"):
        formats.read(tmp_path / "b.jsonl", "triplet")


def test_tevatron_lines_have_ids_titles_and_texts(tmp_path):
    convert(write(tmp_path / "a.jsonl", TRIPLETS), tmp_path / "b.jsonl", "lab", "tevatron")
    first, second = lines(tmp_path / "b.jsonl")
    assert first == {
        "query_id": "q1",
        "query": "When does the pool open?",
        "positive_passages": [
            {"docid": "d1", "title": "", "text": "At seven."},
            {"docid": "d2", "title": "", "text": "Seven in the morning."},
        ],
        "negative_passages": [
            {"docid": "d3", "title": "", "text": "On the hill."},
            {"docid": "d4", "title": "", "text": "Free."},
        ],
    }
    assert second["negative_passages"][1]["docid"] == "d3"  # the same text has the same id


def test_columns_are_n_tuples_where_all_have_equally_many_negatives(tmp_path):
    convert(write(tmp_path / "a.jsonl", TRIPLETS), tmp_path / "b.jsonl", "lab", "sentence-transformers")
    rows = lines(tmp_path / "b.jsonl")
    assert [list(row) for row in rows] == [["anchor", "positive", "negative_1", "negative_2"]] * 3
    assert rows[1]["positive"] == "Seven in the morning." and rows[2]["negative_1"] == "周一闭馆。"


def test_columns_are_triplets_where_they_differ_and_nothing_is_lost(tmp_path):
    uneven = [TRIPLETS[0], TRIPLETS[1] | {"neg": ["周一闭馆。"]}]
    rows, there, _ = round_trip(tmp_path, uneven, "sentence-transformers")
    assert (rows, there) == (uneven, set())
    assert len(lines(tmp_path / "there")) == 2 * 2 + 1
    assert list(lines(tmp_path / "there")[0]) == ["anchor", "positive", "negative"]


def test_scored_columns_keep_every_score(tmp_path):
    flat = [["a", "b", 0.25], ["a", "c", 1], ["d", "e", 0.5]]
    rows, there, _ = round_trip(tmp_path, flat, "sentence-transformers")
    assert there == set()
    assert lines(tmp_path / "there")[0] == {"sentence1": "a", "sentence2": "b", "score": 0.25}
    assert rows == [
        {"query": "a", "pos": ["b", "c"], "pos_scores": [0.25, 1.0]},
        {"query": "d", "pos": ["e"], "pos_scores": [0.5]},
    ]
    assert formats.read(tmp_path / "back.jsonl").to_list() == formats.read(write(tmp_path / "f.jsonl", flat)).to_list()


def test_scores_of_the_kind_scored_stay_of_that_kind(tmp_path):
    rows = [{"query": "a", "positive": ["b", "c"], "scores": [7, -1.5]}]
    convert(write(tmp_path / "a.jsonl", rows), tmp_path / "b.jsonl", "lab", "lab")
    assert lines(tmp_path / "b.jsonl") == [{"query": "a", "pos": ["b", "c"], "scores": [7.0, -1.5]}]
    assert formats.validate(tmp_path / "b.jsonl").kind == "scored"


def test_a_beir_folder_is_as_its_loaders_read_it(tmp_path):
    convert(write(tmp_path / "a.jsonl", GRADED), tmp_path / "b", "lab", "beir", split="dev")
    assert lines(tmp_path / "b" / "corpus.jsonl")[0] == {"_id": "d1", "title": "", "text": "Two coins."}
    assert lines(tmp_path / "b" / "queries.jsonl") == [{"_id": "q1", "text": "ferry {price} %s"}]
    qrels = "query-id\tcorpus-id\tscore\nq1\td3\t0\nq1\td1\t3\nq1\td2\t1\n"
    assert (tmp_path / "b" / "qrels" / "dev.tsv").read_text() == qrels


def test_the_collection_loader_reads_what_was_written(tmp_path):
    from retrieval_lab import corpora

    convert(write(tmp_path / "a.jsonl", TRIPLETS), tmp_path / "b", "lab", "beir")
    collection = corpora.load(tmp_path / "b", split="train")
    assert collection.queries == {"q1": TRIPLETS[0]["query"], "q2": TRIPLETS[1]["query"]}
    assert collection.qrels["q2"] == {"d5": 1, "d6": 0, "d3": 0}


def test_trec_judgements_have_four_columns(tmp_path):
    convert(write(tmp_path / "a.jsonl", PAIRS[1:]), tmp_path / "b", "lab", "trec")
    assert (tmp_path / "b" / "qrels" / "train.qrels").read_text() == "q1 0 d1 1\n"


def test_llamaindex_json_has_its_four_entries(tmp_path):
    done = convert(write(tmp_path / "a.jsonl", TRIPLETS[1:]), tmp_path / "b.json", "lab", "llamaindex")
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {
        "queries": {"q1": "图书馆在哪里？"},
        "corpus": {"d1": "在河边。", "d2": "周一闭馆。", "d3": "On the hill."},
        "relevant_docs": {"q1": ["d1"]},
        "mode": "text",
    }
    assert list(done.warnings) == ["negatives_kept"] and "negatives: 2" in done.warnings["negatives_kept"]


def test_ids_titles_and_unjudged_documents_survive_between_collections(tmp_path):
    write(
        tmp_path / "a" / "corpus.jsonl",
        [{"_id": i, "title": t, "text": x} for i, t, x in [("d1", "Pool", "At 7."), ("7", "", "Hill.")]],
    )
    write(tmp_path / "a" / "queries.jsonl", [{"_id": "q9", "text": "pool?"}, {"_id": "q8", "text": "not judged"}])
    write(tmp_path / "a" / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t2\n")
    assert convert(tmp_path / "a", tmp_path / "b", "beir", "trec").warnings == {}
    assert convert(tmp_path / "b", tmp_path / "c", "trec", "beir", split="train").warnings == {}
    for name in ("corpus.jsonl", "queries.jsonl"):
        assert sorted(map(str, lines(tmp_path / "c" / name))) == sorted(map(str, lines(tmp_path / "a" / name)))
    assert (tmp_path / "c/qrels/train.tsv").read_text() == (tmp_path / "a/qrels/test.tsv").read_text()


TITLED = {"query_id": "q1", "query": "pool?", "positive_passages": [{"docid": "d1", "title": "Pool", "text": "At 7."}]}
# (name of the loss, rows, source format, target format, a part of the English sentence)
LOSSES = [
    ("prompts", PROMPTED, "lab", "tevatron", "queries with a prompt, which tevatron cannot hold: 2"),
    ("scores", [{"query": "a", "pos": "b", "scores": 0.5}], "lab", "beir", "queries with scores, which beir cannot hold: 1"),
    ("grades", GRADED, "lab", "tevatron", "queries with grades, which tevatron cannot hold: 1"),
    ("binary_scores", [["a", "b", 1], ["a", "c", 0]], "lab", "trec", "queries whose scores are all 0 or 1: 1"),
    ("ids", [TITLED], "tevatron", "lab", "ids of queries and passages, which lab cannot hold: 2"),
    ("titles", [TITLED], "tevatron", "lab", "titles, for which lab has no field: 1"),
    ("negatives_kept", TRIPLETS, "lab", "llamaindex", "negatives: 4; llamaindex keeps them as documents"),
    ("contradictions", [{"query": "a", "pos": "b", "neg": ["b", "c"]}], "lab", "beir", "both positive and negative of one query: 1"),
    ("repeats", [{"query": "a", "pos": ["b", "b"]}], "lab", "llamaindex", "repeated texts of one query, kept once in llamaindex: 1"),
    ("repeated_queries", [PAIRS[0], PAIRS[0]], "lab", "sentence-transformers", "lines whose query came before: 1"),
    ("split", [{"query": "a", "pos": ["b", "c"], "pos_scores": [2, 0]}], "lab", "beir", "not which texts stood in pos and which in neg"),
    ("fields", [PAIRS[0] | {"source": "web"}], "lab", "flagembedding", "the fields source are in the source"),
    ("fields", [TITLED | {"split": "x"}], "tevatron", "beir", "the fields split"),
    ("fields", [{"anchor": "a", "positive": "b", "lang": "en"}], "sentence-transformers", "lab", "the fields lang"),
    ("fields", [PAIRS[0] | {"neg": [], "type": "x"}], "flagembedding", "lab", "the fields type"),
    ("some_negatives", [TRIPLETS[0] | {"prompt": "x"}, PAIRS[1] | {"neg": []}], "flagembedding", "lab", "while others have some: 1"),
]  # fmt: skip


@pytest.mark.parametrize("name, rows, source, target, part", LOSSES, ids=[f"{c[0]}-{c[2]}" for c in LOSSES])
def test_what_a_target_cannot_hold_is_named(tmp_path, name, rows, source, target, part):
    path = write(tmp_path / "a.jsonl", rows)
    done = convert(path, tmp_path / "b", source, target)
    assert part in done.warnings[name] and done.warnings[name] in str(done)
    chinese = convert(path, tmp_path / "c", source, target, lang="zh")
    assert "；" in chinese.warnings[name] and f"存不下（{name}）" in str(chinese)
    with pytest.raises(DataError) as raised:
        convert(path, tmp_path / "d", source, target, strict=True)
    assert part in str(raised.value) and not (tmp_path / "d").exists()


def test_unjudged_documents_and_queries_are_named(tmp_path):
    data = {"queries": {"q1": "a", "q2": "b"}, "corpus": {"d1": "c", "d2": "d"}, "relevant_docs": {"q1": ["d1"]}}
    path = write(tmp_path / "a.json", json.dumps(data))
    done = convert(path, tmp_path / "b.jsonl", "llamaindex", "lab")
    assert set(done.warnings) == {"ids", "documents", "queries"}
    assert "documents that no query judges, left out of lab: 1" in done.warnings["documents"]
    assert "queries without a positive, left out of lab: 1" in done.warnings["queries"]
    assert lines(tmp_path / "b.jsonl") == [{"query": "a", "pos": ["c"]}]
    assert set(LOSES["beir"]) & set(done.warnings) == set()
    assert convert(path, tmp_path / "c", "llamaindex", "beir").warnings == {}


def test_a_title_goes_before_its_text(tmp_path):
    convert(write(tmp_path / "a.jsonl", [TITLED]), tmp_path / "b.jsonl", "tevatron", "lab")
    assert lines(tmp_path / "b.jsonl")[0]["pos"] == ["Pool\nAt 7."]


def test_fresh_ids_keep_clear_of_those_in_use(tmp_path):
    rows = [
        TITLED | {"query_id": "q2"},
        {"query_id": "q1", "query": "b", "positive_passages": [{"docid": "d2", "text": "x"}]},
    ]
    convert(write(tmp_path / "a.jsonl", rows), tmp_path / "b", "tevatron", "beir")
    assert [row["_id"] for row in lines(tmp_path / "b" / "queries.jsonl")] == ["q2", "q1"]


@pytest.mark.parametrize(
    "rows, what", [([TRIPLETS[0], PAIRS[1] | {"neg": []}], "negatives"), ([GRADED[0], TRIPLETS[1]], "scores")]
)
def test_one_table_cannot_hold_lines_with_and_without(tmp_path, rows, what):
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=f"with and without {what} together") as raised:
        convert(path, tmp_path / "b.jsonl", "flagembedding", "sentence-transformers")
    assert raised.value.report.problems[0].code == "one_table"


def test_blanks_in_ids_are_refused_by_trec(tmp_path):
    path = write(tmp_path / "a.jsonl", [TITLED | {"query_id": "q 1"}])
    with pytest.raises(DataError, match="the id 'q 1' holds a blank") as raised:
        convert(path, tmp_path / "b", "tevatron", "trec")
    assert raised.value.report.problems[0].code == "id_space"
    assert convert(path, tmp_path / "c", "tevatron", "beir").n_queries == 1


def test_nothing_to_write_is_refused(tmp_path):
    data = {"queries": {"q1": "a"}, "corpus": {"d1": "c"}, "relevant_docs": {}}
    with pytest.raises(DataError, match="no line is left"):
        convert(write(tmp_path / "a.json", json.dumps(data)), tmp_path / "b.jsonl", "llamaindex", "lab")


BROKEN = [
    ("lab", [PAIRS[0], {"query": "a"}], 2, "pos", "missing"),
    ("flagembedding", [PAIRS[0], {"query": "a", "pos": ["b"], "neg": [3]}], 2, "neg[0]", "wrong_type"),
    ("flagembedding", [PAIRS[0], "text"], 2, "", "not_a_record"),
    ("flagembedding", [PAIRS[0], ["a", "b", 1]], 2, "", "mixed"),
    ("tevatron", [TITLED, {"query_id": "1", "query": "a"}], 2, "positive_passages", "missing"),
    ("tevatron", [TITLED | {"positive_passages": []}], 1, "positive_passages", "empty_list"),
    ("tevatron", [TITLED | {"positive_passages": [{"docid": "d", "text": " "}]}], 1, "positive_passages[0].text", "empty_text"),
    ("tevatron", [TITLED | {"positive_passages": "d1"}], 1, "positive_passages", "wrong_type"),
    ("tevatron", [TITLED | {"positive_passages": ["d1"]}], 1, "positive_passages[0]", "wrong_type"),
    ("tevatron", [5], 1, "", "wrong_type"),
    ("tevatron", [TITLED, TITLED | {"positive_passages": [{"docid": "d1", "text": "other"}]}], 2, "docid", "repeated_id"),
    ("sentence-transformers", [{"anchor": "a", "positive": "b"}, {"anchor": "a"}], 2, "positive", "missing"),
    ("sentence-transformers", [{"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": ""}], 1, "negative_2", "empty_text"),
    ("sentence-transformers", [{"sentence1": "a", "sentence2": "b", "score": "1"}], 1, "score", "wrong_type"),
    ("sentence-transformers", [{"sentence1": "a", "anchor": "a", "positive": "b"}], 1, "anchor", "both_spellings"),
    ("sentence-transformers", [3], 1, "", "wrong_type"),
]  # fmt: skip


@pytest.mark.parametrize("source, rows, line, field, code", BROKEN)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_broken_source_is_reported_by_line_and_field(tmp_path, source, rows, line, field, code, lang):
    with pytest.raises(DataError) as raised:
        convert(write(tmp_path / "a.jsonl", rows), tmp_path / "b", source, "beir", lang=lang)
    assert [(p.line, p.field, p.code) for p in raised.value.report.problems] == [(line, field, code)]
    assert not (tmp_path / "b").exists()


def beir(folder: Path, qrels: str = "query-id\tcorpus-id\tscore\nq1\td1\t1\n", name: str = "test.tsv") -> Path:
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "x"}, {"_id": "d2", "text": ""}])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "y"}])
    write(folder / "qrels" / name, qrels)
    return folder


@pytest.mark.parametrize(
    "qrels, line, code, part",
    [
        (
            "query-id\tcorpus-id\tscore\nq1\td9\t1\n",
            2,
            "unknown_id",
            "document 'd9' is named here but is not in corpus.jsonl",
        ),
        ("q1\td1\t1\nq7\td1\t1\n", 2, "unknown_id", "query 'q7' is named here but is not in queries.jsonl"),
        ("query-id\tcorpus-id\tscore\nq1 0 d1 1\n", 2, "bad_judgement", "write query-id TAB corpus-id TAB score"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t0.5\n", 2, "bad_judgement", "is no judgement"),
        ("q1\td1\t1\nq1\td1\t1\nq1\td1\t2\n", 3, "judged_twice", "query 'q1' and document 'd1' were judged before"),
    ],
)
def test_a_broken_judgement_is_reported_by_line(tmp_path, qrels, line, code, part):
    with pytest.raises(DataError) as raised:
        convert(beir(tmp_path / "a", qrels), tmp_path / "b", "beir", "tevatron")
    assert [(p.line, p.code) for p in raised.value.report.problems] == [(line, code)] and part in str(raised.value)


def test_an_empty_text_of_a_collection_is_not_written_into_a_training_file(tmp_path):
    folder = beir(tmp_path / "a", "q1\td2\t1\n")
    with pytest.raises(DataError, match="q1: the text is empty"):
        convert(folder, tmp_path / "b", "beir", "lab")
    assert convert(folder, tmp_path / "c", "beir", "trec").n_passages == 1


HALF = "\\ud83d"  # as it stands in the file; no file can store the character itself


@pytest.mark.parametrize(
    "source, text, field",
    [
        (
            "tevatron",
            f'{{"query_id": "1", "query": "a", "positive_passages": [{{"docid": "d", "text": "{HALF}"}}]}}',
            "text",
        ),
        (
            "tevatron",
            f'{{"query_id": "{HALF}", "query": "a", "positive_passages": [{{"docid": "d", "text": "b"}}]}}',
            "query_id",
        ),
        ("sentence-transformers", f'{{"anchor": "a", "positive": "b", "negative": "{HALF}"}}', "negative"),
        ("llamaindex", f'{{"queries": {{"q": "{HALF}"}}, "corpus": {{}}, "relevant_docs": {{}}}}', "queries.q"),
    ],
)
def test_half_a_surrogate_pair_is_a_problem_with_its_line_and_not_a_crash_when_written(tmp_path, source, text, field):
    with pytest.raises(DataError) as raised:
        convert(write(tmp_path / "a", text), tmp_path / "b", source, "beir")
    found = raised.value.report.problems
    assert [(p.line, p.code) for p in found] == [(1, "surrogate")] and found[0].field.endswith(field)


def test_judgements_with_crlf_and_negative_grades_are_read(tmp_path):
    folder = beir(tmp_path / "a", "query-id\tcorpus-id\tscore\r\nq1\td1\t2\r\nq1\td2\t-1\r\n")
    convert(folder, tmp_path / "b", "beir", "trec")
    assert (tmp_path / "b/qrels/train.qrels").read_text() == "q1 0 d2 -1\nq1 0 d1 2\n"


def test_a_split_must_be_chosen_where_there_are_several(tmp_path):
    folder = beir(tmp_path / "a")
    write(folder / "qrels" / "dev.tsv", "q1\td1\t1\n")
    with pytest.raises(DataError, match="there are several splits: dev, test") as raised:
        convert(folder, tmp_path / "b", "beir", "trec")
    assert raised.value.report.problems[0].code == "which_split"
    with pytest.raises(DataError, match="no judgement file for this split; there is: dev, test") as raised:
        convert(folder, tmp_path / "b", "beir", "trec", split="train")
    assert raised.value.report.problems[0].code == "no_qrels"
    convert(folder, tmp_path / "b", "beir", "trec", split="dev")
    assert (tmp_path / "b/qrels/dev.qrels").is_file()


def test_two_texts_of_one_id_in_a_folder_are_refused(tmp_path):
    folder = beir(tmp_path / "a")
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "z"}])
    with pytest.raises(DataError, match="line 2, _id: the id 'd1' stands for two different texts"):
        convert(folder, tmp_path / "b", "beir", "lab")


def test_a_folder_without_corpus_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"corpus\.jsonl: .*\n.*there is no such file"):
        convert(tmp_path / "a", tmp_path / "b", "beir", "lab")


@pytest.mark.parametrize(
    "data, part",
    [
        (
            {"queries": {"q1": "a"}, "corpus": {}, "relevant_docs": {"q1": ["d1"]}},
            "document 'd1' is named here but is not in corpus",
        ),
        (
            {"queries": {}, "corpus": {"d1": "a"}, "relevant_docs": {"q1": ["d1"]}},
            "query 'q1' is named here but is not in queries",
        ),
        ({"queries": {"q1": "a"}, "corpus": {}}, "relevant_docs: the field is missing"),
        ({"queries": {"q1": 3}, "corpus": {}, "relevant_docs": {}}, "queries.q1: a number where text belongs"),
        ([], "a list where an object belongs"),
        ("{", "not JSON at column 2"),
    ],
)
def test_a_broken_llamaindex_file_is_reported(tmp_path, data, part):
    path = write(tmp_path / "a.json", data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(DataError) as raised:
        convert(path, tmp_path / "b", "llamaindex", "lab")
    assert part in str(raised.value)


def test_a_target_is_never_overwritten_unasked(tmp_path):
    source = write(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(source, source, "lab", "flagembedding")
    convert(source, source, "lab", "flagembedding", overwrite=True)
    assert lines(source)[0]["neg"] == []


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="format 'bge' is not known; use one of lab, flagembedding"):
        convert(tmp_path / "a", tmp_path / "b", "bge", "lab")


def test_the_account_of_a_conversion_exists_in_chinese(tmp_path):
    done = convert(write(tmp_path / "a.jsonl", TRIPLETS), tmp_path / "b", "lab", "llamaindex", lang="zh")
    assert "2 条查询，7 个有判断的段落" in str(done)


@real
def test_real_collections_come_back_unchanged(tmp_path):
    source = DATA / "beir" / "scifact"
    assert convert(source, tmp_path / "a", "beir", "trec", split="test").warnings.keys() <= {"fields"}
    convert(tmp_path / "a", tmp_path / "b", "trec", "beir", split="test")
    ours, theirs = (sorted((path / "qrels/test.tsv").read_text().split("\n")) for path in (tmp_path / "b", source))
    assert ours == theirs
    corpus = [
        {row["_id"]: (row["title"], row["text"]) for row in lines(p / "corpus.jsonl")} for p in (tmp_path / "b", source)
    ]
    assert corpus[0] == corpus[1] and len(corpus[0]) == 5183


@real
@pytest.mark.parametrize("through", ["flagembedding", "tevatron", "sentence-transformers"])
def test_a_real_training_file_comes_back_unchanged(tmp_path, through):
    source = DATA / "seed_formats" / "t2rank_100.jsonl"
    convert(source, tmp_path / "a", "lab", through)
    convert(tmp_path / "a", tmp_path / "b", through, "lab")
    assert lines(tmp_path / "b") == lines(source)
