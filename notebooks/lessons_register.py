"""The register of lessons, `lessons.toml`, and where everything of a lesson lies.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from lessons_source import LessonError, repeated


@dataclass(frozen=True)
class Entry:
    """One `[[lesson]]` of the register."""

    id: str
    file: str
    title_en: str
    title_zh: str
    minutes: int
    download_mb: int
    prerequisites: list[str]
    summary_en: str
    summary_zh: str
    family: str

    def title(self, lang: str) -> str:
        return f"{self.id} · {self.title_en if lang == 'en' else self.title_zh}"

    def summary(self, lang: str) -> str:
        return self.summary_en if lang == "en" else self.summary_zh


@dataclass(frozen=True)
class Lessons:
    """The register, and where everything lies below `root`."""

    root: Path
    repository: str
    branch: str
    entries: list[Entry]

    @property
    def folder(self) -> Path:
        return self.root / "notebooks"

    def source(self, entry: Entry) -> Path:
        return self.folder / "source" / f"{entry.file}.py"

    def notebook(self, entry: Entry, lang: str) -> Path:
        return self.folder / lang / f"{entry.file}.ipynb"

    def readme(self, lang: str) -> Path:
        return self.root / ("README.md" if lang == "en" else "README_zh.md")

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def select(self, wanted: list[str]) -> list[Entry]:
        """Entries named by id, file name or path; all of them when nothing is named."""
        stems = [Path(name).stem for name in wanted]
        known = {name for entry in self.entries for name in (entry.id, entry.file)}
        if unknown := [stem for stem in stems if stem not in known]:
            ids = ", ".join(entry.id for entry in self.entries)
            raise LessonError(f"no lesson {unknown[0]!r} in notebooks/lessons.toml; it holds {ids}")
        return [entry for entry in self.entries if not stems or entry.id in stems or entry.file in stems]


def read_register(root: Path) -> Lessons:
    """Read `notebooks/lessons.toml` below `root`.

    Raises
    ------
    LessonError
        If a lesson lacks a key or has one too many, or two lessons share an id.
    """
    path = root / "notebooks" / "lessons.toml"
    if not path.exists():
        raise LessonError(f"{path} does not exist; give the repository's folder with --root")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = []
    for row in data.get("lesson", []):
        if wrong := sorted(row.keys() ^ Entry.__annotations__.keys()):
            raise LessonError(f"{path}: lesson {row.get('id', '?')!r} lacks or does not know: {', '.join(wrong)}")
        entries.append(Entry(**row))
    for field in ("id", "file"):
        if twice := repeated(getattr(entry, field) for entry in entries):
            raise LessonError(f"{path}: {field} {twice[0]!r} is used by two lessons; rename one")
    return Lessons(root, data.get("repository", "").rstrip("/"), data.get("branch", "main"), entries)
