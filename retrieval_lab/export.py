"""A model of sentence-transformers as an ONNX graph that holds everything after the tokenizer, checked against torch before it is kept.
Taught in lesson 06.
"""

import contextlib
import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from retrieval_lab import export_card, onnx_models
from retrieval_lab.profiles import say

# What a wrong graph gets wrong: padding, truncation, an empty text, another script, one text alone.
PROBE = ["tram", "", "When does the last ferry to the north pier leave?", "渡轮几点开？", "tram stop " * 300]


class ExportError(RuntimeError):
    """The graph does not compute what the model computes."""


def to_onnx(model, folder: str | Path, int8: bool = False, *, tolerance: float = 1e-4) -> Path:
    """Write ``model.onnx``, its tokenizer and ``onnx.json``; nothing is written if the graph disagrees with the model.

    Pooling, normalisation, projection, document mask and activation are inside the graph; batch and length are free. The
    prompts and the length are in ``onnx.json``. The fp32 graph uses standard operators only, so any ONNX runtime takes it.

    Parameters
    ----------
    model : SentenceTransformer, MultiVectorEncoder or CrossEncoder with one output, in fp32
    folder : new or existing
    int8 : also write ``model_int8.onnx``, see `quantise`
    tolerance : largest allowed difference of a number in the output; 1e-4 is rounding in fp32

    Returns
    -------
    the folder, for `onnx_models.load`

    Raises
    ------
    ExportError
        If the graph's output differs from the model's by more than ``tolerance``.
    ValueError
        If the model is of another family, or does something that a graph cannot hold.

    Source: lesson 06.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    card = export_card.describe(model)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        scratch = Path(scratch)
        _write_tokenizer(model, card, scratch)
        _write_graph(model, card, scratch / onnx_models.FILES[False])
        _write_card(card, scratch)
        card["difference"] = _checked(parity(model, scratch), tolerance)
        if int8:
            quantise(scratch / onnx_models.FILES[False], scratch / onnx_models.FILES[True])
            card["difference_int8"] = parity(model, scratch, int8=True)
        _write_card(card, scratch)
        for old in onnx_models.FILES.values():
            (folder / old).unlink(missing_ok=True)
            (folder / f"{old}.data").unlink(missing_ok=True)  # torch puts weights of more than 1.5 GB beside the graph
        for file in scratch.iterdir():
            shutil.move(file, folder / file.name)
    return folder


def parity(model, folder: str | Path, int8: bool = False) -> float:
    """Largest difference between any number of the model's output and the exported graph's, over texts chosen to find one.

    Parameters
    ----------
    model : the model that was exported
    folder : where to
    int8 : look at the quantised graph. Its error depends on the processor: measure it on the machine that will serve
    """
    exported = onnx_models.load(folder, int8)
    if isinstance(exported, onnx_models.Reranker):
        pairs = [(query, text) for query in PROBE[2:4] for text in PROBE]
        quiet = {"show_progress_bar": False}
        return _difference([model.predict(pairs, batch_size=3, **quiet)], [exported.predict(pairs, batch_size=4)])
    texts = [*PROBE, *(prompt + "tram" for prompt in exported.prompts.values())]
    worst = 0.0
    for name in ("encode_query", "encode_document"):
        options = {} if isinstance(exported, onnx_models.MultiVector) else {"normalize_embeddings": True}
        expected = getattr(model, name)(texts, batch_size=3, show_progress_bar=False, **options)
        for batch_size in (1, len(texts)):
            worst = max(worst, _difference(expected, getattr(exported, name)(texts, batch_size=batch_size)))
    return worst


def quantise(source: str | Path, target: str | Path) -> None:
    """Weights as int8, one scale an output channel; activations as int8 with a scale measured at every run.

    One scale for a whole matrix, onnxruntime's default, costs far more accuracy (benchmarks/serving.md). The activations' scale is
    that of the whole batch: under int8 a text's numbers depend a little on its batch mates and on padding.

    Parameters
    ----------
    source : an fp32 graph
    target : the file to write; a quarter of the size

    Source: Jacob et al. 2018, section 2; lesson 06.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    graph = onnx.load(source)
    del graph.graph.value_info[:]  # shapes noted by the exporter: wrong once the quantiser has turned a matrix round
    with _quiet():
        quantize_dynamic(graph, Path(target), per_channel=True)


def _difference(expected, found) -> float:
    pairs = zip(expected, found, strict=True)
    shapes = [(np.shape(e), np.shape(f)) for e, f in pairs]
    if any(e != f for e, f in shapes):
        return float("inf")
    return max(float(np.abs(np.asarray(e) - np.asarray(f)).max()) for e, f in zip(expected, found, strict=True))


def _checked(difference: float, tolerance: float) -> float:
    if difference <= tolerance:  # also false for NaN
        return difference
    raise ExportError(
        say(
            en=f"the graph differs from the model by {difference:.1e}, more than {tolerance:.0e}; nothing was kept. Is the model in fp32, and does it treat prompts as `encode` does?",
            zh=f"导出的图与模型相差 {difference:.1e}，超过了 {tolerance:.0e}，没有保留任何文件。模型是 fp32 吗？提示词的用法和 `encode` 一致吗？",
        )
    )


class _Graph(torch.nn.Module):
    """Token ids in, the family's outputs out: what torch records."""

    def __init__(self, model, card: dict):
        super().__init__()
        self.model, self.card = model, card

    def forward(self, *inputs):
        features = dict(zip(self.card["inputs"], inputs, strict=True))
        if self.card["family"] == "multi_vector":
            return self._token_vectors(features)
        found = self.model(features)
        if self.card["family"] == "reranker":
            logits = found["scores"].squeeze(-1)
            return self.model.activation_fn(logits), logits + 0.0  # two outputs need two names, also when equal
        return torch.nn.functional.normalize(found["sentence_embedding"], dim=-1)

    def _token_vectors(self, features: dict):
        """The modules one by one: the last one's mask is made of operations that the exporter does not know."""
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

        ids, mask = features["input_ids"], features["attention_mask"].bool()
        for module in self.model:
            if isinstance(module, MultiVectorMask):
                mask = mask & _scored_in_documents(module, ids)
            else:
                features = module(features, **({"task": "document"} if "task" in module.forward_kwargs else {}))
        return features["token_embeddings"], mask.to(torch.int64)


def _scored_in_documents(module, ids):
    """(n, length) bool: not a token that documents skip and, if there is a list of those to keep, one of them."""
    scored = torch.ones_like(ids, dtype=torch.bool)
    if module._skiplist_ids is not None and "document" in module.skiplist_tasks:
        scored = scored & (ids.unsqueeze(-1) != module._skiplist_ids).all(-1)
    if module.keep_only_token_ids:
        scored = scored & (ids.unsqueeze(-1) == torch.tensor(module.keep_only_token_ids)).any(-1)
    return scored


def _write_graph(model, card: dict, path: Path) -> None:
    texts = [("tram", "a ferry")] * 2 if card["family"] == "reranker" else ["tram", "a longer ferry"]
    features = model.preprocess(texts)  # two texts of two lengths: a size of 1 would be taken for a constant
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with _eager_attention(model), _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Graph(model, card).eval(),
            tuple(features[name].cpu() for name in card["inputs"]),
            dynamo=True,  # the older exporter records a path, and its graph is silently wrong
            input_names=card["inputs"],
            output_names=card["outputs"],
            dynamic_shapes=((*({0: batch, 1: length} for _ in card["inputs"]),),),
            verbose=False,
        )
    program.save(str(path))


@contextlib.contextmanager
def _eager_attention(model):
    """Attention as plain matrix products, which every runtime knows; restored afterwards. The model is on the CPU meanwhile."""
    inner, device = model[0].auto_model, model.device
    usual = inner.config._attn_implementation
    model.to("cpu")
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(usual)
        model.to(device)


@contextlib.contextmanager
def _quiet():
    """Without the exporter's and the quantiser's remarks on themselves: missing torchvision, names of axes, pre-processing."""
    log, root = logging.getLogger("torch.onnx._internal.exporter._registration"), logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    root.addFilter(_is_no_hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_is_no_hint)
        log.setLevel(level)


def _is_no_hint(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def _write_tokenizer(model, card: dict, folder: Path) -> None:
    """``tokenizer.json`` with padding and truncation set, so that plain `tokenizers` needs no further word."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(card["max_seq_length"])
    tokenizer.enable_padding(pad_id=card["pad_id"], pad_token=model.tokenizer.pad_token)
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_card(card: dict, folder: Path) -> None:
    text = json.dumps(card, ensure_ascii=False, indent=1)
    (folder / onnx_models.CARD).write_text(text, encoding="utf-8")
