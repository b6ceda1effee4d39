"""Each family of rerankers before and after fine-tuning, over the same candidates, and a large one distilled into a small one.

python benchmarks/rerankers.py train llm                trains a model that others need, if it is not there yet
python benchmarks/rerankers.py measure en cross llm     these rows; each is kept in runs/rerankers/
python benchmarks/rerankers.py measure zh               every row of a language that is not there yet
python benchmarks/rerankers.py write                    rerankers.md from what is there

Candidates come from lesson 01's fine-tuned retriever: its five best for the cross-encoder, as in the demo, its ten best for the
language models and the students. What a row needs is made first, so rows in processes of their
own want it there: measure `retriever`, then train `llm` and `head`, then the rest in any order. Settings are those of lessons
03 and 04; the learning rates and the weights of the LLMs' scores were chosen on the dev split, one seed.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rerankers_rows import (
    CITY,
    N_DEV,
    N_LABELS,
    N_LIST,
    N_TEST,
    N_TRAIN,
    PROFILE,
    PUBLIC,
    ROOM,
    ROWS,
    T2_CANDIDATES,
    T2_LENGTH,
    TRAINED,
    file,
    kept,
    public_task,
    row,
)
from run import machine

from retrieval_lab import corpora, demo, distill, fusion, metrics, profiles, reranking_tasks

HERE = Path(__file__).parent
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of an LLM's score beside the retriever's


def there(lang: str) -> dict[str, dict]:
    return {name: row(lang, name) for name in ROWS[lang] if file(lang, name).is_file()}


@dataclass(frozen=True)
class Values:
    """One system's metrics, query by query."""

    ndcg: np.ndarray
    mrr: np.ndarray

    def line(self, title: str, *bases: "Values | None") -> list[str]:
        cells = [title, f"{self.ndcg.mean():.3f}", f"{self.mrr.mean():.3f}"]
        for base in bases:
            cells += ["", ""] if base is None else difference(base.ndcg, self.ndcg)
        return cells


def difference(before: np.ndarray, after: np.ndarray) -> list[str]:
    low, high = metrics.paired_bootstrap(before, after)
    return [f"{after.mean() - before.mean():+.3f}", f"{low:+.3f} … {high:+.3f}"]


def values(collection, run: dict) -> Values:
    options = {"per_query": True, "relevant": collection.relevant}
    found = metrics.evaluate(
        collection.qrels, {q: run[q] for q in collection.queries}, ["nDCG@10", "MRR@10"], **options
    )
    return Values(found["nDCG@10"], found["MRR@10"])


def table(head: str, lines: list[list[str]]) -> str:
    names = head.split(" | ")
    rows = ["| " + " | ".join(cells) + " |" for cells in [names, *lines]]
    return "\n".join([rows[0], "|---" * len(names) + "|", *rows[1:]])


def cross_table(lang: str, rows: dict[str, dict]) -> str:
    test = corpora.load(CITY, lang)
    first = values(test, rows["retriever"]["runs"]["found"])
    lines = [first.line("retriever", None, None)]
    found: dict[tuple, Values] = {}
    for way, title in (("alone", "cross-encoder alone"), ("both", "retriever + cross-encoder")):
        for name, what in (("cross-original", "fresh head"), ("cross", "fine-tuned")):
            if name in rows:
                found[way, name] = values(test, rows[name]["runs"][way])
                before = found.get((way, "cross-original")) if name == "cross" else None
                lines.append(found[way, name].line(f"{title}, {what}", first, before))
    head = "system | nDCG@10 | MRR@10 | Δ retriever | 95 % interval | Δ fresh head | 95 % interval"
    return f"All {len(test.queries)} test queries, the first {demo.DEPTH} reranked.\n\n{table(head, lines)}"


READERS = {
    "llm-original": ("Yes/No, short prompt, original", None),
    "llm-prompt": ("Yes/No, instruction, original", "llm-original"),
    "llm": ("Yes/No, short prompt, fine-tuned", "llm-original"),
    "head-original": ("scalar head, original", None),
    "head": ("scalar head, fine-tuned", "head-original"),
}


def llm_table(rows: dict[str, dict]) -> str:
    """Each reader alone, then with the retriever, by the weight that was best on dev."""
    test, found = corpora.load(CITY, "en").sample(N_TEST), rows["retriever"]["runs"]["found"]
    first, alone = values(test, found), {}
    lines = [["the retriever's order", f"{first.ndcg.mean():.3f}", f"{first.mrr.mean():.3f}", *[""] * 6]]
    for name, (title, base) in READERS.items():
        if name in rows:
            runs = rows[name]["runs"]
            alone[name] = values(test, runs["test"])
            weight = best_weight(found, runs["dev"])
            both = values(test, mixed(found, runs["test"], weight))
            cells = alone[name].line(title, alone.get(base))
            lines.append([*cells, f"{weight}", f"{both.ndcg.mean():.3f}", *difference(first.ndcg, both.ndcg)])
    head = "reader | nDCG@10 | MRR@10 | Δ original | 95 % interval | weight | with the retriever | Δ retriever | 95 % interval"
    return table(head, lines)


def mixed(found: dict, scores: dict, weight: float) -> dict:
    return {q: fusion.interpolate(found[q], docs, weight) for q, docs in scores.items()}


def best_weight(found: dict, scores: dict) -> float:
    dev = corpora.load(CITY, "en", "dev").sample(N_DEV)
    return max(WEIGHTS, key=lambda weight: values(dev, mixed(found, scores, weight)).ndcg.mean())


STUDENTS = {
    "llm": "teacher: Yes/No, fine-tuned",
    "student-before": "before: MiniLM, fresh head",
    "student": "student of the teacher",
    "student-labels": "student on labels",
}


def distillation_table(rows: dict[str, dict]) -> str:
    test, lines = corpora.load(CITY, "en").sample(N_TEST), []
    teacher = rows["llm"]["runs"]["test"]
    start = values(test, rows["student-before"]["runs"]["test"])
    for name, title in STUDENTS.items():
        if name in rows:
            run = rows[name]["runs"]["test"]
            tau = distill.agreement(teacher, run)
            cells = values(test, run).line(title, None if name == "student-before" else start)
            follows = ["", ""] if name == "llm" else [f"{np.nanmean(tau):.2f}", f"{(1 + np.nanmean(tau)) / 2:.0%}"]
            lines.append([*cells, *follows, f"{4 * rows[name]['cost']['M weights']:.0f}"])
    head = "model | nDCG@10 | MRR@10 | Δ before | 95 % interval | τ | pairs in the teacher's order | MB"
    return table(head, lines)


T2_SYSTEMS = {
    "t2-original": ("e5-small, cosine", None),
    "t2-retriever": ("fine-tuned retriever, cosine", "t2-original"),
    "t2-cross-original": ("cross-encoder, fresh head", None),
    "t2-cross": ("cross-encoder, fine-tuned", "t2-cross-original"),
    "both": ("fine-tuned retriever + cross-encoder", "t2-retriever"),
}


def public_table(rows: dict[str, dict]) -> str:
    task, lines, found = public_task(), [], {}
    runs = {name: rows[name]["runs"]["test"] for name in T2_SYSTEMS if name in rows}
    if {"t2-retriever", "t2-cross"} <= set(runs):
        both = ((q, runs["t2-retriever"][q], runs["t2-cross"][q]) for q in task.candidates)
        temperature = PROFILE.temperature("zh")
        runs["both"] = {q: fusion.interpolate(one, two, demo.WEIGHT, temperature) for q, one, two in both}
    options = {"per_query": True, "relevant": task.collection.relevant}
    for name, run in runs.items():
        title, base = T2_SYSTEMS[name]
        measured = metrics.evaluate(task.collection.qrels, run, list(reranking_tasks.METRICS), **options)
        found[name] = measured["MAP"]
        means = [f"{measured[metric].mean():.3f}" for metric in reranking_tasks.METRICS]
        lines.append([title, *means, *(difference(found[base], found[name]) if base in found else ["", ""])])
    head = " | ".join(["system", *reranking_tasks.METRICS, "Δ MAP", "95 % interval"])
    return table(head, lines)


def sections() -> list[str]:
    found = {lang: there(lang) for lang in profiles.LANGUAGES}
    texts = [f"## {title}\n\n{overview(lang, found)}" for lang, title in (("en", "Overview"), ("zh", "一览"))]
    texts += [
        f"## Cross-encoder, {lang}: {PROFILE.encoder(lang)}\n\n{cross_table(lang, rows)}"
        for lang, rows in found.items()
        if "retriever" in rows
    ]
    if "retriever" in found["en"]:
        llms = f"{N_TEST} test queries, their ten candidates; LoRA on {N_TRAIN} rows, {ROOM} tokens."
        texts.append(f"## Language models, en: smollm2\n\n{llms}\n\n{llm_table(found['en'])}")
    if {"llm", "student-before"} <= set(found["en"]):
        lists = f"The same queries. Students saw {N_LABELS} lists of {N_LIST + 1}, with the teacher's scores or the corpus' grades."
        texts.append(f"## Distillation, en\n\n{lists}\n\n{distillation_table(found['en'])}")
    if set(T2_SYSTEMS) & set(found["zh"]):
        public = f"{T2_CANDIDATES} candidates a query, {T2_LENGTH} tokens. Nothing was trained on this collection."
        texts.append(f"## {PUBLIC}, zh: e5-small\n\n{public}\n\n{public_table(found['zh'])}")
    return texts


# row before, row after, which run of them, and what that is
FAMILIES = [
    (
        "cross-original",
        "cross",
        "alone",
        "cross-encoder alone: fresh head, fine-tuned",
        "只用交叉编码器：头未训练，微调后",
    ),
    ("retriever", "cross", "both", "retriever; with the fine-tuned cross-encoder", "检索器；加上微调后的交叉编码器"),
    ("llm-original", "llm", "test", "smollm2 Yes/No: original, LoRA", "smollm2 Yes/No：原模型，LoRA 微调后"),
    ("head-original", "head", "test", "smollm2, scalar head: original, LoRA", "smollm2 打分头：未训练，LoRA 微调后"),
    (
        "student-before",
        "student",
        "test",
        f"minilm cross-encoder: fresh head, after {N_LABELS} lists scored by the Yes/No model",
        f"minilm 交叉编码器：头未训练，用 Yes/No 模型打分的 {N_LABELS} 个列表训练后",
    ),
    (
        "student-before",
        "student-labels",
        "test",
        "minilm cross-encoder: fresh head, after the same lists with labels",
        "minilm 交叉编码器：头未训练，用同样列表的标注训练后",
    ),
]
HEADS = {
    "en": "reranker: before, after | text | queries | before | after | Δ nDCG@10 | 95 % interval",
    "zh": "重排器：微调前，微调后 | 语料 | 查询数 | 前 | 后 | Δ nDCG@10 | 95 % 置信区间",
}


def overview(language: str, found: dict[str, dict]) -> str:
    """Each family before and after fine-tuning."""
    lines = []
    for before, after, run, *titles in FAMILIES:
        for lang, rows in found.items():
            if {before, after} <= set(rows):
                test = corpora.load(CITY, lang).sample(N_TEST if run == "test" else None)
                first = rows[before]["runs"]["found" if before == "retriever" else run]
                one, two = (values(test, docs).ndcg for docs in (first, rows[after]["runs"][run]))
                means = [f"{len(test.queries)}", f"{one.mean():.3f}", f"{two.mean():.3f}"]
                title = titles[profiles.LANGUAGES.index(language)]
                lines.append([title, f"{CITY} {lang}", *means, *difference(one, two)])
    return table(HEADS[language], lines) if lines else "not measured yet"


def write() -> None:
    intro = f"# rerankers\n\n{machine()} One seed. Intervals: paired bootstrap over the queries."
    (HERE / "rerankers.md").write_text("\n\n".join([intro, *sections()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("train").add_argument("names", nargs="+", choices=TRAINED)
    measure = actions.add_parser("measure")
    measure.add_argument("lang", choices=profiles.LANGUAGES)
    measure.add_argument(
        "names", nargs="*", help="; ".join(f"{lang}: {', '.join(rows)}" for lang, rows in ROWS.items())
    )
    actions.add_parser("write")
    options = parser.parse_args()
    if options.action == "train":
        for name in options.names:
            print(name, kept(name))
    elif options.action == "measure":
        for name in options.names or ROWS[options.lang]:
            row(options.lang, name)
    else:
        write()
