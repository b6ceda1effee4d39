"""BM25 against its formula; words of both languages."""

import math
import sys
from collections import Counter
from dataclasses import replace

import pytest

from retrieval_lab import lexical
from retrieval_lab.corpora import Collection


def collection(texts: list[str]) -> Collection:
    return Collection("toy", "en", "test", "CC0", {f"d{i}": text for i, text in enumerate(texts)}, {}, {})


def bm25(query: list[str], docs: list[list[str]], k1: float, b: float) -> list[float]:
    """Lucene's variant, written out."""
    mean = sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        counts, score = Counter(doc), 0.0
        for term in query:
            n_docs = sum(term in other for other in docs)
            idf = math.log(1 + (len(docs) - n_docs + 0.5) / (n_docs + 0.5))
            score += idf * counts[term] / (counts[term] + k1 * (1 - b + b * len(doc) / mean))
        scores.append(score)
    return scores


TEXTS = ["tram stop tram", "ferry pier", "tram ferry bridge harbour pier", "library", "", "pier pier pier pier"]


@pytest.mark.parametrize("k1, b", [(0.9, 0.4), (1.5, 0.75)])
@pytest.mark.parametrize("query", ["tram", "tram pier", "library bridge", "tram unknown", "pier pier"])
def test_scores_equal_the_formula(query, k1, b):
    docs = [lexical.tokenise(text) for text in TEXTS]
    expected = bm25(lexical.tokenise(query), docs, k1, b)
    found = lexical.BM25(collection(TEXTS), k1, b).search({"q": query}, 10)["q"]
    assert found == pytest.approx({f"d{i}": score for i, score in enumerate(expected) if score > 0}, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_only_the_k_best_are_returned():
    assert list(lexical.BM25(collection(TEXTS)).search({"q": "pier"}, 1)["q"]) == ["d5"]


@pytest.mark.parametrize("query", ["", "the of and", "unheard", "?!"])
def test_query_without_a_known_word_finds_nothing_and_disturbs_no_other(query):
    found = lexical.BM25(collection(TEXTS)).search({"empty": query, "q": "library"}, 5)
    assert found["empty"] == {} and list(found["q"]) == ["d3"]


def test_words_match_across_their_endings(harbour):
    run = lexical.BM25(harbour).search({"q": "LENDING a Book"}, 1)
    assert list(run["q"]) == ["library"]  # "books are lent"
    assert list(lexical.BM25(harbour).search(harbour.queries, 1)["q1"]) == ["tram"]


@pytest.mark.parametrize("texts", [[], ["", "?"], ["the of"]])
def test_corpus_without_a_word_is_refused(texts, lang):
    n = len(texts)
    words = {"en": f"none of the {n} documents of 'toy' holds a word", "zh": f"'toy' 的 {n} 篇文档里一个词也没有"}
    with pytest.raises(ValueError, match=words[lang]):
        lexical.BM25(collection(texts))


def test_english_words_are_stemmed_and_function_words_dropped():
    assert lexical.tokenise("The Libraries, open at 8:30; don't run!") == [
        "librari",
        "open",
        "8",
        "30",
        "don",
        "t",
        "run",
    ]


def test_chinese_is_cut_into_words_without_punctuation():
    words = lexical.tokenise("图书馆几点开门？周末 8 点。")
    assert {"图书馆", "开门", "周末", "8"} <= set(words) and not {"？", "。", " "} & set(words)


def test_english_word_is_the_same_token_beside_chinese():
    texts = ["The ferries to Hainan Dao (海南岛) leave at noon.", "The trams leave every ten minutes."]
    assert list(lexical.BM25(collection(texts)).search({"q": "when does the ferry leave?"}, 10)["q"]) == ["d0", "d1"]


def test_full_width_digits_and_letters_are_the_usual_ones():
    assert lexical.tokenise("乘１２路车到Ｂ口") == lexical.tokenise("乘12路车到B口")


def test_chinese_question_finds_its_document(harbour):
    chinese = replace(
        harbour, corpus={"馆": "图书馆周末八点开门", "船": "渡轮每小时一班"}, queries={"q": "渡轮多久一班"}
    )
    assert next(iter(lexical.BM25(chinese).search(chinese.queries, 2)["q"])) == "船"


def test_without_jieba_chinese_is_cut_into_pairs_and_says_so(monkeypatch, capsys, lang):
    monkeypatch.setitem(sys.modules, "jieba", None)
    monkeypatch.setattr(lexical, "_segmenter", lexical._segmenter.__wrapped__)
    assert lexical.tokenise("学期票 31") == ["学期", "期票", "31"]
    assert {"en": "jieba is not installed", "zh": "未安装 jieba"}[lang] in capsys.readouterr().out


def test_character_pairs_of_short_runs():
    assert lexical.character_pairs("票 tram票价a") == ["票", "tram", "票价", "a"]
