"""From one file format of retrieval data to another, with an account of everything that the target cannot hold.
Taught in lesson 07.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from retrieval_lab import data_bundle
from retrieval_lab import data_collections as collections
from retrieval_lab import data_line_formats as lines
from retrieval_lab.data_bundle import LOSES, Bundle, Example
from retrieval_lab.data_report import Problem, language, problem, sentence, speaking, word

FORMATS = tuple(LOSES)


@dataclass(frozen=True)
class Conversion:
    """What was written, and what the target format could not hold: ``warnings`` is name -> sentence, empty when all is there."""

    target: Path
    n_queries: int
    n_passages: int
    warnings: dict[str, str]
    lang: str = field(default_factory=language)

    def __str__(self) -> str:
        english = f"{self.target}: {self.n_queries} queries, {self.n_passages} judged passages"
        chinese = f"{self.target}：{self.n_queries} 条查询，{self.n_passages} 个有判断的段落"
        label = {"en": "  not held, {}: {}", "zh": "  存不下（{}）：{}"}[self.lang]
        return "\n".join(
            [{"en": english, "zh": chinese}[self.lang], *(label.format(*w) for w in self.warnings.items())]
        )


def convert(
    source: str | Path,
    target: str | Path,
    src_format: str,
    dst_format: str,
    *,
    split: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    lang: str | None = None,
) -> Conversion:
    """Read ``source`` in one format and write ``target`` in another; nothing is written unless all of it can be read.

    Parameters
    ----------
    source, target : a file, or a folder for "beir" and "trec"
    src_format, dst_format : "lab" (any format of `formats`), "flagembedding", "tevatron", "sentence-transformers" (rows of columns
        as JSON lines), "beir", "trec" (a BEIR folder with four-column judgements) or "llamaindex" (EmbeddingQAFinetuneDataset)
    split : of the judgements of a folder; None reads the only one and writes "train"
    strict : raise instead of warning when the target cannot hold something
    overwrite : write over an existing target
    lang : "en", "zh" or None for the reader's language

    Raises
    ------
    DataError
        If the source has a problem, or the target cannot hold it at all (a column table with and without negatives; a TREC id with
        a blank; an empty text), or ``strict`` and something would be lost.
    FileExistsError
        If the target exists and overwrite is False.
    ValueError
        If a format is unknown.

    Source: lesson 07; the READMEs of FlagEmbedding, Tevatron, sentence-transformers, BEIR (Thakur et al. 2021) and LlamaIndex.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.jsonl").write_text('{"query": "q", "pos": "p", "neg": "n"}')
    >>> done = convert(folder / "a.jsonl", folder / "b.jsonl", "lab", "sentence-transformers")
    >>> print((folder / "b.jsonl").read_text().strip(), done.warnings)
    {"anchor": "q", "positive": "p", "negative": "n"} {}
    """
    source, target = Path(source), Path(target)
    with speaking(lang):
        for name in (src_format, dst_format):
            if name not in FORMATS:
                raise ValueError(sentence("format_unknown", name=repr(name), choices=", ".join(FORMATS)))
        if target.exists() and not overwrite:
            raise FileExistsError(sentence("target_exists", target=target))
        bundle = _read(source, src_format, split)
        lost = data_bundle.losses(bundle, dst_format)
        bundle = data_bundle.prepared(bundle, dst_format)
        lines.refuse(source, _impossible(bundle, dst_format) + (list(lost.values()) if strict else []), dst_format)
        for name, text in _files(bundle, dst_format, split or "train").items():
            path = target / name  # "" is the target itself
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        n_passages = len(bundle.passages) - len(bundle.documents)
        warnings = {name: sentence(found) for name, found in lost.items()}
        return Conversion(target, len(bundle.examples), n_passages, warnings)


def _read(source: Path, name: str, split: str | None) -> Bundle:
    folder = partial(collections.read_folder, style=name, split=split)
    readers = {"lab": lines.read_lab, "flagembedding": lines.read_flagembedding, "tevatron": lines.read_tevatron}
    readers |= {"sentence-transformers": lines.read_columns, "llamaindex": collections.read_llamaindex}
    return readers.get(name, folder)(source)


def _impossible(bundle: Bundle, name: str) -> list[Problem]:
    """What stands against writing the bundle in this format at all."""
    mixed = lines.mixed_table(bundle) if name == "sentence-transformers" else None
    found = [problem("one_table", what=word(mixed))] if mixed else []
    if name == "trec":
        ids = [example.id for example in bundle.examples] + [p.id for e in bundle.examples for p in e.pos + e.neg]
        found += [problem("id_space", id=repr(i)) for i in dict.fromkeys(ids) if len(i.split()) != 1]
    if name not in ("beir", "trec", "llamaindex"):  # a corpus may hold an empty text; nobody trains on one
        found += [problem("empty_text", field=e.id or e.query) for e in bundle.examples if not _all_filled(e)]
    return found if bundle.examples else [problem("no_rows")]


def _all_filled(example: Example) -> bool:
    return all(text.strip() for text in (example.query, *(passage.text for passage in example.pos + example.neg)))


def _files(bundle: Bundle, name: str, split: str) -> dict[str, str]:
    """Relative path -> text; a format of one file has the path ""."""
    if name in ("beir", "trec"):
        return collections.write_folder(bundle, style=name, split=split)
    if name == "llamaindex":
        return {"": collections.write_llamaindex(bundle)}
    writers = {"lab": lines.write_lab, "flagembedding": lines.write_flagembedding, "tevatron": lines.write_tevatron}
    return {"": collections.jsonl(writers.get(name, lines.write_columns)(bundle))}
