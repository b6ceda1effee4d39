"""The checks of the shipped corpus, on small collections that have the fault and on ones that have not."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from retrieval_lab import corpora, corpus_check, demo, embedding, tiny
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import PROFILES

COLUMNS = ["check", "lang", "value", "bound", "ok"]


def splits(lang="en", **texts) -> dict[str, Collection]:
    """One family a split, each with one passage (train.a, dev.a, test.a) and one query."""
    corpus = {f"{split}.a": f"Title\n{texts.get(split, split)}" for split in ("train", "dev", "test")}
    found = {}
    for split in corpus:
        family = split.split(".")[0]
        query = f"{family}.q"
        details = {query: {"family": family, "split": family, "type": "plain", "nicknames": []}}
        found[family] = Collection(
            "toy", lang, family, "CC0", corpus, {query: f"where is {family}"}, {query: {split: 3}}, details
        )
    return found


@pytest.mark.parametrize(
    "text, lang, length",
    [("Line 3 runs\nnow", "en", 4), ("3 路电车", "zh", 4), ("A1 票，2.50 元。", "zh", 5), ("", "zh", 0)],
)
def test_length_counts_words_or_characters(text, lang, length):
    assert corpus_check.text_length(text, lang) == length


def test_grams_are_all_runs_of_n():
    assert corpus_check.grams("A b, c d", "en", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert corpus_check.grams("电车 3 路，停", "zh", 3) == {("电", "车", "路"), ("车", "路", "停")}
    assert corpus_check.grams("a b", "en", 3) == set()


def test_term_share_counts_content_words_of_the_best_passage(harbour):
    assert corpus_check.term_share(harbour, "q1") == 1.0  # tram, leave
    asked = replace(harbour, queries=harbour.queries | {"q1": "when does the tram cross a bridge"})
    assert corpus_check.term_share(asked, "q1") == pytest.approx(1 / 3)
    assert corpus_check.term_share(replace(harbour, queries=harbour.queries | {"q1": "what is the"}), "q1") == 0


def test_leak_is_the_share_of_copied_runs():
    words = [f"w{i}" for i in range(40)]
    text = " ".join(words)
    half = " ".join(words[:20] + [f"v{i}" for i in range(19)])
    ((_, copied, _, ok),) = corpus_check._leaks(splits(train=text, test=text))
    assert copied == 1.0 and not ok
    # "title" and 20 words are shared: 21 - 7 of the 40 - 7 runs of eight
    ((_, shared, _, ok),) = corpus_check._leaks(splits(train=text, test=half))
    assert shared == round(14 / 33, 3) and not ok
    ((_, none, _, ok),) = corpus_check._leaks(splits(train=text, test="a b c d e f g h i", dev=text))
    assert none == 0 and ok


@pytest.mark.parametrize("n_copies, ok", [(4, True), (5, False)])
def test_phrase_that_many_passages_share_is_a_template(n_copies, ok):
    own = [" ".join(f"w{doc}x{i}" for i in range(8)) for doc in range(9)]
    corpus = {f"test.{doc}": text + " one two three four five six" * (doc < n_copies) for doc, text in enumerate(own)}
    name, most, _, found = next(corpus_check._templates({"test": replace(splits()["test"], corpus=corpus)}))
    assert (most, found) == (n_copies, ok) and "'one two three four five six'" in name


def test_nickname_in_a_passage_is_found():
    nickname = corpora.glossary()[0]["nickname_en"]
    hits = {}
    for text in ("nothing here at all, not one", f"also called {nickname.upper()} by some of us"):
        found = {name: value for name, value, *_ in corpus_check._templates(splits(test=text))}
        hits[text] = found["nicknames that a passage explains or uses"]
    assert list(hits.values()) == [0, 1]


def test_ranking_that_needs_no_query_is_noticed():
    found = splits(test="long " * 50)
    checks = {name: (value, ok) for name, value, _, ok in corpus_check._shortcuts(found)}
    assert checks["nDCG@10 of ranking passages longest first"] == (1.0, False)


def test_query_text_that_occurs_twice_is_counted():
    found = splits()
    found["dev"] = replace(found["dev"], queries={"dev.q": "Where is TRAIN"})
    checks = {name: (value, ok) for name, value, _, ok in corpus_check._sizes(found)}
    assert checks["query texts that occur twice"] == (1, False)
    assert checks["passages"] == (3, False)


def test_shuffled_values_are_the_same_values():
    values = list(range(50))
    assert corpus_check._shuffle(values) != values == sorted(corpus_check._shuffle(values))


def test_training_check_runs_and_compares_with_shuffled_pairs(harbour, monkeypatch, tmp_path):
    data = Dataset.from_dict(
        {
            "query": ["tram", "ferry", "pool"],
            "positive": ["every ten minutes", "river", "bath"],
            "negative_1": ["a", "b", "c"],
        }
    )
    trained = []

    def train(model, rows, config):
        trained.append(rows)
        return model

    monkeypatch.setattr(corpus_check, "N_PAIRS", 3)
    monkeypatch.setattr(embedding, "load", lambda name: tiny.encoder())
    monkeypatch.setattr(embedding, "train", train)
    monkeypatch.setattr(demo, "training_data", lambda lang: data)
    checks = list(corpus_check._dense({"test": harbour}))
    assert len(checks) == 3 and [ok for *_, ok in checks[1:]] == [False, True]  # no gain at all
    pairs, shuffled = trained
    assert pairs["query"][:] == shuffled["query"][:] and set(
        zip(pairs["query"], pairs["positive"], strict=True)
    ) == set(zip(data["query"], data["positive"], strict=True))
    assert sorted(shuffled["positive"]) == sorted(data["positive"]) and shuffled["positive"][:] != pairs["positive"][:]


@pytest.mark.parametrize("folder", ["runs/x", None])
def test_demo_config_takes_a_string_or_a_path(folder, tmp_path):
    folder = folder or tmp_path
    found = demo.config(PROFILES["smoke"], "en", folder)
    assert found.output_dir == f"{folder}/checkpoints" and found.per_device_train_batch_size == 8


def test_table_has_a_row_for_each_check_and_language(monkeypatch):
    made = {lang: splits(lang) for lang in ("en", "zh")}
    made["zh"] = {name: replace(c, queries={q: "图书馆在哪" + q for q in c.queries}) for name, c in made["zh"].items()}
    made["zh"] = {
        name: replace(c, corpus={d: f"标题\n{'图书馆在河边的小山上面，每天开门' + d}" for d in c.corpus})
        for name, c in made["zh"].items()
    }
    for lang, collections in made.items():
        test = collections["test"]
        details = {"test.q": test.details["test.q"]}
        extra = {"test.p": details["test.q"] | {"type": "paraphrase"}}
        more = replace(
            test,
            queries=test.queries | {"test.p": "words"},
            qrels=test.qrels | {"test.p": {"test.a": 3}},
            details=details | extra,
        )
        collections["test"] = more
        text = {d: t + (" one two three four five six seven" if lang == "en" else "") for d, t in test.corpus.items()}
        collections["test"] = replace(more, corpus=text)
    monkeypatch.setattr(corpora, "load", lambda name, lang, split: made[lang][split])
    table = corpus_check.run(quick=True)
    assert table.columns.tolist() == COLUMNS and set(table["lang"]) == {"both", "en", "zh"}
    assert table["ok"].dtype == bool and not table["ok"].all()
    assert len(table[table["lang"] == "en"]) == len(table[table["lang"] == "zh"])
    assert np.isfinite(table["value"].astype(float)).all()
