"""The index against a double loop over all documents; compression against the exact index; saved indexes that refuse other models."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from retrieval_lab import colbert, corpora, search, tiny
from retrieval_lab.late_interaction import LateInteraction
from retrieval_lab.token_stores import Compressed, Exact, flat_maxsim, nearest_centroids

DOCS = {
    f"d{i}": text
    for i, text in enumerate(["the tram", "ferry to the pier", "a", "a b c", "在这中国", "no, yes. 9" * 6])
}
QUERIES = {"q1": "tram", "q2": "a ferry to 中国", "q3": "yes"}


@pytest.fixture(scope="module")
def faq():
    return corpora.Collection("faq", "en", "test", "none", DOCS, QUERIES, {q: {"d0": 1} for q in QUERIES})


@pytest.fixture(scope="module")
def model():
    return colbert.from_encoder(tiny.encoder(prompts={"query": "q ", "document": "d "}))


def by_loops(model, query, doc) -> float:
    queries, docs = model.encode_query(query), model.encode_document(doc)
    return sum(max(float(q @ d) for d in docs) for q in queries)


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.mark.parametrize("seed", range(4))
def test_flat_maxsim_equals_maxsim_document_by_document(seed):
    lengths = torch.randint(1, 9, (12,), generator=torch.Generator().manual_seed(seed))
    query, tokens = unit(5, 8, seed=seed), unit(int(lengths.sum()), 8, seed=seed + 1)
    expected = [colbert.maxsim(query, doc).item() for doc in tokens.split(lengths.tolist())]
    assert flat_maxsim(query, tokens, lengths).tolist() == pytest.approx(expected, abs=1e-5)


def test_flat_maxsim_keeps_negative_scores():
    found = flat_maxsim(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [-0.6, 0.8]]), torch.tensor([1, 1]))
    assert found.tolist() == pytest.approx([-1.0, -0.6])


def test_search_equals_a_double_loop_over_all_documents(model, faq):
    run = LateInteraction(model, faq).search(QUERIES, 10)
    for query_id, query in QUERIES.items():
        expected = {doc_id: by_loops(model, query, doc) for doc_id, doc in DOCS.items()}
        assert run[query_id] == pytest.approx(expected, abs=1e-4)
        assert list(run[query_id]) == sorted(expected, key=expected.get, reverse=True)


def test_search_returns_k_documents_and_equal_scores_in_the_documents_order(model, faq):
    twins = replace(faq, corpus={"b": "tram", "a": "tram", "c": "a ferry"})
    assert list(LateInteraction(model, twins).search({"q": "tram"}, 2)["q"]) == ["b", "a"]


def test_no_queries_give_no_run(model, faq):
    assert LateInteraction(model, faq).search({}, 3) == {}


def test_score_of_a_document_does_not_depend_on_the_others(model, faq):
    alone = LateInteraction(model, replace(faq, corpus={"d0": DOCS["d0"]})).search(QUERIES, 1)
    together = LateInteraction(model, faq).search(QUERIES, 10)
    for query_id in QUERIES:
        assert alone[query_id]["d0"] == pytest.approx(together[query_id]["d0"], abs=1e-5)


class First:
    name = "first"

    def __init__(self, run):
        self.run = run

    def search(self, queries, k):
        return {q: dict(list(self.run.get(q, {}).items())[:k]) for q in queries}


@pytest.mark.parametrize("bits", [None, 8])
def test_rerank_mode_scores_the_first_stages_documents_and_no_others(model, faq, bits):
    everything = LateInteraction(model, faq, bits=bits, depth=6)
    first = First({"q1": {"d3": 3.0, "d0": 2.0, "d5": 1.0}, "q2": {"d1": 1.0}})
    run = LateInteraction(model, faq, first=first, depth=2, store=everything.store).search(QUERIES, 10)
    full = everything.search(QUERIES, 10)
    assert set(run["q1"]) == {"d3", "d0"} and set(run["q2"]) == {"d1"} and run["q3"] == {}
    for query_id, docs in run.items():
        assert docs == pytest.approx({d: full[query_id][d] for d in docs}, abs=1e-5)
        assert list(docs.values()) == sorted(docs.values(), reverse=True)


def test_model_that_averages_is_searched_with_averages(faq, model):
    sums = LateInteraction(model, faq).search(QUERIES, 10)
    averaging = colbert.from_encoder(tiny.encoder(prompts=model.prompts))
    averaging.similarity_fn_name = "meanmaxsim"
    means = LateInteraction(averaging, faq).search(QUERIES, 10)
    for query_id, query in QUERIES.items():
        n = len(model.encode_query(query))
        assert means[query_id] == pytest.approx({d: s / n for d, s in sums[query_id].items()}, abs=1e-5)


def test_document_without_tokens_is_refused(faq, lang):
    model = tiny.multi_vector_encoder()
    model[2].skiplist_words = ["[CLS]", "[SEP]"]
    model[2].resolve_with_tokenizer(model.tokenizer)
    words = {"en": "document 'empty' has no token left", "zh": "文档 'empty' 没有留下任何词元"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction(model, replace(faq, corpus=DOCS | {"empty": ""}))


def test_store_of_other_documents_is_refused(model, faq, lang):
    store = LateInteraction(model, faq).store
    words = {"en": "the store holds 6 documents, faq has 1", "zh": "词元库里有 6 篇文档，faq 有 1 篇"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction(model, replace(faq, corpus={"d0": "x"}), store=store)


@pytest.fixture(scope="module")
def exact():
    """40 documents of 5 tokens in 16 dims, around 12 directions, as tokens of texts are."""
    directions = unit(12, 16)[torch.randint(12, (200,), generator=torch.Generator().manual_seed(3))]
    tokens = torch.nn.functional.normalize(directions + 0.25 * unit(200, 16, seed=4), dim=1)
    return Exact(tokens, torch.full((40,), 5))


def test_more_bits_restore_better(exact):
    rows = torch.arange(200)
    errors = [(Compressed.of(exact, bits).restored(rows) - exact.vectors).norm(dim=1).mean() for bits in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_remainder_is_the_mean_of_its_range(exact, bits):
    """Unpacked, every number is one of the 2**bits remembered ones, and the nearest range's: the order of numbers is kept."""
    store = Compressed.of(exact, bits)
    rest = exact.vectors - store.centroids[store.codes]
    unpacked = store._unpacked[store.remainders.long()].flatten(1)
    assert store.remainders.shape == (200, 16 * bits // 8) and len(store.values) == 2**bits
    order = torch.argsort(rest.flatten())
    assert (unpacked.flatten()[order].diff() >= -1e-7).all()


def test_compressed_size_by_hand(exact, model, faq):
    store = Compressed.of(exact, 2)
    n_centroids = len(nearest_centroids(exact.vectors))
    sizes = {
        "centroids": n_centroids * 16 * 4,
        "codes": 200 * 4,
        "remainders": 200 * 4,
        "values": 16,
        "lengths": 40 * 8,
    }
    assert {name: tensor.nbytes for name, tensor in store.tensors().items()} == sizes
    assert LateInteraction(model, faq).megabytes == pytest.approx((load_size(model, faq)) / 1e6)


def load_size(model, faq) -> int:
    tokens = sum(len(model.encode_document(doc)) for doc in DOCS.values())
    return tokens * 32 * 4 + len(DOCS) * 8


def test_candidates_are_the_best_documents_by_centroid(exact):
    store, query = Compressed.of(exact, 2), unit(4, 16, seed=9)
    rough = store.centroids[store.codes]
    expected = [colbert.maxsim(query, doc).item() for doc in rough.split(5)]
    best = sorted(range(40), key=lambda i: -expected[i])[:7]
    assert store.candidates(query, 7).tolist() == sorted(best)
    assert store.candidates(query, 100).tolist() == list(range(40))


def test_compressed_scores_are_maxsim_of_the_restored_tokens(exact):
    store, query = Compressed.of(exact, 4), unit(4, 16, seed=9)
    restored = store.restored(torch.arange(200)).split(5)
    docs = torch.tensor([3, 8, 31])
    expected = [colbert.maxsim(query, restored[i]).item() for i in docs]
    assert store.scores(query, docs).tolist() == pytest.approx(expected, abs=1e-5)
    assert store.scores(query, docs).tolist() == pytest.approx(exact.scores(query, docs).tolist(), abs=0.2)


def test_compression_is_the_same_for_the_same_seed(exact):
    one, same, other = (Compressed.of(exact, 2, seed=seed) for seed in (0, 0, 1))
    assert all((one.tensors()[name] == same.tensors()[name]).all() for name in one.tensors())
    assert (one.centroids != other.centroids).any()


@pytest.mark.parametrize("bits, dim", [(3, 16), (0, 16), (1, 12)])
def test_impossible_bits_are_refused(lang, bits, dim):
    words = {"en": f"bits={bits} with {dim} dims; use 1, 2, 4 or 8", "zh": f"bits={bits}，{dim} 维"}
    with pytest.raises(ValueError, match=words[lang]):
        Compressed.of(Exact(unit(20, dim), torch.tensor([20])), bits)


def test_pooling_keeps_about_one_token_in_two(model, faq):
    all_of_them, pooled = (LateInteraction(model, faq, pool=factor).store.lengths for factor in (1, 2))
    assert (pooled <= all_of_them // 2 + 2).all() and (pooled >= 2).all()


@pytest.mark.parametrize("bits", [None, 4])
def test_saved_index_gives_the_same_run(model, faq, tmp_path, bits):
    index = LateInteraction(model, faq, "mine", bits=bits, depth=6)
    index.save(tmp_path)
    again = LateInteraction.load(tmp_path, model, faq, depth=6)
    assert again.name == "mine" and again.search(QUERIES, 3) == index.search(QUERIES, 3)
    assert sum(t.nbytes for t in load_file(tmp_path / "tokens.safetensors").values()) / 1e6 == again.megabytes
    assert json.loads((tmp_path / "index.json").read_text())["store"] == type(index.store).__name__


@pytest.mark.parametrize("change", ["weights", "prompts", "expansion", "mask"])
def test_index_of_another_model_is_refused(faq, tmp_path, lang, change):
    def made(**options):
        return colbert.from_encoder(tiny.encoder(prompts={"query": "q ", "document": "d "}, **options))

    LateInteraction(made(), faq).save(tmp_path)
    other = made(seed=1) if change == "weights" else made()
    if change == "prompts":
        other.prompts = {"query": "", "document": ""}
    if change == "expansion":
        other[0].query_expansion = {"strategy": "min", "length": 32}
    if change == "mask":
        other[1].skiplist_words = ["."]
    words = {"en": "was made by another model", "zh": "是另一个模型"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction.load(tmp_path, other, faq)


def test_index_of_other_texts_is_refused(model, faq, tmp_path, lang):
    LateInteraction(model, faq).save(tmp_path)
    words = {"en": "was made from other texts than faq's", "zh": "不是用 faq 现在的文本建的"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction.load(tmp_path, model, replace(faq, corpus=DOCS | {"d0": "changed"}))


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(model, faq, lang, k):
    index = LateInteraction(model, faq)
    for system in (index, search.Fused([index])):
        with pytest.raises(ValueError, match={"en": f"k={k}; use 1 or more", "zh": f"k={k}；至少为 1"}[lang]):
            system.search(QUERIES, k)


def test_first_stage_over_other_documents_is_refused(model, faq, lang):
    first = First({"q1": {"d0": 1.0}, "q2": {"zz": 1.0}})
    words = {
        "en": "for query 'q2' the first stage 'first' finds document 'zz', which this index does not hold",
        "zh": "对查询 'q2'，第一阶段 'first' 找到的文档 'zz' 不在这个索引里",
    }
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction(model, faq, first=first).search(QUERIES, 3)


@pytest.mark.parametrize("options", [{"bits": 2}, {"pool": 3}])
def test_compression_of_a_store_that_is_there_is_refused(model, faq, tmp_path, lang, options):
    index = LateInteraction(model, faq)
    index.save(tmp_path)
    name, value = next(iter(options.items()))
    words = {"en": f"{name}={value}.* would do nothing: .*without `store`", "zh": f"{name}={value}.* ?不起作用"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction(model, faq, store=index.store, **options)
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction.load(tmp_path, model, faq, **options)


@pytest.mark.parametrize("over", [False, True])
def test_index_of_another_kind_is_refused(model, faq, tmp_path, lang, over):
    """Also where the one was saved over the other, whose vectors still lie there."""
    one, dense = LateInteraction(model, faq), search.Dense(tiny.encoder(), faq)
    if over:
        one.save(tmp_path)
    dense.save(tmp_path)
    words = {"en": "holds no index with tokens.safetensors", "zh": "没有带 tokens.safetensors 的索引"}
    with pytest.raises(ValueError, match=words[lang]):
        LateInteraction.load(tmp_path, model, faq)
    (tmp_path / "vectors.npy").unlink()
    one.save(tmp_path)
    words = {"en": "holds no index with vectors.npy", "zh": "没有带 vectors.npy 的索引"}
    with pytest.raises(ValueError, match=words[lang]):
        search.Dense.load(tmp_path, dense.model, faq)


def test_index_is_read_by_the_saved_model(faq, tmp_path):
    made = colbert.from_encoder(tiny.encoder(), query_expansion=16, skip_punctuation=True)
    LateInteraction(made, faq).save(tmp_path / "index")
    made.save_pretrained(str(tmp_path / "model"))
    again = colbert.load(tmp_path / "model")
    assert LateInteraction.load(tmp_path / "index", again, faq).search(QUERIES, 3)


def test_search_offers_it():
    assert search.LateInteraction is LateInteraction
