"""Validation files as ranking metrics."""

import json

import pytest

from retrieval_lab import evaluators, formats, tiny


def write(tmp_path, lines):
    file = tmp_path / "val.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


CASES = {
    "triplet": ([{"query": "a", "pos": ["b"], "neg": ["c"]}], {}, {"a": {"b": True, "c": False}}),
    "graded": (
        [{"query": "a", "pos": ["b", "c"], "pos_scores": [3, 1]}],
        {"max_label": 3},
        {"a": {"b": True, "c": False}},
    ),
    "scored": ([{"query": "a", "pos": ["b", "c"], "scores": [-2.0, -7.5]}], {}, {"a": {"b": True, "c": False}}),
    "flat": (
        [{"query": "a", "content": "b", "score": 1}, {"query": "a", "content": "c", "score": 0}],
        {},
        {"a": {"b": True, "c": False}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_relevant_documents_of_each_format(tmp_path, case):
    lines, scale, expected = CASES[case]
    assert evaluators.judgements(write(tmp_path, lines), **scale) == expected


def test_bad_line_is_refused(tmp_path):
    with pytest.raises(formats.DataError, match="line 1"):
        evaluators.judgements(write(tmp_path, [{"query": "a"}, {"query": "a", "pos": "b"}]))


LINES = [{"query": word, "pos": [word], "neg": [word[::-1]]} for word in ("tram", "ferry", "pool")]


@pytest.mark.parametrize("make", [tiny.encoder, tiny.multi_vector_encoder, tiny.cross_encoder])
def test_each_family_has_ndcg_at_10_as_its_first_metric(tmp_path, make):
    evaluator = evaluators.from_file(make(), write(tmp_path, LINES))
    found = evaluator(make())
    assert evaluator.primary_metric.endswith("ndcg@10") and 0 < found[evaluator.primary_metric] <= 1


def test_retriever_that_finds_each_text_itself_has_ndcg_one(tmp_path):
    model = tiny.encoder()
    evaluator = evaluators.from_file(model, write(tmp_path, LINES))
    assert evaluator(model)["val_cosine_ndcg@10"] == pytest.approx(1)


@pytest.mark.parametrize("own, seen", [(None, "Q: tram"), ("P: ", "P: tram")])
def test_prompt_of_a_line_stands_in_place_of_the_models(tmp_path, monkeypatch, own, seen):
    lines = [{"query": "tram", "pos": ["a"], "neg": ["b"]} | ({"prompt_for_query": own} if own else {})]
    model, texts = tiny.encoder(), []
    model.prompts = {"query": "Q: ", "document": ""}
    preprocess = type(model).preprocess
    monkeypatch.setattr(
        type(model),
        "preprocess",
        lambda self, batch, prompt=None, **more: (
            texts.extend((prompt or "") + text for text in batch) or preprocess(self, batch, prompt=prompt, **more)
        ),
    )
    evaluators.from_file(model, write(tmp_path, lines))(model)
    assert texts[0] == seen


def test_rerankers_file_without_any_order_is_refused(tmp_path, lang):
    words = {"en": "no query has both relevant and other documents", "zh": "没有一个查询同时有相关和不相关的文档"}
    with pytest.raises(ValueError, match=words[lang]):
        evaluators.from_file(tiny.cross_encoder(), write(tmp_path, [{"query": "a", "pos": ["b"]}]))


def test_query_without_an_order_to_judge_is_left_out_of_reranking(tmp_path):
    file = write(tmp_path, [*LINES, {"query": "alone", "pos": ["x"], "neg": ["x"]}])
    assert len(evaluators.from_file(tiny.cross_encoder(), file).samples) == 3
