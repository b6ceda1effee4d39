"""Each recipe of lesson 01b against the model it started from, on the shipped corpus and on one public collection a language.

python benchmarks/recipes.py measure en pairs      one row; its numbers are kept in runs/recipes.json
python benchmarks/recipes.py measure en            every row of a language that is not there yet (minutes)
python benchmarks/recipes.py write                 recipes.md from what is there

All recipes have the same 320 training queries, one epoch, batches of 16 and the learning rate of lesson 01. Nothing was tuned
on the test queries.
"""

import argparse
import gc
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from run import machine

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
    profiles,
)
from retrieval_lab.training import Config

HERE, KEPT = Path(__file__).parent, Path("runs/recipes.json")
N_QUERIES, SHORT = 320, 64
PROFILE = profiles.PROFILES["fast"]
INSTRUCTION = {"query": "Instruct: find the passage that answers the question\nQuery: ", "document": ""}


def config(lang: str, **changes) -> Config:
    plain = {"output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "max_seq_length": PROFILE.max_seq_length}
    return Config(**(plain | {"temperature": PROFILE.temperature(lang)} | changes))


def start(lang: str):
    return embedding.load(PROFILE.encoder(lang))


def triplets(lang: str) -> Dataset:
    return demo.training_data(lang).shuffle(seed=0).select(range(N_QUERIES))


def pairs(lang: str) -> Dataset:
    return triplets(lang).select_columns(["query", "positive"])


def scored(lang: str, score=None) -> Dataset:
    """Of each query every judged passage and one hard negative, with its grade, or what ``score`` gives the pair."""
    train = corpora.load("city_services", lang, "train")
    grades = {train.queries[q]: {train.corpus[d]: g for d, g in judged.items()} for q, judged in train.qrels.items()}
    rows = []
    for group, row in enumerate(triplets(lang)):
        docs = grades[row["query"]] | {row["negative_1"]: grades[row["query"]].get(row["negative_1"], 0)}
        rows += [{"query": row["query"], "document": d, "score": float(g), "group": group} for d, g in docs.items()]
    return Dataset.from_list(
        rows if score is None else [row | {"score": s} for row, s in zip(rows, score(rows), strict=True)]
    )


def preferences(rows: list[dict]) -> list[float]:
    """Mean log-probability that a language model gives to the query after the passage: what it would rather be asked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from retrieval_lab import models

    folder = models.resolve("smollm2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    scores = []
    with torch.inference_mode():
        for row in rows:
            context = tokenizer(row["document"], truncation=True, max_length=160)["input_ids"]
            question = tokenizer(f"\nQuestion: {row['query']}")["input_ids"]
            logits = model(torch.tensor([context + question])).logits[0, len(context) - 1 : -1]
            gold = torch.tensor(question).unsqueeze(1)
            scores.append(logits.log_softmax(-1).gather(1, gold).mean().item())
    return scores


def mined(lang: str) -> Dataset:
    """Negatives found by the untrained model and BM25; all judged answers are known."""
    train = corpora.load("city_services", lang, "train")
    known = mining.answers(train)
    return mining.mine_hard_negatives(start(lang), pairs(lang), list(train.corpus.values()), known=known)


def from_teacher(lang: str):
    """No label at all: the fine-tuned retriever's vectors of the training texts are the target."""
    rows = triplets(lang)
    model, folder = start(lang), Path(tempfile.mkdtemp())
    texts = list(dict.fromkeys(rows["positive"]))
    file = embedding_teachers.write(folder / "teacher.jsonl", demo.retriever(lang), rows["query"], texts, student=model)
    return embedding.train(model, formats.read(file, "teacher"), config(lang))


def decoder(lang: str):
    """SmolLM2, last-token pooling, LoRA on the upper ten of thirty layers, merged. English only: it has little Chinese."""
    model = embedding.load("smollm2", "lasttoken", prompts=INSTRUCTION)
    model.max_seq_length = 160
    llm_lora.add(model, config(lang, use_lora=True), upper_layers=10)
    rows = pairs(lang).select(range(N_QUERIES // 2))
    embedding.train(model, rows, config(lang, use_lora=True, learning_rate=5e-4, per_device_train_batch_size=16))
    return llm_lora.merge(model)


def untrained_decoder(lang: str):
    model = embedding.load("smollm2", "lasttoken", prompts=INSTRUCTION)
    model.max_seq_length = 160
    return model


# name -> (what it is, the function that makes the model, the row it is compared with)
RECIPES = {
    "original": ("as downloaded", start, None),
    "pairs": (
        "pairs, in-batch negatives",
        lambda lang: embedding.train(start(lang), pairs(lang), config(lang)),
        "original",
    ),
    "triplets": (
        "triplets, shipped hard negatives",
        lambda lang: embedding.train(start(lang), triplets(lang), config(lang)),
        "original",
    ),
    "mined": (
        "triplets, negatives mined and filtered",
        lambda lang: embedding.train(start(lang), mined(lang), config(lang)),
        "original",
    ),
    "kl": (
        "graded passages, KL within a query",
        lambda lang: embedding.train(start(lang), scored(lang), config(lang)),
        "original",
    ),
    "cosent": (
        "graded passages, CoSENT",
        lambda lang: embedding.train(start(lang), scored(lang), config(lang, loss_type="cosent")),
        "original",
    ),
    "preference": (
        "passages scored by a language model, KL",
        lambda lang: embedding.train(start(lang), scored(lang, preferences), config(lang), teacher_temperature=0.2),
        "original",
    ),
    "teacher": ("a teacher's vectors, no labels", from_teacher, "original"),
    "mrl": (
        "triplets, Matryoshka 32 to 384",
        lambda lang: embedding.train(start(lang), triplets(lang), config(lang, mrl_dims=[32, 64, 128, 384])),
        "original",
    ),
    "mrl-e": (
        "triplets, Matryoshka with a head",
        lambda lang: embedding.train(
            matryoshka.add_head(start(lang), 384), triplets(lang), config(lang, mrl_dims=[32, 64, 128, 384])
        ),
        "original",
    ),
    "decoder-original": ("SmolLM2, last token, as downloaded", untrained_decoder, None),
    "decoder": ("SmolLM2, last token, LoRA on half the pairs", decoder, "decoder-original"),
}
ENGLISH_ONLY = {"preference", "decoder", "decoder-original"}


def small(collection, n_docs: int = 1000):
    """All judged documents and the first others up to ``n_docs``: an easier search, but the same for every model."""
    judged = {d for judged in collection.qrels.values() for d in judged}
    others = [d for d in collection.corpus if d not in judged][: max(0, n_docs - len(judged))]
    return replace(collection, corpus={d: t for d, t in collection.corpus.items() if d in judged or d in others})


def ndcg(model, collection, dim: int | None = None) -> list[float]:
    from retrieval_lab import search

    with model.truncate_embeddings(dim):
        run = search.Dense(model, collection).search(collection.queries, 10)
    return metrics.evaluate(collection.qrels, run, ["nDCG@10"], per_query=True)["nDCG@10"].round(5).tolist()


def measure(lang: str, name: str) -> None:
    city = corpora.load("city_services", lang)
    if name.startswith("decoder"):  # ten times the work of the others: only the passages of the test families
        city = small(city, 0)
    begin = time.perf_counter()
    model = RECIPES[name][1](lang)
    found = {"seconds": round(time.perf_counter() - begin), "city": ndcg(model, city)}
    if name in ("original", "triplets", "mrl", "mrl-e"):
        found[f"city@{SHORT}"] = ndcg(model, city, SHORT)
    keep(lang, name, found)


def public(lang: str) -> dict[str, object]:
    source = {"en": "scifact", "zh": "tldr-zh"}[lang]
    return {split: corpora.load(source, lang, split) for split in ("train", "test")}


def measure_public(lang: str, name: str) -> None:
    """Pairs of the public collection itself; or what training on the city's questions did to it, with and without averaging."""
    splits = public(lang)
    tuned = {
        "public-original": lambda: start(lang),
        "public-pairs": lambda: embedding.train(
            start(lang), corpora.pairs(splits["train"]).select(range(N_QUERIES)), config(lang)
        ),
        "public-after-city": lambda: demo.retriever(lang),
        "public-average": lambda: embedding.average([start(lang), demo.retriever(lang)]),
    }
    begin = time.perf_counter()
    model = tuned[name]()
    found = {"seconds": round(time.perf_counter() - begin), "public": ndcg(model, small(splits["test"]))}
    if name in ("public-after-city", "public-average"):
        found["city"] = ndcg(model, corpora.load("city_services", lang))
    keep(lang, name, found)


PUBLIC = ("public-original", "public-pairs", "public-after-city", "public-average")


def keep(lang: str, name: str, found: dict) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    kept = read()
    kept.setdefault(lang, {})[name] = found
    KEPT.write_text(json.dumps(kept), encoding="utf-8")
    print(
        lang,
        name,
        found["seconds"],
        {k: round(float(np.mean(v)), 3) for k, v in found.items() if k != "seconds"},
        flush=True,
    )


def read() -> dict:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


def wanted(lang: str) -> list[str]:
    own = [name for name in RECIPES if lang == "en" or name not in ENGLISH_ONLY]
    there = (Path(__import__("os").environ.get("RETRIEVAL_LAB_DATA", "/nowhere")) / "beir").is_dir()
    return own + (list(PUBLIC) if there else [])


def measure_all(lang: str, names: list[str]) -> None:
    for name in names or [name for name in wanted(lang) if name not in read().get(lang, {})]:
        (measure_public if name in PUBLIC else measure)(lang, name)
        gc.collect()


def difference(before: list[float], after: list[float]) -> str:
    low, high = metrics.paired_bootstrap(np.array(before), np.array(after))
    return f"{np.mean(after) - np.mean(before):+.3f} | {low:+.3f} … {high:+.3f}"


def line(title: str, rows: dict, name: str, key: str, base: str | None) -> str:
    """One row of a table; the base may lie under another key, e.g. the original at 64 dimensions under its own."""
    values = rows[name][key]
    against = difference(rows[base][key], values) if base in rows else " | "
    return f"| {title} | {np.mean(values):.3f} | {against} | {rows[name]['seconds']} |"


HEADER = "| {} | nDCG@10 | Δ | 95 % interval | s |\n|---|---|---|---|---|"


def section(lang: str, rows: dict) -> str:
    text = [
        f"## {lang}: {PROFILE.encoder(lang)}, city_services, {N_QUERIES} training queries\n",
        HEADER.format("recipe"),
    ]
    text += [line(t, rows, name, "city", base) for name, (t, _, base) in RECIPES.items() if name in rows]
    text += [f"\nThe first {SHORT} of 384 dimensions:\n", HEADER.format("recipe")]
    short = [name for name in RECIPES if f"city@{SHORT}" in rows.get(name, {})]
    text += [line(RECIPES[name][0], rows, name, f"city@{SHORT}", RECIPES[name][2]) for name in short]
    if "public-original" in rows:
        source = {"en": "SciFact", "zh": "tldr-zh"}[lang]
        titles = [
            "as downloaded",
            f"pairs of {source}",
            "trained on the city's 840 triplets",
            "average of the two: as downloaded, and trained on the city",
        ]
        text += [f"\n{source}, judged documents and others up to 1,000:\n", HEADER.format("model")]
        text += [
            line(t, rows, n, "public", None if n == "public-original" else "public-original")
            for n, t in zip(PUBLIC, titles, strict=True)
            if n in rows
        ]
        both = {"original": rows["original"]} | {n: rows[n] for n in PUBLIC if "city" in rows.get(n, {})}
        text += ["\nThe same two models on city_services:\n", HEADER.format("model")]
        text += [line(t, both, n, "city", "original") for n, t in zip(PUBLIC, titles, strict=True) if n in both]
    return "\n".join(text)


def write() -> None:
    intro = f"# recipes\n\n{machine()} One seed. Δ and interval (paired bootstrap over test queries) are against the model that each row started from; s is the training time, teacher and mining included. SmolLM2 searches only the passages of the test families.\n"
    (HERE / "recipes.md").write_text(
        "\n".join([intro, *(section(*item) + "\n" for item in sorted(read().items()))]), encoding="utf-8"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "write"])
    parser.add_argument("lang", choices=profiles.LANGUAGES, nargs="?")
    parser.add_argument("names", nargs="*", help=", ".join([*RECIPES, *PUBLIC]))
    options = parser.parse_args()
    write() if options.action == "write" else measure_all(options.lang, options.names)
