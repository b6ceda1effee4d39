"""A teacher's vectors as a training file: encode the texts once, store them checked, join two teachers.
Taught in lesson 01b; the file's layout is `teacher_embeddings`, the loss `losses.TeacherVectors`.
"""

from pathlib import Path

import numpy as np

from retrieval_lab import embedding, teacher_embeddings
from retrieval_lab.batching import prompt
from retrieval_lab.data_collections import jsonl
from retrieval_lab.profiles import say


def write(path: str | Path, teacher, queries: list[str], docs: list[str], *, student=None) -> Path:
    """Encode texts with a teacher and write what ``formats.read(path, "teacher")`` reads: lines of texts, vectors beside them.

    Parameters
    ----------
    path : the JSON lines file, in an existing or new folder; the vectors go to the same name with the suffix .memmap
    teacher : SentenceTransformer; its own prompts are used
    queries, docs : texts without prompts
    student : the model to be trained, whose prompts the lines then carry; None: the same prompts as the teacher's

    Source: lesson 01b.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # a place that cannot be written shows before the encoding
    vectors = [embedding.encode(teacher, queries, "query"), embedding.encode(teacher, docs, "document")]
    before = {kind: prompt(student or teacher, kind) for kind in ("query", "document")}
    texts = [(before["query"], text) for text in queries] + [(before["document"], text) for text in docs]
    lines = ({"query": text, "prompt_for_query": start} for start, text in texts)
    path.write_text(jsonl(lines), encoding="utf-8")
    known = teacher_embeddings.texts_hash([*queries, *docs])
    teacher_embeddings.write(path.with_suffix(".memmap"), np.concatenate(vectors), texts=known)
    return path


def concatenate(paths: list[str | Path], target: str | Path) -> Path:
    """Several teachers' vectors of the same texts as one: side by side, each of length 1 / sqrt(teachers).

    A cosine of two such vectors is the mean of the teachers' cosines, whatever their widths.

    Parameters
    ----------
    paths : files of vectors with their side-cars, row by row of the same texts
    target : the file to write

    Raises
    ------
    ValueError
        If there are no two files, their numbers of rows differ, or their side-cars say that they are of other texts.
    DataError
        If a file is not what its side-car says.

    Source: Zhang et al. 2025 (Jasper and Stella), section 3.1; lesson 01b.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> one = teacher_embeddings.write(folder / "one", np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> two = teacher_embeddings.write(folder / "two", np.array([[1.0], [3.0]]))
    >>> both = teacher_embeddings.open_vectors(concatenate([one, two], folder / "both"))
    >>> round(float(both[0] @ both[1]), 6)  # the mean of the cosines 0 and 1
    0.5
    """
    vectors = [np.asarray(teacher_embeddings.open_vectors(path), np.float32) for path in paths]
    rows = [len(each) for each in vectors]
    if len(vectors) < 2 or len(set(rows)) > 1:
        raise ValueError(
            say(
                en=f"teachers with {rows} rows; give two files or more with one row for each of the same texts",
                zh=f"各教师的行数是 {rows}；至少给两个文件，每个文件对同样的文本各有一行",
            )
        )
    texts = {known for path in paths if (known := teacher_embeddings.hash_of(path))}
    if len(texts) > 1:
        raise ValueError(
            say(
                en=f"the vectors of {', '.join(map(str, paths))} belong to different texts, or to the same in another order; encode the same list of texts with each teacher",
                zh=f"{'、'.join(map(str, paths))} 的向量属于不同的文本，或顺序不同；每个教师都要编码同一个文本列表",
            )
        )
    units = [each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-12) for each in vectors]
    joined = np.concatenate(units, axis=1) / np.float32(np.sqrt(len(units)))
    return teacher_embeddings.write(target, joined, texts=next(iter(texts), None))
