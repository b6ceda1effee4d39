"""The data doctor: contradictions, duplicates, leaks, lengths, labels and languages of training files, before they cost a training run.
Taught in lesson 07; `retrieval-lab doctor FILE...` prints the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from retrieval_lab import doctor_checks, doctor_counts, formats
from retrieval_lab.data_messages import language, word
from retrieval_lab.data_report import Report, ranges
from retrieval_lab.doctor_checks import Finding, Place, Source, Text, normal

SEVERITIES = ("error", "warning", "info")


@dataclass
class Diagnosis:
    """All findings, the worst first, the reports of the files, and counts for figures.

    ``histograms`` holds plain dictionaries: name -> part (e.g. "query") -> bin -> count.
    """

    files: list[str]
    n_lines: int
    n_rows: int
    findings: list[Finding]
    histograms: dict[str, dict[str, dict[str, int]]]
    reports: list[Report] = field(default_factory=list)
    lang: str = "en"

    @property
    def ok(self) -> bool:
        """True when nothing of severity "error" was found."""
        return not any(found.severity == "error" for found in self.findings)

    def find(self, id: str) -> Finding | None:
        """The finding with this id (the first of several, e.g. of "truncation"), or None."""
        return next((found for found in self.findings if found.id == id), None)

    def __str__(self) -> str:
        lines = [self._title(), *(self._sentence(found) for found in self.findings)]
        return "\n".join(lines + [str(report) for report in self.reports if report.problems or report.notes])

    def to_markdown(self) -> str:
        """Findings as one table and each histogram as another, for a notebook or a pull request."""
        head = {"en": ("severity", "count", "where", "cause", "remedy"), "zh": ("级别", "次数", "位置", "原因", "办法")}
        rows = [(word(f.severity, self.lang), f.count, self._where(f, 10), f.cause, f.remedy) for f in self.findings]
        parts = [f"### {self._title()}", _table(head[self.lang], rows)] if rows else [f"### {self._title()}"]
        for name, histogram in self.histograms.items():
            columns = list(histogram)
            bins = list(dict.fromkeys(label for counts in histogram.values() for label in counts))
            body = [(word(label, self.lang), *(histogram[c].get(label, 0) for c in columns)) for label in bins]
            parts += [f"**{word(name, self.lang)}**", _table(("", *(word(c, self.lang) for c in columns)), body)]
        reports = [f"```\n{report}\n```" for report in self.reports if report.problems or report.notes]
        return "\n\n".join(parts + reports) + "\n"

    def _title(self) -> str:
        counts = Counter(found.severity for found in self.findings)
        if self.lang == "zh":
            found = "、".join(f"{counts[s]} {word(f'{s}s', 'zh')}" for s in SEVERITIES if counts[s]) or "没有发现问题"
            return f"{'、'.join(self.files)}：{self.n_lines} 行，{self.n_rows} 条训练样本；{found}"
        names = [word(s if counts[s] == 1 else f"{s}s", "en") for s in SEVERITIES]
        found = ", ".join(f"{counts[s]} {name}" for s, name in zip(SEVERITIES, names, strict=True) if counts[s])
        return f"{', '.join(self.files)}: {self.n_lines} lines, {self.n_rows} training rows; {found or 'nothing found'}"

    def _sentence(self, found: Finding) -> str:
        severity, where = word(found.severity, self.lang), self._where(found, 10)
        if self.lang == "zh":
            return f"[{severity}] {found.id} ×{found.count}，{where}：{found.cause}。办法：{found.remedy}"
        return f"[{severity}] {found.id} x{found.count}, {where}: {found.cause}. Do: {found.remedy}"

    def _where(self, found: Finding, most: int) -> str:
        """Line numbers by file, at most ``most`` a file; the finding itself holds all."""
        files: dict[str, list[int]] = {}
        for place in sorted(set(found.places)):
            files.setdefault(place.file, []).append(place.line)
        return "; ".join(file + self._numbers([line for line in lines if line], most) for file, lines in files.items())

    def _numbers(self, lines: list[int], most: int) -> str:
        shown, rest = ranges(lines[:most], self.lang), max(len(lines) - most, 0)
        english = f" line {shown}" + (f" and {rest} more" if rest else "")
        chinese = f" 第 {shown}" + (f" 等 {len(lines)} 行" if rest else " 行")
        return {"en": english, "zh": chinese}[self.lang] if lines else ""


def _table(head: tuple, rows: Iterable[tuple]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def diagnose(
    paths: str | Path | Iterable[str | Path],
    *,
    kind: str | None = None,
    validation: str | Path | Iterable[str | Path] | None = None,
    tokenizer: Callable | None = None,
    max_length: int | None = None,
    min_label: float = 0,
    max_label: float = 1,
    lang: str | None = None,
) -> Diagnosis:
    """Examine training files as one training set; bad lines are reported and left out of the other examinations.

    Texts are compared after NFKC and with blanks drawn together; only duplicates tell exact from normalised.

    Parameters
    ----------
    paths : one file or several
    kind, min_label, max_label, lang : as in `formats.validate`
    validation : files that must share no query with the training files
    tokenizer : of the model to be trained (a transformers tokenizer), or any function from a text to its tokens
    max_length : tokens that the model reads, special tokens included

    Raises
    ------
    ValueError
        If only one of tokenizer and max_length is given, or max_length is below 1.

    Source: lesson 07.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "train.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": ["b", "c"], "neg": ["b"]}')
    >>> found = diagnose(file).find("pos_and_neg")
    >>> found.count, found.lines
    (1, [1])
    """
    lang = language(lang)
    if (tokenizer is None) != (max_length is None) or (max_length is not None and max_length < 1):
        raise ValueError(
            f"tokenizer and max_length belong together, and max_length must be >= 1; max_length={max_length}"
        )
    options = {"min_label": min_label, "max_label": max_label, "lang": lang}
    train, reports = _sources(_listed(paths), kind, options)
    held_out, more = _sources(_listed(validation), kind, options)
    texts = [text for source in train for text in doctor_checks.texts_of(source)]
    findings = _format_findings(reports + more, lang) + _examined(texts, train, lang)
    findings += _leaks(texts, train, held_out, lang)
    findings += doctor_counts.languages(texts, train, lang)
    histograms = doctor_counts.histograms(texts, train)
    if tokenizer is not None:
        long, tokens = doctor_counts.truncation(texts, train, tokenizer, max_length, lang)
        findings, histograms = findings + long, histograms | tokens
    findings.sort(key=lambda found: SEVERITIES.index(found.severity))
    n_rows = sum(report.n_rows for report in reports)
    files = [Path(report.path).name for report in reports]
    return Diagnosis(files, sum(r.n_lines for r in reports), n_rows, findings, histograms, reports + more, lang)


def _listed(paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths or ()]


def _sources(paths: list[Path], kind: str | None, options: dict) -> tuple[list[Source], list[Report]]:
    loaded = [formats.load_lines(path, kind, **options) for path in paths]
    sources = [Source(Path(r.path).name, r.kind, r.shape, lines) for lines, r in loaded if r.shape]
    return sources, [report for _, report in loaded]


def _format_findings(reports: list[Report], lang: str) -> list[Finding]:
    found = []
    for report in reports:
        places = sorted({Place(Path(report.path).name, problem.line or 0) for problem in report.problems})
        whole = [problem for problem in report.problems if problem.line is None]
        code = "file_problem" if whole else "format_problems"
        values = {"cause": whole[0].cause, "remedy": whole[0].remedy} if whole else {}
        share = f"{len(report.bad_lines)}/{report.n_lines}"
        found += doctor_checks.finding(code, "error", places, lang, share=share, **values)
    return found


def _examined(texts: list[Text], sources: list[Source], lang: str) -> list[Finding]:
    return [
        *doctor_checks.contradictions(texts, lang),
        *doctor_checks.duplicates(texts, sources, lang),
        *doctor_checks.labels(texts, sources, lang),
        *doctor_checks.prompts(sources, lang),
        *doctor_checks.damage(texts, sources, lang),
    ]


def _queries(sources: list[Source]) -> list[tuple[Place, str]]:
    return [(Place(source.file, line.line), normal(line.query)) for source in sources for line in source.lines]


def _leaks(texts: list[Text], train: list[Source], held_out: list[Source], lang: str) -> list[Finding]:
    tested = [text for source in held_out for text in doctor_checks.texts_of(source)]
    known = {key for _, key in _queries(train)}
    return doctor_checks.leakage(texts, tested, known, _queries(held_out), lang)
