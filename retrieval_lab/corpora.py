"""Test collections in one shape: the shipped corpus, any folder in BEIR layout, or a set from the hub.
Taught in lesson 00.
"""

import csv
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrieval_lab.profiles import say

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" if (HERE / "data").is_dir() else HERE.parent / "data"  # in an installed wheel, or in a checkout


@dataclass(frozen=True)
class Collection:
    """Documents, questions and judgements, in plain dictionaries that can be printed.

    ``queries`` holds those of one split that have judgements. ``details`` keeps what else is known of a query
    (its type, family, nicknames), or is empty.
    """

    name: str
    lang: str
    split: str
    licence: str
    corpus: dict[str, str]  # doc_id -> text
    queries: dict[str, str]  # query_id -> text
    qrels: dict[str, dict[str, int]]  # query_id -> doc_id -> grade, 0 = judged and not relevant
    details: dict[str, dict] = field(default_factory=dict, repr=False)
    relevant: int = 1  # lowest grade that counts as relevant in MRR, Recall and the other binary metrics

    def __repr__(self) -> str:
        return (
            f"Collection({self.name!r}, lang={self.lang!r}, split={self.split!r}: {len(self.corpus)} documents, "
            f"{len(self.queries)} queries, {sum(map(len, self.qrels.values()))} judgements, licence {self.licence})"
        )

    def where(self, **conditions) -> "Collection":
        """The same collection with only the queries whose details match, e.g. ``where(type="paraphrase")``.

        A value may be a function: ``where(nicknames=bool)`` keeps queries that use a nickname.
        """
        matches = [
            query_id
            for query_id in self.queries
            if all(_matches(self.details.get(query_id, {}).get(key), value) for key, value in conditions.items())
        ]
        return self.only(matches)

    def only(self, query_ids) -> "Collection":
        """The same collection with only these queries, in this order."""
        return replace(
            self,
            queries={query_id: self.queries[query_id] for query_id in query_ids},
            qrels={query_id: self.qrels[query_id] for query_id in query_ids},
        )

    def sample(self, n: int | None, seed: int = 0) -> "Collection":
        """``n`` queries drawn without replacement, or all when ``n`` is None or larger than what there is."""
        import random

        if n is None or n >= len(self.queries):
            return self
        return self.only(random.Random(seed).sample(list(self.queries), n))


def _matches(found, wanted) -> bool:
    return bool(wanted(found)) if callable(wanted) else found == wanted


def load(source: str | Path, lang: str | None = None, split: str = "test") -> Collection:
    """A collection by name, folder or hub id.

    Parameters
    ----------
    source : "city_services" (shipped); a folder with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``; the name of a
        folder below ``$RETRIEVAL_LAB_DATA/beir``; or "hub:OWNER/NAME" in the hub's BEIR layout
    lang : "en" or "zh". For the shipped corpus it chooses the text, "en" when not given; elsewhere it is a label and is guessed
        from the first documents when not given.
    split : name of the qrels file, by custom "train", "dev" or "test"

    Raises
    ------
    FileNotFoundError
        If there is no such folder or no such split; the message names the splits that exist.
    ValueError
        If a line is broken, an id stands twice, or a judgement names an unknown query or document.

    Source: lesson 00; the layout is that of Thakur et al. 2021 (BEIR).
    """
    if str(source).startswith("hub:"):
        return _load_hub(str(source)[4:], lang, split)
    folder = _folder(source, lang)
    corpus = {doc_id: _document_text(row) for doc_id, row in _rows(folder / "corpus.jsonl").items()}
    rows = _rows(folder / "queries.jsonl")
    qrels = _read_qrels(folder, split)
    return _collection(folder, lang, split, corpus, rows, qrels)


def _folder(source: str | Path, lang: str | None) -> Path:
    shipped = DATA / str(source) / (lang or "en")
    local = Path(os.environ.get("RETRIEVAL_LAB_DATA", "/nowhere")) / "beir" / str(source)
    for folder in (Path(source).expanduser(), shipped, local):
        if (folder / "corpus.jsonl").is_file():
            return folder
    raise FileNotFoundError(
        say(
            en=f"no collection {str(source)!r} (lang={lang!r}): looked for corpus.jsonl in {Path(source)}, {shipped} and {local}",
            zh=f"没有测试集 {str(source)!r}（lang={lang!r}）：在 {Path(source)}、{shipped}、{local} 里都找不到 corpus.jsonl",
        )
    )


def _document_text(row: dict) -> str:
    return f"{row['title']}\n{row['text']}" if row.get("title") else row["text"]


def _rows(path: Path) -> dict[str, dict]:
    """The records of a JSON lines file by their ``_id``."""
    rows: dict[str, dict] = {}
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as problem:
                en, zh = (
                    f"not JSON ({problem.msg} at column {problem.colno})",
                    f"不是 JSON（{problem.msg}，第 {problem.colno} 列）",
                )
                raise _broken(path, number, en, zh) from None
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("_id", "text")):
                raise _broken(
                    path, number, 'a record needs "_id" and "text", both strings', '记录要有字符串 "_id" 和 "text"'
                )
            if row["_id"] in rows:
                raise _broken(path, number, f"the id {row['_id']!r} stands twice", f"编号 {row['_id']!r} 出现两次")
            rows[row["_id"]] = row
    return rows


def _broken(path: Path, number: int, en: str, zh: str) -> ValueError:
    return ValueError(say(en=f"{path}:{number}: {en}; mend the line", zh=f"{path}:{number}：{zh}；改好这一行"))


def _read_qrels(folder: Path, split: str) -> dict[str, dict[str, int]]:
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
        raise FileNotFoundError(
            say(
                en=f"{folder.name} has no split {split!r}; it has {', '.join(there) or 'none'}",
                zh=f"{folder.name} 没有划分 {split!r}；有的是 {'、'.join(there) or '（无）'}",
            )
        )
    qrels: dict[str, dict[str, int]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            try:
                qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
            except (KeyError, TypeError, ValueError):
                columns = "query-id, corpus-id, score"
                en = f"expected a header and columns {columns} (a whole number), between tabs"
                raise _broken(path, number, en, f"要有表头和 {columns}（整数）三列，用制表符分隔") from None
    return qrels


def _collection(folder: Path, lang, split, corpus, rows, qrels) -> Collection:
    for query_id, judged in qrels.items():
        if query_id not in rows:
            raise ValueError(
                say(
                    en=f"{folder}: qrels/{split}.tsv judges query {query_id!r}, which queries.jsonl does not have",
                    zh=f"{folder}：qrels/{split}.tsv 里标注了查询 {query_id!r}，但 queries.jsonl 里没有它",
                )
            )
        if missing := [doc_id for doc_id in judged if doc_id not in corpus]:
            raise ValueError(
                say(
                    en=f"{folder}: qrels/{split}.tsv names document {missing[0]!r}, which corpus.jsonl does not have",
                    zh=f"{folder}：qrels/{split}.tsv 里提到文档 {missing[0]!r}，但 corpus.jsonl 里没有它",
                )
            )
    card = json.loads((folder / "card.json").read_text(encoding="utf-8")) if (folder / "card.json").is_file() else {}
    return Collection(
        name=card.get("name", folder.name),
        lang=lang or card.get("lang") or _guess_language(corpus),
        split=split,
        licence=card.get("licence", "unknown"),
        corpus=corpus,
        queries={query_id: rows[query_id]["text"] for query_id in qrels},
        qrels=qrels,
        relevant=card.get("relevant", 1),
        details={query_id: {k: v for k, v in rows[query_id].items() if k not in ("_id", "text")} for query_id in qrels},
    )


def _guess_language(corpus: dict[str, str]) -> str:
    sample = "".join(text[:200] for text in list(corpus.values())[:50])
    han = sum("\u4e00" <= char <= "\u9fff" for char in sample)
    return "zh" if han > len(sample) / 20 else "en"


def unanswerable(lang: str = "en", split: str = "test") -> dict[str, str]:
    """Questions of the shipped corpus that no passage answers (query_id -> text), for abstention in lesson 05."""
    rows = _rows(_folder("city_services", lang) / "queries.jsonl").values()
    return {row["_id"]: row["text"] for row in rows if row["type"] == "unanswerable" and row["split"] == split}


def _load_hub(name: str, lang: str | None, split: str) -> Collection:
    from datasets import load_dataset

    corpus = {row["_id"]: _document_text(row) for row in load_dataset(name, "corpus", split="corpus")}
    rows = {row["_id"]: row for row in load_dataset(name, "queries", split="queries")}
    qrels: dict[str, dict[str, int]] = {}
    for row in load_dataset(name, "default", split=split):
        qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return _collection(Path(name), lang, split, corpus, rows, qrels)


def glossary() -> list[dict[str, str]]:
    """The shipped corpus's official names and citizens' nicknames: rows of id, official_en, nickname_en, official_zh, nickname_zh."""
    with open(DATA / "city_services" / "glossary.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def pairs(collection: Collection):
    """Training pairs from a collection's judgements: a datasets.Dataset of ``query, positive``, one row a relevant document.

    Only documents with the best grade of their query count, so that a partial answer is not taught as the answer.
    """
    from datasets import Dataset

    rows = [
        {"query": collection.queries[query_id], "positive": collection.corpus[doc_id]}
        for query_id, judged in collection.qrels.items()
        for doc_id, grade in judged.items()
        if grade == max(judged.values()) and grade >= collection.relevant
    ]
    return Dataset.from_list(rows)
