"""What an exported graph needs beside it: family, inputs, prompts, lengths; and which models can be exported at all.
Taught in lesson 06.
"""

from pathlib import Path

import torch

from retrieval_lab import onnx_models
from retrieval_lab.profiles import say

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load(name: str | Path):
    """The model that a name stands for, as the class that it was saved from.

    Parameters
    ----------
    name : what `models.resolve` takes: alias, hub id or folder

    Source: lesson 06.
    """
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    from retrieval_lab import decoders, embedding, models

    folder = models.resolve(name)
    kind = decoders.saved_as(folder)
    if kind is None and any("SequenceClassification" in text for text in decoders.architectures(folder)):
        kind = "CrossEncoder"
    classes = {"CrossEncoder": CrossEncoder, "MultiVectorEncoder": MultiVectorEncoder}
    return classes[kind](str(folder)) if kind in classes else embedding.load(folder)


def describe(model) -> dict:
    """What a reader of the graph needs to know, as plain JSON.

    Raises
    ------
    ValueError
        If the model is of a family, or does something, that a graph cannot hold.
    """
    family, outputs = _family(model)
    prompts = {name: text or "" for name, text in (model.prompts or {}).items()}
    card = {
        "family": family,
        "inputs": _inputs(model, family),
        "outputs": outputs,
        "max_seq_length": model.max_seq_length,
        "pad_id": model.tokenizer.pad_token_id,
        "prompts": prompts,
        "task_prompts": onnx_models.task_prompts(prompts),
        "torch": torch.__version__,
    }
    if family == "reranker":
        return card | {"activation": type(model.activation_fn).__name__}
    return (
        card | {"dim": model.get_embedding_dimension()} | (_late_interaction(model) if family == "multi_vector" else {})
    )


def _family(model) -> tuple[str, list[str]]:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

    if isinstance(model, MultiVectorEncoder):
        return "multi_vector", ["token_embeddings", "document_mask"]
    if isinstance(model, CrossEncoder) and model.num_labels == 1 and _is_encoder(model):
        return "reranker", ["scores", "logits"]
    if isinstance(model, SentenceTransformer) and not _leaves_prompt_out(model):
        return "embedding", ["sentence_embedding"]
    raise ValueError(
        say(
            en=f"{type(model).__name__} of this kind can be neither exported nor served by us; use an encoder that pools over its prompt, a MultiVectorEncoder, or an encoder CrossEncoder with one output (decoder rerankers: serve them with an LLM server)",
            zh=f"这种 {type(model).__name__} 不能导出，也不能在这里部署；可以用的是：池化时包含提示词的编码器、MultiVectorEncoder、只有一个输出的编码器式 CrossEncoder（解码器重排器用大模型服务部署）",
        )
    )


def _is_encoder(model) -> bool:
    """Whether the model reads a pair as its tokenizer joins it; a decoder's prompt is made outside of the tokenizer."""
    joined = model.tokenizer("a", "b")["input_ids"]
    generates = getattr(model[0], "transformer_task", "") == "text-generation"
    return not generates and model.preprocess([("a", "b")])["input_ids"][0].tolist() == joined


def _leaves_prompt_out(model) -> bool:
    """Whether pooling skips the prompt's tokens: their number is no input of the graph."""
    return any(getattr(module, "include_prompt", True) is False for module in model)


def _inputs(model, family: str) -> list[str]:
    features = model.preprocess([("tram", "ferry")] if family == "reranker" else ["tram"])
    return [name for name in INPUTS if name in features]


def _late_interaction(model) -> dict:
    """Lengths of queries and documents, and the query expansion with its token as an id."""
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    if any(isinstance(module, BaseTokenPooling) for module in model):
        raise ValueError(
            say(
                en="token pooling clusters in Python and cannot be part of a graph; export the model without it and pool the vectors afterwards",
                zh="词元池化是用 Python 聚类，无法写进计算图；先去掉它再导出，之后再对向量做池化",
            )
        )
    transformer, expansion = model[0], model[0].query_expansion
    lengths = {
        "query": transformer.query_length or model.max_seq_length,
        "document": transformer.document_length or model.max_seq_length,
    }
    if expansion:
        token = expansion["token"] or model.tokenizer.mask_token or model.tokenizer.eos_token
        expansion = dict(expansion) | {"token_id": model.tokenizer.convert_tokens_to_ids(token)}
        lengths["query"] = expansion["length"] if expansion["strategy"] == "fixed" else lengths["query"]
    return {"lengths": lengths, "query_expansion": expansion}
