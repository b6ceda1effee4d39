"""One vector a token against one vector a text: untrained, fine-tuned in two ways, compressed. Writes colbert.md.

python benchmarks/colbert.py                        every row that is not there yet, of every collection
python benchmarks/colbert.py en city                of one: en or zh, city or public
python benchmarks/colbert.py zh public distilled    these rows, again

Each row is kept in runs/colbert/ as soon as it is measured, so an interrupted run goes on where it was. Collections, settings and
training queries are those of recipes.py; one epoch, one seed, nothing was chosen on test queries.
"""

import argparse
import functools
import gc
import json
import random
from pathlib import Path

import numpy as np
import recipes
from datasets import Dataset
from run import machine

from retrieval_lab import colbert, demo, embedding, lexical, metrics, profiles, reranker, search
from retrieval_lab.token_stores import Compressed

KEPT = Path("runs/colbert")
PARTS = ("city", "public")
LISTED = 4  # documents of a teacher's list


class Task(recipes.Task):
    """The recipes' data, with a one-vector model that saw all training rows and a teacher."""

    @functools.cached_property
    def tuned(self):
        """The city's is kept from lesson 01; a public one learns from as many queries as the token vectors."""
        return embedding.train(self.start(), self.pairs(), self.config()) if self.public else demo.retriever(self.lang)

    def triplets(self) -> Dataset:
        return self.mined if self.public else self.rows()

    def lists(self) -> Dataset:
        """The answer, BM25's best others and one at random, scored by the teacher.

        Half of the queries, so as many documents as in the triplets. Without the random one the model forgets what is far apart.
        """
        rows, rng, corpus = self.rows().select(range(recipes.N_QUERIES // 2)), random.Random(0), self.train.corpus
        run = lexical.BM25(self.train).search({query: query for query in rows["query"]}, 2 * LISTED)
        lists = []
        for query, positive in zip(rows["query"], rows["positive"], strict=True):
            near = list(dict.fromkeys([positive, *(corpus[d] for d in run[query])]))[: LISTED - 1]
            documents = list(dict.fromkeys([*near, *rng.sample(list(corpus.values()), 1)]))
            lists += [(query, documents)] if len(documents) == LISTED else []
        scores = iter(self.teacher([(query, document) for query, documents in lists for document in documents]))
        columns = [f"document_{place}" for place in range(1, LISTED + 1)]
        return Dataset.from_list(
            [
                {
                    "query": query,
                    **dict(zip(columns, documents, strict=True)),
                    "label": [float(next(scores)) for _ in columns],
                }
                for query, documents in lists
            ]
        )

    def teacher(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """Logits: the one vector's cosine over its temperature, and in the city half of lesson 03's cross-encoder, as in the demo."""
        queries, documents = (list(side) for side in zip(*pairs, strict=True))
        cosines = (embedding.encode(self.tuned, queries, "query") * embedding.encode(self.tuned, documents)).sum(axis=1)
        logits = cosines / recipes.PROFILE.temperature(self.lang)
        return logits if self.public else (logits + reranker.score(demo.reranker(self.lang), pairs)) / 2


def untrained(task: Task):
    return colbert.load(recipes.PROFILE.encoder(task.lang))


def distilled(task: Task):
    """As many documents a step as with triplets; the temperature sharpens the teacher's lists, which are closer than the model's."""
    settings = {"loss_type": "distill", "teacher_temperature": 0.25, "per_device_train_batch_size": 8}
    return colbert.train(untrained(task), task.lists(), task.config(**settings))


# name -> (what it is, the row that it is compared with, task -> model)
ROWS = {
    "one": ("one vector, as downloaded", None, Task.start),
    "one-tuned": ("one vector, fine-tuned", "one", lambda t: t.tuned),
    "untrained": ("token vectors, untrained", "one", untrained),
    "hard": (
        "token vectors, fine-tuned with in-batch and hard negatives",
        "untrained",
        lambda t: colbert.train(untrained(t), t.triplets(), t.config()),
    ),
    "2-bit": ("the same, compressed to 2 bits a dimension", "hard", None),  # measured with "hard", whose model it is
    "distilled": ("token vectors, fine-tuned by distillation", "untrained", distilled),
}


def measure(task: Task, name: str) -> dict[str, dict]:
    """The row; with "hard" the compressed one too."""
    model = ROWS[name][2](task)
    if name in ("one", "one-tuned"):
        dense = search.Dense(model, task.test)
        return {name: row(task, dense, dense.vectors.nbytes / 1e6)}
    index = search.LateInteraction(model, task.test)
    found = {name: row(task, index, index.megabytes)}
    if name == "hard":
        small = search.LateInteraction(model, task.test, store=Compressed.of(index.store, bits=2))
        found["2-bit"] = row(task, small, small.megabytes)
    return found


def row(task: Task, system, megabytes: float) -> dict:
    run = system.search(task.test.queries, 10)
    values = metrics.evaluate(task.test.qrels, run, ["nDCG@10"], per_query=True)["nDCG@10"]
    return {"ndcg": {"test": values.round(5).tolist()}, "MB": megabytes}


def measure_all(lang: str, part: str, chosen: list[str]) -> None:
    missing = [name for name in ROWS if not file(lang, part, name).is_file()]
    wanted = dict.fromkeys("hard" if name == "2-bit" else name for name in chosen or missing)
    task = Task(lang, part) if wanted else None
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        for key, values in measure(task, name).items():
            file(lang, part, key).write_text(json.dumps(values), encoding="utf-8")
            print(lang, part, key, round(float(np.mean(values["ndcg"]["test"])), 3), flush=True)
        gc.collect()


def file(lang: str, part: str, name: str) -> Path:
    return KEPT / f"{lang}.{part}.{name}.json"


def read(lang: str, part: str) -> dict[str, dict]:
    files = {name: file(lang, part, name) for name in ROWS}
    return {name: json.loads(f.read_text(encoding="utf-8")) for name, f in files.items() if f.is_file()}


def section(lang: str, part: str) -> str:
    rows = read(lang, part)
    if not rows:
        return ""
    source = recipes.SOURCES[lang] if part == "public" else "city_services"
    lines = [
        f"## {source}, {lang}: {recipes.PROFILE.encoder(lang)}\n",
        "| | nDCG@10 | Δ | 95 % interval | MB |",
        "|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        start = recipes.line(ROWS[name][0], found, rows.get(ROWS[name][1])).rstrip("|").rstrip()
        lines.append(f"{start} | {found['MB']:.1f} |")
    if {"one-tuned", "hard"} <= set(rows):
        change = recipes.change(rows["hard"], rows["one-tuned"])
        lines.append(f"\nFine-tuned token vectors with hard negatives against the fine-tuned one vector: {change}.")
    return "\n".join(lines)


CHINESE = {
    "one": "每段文本一个向量，下载后未微调",
    "one-tuned": "每段文本一个向量，微调后",
    "untrained": "每个词元一个向量，未微调",
    "hard": "每个词元一个向量，用批内负例和难负例微调",
    "2-bit": "同上，每维压缩到 2 比特",
    "distilled": "每个词元一个向量，蒸馏",
}


def overview(lang: str) -> str:
    """One row a model: nDCG@10 on each collection that is measured."""
    heads = zip(recipes.COLUMNS, ["city_services en", "city_services zh", *recipes.SOURCES.values()], strict=True)
    rows = {head: found for column, head in heads if (found := read(*column))}
    lines = [f"| {'向量' if lang == 'zh' else 'vectors'} | {' | '.join(rows)} |", "|---" * (1 + len(rows)) + "|"]
    for name, (title, _, _) in ROWS.items():
        cells = [f"{np.mean(found[name]['ndcg']['test']):.3f}" if name in found else "" for found in rows.values()]
        lines.append(f"| {CHINESE[name] if lang == 'zh' else title} | {' | '.join(cells)} |")
    words = ("token vectors against one, both fine-tuned", "微调后，词元向量比一个向量")
    cells = [recipes.change(found.get("hard"), found.get("one-tuned")) for found in rows.values()]
    return "\n".join([*lines, f"| {words[lang == 'zh']} | {' | '.join(cells)} |"])


def write() -> None:
    """colbert.md from what is there."""
    intro = (
        f'# colbert\n\n{machine()} One seed, one epoch, {recipes.N_QUERIES} training queries; only the city\'s "one vector, fine-tuned" is '
        "lesson 01's, from all 840 (from as few: recipes.md). Times are in lesson 02. The public collections are cut to the judged "
        f"documents and others up to {recipes.N_DOCS}. Distillation: {recipes.N_QUERIES // 2} queries with {LISTED} documents each, scored by the "
        "fine-tuned one vector, in the city together with lesson 03's cross-encoder; teacher_temperature 0.25, chosen on English dev. Δ with its interval (paired bootstrap over the test queries): "
        "fine-tuned one vector and untrained token vectors against one vector as downloaded, fine-tuned token vectors against "
        "untrained ones, compressed ones against the row above."
    )
    tables = [f"## {title}\n\n{overview(lang)}" for lang, title in (("en", "Overview"), ("zh", "一览"))]
    sections = [section(lang, part) for part in PARTS for lang in profiles.LANGUAGES]
    (recipes.HERE / "colbert.md").write_text(
        "\n\n".join([intro, *tables, *filter(None, sections)]) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lang", choices=profiles.LANGUAGES, nargs="?")
    parser.add_argument("part", choices=PARTS, nargs="?")
    parser.add_argument("names", nargs="*", help=", ".join(ROWS))
    options = parser.parse_args()
    if unknown := set(options.names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    for lang in [options.lang] if options.lang else profiles.LANGUAGES:
        for part in [options.part] if options.part else PARTS:
            measure_all(lang, part, options.names)
            write()
