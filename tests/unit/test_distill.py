"""Scores of a teacher as a training file, and how far a student follows it."""

import json
import math

import numpy as np
import pytest
from scipy.special import softmax

from retrieval_lab import cli, distill, formats, llm, reranker, tiny

ROWS = [("tram", ["every ten minutes", "at seven", "three weeks"]), ("pool", ["at seven"])]


def by_length(model, pairs):
    return np.array([len(document) - 8.0 for _, document in pairs])


def test_lines_hold_probabilities_best_first():
    lines = distill.label(None, ROWS, by_length)
    assert [line["query"] for line in lines] == ["tram", "pool"]
    assert lines[0]["pos"] == ["every ten minutes", "three weeks", "at seven"]
    assert lines[0]["pos_scores"] == pytest.approx([1 / (1 + math.exp(-n)) for n in (9, 3, 0)], abs=1e-6)


def test_temperature_softens():
    sharp, soft = (distill.label(None, ROWS, by_length, temperature=t)[0]["pos_scores"] for t in (1, 3))
    assert sharp[1] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-6)
    assert soft[1] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_teacher_without_a_zero_is_centred_query_by_query():
    """Of a teacher trained on lists, two queries' scores may lie as far apart as they like."""

    def far(model, pairs):
        return by_length(model, pairs) + [50.0 if query == "tram" else -50.0 for query, _ in pairs]

    plain, centred = (distill.label(None, [*ROWS, ("none", [])], far, centred=flag) for flag in (False, True))
    assert [row["pos_scores"] for row in plain] == [[1.0] * 3, [0.0]]
    expected = [1 / (1 + math.exp(-n)) for n in (5, -1, -4)]  # logits 9, 3, 0 less their mean
    assert centred[0]["pos_scores"] == pytest.approx(expected, abs=1e-6)
    assert centred[1]["pos_scores"] == [0.5]


def test_listwise_student_gets_nearly_the_teachers_softmax():
    """As the docstring says of temperature 2.5: 10 * sigmoid(x / 2.5) is 5 + x near 0."""
    teacher = np.array([1.5, 0.5, -2.0])
    rows = distill.label(None, [("q", ["a", "b", "c"])], lambda model, pairs: teacher + 9, 2.5, centred=True)
    target = softmax(np.array(rows[0]["pos_scores"]) / reranker.LABEL_TEMPERATURE)
    np.testing.assert_allclose(target, softmax(teacher), atol=0.03)


@pytest.mark.parametrize("temperature", [0, -1])
def test_temperature_that_is_not_above_zero_is_refused(lang, temperature):
    words = {"en": "temperature=.*; use a number above 0", "zh": "temperature=.*；要大于 0"}
    with pytest.raises(ValueError, match=words[lang]):
        distill.label(None, ROWS, by_length, temperature=temperature)


def test_score_that_is_not_finite_is_refused_with_its_place(lang):
    words = {"en": r"score of pair 2 \('tram'\) is nan", "zh": r"第 2 对（'tram'）的得分是 nan"}
    with pytest.raises(ValueError, match=words[lang]):
        distill.label(None, ROWS, lambda model, pairs: np.array([1.0, 2.0, np.nan, 1.0]))


def test_very_sure_teacher_stays_within_zero_and_one():
    rows = distill.label(None, [("a", ["b", "c"])], lambda model, pairs: np.array([900.0, -900.0]))
    assert rows[0]["pos_scores"] == [1.0, 0.0]


def test_written_file_is_read_as_graded_rows(tmp_path):
    lines = distill.label(None, ROWS, by_length)
    data = formats.read(distill.write(lines, tmp_path / "new" / "teacher.jsonl"))
    assert data.column_names == ["query", "document", "label"]
    assert data["label"][:] == pytest.approx([*lines[0]["pos_scores"], *lines[1]["pos_scores"]])
    assert data["document"][:] == [*lines[0]["pos"], *lines[1]["pos"]]


def test_texts_survive_the_file(tmp_path):
    text = '{x} %s "quoted"\n第二行\u2028'
    path = distill.write(distill.label(None, [(text, [text])], by_length), tmp_path / "teacher.jsonl")
    assert formats.read(path)[0]["document"] == text == distill.from_file(path)[0][0]


def test_candidates_of_a_run_are_its_best_documents(harbour):
    run = {"q1": {"pool": 0.1, "tram": 0.9, "ferry": 0.5}}
    assert distill.from_run(run, harbour, depth=2) == [
        ("when does the tram leave", [harbour.corpus["tram"], harbour.corpus["ferry"]])
    ]


def test_candidates_of_a_file_join_the_lines_of_a_query(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"query": "a", "pos": ["b"], "neg": ["c"]}, {"query": "a", "pos": ["d"], "neg": ["b"]}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert distill.from_file(path) == [("a", ["b", "c", "d"])]


def test_bad_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "a", "pos": ["b"]}\n{"query": ""}', encoding="utf-8")
    with pytest.raises(formats.DataError, match="2"):
        distill.from_file(path)


def test_agreement_is_kendalls_tau_by_counting_pairs():
    one = {"q": {"a": 4, "b": 3, "c": 2, "d": 1}, "alone": {"a": 1}}
    other = {"q": {"a": 4, "b": 1, "c": 2, "d": 3, "e": 9}, "alone": {"a": 2}}
    # 6 pairs: ab, ac, ad agree; bc, bd, cd do not
    assert distill.agreement(one, other).tolist() == pytest.approx([0.0])


def test_cost_counts_weights_and_time():
    model = tiny.cross_encoder()
    found = distill.cost(model, reranker.score, [("a", "b")] * 4)
    assert found["M weights"] == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6, abs=0.05)
    assert found["ms/pair"] > 0


@pytest.fixture
def training_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"query": f"q{i}", "pos": [f"answer {i}"], "neg": [f"other {i}", f"third {i}"]} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_teacher_of_each_family_scores_as_its_own_module_does(tmp_path):
    causal, encoder, saved = tmp_path / "causal", tmp_path / "encoder", tmp_path / "saved"
    tiny.chat_folder("llama", causal)
    tiny.folder("bert", encoder)
    llm.load(causal, words=("1", "0")).save_pretrained(str(saved))
    pairs = [("a", "b"), ("c", "d")]
    for path, own, score in (
        (causal, llm.load, llm.score),
        (encoder, reranker.load, reranker.score),
        (saved, llm.load, llm.score),
    ):
        model, function = distill.teacher(path)
        np.testing.assert_allclose(function(model, pairs), score(own(path), pairs), atol=1e-6)


def test_command_writes_the_standard_file(tmp_path, training_file, capsys):
    base = tiny.chat_folder("llama", tmp_path / "teacher")
    out = tmp_path / "scores.jsonl"
    assert cli.main(["distill", str(training_file), "--teacher", str(base), "--output", str(out)]) == 0
    model = llm.load(base)
    expected = 1 / (1 + np.exp(-llm.score(model, [("q0", "answer 0")])[0]))
    line = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert dict(zip(line["pos"], line["pos_scores"], strict=True))["answer 0"] == pytest.approx(expected, abs=1e-5)
    assert "24" in capsys.readouterr().out


def test_command_trains_a_student(tmp_path, training_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, small = tiny.chat_folder("llama", tmp_path / "teacher"), tiny.folder("bert", tmp_path / "small")
    arguments = [
        "--teacher",
        str(base),
        "--output",
        "scores.jsonl",
        "--student",
        str(small),
        "--student-dir",
        "student",
    ]
    assert cli.main(["distill", str(training_file), *arguments]) == 0
    assert reranker.score(reranker.load(tmp_path / "student"), [("a", "b")]).shape == (1,)


def test_command_names_a_missing_file(tmp_path, capsys):
    base = tiny.chat_folder("llama", tmp_path / "teacher")
    assert cli.main(["distill", "nowhere.jsonl", "--teacher", str(base)]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
