"""The export on real weights: the same ranking in fp32, and what int8 may cost."""

import numpy as np
import pytest

from retrieval_lab import corpora, embedding, export, metrics, onnx_models, search


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = embedding.load("minilm")
    return model, export.to_onnx(model, tmp_path_factory.mktemp("minilm"), int8=True)


@pytest.fixture(scope="module")
def city():
    return corpora.load("city_services", "en", "dev").sample(60)


def ndcg(system, city):
    return metrics.evaluate(city.qrels, system.search(city.queries, 10), ["nDCG@10"], relevant=city.relevant)["nDCG@10"]


def test_fp32_graph_ranks_as_torch_does(exported, city):
    model, folder = exported
    graph = onnx_models.load(folder)
    texts = [*city.queries.values(), "", "鹭桥 tram " * 400]
    found = graph.encode_document(texts)
    np.testing.assert_allclose(found, embedding.encode(model, texts), atol=1e-4)
    vectors = embedding.encode(model, list(city.corpus.values()))
    ours, theirs = (search.Dense(m, city, vectors=vectors).search(city.queries, 10) for m in (graph, model))
    assert [list(run) for run in ours.values()] == [list(run) for run in theirs.values()]


def test_int8_is_a_quarter_of_the_size_and_keeps_most_of_the_quality(exported, city):
    model, folder = exported
    sizes = [(folder / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < 0.3 * sizes[0]
    graph = onnx_models.load(folder, int8=True)
    texts = list(city.corpus.values())
    cosines = (graph.encode_document(texts, batch_size=8) * embedding.encode(model, texts)).sum(1)
    assert cosines.mean() > 0.98
    fp32, int8 = (ndcg(search.Dense(m, city), city) for m in (model, graph))
    assert int8 > fp32 - 0.03
