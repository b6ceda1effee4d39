"""Exported models without torch: tokenizers, numpy and onnxruntime read a folder that `export.to_onnx` wrote.
Taught in lesson 06.
"""

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from retrieval_lab.profiles import say

CARD = "onnx.json"  # beside the graph: family, prompts, lengths, what was measured
FILES = {False: "model.onnx", True: "model_int8.onnx"}
# What sentence-transformers' encode takes and an exported model does anyway; None: of no consequence.
ANYWAY = {"show_progress_bar": None, "normalize_embeddings": True, "convert_to_numpy": True, "convert_to_tensor": False}


def load(folder: str | Path, int8: bool = False):
    """The model of an exported folder: an `Embedding`, a `MultiVector` or a `Reranker`.

    It takes as many threads as the environment's OMP_NUM_THREADS says, as torch does, and every core when that is not set.

    Parameters
    ----------
    folder : what `export.to_onnx` wrote
    int8 : take the quantised graph

    Raises
    ------
    ValueError
        If the folder was not exported, or not with the graph asked for.

    Source: lesson 06.
    """
    card = Path(folder) / CARD
    if not card.is_file():
        raise ValueError(
            say(
                en=f"{folder} holds no {CARD}; write it with `retrieval-lab export MODEL --to onnx --output-dir {folder}`",
                zh=f"{folder} 里没有 {CARD}；用 `retrieval-lab export MODEL --to onnx --output-dir {folder}` 生成",
            )
        )
    if not (Path(folder) / FILES[int8]).is_file():
        raise ValueError(
            say(
                en=f"{folder} holds no {FILES[int8]}; export again, with `--int8` if the quantised graph is wanted",
                zh=f"{folder} 里没有 {FILES[int8]}；重新导出，要量化的图就加上 `--int8`",
            )
        )
    family = json.loads(card.read_text(encoding="utf-8"))["family"]
    return {model.family: model for model in (Embedding, MultiVector, Reranker)}[family](folder, int8)


class OnnxModel:
    """What the three families share: cut into tokens, pad, run.

    Parameters
    ----------
    folder, int8 : as for `load`
    """

    family = ""

    def __init__(self, folder: str | Path, int8: bool = False):
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(folder)
        self.card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        self.prompts: dict[str, str] = self.card["prompts"]
        self.max_seq_length: int = self.card["max_seq_length"]
        self._file = folder / "tokenizer.json"
        self._cut, self._whole = Tokenizer.from_file(str(self._file)), Tokenizer.from_file(str(self._file))
        for tokenizer in (self._cut, self._whole):
            tokenizer.no_padding()
        self._whole.no_truncation()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)
        # A thread that waits in a loop keeps the core from clients and other processes: on two busy cores, off is 1.7 times as fast.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = str(folder / FILES[int8])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def tokens(self, texts: list, truncate: bool = True) -> list:
        """One `tokenizers.Encoding` a text (or pair of texts); cut to ``max_seq_length`` tokens unless ``truncate`` is False."""
        return (self._cut if truncate else self._whole).encode_batch(list(texts))

    def forward(self, encodings: list) -> dict[str, np.ndarray]:
        """Pad to the longest and run the graph: every output by its name."""
        return self.run(padded(encodings, self.card["inputs"], self.card["pad_id"]))

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on padded int64 arrays of shape (n, length)."""
        return dict(zip(self.card["outputs"], self.session.run(self.card["outputs"], inputs), strict=True))

    def batched(self, encodings: list, batch_size: int):
        """Chunks of the encodings, longest first, with their places: ``places, chunk``."""
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i].ids))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            yield places, [encodings[i] for i in places]

    def token(self, token_id: int) -> str:
        """The text of a token, e.g. "[PAD]"."""
        return self._whole.id_to_token(token_id)

    @cached_property
    def tokenizer(self):
        """The same tokenizer as transformers wraps it, for code that expects a model of sentence-transformers."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_file=str(self._file))


class Embedding(OnnxModel):
    """One unit vector a text. Where a `SentenceTransformer` only encodes, as in `search.Dense`, this can stand in for it."""

    family = "embedding"

    def get_embedding_dimension(self) -> int:
        """Numbers in a vector."""
        return self.card["dim"]

    def encode_query(self, texts: list[str], batch_size: int = 32, *, prompt=None, **options) -> np.ndarray:
        """(n, dim) float32: the query prompt, or another ``prompt``, is put before each text, once; ``options`` of `encode`."""
        return self.encode(texts, self._prompt("query", prompt), batch_size, **options)

    def encode_document(self, texts: list[str], batch_size: int = 32, *, prompt=None, **options) -> np.ndarray:
        """(n, dim) float32: the document prompt, or another ``prompt``, is put before each text, once; ``options`` of `encode`."""
        return self.encode(texts, self._prompt("document", prompt), batch_size, **options)

    def _prompt(self, task: str, other: str | None) -> str:
        return self.card["task_prompts"][task] if other is None else other

    def encode(
        self, texts: list[str], prompt: str = "", batch_size: int = 32, *, truncate_dim: int | None = None, **options
    ) -> np.ndarray:
        """(n, dim) float32, rows of length 1; ``truncate_dim`` keeps the first numbers of each, at length 1 again.

        Raises
        ------
        TypeError
            If an option of `SentenceTransformer.encode` is given that would change the result, see `ANYWAY`.
        """
        _refuse(options)
        vectors = np.zeros((len(texts), self.card["dim"]), np.float32)
        for places, encodings in self.batched(self.tokens([prompt + text for text in _listed(texts)]), batch_size):
            vectors[places] = self.forward(encodings)["sentence_embedding"]
        if truncate_dim is not None:
            vectors = vectors[:, :truncate_dim]
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # as torch does
        return vectors


class Reranker(OnnxModel):
    """One score a pair of query and document."""

    family = "reranker"

    def predict(self, pairs: list[tuple[str, str]], batch_size: int = 32, raw: bool = False) -> np.ndarray:
        """(n,) float32, equal to ``CrossEncoder.predict``; ``raw`` gives the logits before the model's activation.

        As there, one pair on its own gives one number.

        Raises
        ------
        ValueError
            If something else than pairs of texts is given.
        """
        if _is_pair(pairs):
            return self.predict([pairs], batch_size, raw)[0]
        _refuse_unpaired(pairs)
        scores = np.zeros(len(pairs), np.float32)
        for places, encodings in self.batched(self.tokens([tuple(pair) for pair in pairs]), batch_size):
            scores[places] = self.forward(encodings)["logits" if raw else "scores"]
        return scores


class MultiVector(OnnxModel):
    """One unit vector a token (ColBERT)."""

    family = "multi_vector"

    def __init__(self, folder: str | Path, int8: bool = False):
        super().__init__(folder, int8)
        self._by_task = {task: self._shortened(length) for task, length in self.card["lengths"].items()}

    def _shortened(self, length: int):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._whole.to_str())
        tokenizer.enable_truncation(length)
        return tokenizer

    def encode_query(self, texts: list[str], batch_size: int = 32) -> list[np.ndarray]:
        """n arrays (tokens, dim); with query expansion the mask tokens count, as in training."""
        return self._encode(texts, "query", batch_size)

    def encode_document(self, texts: list[str], batch_size: int = 32) -> list[np.ndarray]:
        """n arrays (tokens, dim), without the tokens that the model skips in documents."""
        return self._encode(texts, "document", batch_size)

    def _encode(self, texts: list[str], task: str, batch_size: int) -> list[np.ndarray]:
        vectors: list = [None] * len(texts)
        prompt = self.card["task_prompts"][task]
        tokens = self._by_task[task].encode_batch([prompt + text for text in _listed(texts)])
        for places, encodings in self.batched(tokens, batch_size):
            if task == "query" and self.card["query_expansion"]:
                found, masks = self._expanded(encodings)
            else:
                found = self.forward(encodings)
                masks = found["document_mask"] if task == "document" else [[1] * len(e.ids) for e in encodings]
            for place, tokens, mask in zip(places, found["token_embeddings"], masks, strict=True):
                vectors[place] = tokens[: len(mask)][np.asarray(mask, bool)]
        return vectors

    def _expanded(self, encodings: list) -> tuple[dict, list]:
        """Fill each query up to ``length`` with the expansion token; those places are scored whether attended to or not."""
        expansion = self.card["query_expansion"]
        width = max(expansion["length"], *(len(e.ids) for e in encodings))
        rows = {"input_ids": [], "attention_mask": [], "token_type_ids": []}
        masks = []
        for e in encodings:
            extra = max(0, expansion["length"] - len(e.ids))
            rest = width - extra - len(e.ids)
            rows["input_ids"].append(e.ids + [expansion["token_id"]] * extra + [self.card["pad_id"]] * rest)
            rows["attention_mask"].append([1] * len(e.ids) + [int(expansion["attend"])] * extra + [0] * rest)
            rows["token_type_ids"].append(e.type_ids + [0] * (extra + rest))
            masks.append([1] * (len(e.ids) + extra) + [0] * rest)
        return self.run({name: np.array(rows[name], np.int64) for name in self.card["inputs"]}), masks


def _listed(texts: list[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(
            say(
                en=f"texts is one string ({texts[:30]!r}), which would be read letter by letter; give a list: [text]",
                zh=f"texts 是一个字符串（{texts[:30]!r}），会被逐字拆开；要给列表：[text]",
            )
        )
    return texts


def _is_pair(given) -> bool:
    return isinstance(given, (list, tuple, np.ndarray)) and [isinstance(text, str) for text in given] == [True, True]


def _refuse_unpaired(pairs) -> None:
    wrong = [pairs] if isinstance(pairs, str) else [pair for pair in pairs if not _is_pair(pair)]
    if wrong:
        raise ValueError(
            say(
                en=f"{str(wrong[0])[:60]!r} is not a pair of texts; give a list: [(query, text), ...]",
                zh=f"{str(wrong[0])[:60]!r} 不是一对文本；要给列表：[(query, text), ...]",
            )
        )


def _refuse(options: dict) -> None:
    for name, value in options.items():
        if name not in ANYWAY or ANYWAY[name] not in (None, value):
            raise TypeError(
                say(
                    en=f"{name}={value!r}: an exported model gives unit vectors in numpy and knows texts, prompt, batch_size and truncate_dim; leave `{name}` out, or use the SentenceTransformer",
                    zh=f"{name}={value!r}：导出的模型只给出 numpy 单位向量，参数只有 texts、prompt、batch_size 和 truncate_dim；去掉 `{name}`，或改用 SentenceTransformer",
                )
            )


def padded(encodings: list, names: list[str], pad_id: int) -> dict[str, np.ndarray]:
    """The named inputs as int64 arrays (n, longest), filled up on the right with padding that the mask hides."""
    width = max(len(encoding.ids) for encoding in encodings)
    rows = {
        "input_ids": [e.ids + [pad_id] * (width - len(e.ids)) for e in encodings],
        "attention_mask": [[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in encodings],
        "token_type_ids": [e.type_ids + [0] * (width - len(e.ids)) for e in encodings],
    }
    return {name: np.array(rows[name], np.int64) for name in names}


def task_prompts(prompts: dict[str, str]) -> dict[str, str]:
    """Which prompt a query and a document get, as sentence-transformers chooses it: of the first name that the model has.

    >>> task_prompts({"query": "query: ", "passage": "passage: "})
    {'query': 'query: ', 'document': 'passage: '}
    """
    names = {"query": ["query"], "document": ["document", "passage", "corpus"]}
    return {task: next((prompts[name] for name in known if name in prompts), "") for task, known in names.items()}
