"""The data doctor: contradictions, duplicates, leaks, lengths, labels and languages of training files, before they cost a training run.
Taught in lesson 07; `retrieval-lab doctor FILE...` prints the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from retrieval_lab import doctor_checks, doctor_counts, formats
from retrieval_lab.data_report import Report, language, ranges, sentence, speaking, word
from retrieval_lab.doctor_checks import Finding, Place, Source, Stock, finding

CHECKS = (doctor_checks.contradictions, doctor_checks.duplicates, doctor_checks.labels)
CHECKS += (doctor_checks.prompts, doctor_checks.damage, doctor_counts.languages)
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
    lang: str = field(default_factory=language)

    @property
    def ok(self) -> bool:
        """True when nothing of severity "error" was found."""
        return not any(found.severity == "error" for found in self.findings)

    def find(self, id: str) -> Finding | None:
        """The finding with this id (the first of several, e.g. of "truncation"), or None."""
        return next((found for found in self.findings if found.id == id), None)

    def __str__(self) -> str:
        with speaking(self.lang):
            return "\n".join([self._title(), *map(self._sentence, self.findings), *self._reports()])

    def to_markdown(self) -> str:
        """Findings as one table and each histogram as another, for a notebook or a pull request."""
        with speaking(self.lang):
            head = [word(name) for name in ("severity", "count", "where", "cause", "remedy")]
            rows = [(word(f.severity), f.count, self._where(f), f.cause, f.remedy) for f in self.findings]
            parts = [f"### {self._title()}"] + [_table(head, rows)] * bool(rows)
            for name, histogram in self.histograms.items():
                bins = dict.fromkeys(label for counts in histogram.values() for label in counts)
                body = [(word(label), *(counts.get(label, 0) for counts in histogram.values())) for label in bins]
                parts += [f"**{word(name)}**", _table(["", *map(word, histogram)], body)]
            return "\n\n".join(parts + [f"```\n{report}\n```" for report in self._reports()]) + "\n"

    def _reports(self) -> list[str]:
        return [str(report) for report in self.reports if report.problems or report.notes]

    def _title(self) -> str:
        counts = Counter(found.severity for found in self.findings)
        plural = self.lang == "zh"  # its "errors" is the word that goes with any number
        names = [(counts[s], word(s if counts[s] == 1 and not plural else f"{s}s")) for s in SEVERITIES if counts[s]]
        found = word("comma").join(f"{count} {name}" for count, name in names) or word("nothing_found")
        if self.lang == "zh":
            return f"{'、'.join(self.files)}：{self.n_lines} 行，{self.n_rows} 条训练样本；{found}"
        return f"{', '.join(self.files)}: {self.n_lines} lines, {self.n_rows} training rows; {found}"

    def _sentence(self, found: Finding) -> str:
        severity, where = word(found.severity), self._where(found)
        if self.lang == "zh":
            return f"[{severity}] {found.id} ×{found.count}，{where}：{found.cause}。办法：{found.remedy}"
        return f"[{severity}] {found.id} x{found.count}, {where}: {found.cause}. Do: {found.remedy}"

    def _where(self, found: Finding, most: int = 10) -> str:
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


def _table(head: list, rows: Iterable[tuple]) -> str:
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
    if (tokenizer is None) != (max_length is None) or (max_length is not None and max_length < 1):
        raise ValueError(sentence("tokenizer_length", max_length=max_length))
    with speaking(lang):
        scale = {"min_label": min_label, "max_label": max_label}
        given = [_listed(paths), _listed(validation)]
        train, held_out = ([(path, *formats.load_lines(path, kind, **scale)) for path in group] for group in given)
        names = _names(given[0] + given[1])
        unread = [found for path, _, report in train + held_out for found in _unread(names[path], report)]
        examined, histograms = _examined(_stock(train, names), _stock(held_out, names), tokenizer, max_length)
        findings = sorted(unread + examined, key=lambda found: SEVERITIES.index(found.severity))
        reports = [report for _, _, report in train + held_out]
        n_lines, n_rows = (sum(getattr(r, name) for r in reports[: len(train)]) for name in ("n_lines", "n_rows"))
        return Diagnosis([names[path] for path in given[0]], n_lines, n_rows, findings, histograms, reports)


def _listed(paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths or ()]


def _names(paths: list[Path]) -> dict[Path, str]:
    """What each file is called: its name, or its whole path where another file has that name too."""
    counts = Counter(path.name for path in set(paths))
    return {path: path.name if counts[path.name] == 1 else str(path) for path in paths}


def _stock(loaded: list[tuple], names: dict[Path, str]) -> Stock:
    return Stock([Source(names[path], r.kind, r.shape, lines) for path, lines, r in loaded if r.shape])


def _examined(train: Stock, held_out: Stock, tokenizer, max_length) -> tuple[list[Finding], dict]:
    findings = [found for check in CHECKS for found in check(train)] + doctor_checks.leakage(train, held_out)
    histograms = doctor_counts.histograms(train)
    if tokenizer is None:
        return findings, histograms
    long, tokens = doctor_counts.truncation(train, tokenizer, max_length)
    return findings + long, histograms | tokens


def _unread(name: str, report: Report) -> list[Finding]:
    """What could not be examined: the whole file, or some of its lines."""
    whole = [problem for problem in report.problems if problem.line is None]
    if whole:
        return finding("file_problem", "error", [Place(name, 0)], cause=whole[0].cause, remedy=whole[0].remedy)
    places = [Place(name, line) for line in report.bad_lines]
    return finding("format_problems", "error", places, share=f"{len(places)}/{report.n_lines}")
