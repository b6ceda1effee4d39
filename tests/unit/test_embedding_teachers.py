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


def test_folder_of_the_file_is_made(tmp_path):
    file = embedding_teachers.write(tmp_path / "new" / "folder" / "t.jsonl", tiny.encoder(), ["tram"], ["a ferry"])
    assert len(formats.read(file, "teacher")) == 2


def reordered(file):
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    return file


def test_lines_in_another_order_than_their_vectors_are_refused(tmp_path, lang):
    file = reordered(embedding_teachers.write(tmp_path / "t.jsonl", tiny.encoder(), ["tram", "pool"], ["a ferry"]))
    words = {"en": "made of other texts, or of these in another order", "zh": "向量不是由这些文本按这个顺序编码的"}
    with pytest.raises(DataError, match=words[lang]):
        formats.read(file, "teacher")


def test_vectors_whose_texts_are_unknown_are_read_as_before(tmp_path):
    file = embedding_teachers.write(tmp_path / "t.jsonl", tiny.encoder(), ["tram", "pool"], ["a ferry"])
    vectors = file.with_suffix(".memmap")
    assert "texts" not in teacher_embeddings.describe(vectors, 32)  # as other projects write it
    assert formats.read(reordered(file), "teacher")["query"][:] == ["a ferry", "pool", "tram"]


def test_prompts_are_no_part_of_what_the_vectors_belong_to(tmp_path):
    """Two teachers may be asked with prompts of their own; what is joined is the same text."""
    for number, prompts in enumerate([None, PROMPTS]):
        embedding_teachers.write(tmp_path / f"{number}.jsonl", tiny.encoder(prompts=prompts), ["tram"], ["a ferry"])
    files = [tmp_path / f"{number}.memmap" for number in range(2)]
    both = embedding_teachers.concatenate(files, tmp_path / "both.memmap")
    assert teacher_embeddings.hash_of(both) == teacher_embeddings.hash_of(files[0])
    rows = formats.read(tmp_path / "1.jsonl", "teacher", embeddings=both)
    assert np.shape(rows["label"][:]) == (2, 64)


def test_teachers_of_texts_in_another_order_are_not_joined(tmp_path, lang):
    for name, texts in (("one", ["tram", "pool"]), ("two", ["pool", "tram"])):
        embedding_teachers.write(tmp_path / f"{name}.jsonl", tiny.encoder(), texts, ["a ferry"])
    words = {"en": "belong to different texts, or to the same in another order", "zh": "属于不同的文本，或顺序不同"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding_teachers.concatenate([tmp_path / "one.memmap", tmp_path / "two.memmap"], tmp_path / "both.memmap")


def test_file_with_a_line_left_out_is_still_read_where_that_was_asked_for(tmp_path):
    file = embedding_teachers.write(tmp_path / "t.jsonl", tiny.encoder(), ["tram", "pool"], ["a ferry"])
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"query": ""}', lines[2]]))
    with pytest.warns(formats.DataWarning):
        assert formats.read(file, "teacher", skip_bad=True)["query"][:] == ["tram", "a ferry"]
