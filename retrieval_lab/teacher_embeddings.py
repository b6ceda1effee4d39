"""A teacher's vectors in a flat file, and the side-car JSON that says what the bytes are, so that a wrong shape is refused.
Taught in lesson 01b; `formats.read(..., kind="teacher", embeddings=...)` reads them beside their texts.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, Field, StrictStr, ValidationError

from retrieval_lab.data_report import DataError, Problem, Report, language, problem, sentence, speaking

_DType = Literal["float16", "float32", "float64"]
_DTYPES = ", ".join(get_args(_DType))


class _Sidecar(BaseModel):
    rows: int = Field(strict=True, ge=1)
    dim: int = Field(strict=True, ge=1)
    dtype: _DType
    sha256: StrictStr
    texts: StrictStr | None = None  # `texts_hash` of what was encoded; other projects' files have none

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.dim * int(self.dtype[5:]) // 8


def sidecar(path: str | Path) -> Path:
    """Where the description of a file of vectors is.

    >>> sidecar("teacher.memmap").name
    'teacher.memmap.json'
    """
    return Path(f"{path}.json")


def texts_hash(texts: Iterable[str]) -> str:
    """What tells these texts in this order from all others, short enough for a side-car.

    >>> texts_hash(["a", "b"]) == texts_hash(["b", "a"])
    False
    """
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def hash_of(path: str | Path) -> str | None:
    """The `texts_hash` that the side-car of a file of vectors has; None where it has none."""
    return _described(Path(path)).texts


def write(path: str | Path, vectors, *, texts: str | None = None) -> Path:
    """Store vectors as raw rows with their side-car.

    Parameters
    ----------
    path : the file to write, in an existing or new folder; ``path + ".json"`` is written too
    vectors : (n_rows, dim) array of float16, float32 or float64
    texts : `texts_hash` of what was encoded, so that the rows are never read beside other texts; None: unknown

    Raises
    ------
    ValueError
        If the array is not two-dimensional, is empty, or is not of one of these types.
    DataError
        If a vector holds NaN or infinity.

    Source: lesson 01b; the layout is NumPy's ``memmap``: C order, little-endian, no header.

    >>> import tempfile, numpy as np
    >>> file = write(Path(tempfile.mkdtemp()) / "teacher.memmap", np.eye(2, dtype="float32"))
    >>> file.stat().st_size, open_vectors(file).tolist()
    (16, [[1.0, 0.0], [0.0, 1.0]])
    """
    import numpy as np

    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.name not in get_args(_DType):
        raise ValueError(sentence("vectors_shape", dtype=vectors.dtype, shape=vectors.shape, choices=_DTYPES))
    _refuse(path, _not_finite(vectors))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.ascontiguousarray(vectors, dtype=f"<f{vectors.itemsize}").tofile(path)
    describe(path, vectors.shape[1], vectors.dtype.name, texts=texts)
    return Path(path)


def describe(path: str | Path, dim: int, dtype: str = "float32", *, texts: str | None = None) -> dict:
    """Write the side-car of a file of vectors that has none, and return its content.

    Parameters
    ----------
    path : raw rows of ``dim`` numbers each
    dim : numbers a row, >= 1
    dtype : "float16", "float32" or "float64"
    texts : see `write`

    Raises
    ------
    ValueError
        If dim or dtype is none of these, or the file's size is no whole number of rows.

    Source: lesson 01b.
    """
    if dtype not in get_args(_DType) or dim < 1:
        raise ValueError(sentence("dim_dtype", dim=dim, dtype=repr(dtype), choices=_DTYPES))
    about = _Sidecar(rows=1, dim=dim, dtype=dtype, sha256=_sha256(path), texts=texts)
    size = Path(path).stat().st_size
    if size % about.width or not size:
        raise ValueError(sentence("whole_rows", path=path, size=size, width=about.width, dim=dim, dtype=dtype))
    about.rows = size // about.width
    sidecar(path).write_text(about.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    return about.model_dump(exclude_none=True)


def open_vectors(
    path: str | Path,
    *,
    rows: int | None = None,
    dim: int | None = None,
    dtype: str | None = None,
    texts=None,
    lang=None,
):
    """The vectors as a read-only ``np.memmap``, after everything that can be checked was checked.

    Parameters
    ----------
    path : file of vectors with its side-car beside it
    rows, dim, dtype : what the caller needs; None takes what the side-car says
    texts : the texts that the rows are to belong to, in order; checked where the side-car has their hash
    lang : "en", "zh" or None for the reader's language

    Returns
    -------
    (rows, dim) memmap

    Raises
    ------
    DataError
        If the file or its side-car is missing or broken, its size or sha256 is not what the side-car says, rows, dim or dtype are
        not what was asked for, the vectors were made of other texts, or a vector is not finite. The message gives both numbers.

    Source: lesson 01b.
    """
    import numpy as np

    with speaking(lang):
        about = _described(Path(path))
        _refuse(path, _mismatches(Path(path), about, {"rows": rows, "dim": dim, "dtype": dtype}))
        _refuse(path, _other_texts(about, texts))
        vectors = np.memmap(path, dtype=f"<f{about.width // about.dim}", mode="r", shape=(about.rows, about.dim))
        _refuse(path, _not_finite(vectors))
    return vectors


def _refuse(path: str | Path, problems: list[Problem]) -> None:
    if problems:
        raise DataError(Report(str(path), "teacher", "query", problems=problems))


def _described(path: Path) -> _Sidecar:
    """The side-car's content."""
    names = {"name": sidecar(path).name, "data": path.name}
    if not path.is_file():
        _refuse(path, [problem("teacher_missing", name=path.name)])
    if not sidecar(path).is_file():
        _refuse(path, [problem("sidecar_missing", **names)])
    try:
        return _Sidecar.model_validate(json.loads(sidecar(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        reason = ", ".join(_wrong_entry(item) for item in error.errors())
    except ValueError as error:
        reason = str(error)
    raise DataError(Report(str(path), "teacher", "query", problems=[problem("sidecar_broken", reason=reason, **names)]))


def _wrong_entry(error: dict) -> str:
    """An entry of a side-car that is not what it should be, e.g. ``dim=0``."""
    value = None if error["type"] == "missing" else error["input"]
    return "=".join([*error["loc"], repr(value)])


def _mismatches(path: Path, about: _Sidecar, wanted: dict) -> list[Problem]:
    asked = [(name, getattr(about, name), value) for name, value in wanted.items() if value is not None]
    found = [problem(f"teacher_{name}", found=has, expected=value) for name, has, value in asked if has != value]
    size, expected = path.stat().st_size, about.rows * about.width
    if size != expected:
        shape = about.model_dump(include={"rows", "dim", "dtype"})
        return [*found, problem("teacher_size", found=size, expected=expected, **shape)]
    digest = _sha256(path)
    if digest != about.sha256:
        found.append(problem("teacher_hash", found=digest[:12], expected=about.sha256[:12]))
    return found


def _other_texts(about: _Sidecar, texts) -> list[Problem]:
    if texts is None or about.texts is None or texts_hash(texts) == about.texts:
        return []
    cause, remedy = {
        "en": (
            "the vectors were made of other texts, or of these in another order",
            "restore the lines, or encode anew",
        ),
        "zh": ("向量不是由这些文本按这个顺序编码的", "恢复原来的各行，或重新编码"),
    }[language()]
    return [Problem(None, "", cause, remedy, "teacher_texts")]


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_finite(vectors, step: int = 4096) -> list[Problem]:
    """The first vector with NaN or infinity, counted from 1; ``step`` rows are in memory at a time."""
    import numpy as np

    for start in range(0, len(vectors), step):
        bad = np.flatnonzero(~np.isfinite(vectors[start : start + step]).all(axis=1))
        if len(bad):
            return [problem("teacher_not_finite", row=start + int(bad[0]) + 1)]
    return []
