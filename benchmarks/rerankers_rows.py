"""The models of rerankers.py and their scores: one function a row, each kept as JSON in runs/rerankers/, trained models as folders beside it."""

import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieval_lab import (
    corpora,
    demo,
    distill,
    embedding,
    formats,
    lexical,
    llm,
    llm_lora,
    llm_scalar,
    profiles,
    reranker,
    reranking_tasks,
    search,
    training,
)

KEPT = Path("runs/rerankers")
CITY, PUBLIC = "city_services", "t2ranking-100"
PROFILE = profiles.PROFILES["fast"]
TEN = 10
N_TEST, N_DEV, N_TRAIN = 100, 30, 192  # queries that the LLM reads: at six pairs a second it takes hours for all
ROOM = 72  # tokens of an LLM's prompt
N_LABELS, SHARD = 280, 140  # training queries that the teacher labels, and how many of them in one row
N_LIST = 3  # candidates of a list that the teacher labels, drawn from the ten; a passage drawn from all is added
T2_LENGTH, T2_CANDIDATES = 192, 20


class Kept:
    """The retriever's ten best, found once, as a system."""

    name = "retriever"

    def __init__(self, lang: str):
        self.run = row(lang, "retriever")["runs"]["found"]

    def search(self, queries: dict[str, str], k: int) -> dict:
        return {query_id: self.run[query_id] for query_id in queries}


def retriever(lang: str) -> dict:
    splits = [corpora.load(CITY, lang, split) for split in ("train", "dev", "test")]
    first = search.Dense(demo.retriever(lang), splits[0])
    return {"runs": {"found": first.search({q: t for split in splits for q, t in split.queries.items()}, TEN)}}


# The cross-encoder.


def fresh(lang: str):
    """A cross-encoder from the retriever's weights, whose head is random."""
    with tempfile.TemporaryDirectory() as folder:
        demo.retriever(lang).save_pretrained(folder)
        return reranker.load(folder)


def cross(lang: str, load: Callable) -> dict:
    test, model = corpora.load(CITY, lang), load(lang)
    alone, both = demo.reranked(Kept(lang), model, test)
    return {"runs": {"alone": alone.search(test.queries, TEN), "both": both.search(test.queries, TEN)}}


# Language models. What is trained is kept as a folder.


def kept(name: str) -> Path:
    folder = KEPT / "models" / name
    if not (folder / "lab_card.json").is_file():  # written last
        training.save(TRAINED[name](), folder)
    return folder


def card(name: str) -> dict:
    """What a model was made from."""
    return {"made": json.loads((kept(name) / "lab_card.json").read_text(encoding="utf-8"))}


def questions():
    """Lesson 04's training data: the answer, a near-twin that does not answer, and a passage drawn at random."""
    file = corpora.DATA / CITY / "training" / "triplet.en.jsonl"
    data = formats.read(file, "triplet", neg_nums=1).shuffle(seed=0).select(range(N_TRAIN))
    corpus = list(corpora.load(CITY, "en").corpus.values())
    return data.add_column("negative_2", random.Random(0).choices(corpus, k=len(data)))


def lora(learning_rate: float) -> training.Config:
    return training.Config(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=3,
        learning_rate=learning_rate,
        use_lora=True,
        lora_target_modules=["q_proj", "v_proj"],
        loss_type="listwise",
    )


def short_prompt():
    return llm.load("smollm2", prompt="en-short", max_seq_length=ROOM)


def instruction():
    return llm.load("smollm2", "en", max_seq_length=ROOM + 32)


def head():
    """Document first, as in the short prompt: with the query first it learns nothing from so few rows."""
    return llm_scalar.load("smollm2", document_first=True, max_seq_length=ROOM)


def fine_tuned(model, config: training.Config):
    return llm_lora.merge(llm.train(llm_lora.add(model, config, upper_layers=20), questions(), config))


def reads(load: Callable, score: Callable = llm.score) -> dict:
    """A model's scores of the candidates of the test and dev queries, and what they cost."""
    first, model, runs = Kept("en"), load(), {}
    for split, n in (("test", N_TEST), ("dev", N_DEV)):
        asked = corpora.load(CITY, "en", split).sample(n)
        system = search.Reranked(first, model, asked, depth=TEN, score=score)
        runs[split] = system.scores(asked.queries, first.search(asked.queries, TEN))
    probe = distill.from_run({q: first.run[q] for q in list(runs["test"])[:4]}, corpora.load(CITY, "en"))
    pairs = [(query, text) for query, texts in probe for text in texts]
    return {"runs": runs, "cost": distill.cost(model, score, pairs)}


# Distillation.


def labelled(shard: int) -> dict:
    """The teacher's scores of a few candidates of some training queries, and of a passage that is easy to tell from them."""
    first, train = Kept("en"), corpora.load(CITY, "en", "train").sample(N_LABELS)
    part = train.only(list(train.queries)[shard * SHARD : (shard + 1) * SHARD])
    rng, corpus = random.Random(shard), list(train.corpus)
    lists = {q: [*rng.sample(list(first.run[q]), N_LIST), *rng.sample(corpus, 1)] for q in part.queries}
    found = {q: dict.fromkeys(docs, 0.0) for q, docs in lists.items()}
    system = search.Reranked(first, llm.load(kept("llm")), part, depth=TEN, score=llm.score)
    return {"runs": {"train": system.scores(part.queries, found)}} | card("llm")


def from_teacher():
    """Lines with the teacher's scores as probabilities, through the file that `retrieval-lab distill` writes."""
    shards = [row("en", name)["runs"]["train"] for name in SHARDS]
    scores = {query_id: docs for shard in shards for query_id, docs in shard.items()}
    train = corpora.load(CITY, "en", "train")
    by_text = {(train.queries[q], train.corpus[d]): s for q, docs in scores.items() for d, s in docs.items()}
    lines = distill.label(
        None, distill.from_run(scores, train), lambda _, pairs: [by_text[pair] for pair in pairs], 2.5, centred=True
    )
    return formats.read(distill.write(lines, KEPT / "teacher.jsonl"))


def from_labels():
    """The same pairs with the corpus' own grades."""
    train, data = corpora.load(CITY, "en", "train"), from_teacher()
    grades = {
        (train.queries[q], train.corpus[d]): grade / 3
        for q, judged in train.qrels.items()
        for d, grade in judged.items()
    }
    labels = [grades.get(pair, 0.0) for pair in zip(data["query"], data["document"], strict=True)]
    return data.remove_columns("label").add_column("label", labels)


def beginner():
    """The student before it learns: lesson 03's start, reading as much of a pair as its teacher."""
    model = fresh("en")
    model.max_seq_length = ROOM
    return model


def student(data):
    """Trained on one list a query, at lesson 03's rate."""
    settings = {"output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "loss_type": "listwise"}
    config = training.Config(**settings, per_device_train_batch_size=8, learning_rate=2e-4)
    return reranker.train(beginner(), data, config)


TRAINED = {
    "llm": lambda: fine_tuned(short_prompt(), lora(1.5e-3)),
    "head": lambda: fine_tuned(head(), lora(1.5e-3)),
    "student": lambda: student(from_teacher()),
    "student-labels": lambda: student(from_labels()),
}


# Public Chinese text.


def t2(load: Callable) -> dict:
    """A model's scores of fixed lists: the relevant documents among the wrong ones that BM25 ranks highest."""
    model, score = load()
    model.max_seq_length = T2_LENGTH
    task = public_task()
    keys = [(q, d) for q, docs in task.candidates.items() for d in docs]
    values = score(model, [(task.collection.queries[q], task.collection.corpus[d]) for q, d in keys])
    runs: dict = {q: {} for q in task.candidates}
    for (query_id, doc_id), value in zip(keys, values, strict=True):
        runs[query_id][doc_id] = float(value)
    return {"runs": {"test": runs}}


@functools.cache
def public_task() -> reranking_tasks.Task:
    collection = corpora.load(PUBLIC, "zh")
    return reranking_tasks.from_collection(collection, lexical.BM25(collection), T2_CANDIDATES)


def cosine(model, pairs) -> np.ndarray:
    queries, docs = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
    asked = dict(zip(queries, embedding.encode(model, queries, "query"), strict=True))
    told = dict(zip(docs, embedding.encode(model, docs), strict=True))
    return np.array([asked[query] @ told[doc] for query, doc in pairs])


SHARDS = [f"labels-{i}" for i in range(N_LABELS // SHARD)]
BOTH = {
    "retriever": retriever,
    "cross-original": lambda lang: cross(lang, fresh),
    "cross": lambda lang: cross(lang, demo.reranker),
}
ENGLISH = {
    "llm-original": lambda _: reads(short_prompt),
    "llm-prompt": lambda _: reads(instruction),
    "llm": lambda _: reads(lambda: llm.load(kept("llm"))) | card("llm"),
    "head-original": lambda _: reads(head),
    "head": lambda _: reads(lambda: llm_scalar.load(kept("head"))) | card("head"),
    **{name: functools.partial(lambda shard, _: labelled(shard), i) for i, name in enumerate(SHARDS)},
    "student-before": lambda _: reads(beginner, reranker.score),
    "student": lambda _: reads(lambda: reranker.load(kept("student")), reranker.score) | card("student"),
    "student-labels": lambda _: (
        reads(lambda: reranker.load(kept("student-labels")), reranker.score) | card("student-labels")
    ),
}
CHINESE = {
    "t2-original": lambda _: t2(lambda: (embedding.load(PROFILE.encoder("zh")), cosine)),
    "t2-retriever": lambda _: t2(lambda: (demo.retriever("zh"), cosine)),
    "t2-cross-original": lambda _: t2(lambda: (fresh("zh"), reranker.score)),
    "t2-cross": lambda _: t2(lambda: (demo.reranker("zh"), reranker.score)),
}
ROWS = {"en": BOTH | ENGLISH, "zh": BOTH | CHINESE}


def file(lang: str, name: str) -> Path:
    return KEPT / f"{lang}.{name}.json"


def row(lang: str, name: str) -> dict:
    """A row that is there, or is measured now."""
    path = file(lang, name)
    if not path.is_file():
        found = ROWS[lang][name](lang)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
        print(lang, name, "measured", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))
