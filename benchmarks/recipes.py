"""Each recipe of lesson 01b against the model it started from, on the shipped corpus and on one public collection a language.

python benchmarks/recipes.py measure en city pairs kl     these rows; each is kept in runs/recipes/, with what it was made from
python benchmarks/recipes.py measure zh public            every row of a part that is not there yet
python benchmarks/recipes.py write                        recipes.md from what is there

All have the same 320 training queries, one epoch and one seed, and unless the row says otherwise the learning rate and batches of
lesson 01. Nothing was tuned on test queries; the temperatures of grades and of preferences were chosen on the dev split, and so were LoRA's learning rate and CoSENT's random passage (English dev: .541
without, .567 with one, .556 with three).
"""

import argparse
import functools
import gc
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from run import machine
from transformers import set_seed

from retrieval_lab import (
    corpora,
    demo,
    embedding,
    embedding_teachers,
    formats,
    llm_lora,
    matryoshka,
    metrics,
    mining,
    preferences,
    profiles,
    search,
)
from retrieval_lab.training import Config

HERE, KEPT = Path(__file__).parent, Path("runs/recipes")
PARTS = ("city", "public", "forgetting")
SOURCES = {"en": "scifact", "zh": "tldr-zh"}  # the public collection of each language
N_QUERIES, N_DOCS, SHORT = 320, 800, 64
PROFILE = profiles.PROFILES["fast"]
DIMS = [32, 64, 128, 384]
LORA_RATE = 6e-4
INSTRUCTION = {"query": "Instruct: find the passage that answers the question\nQuery: ", "document": ""}


class Task:
    """A language's training and test data, from the shipped corpus or the public one."""

    def __init__(self, lang: str, part: str):
        self.lang, self.public = lang, part == "public"
        source = SOURCES[lang] if self.public else "city_services"
        self.train, self.test = (corpora.load(source, lang, split) for split in ("train", "test"))
        if self.public:  # thousands of abstracts would take an hour
            self.train, self.test = small(self.train), small(self.test)

    def start(self):
        return embedding.load(PROFILE.encoder(self.lang))

    def config(self, **changes) -> Config:
        plain = {"output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "max_seq_length": PROFILE.max_seq_length}
        return Config(**(plain | {"temperature": PROFILE.temperature(self.lang)} | changes))

    def rows(self) -> Dataset:
        """Shipped triplets; the public collections have pairs only."""
        data = corpora.pairs(self.train) if self.public else demo.training_data(self.lang)
        return data.shuffle(seed=0).select(range(N_QUERIES))

    def pairs(self) -> Dataset:
        return self.rows().select_columns(["query", "positive"])

    @functools.cached_property
    def mined(self) -> Dataset:
        """Negatives found by the untrained model and BM25; all judged answers are known."""
        known = mining.answers(self.train)
        return mining.mine_hard_negatives(self.start(), self.pairs(), list(self.train.corpus.values()), known=known)

    @functools.cached_property
    def trained_on_all(self):
        """A model that was trained on all pairs."""
        if self.public:
            return embedding.train(self.start(), corpora.pairs(self.train), self.config())
        return demo.retriever(self.lang)

    def scored(self, score=None, n_random: int = 0) -> Dataset:
        """Of each query every judged passage, one hard negative and ``n_random`` others; grades 0 to 3, or what ``score`` gives."""
        top = max(grade for judged in self.train.qrels.values() for grade in judged.values())
        grades = {
            self.train.queries[q]: {self.train.corpus[d]: 3 * grade / top for d, grade in judged.items()}
            for q, judged in self.train.qrels.items()
        }
        rows, rng, corpus = [], random.Random(0), list(self.train.corpus.values())
        for group, row in enumerate(self.mined if self.public else self.rows()):
            documents = dict.fromkeys([row["negative_1"], *rng.sample(corpus, n_random)], 0.0) | grades[row["query"]]
            rows += [{"query": row["query"], "document": d, "score": g, "group": group} for d, g in documents.items()]
        scores = [row["score"] for row in rows] if score is None else score(rows)
        return Dataset.from_list([row | {"score": s} for row, s in zip(rows, scores, strict=True)])


def small(collection, n_docs: int = N_DOCS):
    """All judged documents and the first others up to ``n_docs``: an easier search, but the same for every model."""
    judged = {d for judged in collection.qrels.values() for d in judged}
    others = [d for d in collection.corpus if d not in judged][: max(0, n_docs - len(judged))]
    return replace(collection, corpus={d: t for d, t in collection.corpus.items() if d in {*judged, *others}})


def preferred(rows: list[dict]) -> list[float]:
    """What SmolLM2 would rather be asked after each passage."""
    return preferences.score(*preferences.load("smollm2"), [(row["query"], row["document"]) for row in rows]).tolist()


def from_teacher(task: Task):
    """No label: the target are the vectors of a model that was trained on all pairs."""
    model = task.start()
    return embedding.train(model, formats.read(vectors_of(task, task.trained_on_all, model), "teacher"), task.config())


def from_two(task: Task):
    """The same teacher and, beside it, the model before any training: what to learn, and what to keep."""
    model = task.start()
    files = [vectors_of(task, teacher, model).with_suffix(".memmap") for teacher in (task.trained_on_all, task.start())]
    lines = files[0].with_suffix(".jsonl")
    both = embedding_teachers.concatenate(files, files[0].with_name("both.memmap"))
    data = formats.read(lines.rename(both.with_suffix(".jsonl")), "teacher")
    # 768 dims against 384: no cosine term
    return embedding.train(model, data, task.config(), weights={"structure": 200, "triplet": 20})


def vectors_of(task: Task, teacher, student) -> Path:
    """A training file of the teacher's vectors for the queries and their answers."""
    rows, file = task.rows(), Path(tempfile.mkdtemp()) / "teacher.jsonl"
    texts = list(dict.fromkeys(rows["positive"]))
    return embedding_teachers.write(file, teacher, rows["query"], texts, student=student)


def untrained_decoder(pooling: str = "weightedmean"):
    model = embedding.load("smollm2", pooling, prompts=INSTRUCTION)
    model.max_seq_length = 160
    return model


def decoder(task: Task):
    """LoRA on the upper ten of thirty layers, merged. English only: SmolLM2 has little Chinese."""
    config = task.config(use_lora=True, learning_rate=LORA_RATE, per_device_train_batch_size=8)
    set_seed(config.seed)
    model = llm_lora.add(untrained_decoder(), config, upper_layers=10)
    return llm_lora.merge(embedding.train(model, task.pairs(), config))


def fit(task: Task, data: Dataset, **changes):
    return embedding.train(task.start(), data, task.config(**changes))


# name -> (what it is, task -> model)
RECIPES = {
    "original": ("as downloaded", Task.start),
    "pairs": ("pairs, in-batch negatives", lambda t: fit(t, t.pairs())),
    "triplets": ("triplets, shipped hard negatives", lambda t: fit(t, t.rows())),
    "mined": ("triplets, negatives mined and filtered", lambda t: fit(t, t.mined)),
    "kl": (
        "graded passages, KL within a query, teacher_temperature 0.25",
        lambda t: fit(t, t.scored(), teacher_temperature=0.25),
    ),
    "cosent": (
        "graded passages and a random one, CoSENT",
        lambda t: fit(t, t.scored(n_random=1), loss_type="cosent"),
    ),
    "preference": (
        "passages scored by SmolLM2's preference, KL, teacher_temperature 0.1",
        lambda t: fit(t, t.scored(preferred), teacher_temperature=0.1),
    ),
    "teacher": ("a teacher's vectors, no labels", from_teacher),
    "teachers": ("the vectors of two teachers: that one and the model before training", from_two),
    "mrl": ("as pairs or triplets, Matryoshka 32 to 384", lambda t: fit(t, t.rows(), mrl_dims=DIMS)),
    "mrl-e": (
        "the same, Matryoshka with a head",
        lambda t: embedding.train(matryoshka.add_head(t.start(), 384), t.rows(), t.config(mrl_dims=DIMS)),
    ),
    "last-token": ("SmolLM2, last token, as downloaded", lambda t: untrained_decoder("lasttoken")),
    "decoder-original": ("SmolLM2, weighted mean, as downloaded", lambda t: untrained_decoder()),
    "decoder": ("SmolLM2, weighted mean, pairs, LoRA on the upper ten layers", decoder),
}
FORGETTING = {
    "city-tuned": ("trained on the city's 840 triplets", lambda t: demo.retriever(t.lang)),
    "average": ("half of each", lambda t: embedding.average([t.start(), demo.retriever(t.lang)])),
}
SMOLLM2 = {"last-token", "decoder-original", "decoder"}  # as encoder
ENGLISH_ONLY = {"preference", *SMOLLM2}
CITY_ONLY = {"triplets"}


def names(lang: str, part: str) -> list[str]:
    if part == "forgetting":
        return list(FORGETTING)
    left_out = (CITY_ONLY if part == "public" else set()) | (ENGLISH_ONLY if lang == "zh" else set())
    return [name for name in RECIPES if name not in left_out]


def ndcg(model, collection, dim: int | None = None) -> list[float]:
    """nDCG@10 of each test query."""
    with model.truncate_embeddings(dim):
        run = search.Dense(model, collection).search(collection.queries, 10)
    return metrics.evaluate(collection.qrels, run, ["nDCG@10"], per_query=True)["nDCG@10"].round(5).tolist()


def measure(task: Task, part: str, name: str) -> dict:
    model = (RECIPES | FORGETTING)[name][1](task)
    # SmolLM2 takes ten times as long as the others: it searches only the passages of the test families.
    tests = {"test": small(task.test, 0) if name in SMOLLM2 else task.test}
    if part == "forgetting":
        tests["public"] = Task(task.lang, "public").test
    values = {key: ndcg(model, collection) for key, collection in tests.items()}
    if part == "city" and name in ("original", "triplets", "mrl", "mrl-e"):
        values[f"first {SHORT}"] = ndcg(model, task.test, SHORT)
    card = getattr(model, "lab_card", {})
    made = {key: card.get(key) for key in ("when", "loss", "rows", "steps", "data_hash", "config", "versions")}
    return {"ndcg": values, "made": made}


def measure_all(lang: str, part: str, chosen: list[str]) -> None:
    task = Task(lang, part)
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in chosen or [n for n in names(lang, part) if not file(lang, part, n).is_file()]:
        if name not in names(lang, part):
            raise SystemExit(f"{name!r} is not measured for {lang} {part}; choose from {', '.join(names(lang, part))}")
        row = measure(task, part, name)
        file(lang, part, name).write_text(json.dumps(row), encoding="utf-8")
        means = {key: round(float(np.mean(values)), 3) for key, values in row["ndcg"].items()}
        print(lang, part, name, means, flush=True)
        gc.collect()


def file(lang: str, part: str, name: str) -> Path:
    return KEPT / f"{lang}.{part}.{name}.json"


def read(lang: str, part: str) -> dict[str, dict]:
    files = {name: file(lang, part, name) for name in names(lang, part)}
    return {name: json.loads(f.read_text(encoding="utf-8")) for name, f in files.items() if f.is_file()}


def line(title: str, row: dict, base: dict | None, key: str = "test", base_key: str | None = None) -> str:
    values, against = np.array(row["ndcg"][key]), " | "
    if base is not None and base is not row:
        before = np.array(base["ndcg"][base_key or key])
        low, high = metrics.paired_bootstrap(before, values)
        against = f"{values.mean() - before.mean():+.3f} | {low:+.3f} … {high:+.3f}"
    return f"| {title} | {values.mean():.3f} | {against} |"


def table(caption: str, lines: list[str]) -> str:
    if not lines:
        return f"{caption} not measured yet."
    return "\n".join([f"{caption}\n", "| recipe | nDCG@10 | Δ | 95 % interval |", "|---|---|---|---|", *lines])


def started_from(name: str, rows: dict[str, dict]) -> dict | None:
    """The row of the model before training; None for those rows themselves."""
    if name in ("original", "decoder-original", "last-token"):
        return None
    return rows.get("decoder-original" if name == "decoder" else "original")


def section(lang: str) -> str:
    city, public, forgetting = (read(lang, part) for part in PARTS)
    start = city.get("original")
    blocks = [f"## {lang}: {PROFILE.encoder(lang)}"]
    lines = [line(RECIPES[n][0], row, started_from(n, city)) for n, row in city.items()]
    blocks.append(table(f"city_services, {N_QUERIES} training queries:", lines))
    short = f"first {SHORT}"
    lines = [line(RECIPES[n][0], row, start, short) for n, row in city.items() if short in row["ndcg"]]
    blocks.append(table(f"The same, cut to the first {SHORT} of 384 dimensions:", lines))
    lines = [line(RECIPES[n][0], row, started_from(n, public)) for n, row in public.items()]
    rest = f"{N_QUERIES} training queries, judged documents and others up to {N_DOCS}"
    blocks.append(table(f"{SOURCES[lang]}, {rest}:", lines))
    for key, base, where in [("test", start, "city_services"), ("public", public.get("original"), SOURCES[lang])]:
        lines = [line(FORGETTING[n][0], row, base, key, "test") for n, row in forgetting.items()]
        lines = [line("as downloaded", base, None), *lines] if base and lines else lines
        blocks.append(table(f"What training on the city does to {where}:", lines))
    return "\n\n".join(blocks) + "\n"


CHINESE = {
    "original": "下载后未微调",
    "pairs": "文本对，批内负例",
    "triplets": "三元组，自带的难负例",
    "mined": "三元组，挖掘并过滤的难负例",
    "kl": "带等级的文档，查询内 KL",
    "cosent": "带等级的文档加一篇随机的，CoSENT",
    "preference": "用 SmolLM2 的偏好打分，KL",
    "teacher": "教师的向量，不用标签",
    "teachers": "两位教师的向量：上面那位和训练前的模型自己",
    "mrl": "同上面的三元组（公开数据上是文本对），套娃表示，32 到 384 维",
    "mrl-e": "同上，带输出头的套娃表示",
    "last-token": "SmolLM2，取最后一个词元，下载后未微调",
    "decoder-original": "SmolLM2，加权平均，下载后未微调",
    "decoder": "SmolLM2，加权平均，文本对，LoRA 只加在最上面十层",
}
COLUMNS = [("en", "city"), ("zh", "city"), ("en", "public"), ("zh", "public")]


def overview(lang: str) -> str:
    """One row a recipe: nDCG@10 of the start, then what each recipe adds to it, with its interval."""
    rows = {column: read(*column) for column in COLUMNS}
    heads = ["city_services en", "city_services zh", SOURCES["en"], SOURCES["zh"]]
    lines = [f"| {'办法' if lang == 'zh' else 'recipe'} | {' | '.join(heads)} |", "|---" * 5 + "|"]
    for name, (title, _) in RECIPES.items():
        cells = [cell(rows[column], name) for column in COLUMNS]
        if any(cells):
            lines.append(f"| {CHINESE[name] if lang == 'zh' else title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(rows: dict[str, dict], name: str) -> str:
    if base := started_from(name, rows):
        return change(rows.get(name), base)
    return f"{np.mean(rows[name]['ndcg']['test']):.3f}" if name in rows else ""


def change(after: dict | None, before: dict | None) -> str:
    """ "+.063 (+.047 … +.079)", or nothing where one is not measured yet."""
    if after is None or before is None:
        return ""
    values, base = (np.array(row["ndcg"]["test"]) for row in (after, before))
    low, high = metrics.paired_bootstrap(base, values)
    return f"{values.mean() - base.mean():+.3f} ({low:+.3f} … {high:+.3f})"


def write() -> None:
    intro = (
        f"# recipes\n\n{machine()} One seed. Δ and its interval (paired bootstrap over the test queries) are against the model that the "
        "row started from. SmolLM2, ten times as slow, searches only the passages of the test families, on SciFact only the judged abstracts."
    )
    tables = [f"## {title}\n\n{overview(lang)}" for lang, title in (("en", "Overview"), ("zh", "一览"))]
    text = "\n\n".join([intro, *tables, *(section(lang) for lang in profiles.LANGUAGES)])
    (HERE / "recipes.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "write"])
    parser.add_argument("lang", choices=profiles.LANGUAGES, nargs="?")
    parser.add_argument("part", choices=PARTS, nargs="?")
    parser.add_argument("names", nargs="*", help=", ".join([*RECIPES, *FORGETTING]))
    options = parser.parse_args()
    if options.action == "write":
        write()
    elif options.lang and options.part:
        measure_all(options.lang, options.part, options.names)
    else:
        parser.error("measure needs a language and a part, e.g. measure en city")
