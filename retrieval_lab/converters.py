"""From one file format of retrieval data to another, with an account of everything that the target cannot hold.
Taught in lesson 07.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retrieval_lab import data_bundle, data_collections, data_line_formats
from retrieval_lab.data_bundle import LOSES, Bundle
from retrieval_lab.data_collections import jsonl
from retrieval_lab.data_line_formats import refuse
from retrieval_lab.data_messages import language, word
from retrieval_lab.data_report import Problem, problem

FORMATS = tuple(LOSES)

_READERS: dict[str, Callable[[Path, str], Bundle]] = {
    "lab": data_line_formats.read_lab,
    "flagembedding": data_line_formats.read_flagembedding,
    "tevatron": data_line_formats.read_tevatron,
    "sentence-transformers": data_line_formats.read_columns,
    "llamaindex": data_collections.read_llamaindex,
}
_WRITERS: dict[str, Callable[[Bundle], list[dict]]] = {
    "lab": data_line_formats.write_lab,
    "flagembedding": data_line_formats.write_flagembedding,
    "tevatron": data_line_formats.write_tevatron,
    "sentence-transformers": data_line_formats.write_columns,
}


@dataclass(frozen=True)
class Conversion:
    """What was written, and what the target format could not hold: ``warnings`` is name -> sentence, empty when all is there."""

    target: Path
    n_queries: int
    n_passages: int
    warnings: dict[str, str]
    lang: str = "en"

    def __str__(self) -> str:
        english = f"{self.target}: {self.n_queries} queries, {self.n_passages} judged passages"
        chinese = f"{self.target}：{self.n_queries} 条查询，{self.n_passages} 个有判断的段落"
        label = {"en": "  not held, {}: {}", "zh": "  存不下（{}）：{}"}[self.lang]
        lines = [label.format(name, sentence) for name, sentence in self.warnings.items()]
        return "\n".join([{"en": english, "zh": chinese}[self.lang], *lines])


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
        a blank), or ``strict`` and something would be lost.
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
    source, target, lang = Path(source), Path(target), language(lang)
    for name in (src_format, dst_format):
        if name not in FORMATS:
            raise ValueError(f"format {name!r} is not known; use one of {', '.join(FORMATS)}")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name or pass overwrite=True")
    bundle = _reader(src_format, split)(source, lang)
    lost = data_bundle.losses(bundle, dst_format, lang)
    bundle = data_bundle.prepared(bundle, dst_format)
    refuse(source, _impossible(bundle, dst_format, lang) + (list(lost.values()) if strict else []), lang, dst_format)
    for name, text in _files(bundle, dst_format, split or "train").items():
        path = target / name  # "" is the target itself
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    n_passages = sum(len(example.pos) + len(example.neg) for example in bundle.examples)
    warnings = {name: data_bundle.sentence(found, lang) for name, found in lost.items()}
    return Conversion(target, len(bundle.examples), n_passages, warnings, lang)


def _reader(name: str, split: str | None) -> Callable[[Path, str], Bundle]:
    if name in ("beir", "trec"):
        return partial(data_collections.read_folder, style=name, split=split)
    return _READERS[name]


def _impossible(bundle: Bundle, name: str, lang: str) -> list[Problem]:
    """What stands against writing the bundle in this format at all."""
    mixed = data_line_formats.mixed_table(bundle) if name == "sentence-transformers" else None
    found = [problem("one_table", lang, what=word(mixed, lang))] if mixed else []
    if name == "trec":
        ids = [example.id for example in bundle.examples] + [p.id for e in bundle.examples for p in e.pos + e.neg]
        found += [problem("id_space", lang, id=repr(i)) for i in dict.fromkeys(ids) if len(i.split()) != 1]
    return found if bundle.examples else [problem("no_rows", lang)]


def _files(bundle: Bundle, name: str, split: str) -> dict[str, str]:
    """Relative path -> text; a format of one file has the path ""."""
    if name in ("beir", "trec"):
        return data_collections.write_folder(bundle, style=name, split=split)
    if name == "llamaindex":
        return {"": data_collections.write_llamaindex(bundle)}
    return {"": jsonl(_WRITERS[name](bundle))}
