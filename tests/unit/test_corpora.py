"""Collections: read from folders, the shipped corpus and the hub; broken files are refused with their place."""

import json
import re

import datasets
import pytest

from retrieval_lab import corpora

DOCS = [
    {"_id": "d1", "title": "Tram", "text": "every ten minutes"},
    {"_id": "d2", "title": "", "text": "渡轮每小时一班"},
    {"_id": "d3", "text": "pool"},
]
QUERIES = [
    {"_id": "q1", "text": "when", "type": "plain"},
    {"_id": "q2", "text": "where", "type": "keyword"},
    {"_id": "q3", "text": "no answer"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n"


def jsonl(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(folder, corpus=None, queries=None, qrels=QRELS, split="test"):
    """A folder in BEIR layout; each part may be rows or the text of the file."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    parts = {
        "corpus.jsonl": DOCS if corpus is None else corpus,
        "queries.jsonl": QUERIES if queries is None else queries,
    }
    for name, part in (parts | {f"qrels/{split}.tsv": qrels}).items():
        (folder / name).write_bytes((part if isinstance(part, str) else jsonl(part)).encode())
    return folder


def test_folder_is_read_into_plain_dictionaries(tmp_path):
    found = corpora.load(write(tmp_path / "toy"))
    assert found.corpus == {"d1": "Tram\nevery ten minutes", "d2": "渡轮每小时一班", "d3": "pool"}
    assert found.queries == {"q1": "when", "q2": "where"}  # q3 has no judgements
    assert found.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}}
    assert found.details["q1"] == {"type": "plain"}
    assert (found.name, found.split, found.licence, found.relevant) == ("toy", "test", "unknown", 1)


def test_card_names_the_collection(tmp_path):
    card = {"name": "town", "lang": "zh", "licence": "CC0", "relevant": 2}
    (write(tmp_path) / "card.json").write_text(json.dumps(card))
    found = corpora.load(tmp_path)
    assert {"name": found.name, "lang": found.lang, "licence": found.licence, "relevant": found.relevant} == card
    assert corpora.load(tmp_path, lang="en").lang == "en"


def test_separators_inside_a_text_do_not_split_the_line(tmp_path):
    text = "one\u2028two\x0bthree\x85four"
    write(tmp_path, corpus=[*DOCS, {"_id": "d4", "text": text}])
    assert corpora.load(tmp_path).corpus["d4"] == text


def test_quotation_mark_in_an_id_is_an_ordinary_character(tmp_path):
    qrels = 'query-id\tcorpus-id\tscore\nq1\t"d4\t1\nq2\td3\t1\n'
    found = corpora.load(write(tmp_path, corpus=[*DOCS, {"_id": '"d4', "text": "x"}], qrels=qrels))
    assert found.qrels == {"q1": {'"d4': 1}, "q2": {"d3": 1}}


def test_windows_line_ends_are_read(tmp_path):
    found = corpora.load(write(tmp_path, corpus=jsonl(DOCS).replace("\n", "\r\n"), qrels=QRELS.replace("\n", "\r\n")))
    assert list(found.corpus) == ["d1", "d2", "d3"] and found.qrels["q2"] == {"d3": 1}


@pytest.mark.parametrize(
    "texts, expected", [(["渡轮每小时一班"], "zh"), (["the ferry"], "en"), (["the iPhone 版本"], "zh"), ([], "en")]
)
def test_language_is_guessed_from_the_documents(tmp_path, texts, expected):
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    assert corpora.load(write(tmp_path, corpus=corpus, qrels="query-id\tcorpus-id\tscore\n")).lang == expected


GOOD_LINE = json.dumps(DOCS[0]) + "\n"
BROKEN = {
    "not json": (GOOD_LINE + '{"_id": "d2"\n', 2, "not JSON", "不是 JSON"),
    "blank": (GOOD_LINE + "\n", 2, "not JSON", "不是 JSON"),
    "no id": (GOOD_LINE + '{"text": "a"}\n', 2, 'a record needs "_id" and "text"', '记录要有字符串 "_id"'),
    "no text": ('{"_id": "d1", "title": "a"}\n', 1, 'a record needs "_id" and "text"', '记录要有字符串 "_id"'),
    "number for id": (
        '{"_id": 1, "text": "a"}\n',
        1,
        'a record needs "_id" and "text", both strings',
        '记录要有字符串 "_id"',
    ),
    "no record": ('["d1"]\n', 1, 'a record needs "_id" and "text"', '记录要有字符串 "_id"'),
    "twice": (GOOD_LINE * 2, 2, "the id 'd1' stands twice", "编号 'd1' 出现两次"),
}


@pytest.mark.parametrize("file", ["corpus", "queries"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_line_is_refused_with_file_and_line(tmp_path, lang, case, file):
    text, line, en, zh = BROKEN[case]
    words = {"en": f"{file}.jsonl:{line}: {en}", "zh": f"{file}.jsonl:{line}：{zh}"}
    with pytest.raises(ValueError, match=re.escape(words[lang])):
        corpora.load(write(tmp_path, **{file: text}))


@pytest.mark.parametrize(
    "qrels, line",
    [
        ("q1\td1\t1\nq2\td3\t1\n", 2),
        (QRELS + "q2\td1\n", 5),
        (QRELS + "q2\td1\t0.5\n", 5),
        (QRELS.replace("\t", " "), 2),
    ],
)
def test_broken_judgement_is_refused_with_file_and_line(tmp_path, lang, qrels, line):
    words = {
        "en": f"test.tsv:{line}: expected a header and columns query-id, corpus-id, score",
        "zh": f"test.tsv:{line}：要有表头和 query-id",
    }
    with pytest.raises(ValueError, match=re.escape(words[lang])):
        corpora.load(write(tmp_path, qrels=qrels))


@pytest.mark.parametrize(
    "line, en, zh",
    [
        (
            "q9\td1\t1\n",
            "judges query 'q9', which queries.jsonl does not",
            "里标注了查询 'q9'，但 queries.jsonl 里没有",
        ),
        ("q1\td9\t1\n", "names document 'd9', which corpus.jsonl does not", "里提到文档 'd9'，但 corpus.jsonl 里没有"),
    ],
)
def test_judgement_of_something_unknown_is_refused(tmp_path, lang, line, en, zh):
    with pytest.raises(ValueError, match=f"qrels/test.tsv {dict(en=en, zh=zh)[lang]}"):
        corpora.load(write(tmp_path, qrels=QRELS + line))


def test_missing_split_is_refused_with_those_that_exist(tmp_path):
    write(tmp_path / "toy", split="dev")
    write(tmp_path / "toy", split="train")
    with pytest.raises(FileNotFoundError, match="toy has no split 'test'; it has dev, train"):
        corpora.load(tmp_path / "toy")


def test_missing_collection_is_refused_with_the_places_looked_at(lang):
    words = {
        "en": r"no collection 'nowhere' \(lang=None\): looked for corpus.jsonl in nowhere",
        "zh": r"没有测试集 'nowhere'（lang=None）",
    }
    with pytest.raises(FileNotFoundError, match=words[lang]):
        corpora.load("nowhere")


def test_folder_named_by_the_environment_is_searched(tmp_path, monkeypatch):
    write(tmp_path / "beir" / "toyset")
    monkeypatch.setenv("RETRIEVAL_LAB_DATA", str(tmp_path))
    assert corpora.load("toyset").name == "toyset"


def test_hub_set_is_read_like_a_folder(monkeypatch):
    parts = {("corpus", "corpus"): DOCS, ("queries", "queries"): QUERIES}
    parts["default", "dev"] = [{"query-id": "q1", "corpus-id": "d1", "score": 1.0}]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, part, split: parts[part, split] if name == "owner/toy" else None
    )
    found = corpora.load("hub:owner/toy", split="dev")
    assert (found.name, found.queries, found.qrels) == ("toy", {"q1": "when"}, {"q1": {"d1": 1}})
    assert found.corpus["d1"] == "Tram\nevery ten minutes"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_shipped_corpus_has_both_languages_and_all_splits(lang, split):
    found = corpora.load("city_services", lang, split)
    assert (found.name, found.lang, found.split, found.relevant) == ("city_services", lang, split, 2)
    assert found.queries.keys() == found.qrels.keys() == found.details.keys() != set()
    assert {details["split"] for details in found.details.values()} == {split}


def test_shipped_corpus_is_english_when_no_language_is_given():
    assert corpora.load("city_services").corpus == corpora.load("city_services", "en").corpus


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_unanswerable_questions_are_judged_nowhere(lang):
    found = corpora.unanswerable(lang)
    assert found and not found.keys() & corpora.load("city_services", lang).queries.keys()


def test_glossary_has_a_name_and_a_nickname_in_each_language():
    rows = corpora.glossary()
    assert rows and all(
        row[f"{kind}_{lang}"] for row in rows for kind in ("official", "nickname") for lang in ("en", "zh")
    )


def test_where_keeps_queries_whose_details_match(harbour):
    assert list(harbour.where(type="plain").queries) == ["q1"]
    assert list(harbour.where(nicknames=bool).queries) == ["q2"]
    assert list(harbour.where(type="plain", nicknames=bool).queries) == []
    assert harbour.where(type="plain").qrels == {"q1": {"tram": 3}}
    assert harbour.where(type="plain").corpus == harbour.corpus


def test_only_keeps_the_order_that_is_asked_for(harbour):
    assert list(harbour.only(["q3", "q1"]).queries) == list(harbour.only(["q3", "q1"]).qrels) == ["q3", "q1"]


def test_sample_is_a_draw_without_replacement_that_its_seed_decides(harbour):
    one = harbour.sample(2)
    assert len(one.queries) == 2 and one.queries == harbour.sample(2).queries
    assert {tuple(harbour.sample(2, seed).queries) for seed in range(20)} > {tuple(one.queries)}
    assert harbour.sample(None) is harbour and harbour.sample(9) is harbour


def test_pairs_are_the_best_graded_documents_and_only_relevant_ones(harbour):
    assert corpora.pairs(harbour)[:] == {
        "query": list(harbour.queries.values()),
        "positive": [harbour.corpus[doc_id] for doc_id in ("tram", "ferry", "library")],
    }


def test_collection_says_in_one_line_what_it_is(harbour):
    assert (
        repr(harbour)
        == "Collection('harbour', lang='en', split='test': 4 documents, 3 queries, 4 judgements, licence CC0)"
    )
