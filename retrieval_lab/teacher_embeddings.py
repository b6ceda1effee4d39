"""A teacher's vectors in a flat file, and the side-car JSON that says what the bytes are, so that a wrong shape is refused.
Taught in lesson 07; `formats.read(..., kind="teacher", embeddings=...)` reads them beside their texts.
"""

import hashlib
import json
from pathlib import Path

from retrieval_lab.data_messages import language
from retrieval_lab.data_report import DataError, Problem, Report, problem

_DTYPES = ("float16", "float32", "float64")


def sidecar(path: str | Path) -> Path:
    """Where the description of a file of vectors is.

    >>> sidecar("teacher.memmap").name
    'teacher.memmap.json'
    """
    return Path(f"{path}.json")


def write(path: str | Path, vectors) -> Path:
    """Store vectors as raw rows with their side-car.

    Parameters
    ----------
    path : the file to write; ``path + ".json"`` is written too
    vectors : (n_rows, dim) array of float16, float32 or float64

    Raises
    ------
    ValueError
        If the array is not two-dimensional or not of one of these types.
    DataError
        If a vector holds NaN or infinity.

    Source: lesson 07; the layout is NumPy's ``memmap``: C order, no header.

    >>> import tempfile, numpy as np
    >>> file = write(Path(tempfile.mkdtemp()) / "teacher.memmap", np.eye(2, dtype="float32"))
    >>> file.stat().st_size, open_vectors(file).tolist()
    (16, [[1.0, 0.0], [0.0, 1.0]])
    """
    import numpy as np

    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.name not in _DTYPES:
        raise ValueError(
            f"vectors are {vectors.dtype} of shape {vectors.shape}; give (n_rows, dim) of {', '.join(_DTYPES)}"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise _refused(path, [problem("teacher_not_finite", language(None), row=int(bad[0]) + 1)], None)
    Path(path).write_bytes(np.ascontiguousarray(vectors).tobytes())
    describe(path, vectors.shape[1], vectors.dtype.name)
    return Path(path)


def describe(path: str | Path, dim: int, dtype: str = "float32") -> dict:
    """Write the side-car of a file of vectors that has none, and return its content.

    Parameters
    ----------
    path : raw rows of ``dim`` numbers each
    dim : numbers a row, >= 1
    dtype : "float16", "float32" or "float64"

    Raises
    ------
    ValueError
        If dim or dtype is none of these, or the file's size is no whole number of rows.

    Source: lesson 07.
    """
    if dtype not in _DTYPES or dim < 1:
        raise ValueError(f"dim={dim}, dtype={dtype!r}; use dim >= 1 and one of {', '.join(_DTYPES)}")
    size, width = Path(path).stat().st_size, dim * int(dtype[5:]) // 8
    if size % width or not size:
        raise ValueError(
            f"{path} has {size} bytes, which is no whole number of rows of {width} bytes ({dim} x {dtype})"
        )
    about = {"rows": size // width, "dim": dim, "dtype": dtype, "sha256": _sha256(path)}
    sidecar(path).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def open_vectors(
    path: str | Path, *, rows: int | None = None, dim: int | None = None, dtype: str | None = None, lang=None
):
    """The vectors as a read-only ``np.memmap``, after everything that can be checked was checked.

    Parameters
    ----------
    path : file of vectors with its side-car beside it
    rows, dim, dtype : what the caller needs; None takes what the side-car says
    lang : "en", "zh" or None for the reader's language

    Returns
    -------
    (rows, dim) memmap

    Raises
    ------
    DataError
        If the file or its side-car is missing or broken, its size or sha256 is not what the side-car says, rows, dim or dtype are
        not what was asked for, or a vector is not finite. The message gives both numbers.

    Source: lesson 07.
    """
    import numpy as np

    path, lang = Path(path), language(lang)
    about, found = _described(path, lang)
    if not found:
        found = _mismatches(path, about, {"rows": rows, "dim": dim, "dtype": dtype}, lang)
    if found:
        raise _refused(path, found, lang)
    vectors = np.memmap(path, dtype=about["dtype"], mode="r", shape=(about["rows"], about["dim"]))
    bad = _first_not_finite(vectors)
    if bad is not None:
        raise _refused(path, [problem("teacher_not_finite", lang, row=bad + 1)], lang)
    return vectors


def _refused(path: str | Path, problems: list[Problem], lang: str | None) -> DataError:
    return DataError(Report(str(path), "teacher", "query", problems=problems, lang=language(lang)))


def _described(path: Path, lang: str) -> tuple[dict, list[Problem]]:
    """The side-car's content, or what is wrong with it."""
    names = {"name": sidecar(path).name, "data": path.name}
    if not path.is_file():
        return {}, [problem("teacher_missing", lang, name=path.name)]
    if not sidecar(path).is_file():
        return {}, [problem("sidecar_missing", lang, **names)]
    try:
        about = json.loads(sidecar(path).read_text(encoding="utf-8"))
    except ValueError as error:
        return {}, [problem("sidecar_broken", lang, reason=str(error), **names)]
    wrong = _wrong_entries(about)
    return about, [problem("sidecar_broken", lang, reason=wrong, **names)] if wrong else []


def _wrong_entries(about) -> str:
    """The entries of a side-car that are not what they should be, e.g. ``dim=0``; empty when all are well."""
    if not isinstance(about, dict):
        return repr(about)
    counts = {name: about.get(name) for name in ("rows", "dim")}
    wrong = [f"{name}={value!r}" for name, value in counts.items() if type(value) is not int or value < 1]
    wrong += [f"dtype={about.get('dtype')!r}"] if about.get("dtype") not in _DTYPES else []
    return ", ".join(wrong + ([f"sha256={about.get('sha256')!r}"] if not isinstance(about.get("sha256"), str) else []))


def _mismatches(path: Path, about: dict, wanted: dict, lang: str) -> list[Problem]:
    found = [
        problem(f"teacher_{name}", lang, found=about[name], expected=value)
        for name, value in wanted.items()
        if value is not None and about[name] != value
    ]
    size, expected = path.stat().st_size, about["rows"] * about["dim"] * int(about["dtype"][5:]) // 8
    if size != expected:
        shape = {name: about[name] for name in ("rows", "dim", "dtype")}
        return [*found, problem("teacher_size", lang, found=size, expected=expected, **shape)]
    digest = _sha256(path)
    if digest != about["sha256"]:
        found.append(problem("teacher_hash", lang, found=digest[:12], expected=about["sha256"][:12]))
    return found


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_not_finite(vectors, step: int = 4096) -> int | None:
    """Row (from 0) of the first vector with NaN or infinity; a slice of ``step`` rows is in memory at a time."""
    import numpy as np

    for start in range(0, len(vectors), step):
        bad = np.flatnonzero(~np.isfinite(vectors[start : start + step]).all(axis=1))
        if len(bad):
            return start + int(bad[0])
    return None
