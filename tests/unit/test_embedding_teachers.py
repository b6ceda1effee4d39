"""A teacher's vectors on disk: which text got which vector, and what is refused with the numbers."""

import json

import numpy as np
import pytest

from retrieval_lab import embedding, embedding_teachers, formats, teacher_embeddings, tiny
from retrieval_lab.data_report import DataError

PROMPTS = {"query": "query: ", "document": "passage: "}


def test_each_line_has_the_vector_of_its_text_with_the_students_prompt(tmp_path):
    teacher, student = tiny.encoder(seed=1), tiny.encoder(prompts=PROMPTS)
    file = embedding_teachers.write(tmp_path / "teacher.jsonl", teacher, ["tram", "pool"], ["a ferry"], student=student)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["prompt_for_query"], line["query"]) for line in lines] == [
        ("query: ", "tram"),
        ("query: ", "pool"),
        ("passage: ", "a ferry"),
    ]
    rows = formats.read(file, "teacher")
    np.testing.assert_allclose(rows["label"][:], teacher.encode(["tram", "pool", "a ferry"]), atol=1e-5)


def test_teacher_file_trains_a_student(tmp_path):
    from retrieval_lab.training import Config

    file = embedding_teachers.write(
        tmp_path / "teacher.jsonl", tiny.encoder(seed=1), ["tram", "pool"], ["a ferry", "a map"]
    )
    student = embedding.train(
        tiny.encoder(), formats.read(file, "teacher"), Config(output_dir=str(tmp_path / "run"), max_steps=1)
    )
    assert np.isfinite(student.encode("tram")).all()


def test_cosine_of_joined_vectors_is_the_mean_of_the_teachers_cosines(tmp_path):
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(4, width)).astype(np.float32) for width in (3, 5)]
    paths = [teacher_embeddings.write(tmp_path / f"{i}", each) for i, each in enumerate(vectors)]
    both = teacher_embeddings.open_vectors(embedding_teachers.concatenate(paths, tmp_path / "both"), rows=4, dim=8)
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors]
    np.testing.assert_allclose(both @ both.T, (units[0] @ units[0].T + units[1] @ units[1].T) / 2, atol=1e-6)


def test_teachers_of_different_texts_are_refused_with_both_numbers(tmp_path, lang):
    paths = [teacher_embeddings.write(tmp_path / f"{n}", np.eye(n, 4, dtype="float32")) for n in (2, 3)]
    words = {"en": r"teachers with \[2, 3\] rows", "zh": r"各教师的行数是 \[2, 3\]"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding_teachers.concatenate(paths, tmp_path / "both")


def test_one_teacher_is_nothing_to_join(tmp_path):
    path = teacher_embeddings.write(tmp_path / "one", np.eye(2, dtype="float32"))
    with pytest.raises(ValueError, match="give two files or more"):
        embedding_teachers.concatenate([path], tmp_path / "both")


@pytest.mark.parametrize(
    "wrong, numbers",
    [({"dim": 16}, ("32", "16")), ({"dtype": "float16"}, ("float32", "float16")), ({"rows": 5}, ("3", "5"))],
)
def test_file_of_another_shape_or_type_is_refused_with_both_numbers(tmp_path, wrong, numbers):
    path = teacher_embeddings.write(tmp_path / "one", np.eye(3, 32, dtype="float32"))
    with pytest.raises(DataError) as refused:
        teacher_embeddings.open_vectors(path, **wrong)
    assert all(number in str(refused.value) for number in numbers)
