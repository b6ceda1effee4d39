"""What may become a hard negative: never an answer, never above the threshold, and the library's choice where it can choose."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives as library_mining

from retrieval_lab import embedding, formats, mining, tiny
from retrieval_lab.corpora import Collection
from retrieval_lab.mining import Filters

OPEN = Filters(percent=None)
CORPUS = [
    f"{a} {b}" for a in ("tram", "ferry", "pool", "book") for b in ("pass", "hours", "fine", "map", "lost", "card")
]
PAIRS = Dataset.from_dict(
    {
        "query": ["when does the tram run", "what does a fine cost", "what does a fine cost", "lost book"],
        "positive": ["tram hours", "book fine", "tram fine", "book lost"],
    }
)


@pytest.fixture(scope="module")
def model():
    return tiny.encoder()


def mine(model, n=2, filters=OPEN, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mining.mine_hard_negatives(model, PAIRS, CORPUS, n, filters=filters, **more)


def mine_rows(model, pairs, n, filters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mining.mine_hard_negatives(model, pairs, CORPUS, n, filters=filters)


def negatives(rows):
    return [[row[name] for name in row if name.startswith("negative_")] for row in rows]


def test_answers_of_any_row_of_the_query_are_never_negatives(model):
    rows = mine(model, n=20)
    assert len(rows) == 4
    for row, found in zip(rows, negatives(rows), strict=True):
        own = {p for q, p in zip(PAIRS["query"], PAIRS["positive"], strict=True) if q == row["query"]}
        assert own.isdisjoint(found) and len(set(found)) == 20


def test_texts_known_to_answer_are_never_negatives(model):
    free = negatives(mine(model))[0]
    known = {"when does the tram run": set(free)}
    assert set(negatives(mine(model, known=known))[0]).isdisjoint(free)


@pytest.mark.parametrize(
    "filters", [Filters(percent=0.99), Filters(percent=None, margin=0.02), Filters(percent=0.99, margin=0.05)]
)
def test_no_negative_is_above_the_teachers_threshold(model, filters):
    rows = mine(model, n=1, filters=filters)
    for row in rows:
        query = embedding.encode(model, [row["query"]], "query")[0]
        positive, negative = embedding.encode(model, [row["positive"], row["negative_1"]]) @ query
        limits = [positive - (1 - filters.percent) * abs(positive)] if filters.percent else []
        limits += [positive - filters.margin] if filters.margin else []
        assert negative <= min(limits) + 1e-6


def test_without_bm25s_candidates_the_choice_is_the_librarys(model, monkeypatch):
    """For queries with one positive; of several the library takes the lowest for all, we each row's own."""
    monkeypatch.setattr(mining.lexical.BM25, "search", lambda self, queries, k: {q: {} for q in queries})
    pairs = PAIRS.select([0, 1, 3])
    ours = mining.mine_hard_negatives(model, pairs, CORPUS, 2, filters=Filters(percent=0.98, depth=28))
    settings = {
        "relative_margin": 0.02,
        "num_negatives": 2,
        "output_format": "n-tuple",
        "verbose": False,
        "range_max": 28,
    }
    theirs = library_mining(pairs, model, corpus=CORPUS, **settings)
    rows = {
        (row["query"], row["positive"]): sorted(found) for row, found in zip(theirs, negatives(theirs), strict=True)
    }
    assert (
        len(ours)
        and {(row["query"], row["positive"]): sorted(found) for row, found in zip(ours, negatives(ours), strict=True)}
        == rows
    )


def test_bm25_adds_what_the_model_ranks_low(model):
    """One candidate a search: the model's nearest and the passage that shares a word are both there."""
    pairs = Dataset.from_dict({"query": ["zebra"], "positive": ["a striped horse"]})
    corpus = ["the zebra crossing by the town hall with its long name", *CORPUS]
    cosines = embedding.encode(model, corpus) @ embedding.encode(model, ["zebra"], "query")[0]
    nearest = corpus[int(np.argmax(cosines))]
    assert nearest != corpus[0]
    row = mining.mine_hard_negatives(model, pairs, corpus, 2, filters=Filters(percent=None, depth=2))[0]
    assert corpus[0] in row.values()
    assert nearest in row.values()


def test_best_candidates_can_be_skipped(model):
    first = negatives(mine(model, n=1))[0][0]
    assert first not in negatives(mine(model, n=1, filters=Filters(percent=None, skip=3)))[0]


def test_candidate_that_one_search_skips_does_not_come_back_by_the_other(model):
    """Every passage shares a word with the query, so BM25 finds all of them and could bring back what the model skips."""
    query = "tram ferry pool book"
    pairs = Dataset.from_dict({"query": [query], "positive": [CORPUS[0]]})
    others = CORPUS[1:]
    cosines = embedding.encode(model, others) @ embedding.encode(model, [query], "query")[0]
    nearest = {others[i] for i in np.argsort(-cosines, kind="stable")[:2]}
    found = negatives(mine_rows(model, pairs, len(others) - 4, Filters(percent=None, skip=2)))[0]
    assert nearest.isdisjoint(found) and CORPUS[0] not in found
    assert len(found) == len(set(found)) == len(others) - 4


@pytest.mark.parametrize("place", [0, 1])
def test_answer_does_not_use_up_a_skipped_place(place):
    answers, expected = (
        {place},
        {2, 3} | {place},
    )  # of 0 and 1 the one that is no answer is skipped, and is BM25's best too
    assert mining._window([0, 1, 2, 3], [1 - place, 2], answers, skip=1) == expected


def test_candidates_are_ranked_after_the_rows_own_prompt():
    with_prompt, plain = (tiny.encoder(prompts={"query": text}) for text in ("find the pool card: ", "query: "))
    pairs = PAIRS.select([0, 3])
    expected = mine_rows(with_prompt, pairs, 3, OPEN)
    own = pairs.add_column("prompt_for_query", ["find the pool card: "] * 2)
    assert negatives(mine_rows(plain, own, 3, OPEN).remove_columns("prompt_for_query")) == negatives(expected)
    assert negatives(mine_rows(plain, pairs, 3, OPEN)) != negatives(expected)


def test_judge_sees_text_pairs_and_drops_what_it_scores_high(model):
    seen = []

    def judge(pairs):
        seen.extend(pairs)
        return [1.0 if "tram" in doc else 0.0 for _, doc in pairs]

    rows = mine(model, n=2, filters=Filters(percent=None, judge=judge, judge_below=0.5))
    assert not any("tram" in text for found in negatives(rows) for text in found)
    assert set(seen) <= {(query, doc) for query in PAIRS["query"] for doc in CORPUS}


def test_judge_is_asked_no_more_than_needed(model):
    asked = []
    mine(model, n=2, filters=Filters(percent=None, judge=lambda pairs: asked.append(len(pairs)) or [0.0] * len(pairs)))
    assert asked == [2] * 4


def test_rows_left_out_are_counted(model, lang):
    allowed = {query: set(CORPUS) - set(CORPUS[:1]) for query in PAIRS["query"][:1]}
    words = {"en": "1 of 4 rows left out: .*fewer than 2 negatives", "zh": "去掉了 4 行中的 1 行"}
    with pytest.warns(UserWarning, match=words[lang]):
        assert len(mining.mine_hard_negatives(model, PAIRS, CORPUS, 2, filters=OPEN, known=allowed)) == 3


def test_filters_that_leave_nothing_are_refused(model, lang):
    words = {"en": "the filters leave none of 4 rows with 1 negatives", "zh": "4 行里没有一行凑得够 1 个负例"}
    with pytest.raises(ValueError, match=words[lang]):
        mining.mine_hard_negatives(model, PAIRS, CORPUS, 1, filters=Filters(percent=None, margin=3.0))


@pytest.mark.parametrize("n, filters", [(0, Filters()), (1, Filters(skip=-1)), (4, Filters(skip=2, depth=5))])
def test_impossible_window_is_refused(model, lang, n, filters):
    words = {
        "en": f"n={n}, skip={filters.skip}, depth={filters.depth}; use",
        "zh": f"n={n}，skip={filters.skip}，depth={filters.depth}",
    }
    with pytest.raises(ValueError, match=words[lang]):
        mining.mine_hard_negatives(model, PAIRS, CORPUS, n, filters=filters)


def test_rows_without_positives_are_refused(model, lang):
    data = Dataset.from_dict({"query": ["a"], "document": ["b"]})
    words = {
        "en": "mining needs rows with columns query, positive; got 1 rows",
        "zh": "负例挖掘需要 query、positive 两列",
    }
    with pytest.raises(ValueError, match=words[lang]):
        mining.mine_hard_negatives(model, data, CORPUS)


def test_answers_are_all_documents_with_a_grade_above_zero(harbour):
    texts = harbour.corpus
    assert mining.answers(harbour)["crossing the river"] == {texts["ferry"]}  # the pool has grade 1: a near-twin


def test_queries_of_the_same_text_share_their_answers():
    """The second one's judgements do not replace the first one's, whose answer could then be mined."""
    docs, queries = {"d1": "one", "d2": "two"}, {"q1": "same", "q2": "same"}
    twice = Collection("c", "en", "test", "none", docs, queries, {"q1": {"d1": 1}, "q2": {"d2": 1}})
    assert mining.answers(twice) == {"same": {"one", "two"}}


def test_judgements_of_what_the_collection_lacks_are_left_out(harbour):
    """A document without a text cannot be mined, so there is nothing to protect."""
    more = replace(harbour, qrels=harbour.qrels | {"q1": {"gone": 3, "tram": 3}, "no such query": {"pool": 3}})
    assert mining.answers(more) == mining.answers(harbour)


@pytest.mark.parametrize("percent", [95, 2.01, 0, -1, float("nan")])
def test_percent_that_is_no_share_is_refused(lang, percent):
    words = {"en": f"percent={percent} is a share .*write 0.95, not 95", "zh": f"percent={percent} .*写 0.95，不写 95"}
    with pytest.raises(ValueError, match=words[lang]):
        Filters(percent=percent)


def test_written_file_is_a_training_file(model, tmp_path):
    rows = mine(model, n=2)
    mining.write(rows, tmp_path / "mined.jsonl")
    again = formats.read(tmp_path / "mined.jsonl", "triplet", neg_nums=2)
    assert again["query"][:] == rows["query"][:] and again["positive"][:] == rows["positive"][:]
    for row, found in zip(again, negatives(rows), strict=True):
        assert {row["negative_1"], row["negative_2"]} == set(found)


def test_rows_keep_their_own_prompts(model, tmp_path):
    prompts = ["find: ", "", "", "see: "]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = mining.mine_hard_negatives(model, PAIRS.add_column("prompt_for_query", prompts), CORPUS, filters=OPEN)
    mining.write(rows, tmp_path / "mined.jsonl")
    assert formats.read(tmp_path / "mined.jsonl", "triplet")["prompt_for_query"][:] == prompts


def test_command_writes_a_training_file(tmp_path, capsys):
    from retrieval_lab import cli

    tiny.encoder().save_pretrained(str(tmp_path / "model"))
    pairs, corpus, out = tmp_path / "pairs.jsonl", tmp_path / "corpus.jsonl", tmp_path / "new" / "mined.jsonl"
    pairs.write_text('{"query": "when does the tram run", "pos": ["tram hours"]}\n')
    corpus.write_text("".join(f'{{"_id": "{i}", "text": "{text}"}}\n' for i, text in enumerate(CORPUS)))
    settings = ["--model", str(tmp_path / "model"), "--corpus", str(corpus), "--output", str(out), "--neg-nums", "2"]
    assert cli.main(["mine", str(pairs), *settings, "--percent", "1.5", "--margin", "-2"]) == 0
    assert capsys.readouterr().out == f"1 lines in {out}\n"
    row = formats.read(out, "triplet", neg_nums=2)[0]
    assert row["positive"] == "tram hours" and {row["negative_1"], row["negative_2"]} <= set(CORPUS) - {"tram hours"}


def test_judge_is_a_rerankers_probability(tmp_path):
    from retrieval_lab import reranker

    tiny.cross_encoder().save_pretrained(str(tmp_path / "judge"))
    pairs = [("tram", "tram hours"), ("tram", "lost card")]
    logits = reranker.score(reranker.load(tmp_path / "judge"), pairs)
    np.testing.assert_allclose(mining.judge(tmp_path / "judge")(pairs), 1 / (1 + np.exp(-logits)), rtol=1e-6)


@pytest.mark.parametrize("line", ["not json", '{"_id": "2"}', "[1]"])
def test_broken_line_of_the_corpus_is_named(tmp_path, lang, line):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "a"}\n\n' + line)
    words = {"en": 'corpus.jsonl:3: .* is no JSON object with "text"', "zh": "corpus.jsonl:3：.*改好这一行"}
    with pytest.raises(ValueError, match=words[lang]):
        mining.mine_file(tmp_path / "pairs.jsonl", tmp_path / "out.jsonl", "minilm", 1, corpus=corpus)
