"""mteb itself over a local task: its scores are those of our own measure. Runs where the optional library is installed."""

import pytest
from datasets import Dataset

from retrieval_lab import reranker, reranking_tasks, tiny
from retrieval_lab.corpora import Collection

mteb = pytest.importorskip("mteb", reason="optional: pip install -e '.[mteb]'")

CORPUS = {"d1": "tram", "d2": "ferry boat", "d3": "the pool opens", "d4": "library card"}
QUERIES = {"q1": "when does the tram leave", "q2": "ferry", "q3": "pool hours"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 1, "d4": 1}, "q3": {"d3": 1}}
LISTS = {query_id: list(CORPUS) for query_id in QUERIES}


def local_task():
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    named = mteb.get_tasks(tasks=[reranking_tasks.NAMES[0]])[0].metadata

    class Local(AbsTaskRetrieval):
        metadata = named.model_copy(update={"name": "LocalReranking"})

        def load_data(self, **_):
            corpus = Dataset.from_list([{"id": d, "text": text, "title": ""} for d, text in CORPUS.items()])
            queries = Dataset.from_list([{"id": q, "text": text} for q, text in QUERIES.items()])
            data = RetrievalSplitData(corpus=corpus, queries=queries, relevant_docs=QRELS, top_ranked=LISTS)
            self.dataset = {"default": dict.fromkeys(self.metadata.eval_splits, data)}
            self.data_loaded = True

    return Local()


def test_every_named_task_is_known_to_mteb():
    assert [task.metadata.name for task in mteb.get_tasks(tasks=list(reranking_tasks.NAMES))] == list(
        reranking_tasks.NAMES
    )


def test_mteb_finds_the_map_that_we_find(monkeypatch):
    model, local = tiny.cross_encoder(), local_task()
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [local])
    task = reranking_tasks.Task(Collection("local", "en", "test", "CC0", CORPUS, QUERIES, QRELS, relevant=1), LISTS)
    expected = reranking_tasks.evaluate(task, model, reranker.score)["MAP"]
    assert reranking_tasks.mteb_scores(model) == {"LocalReranking": pytest.approx(expected, abs=1e-4)}
