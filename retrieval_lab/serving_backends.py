"""What the service computes with: the same two calls, tokens and forward, over an exported folder or over torch.
Taught in lesson 06.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retrieval_lab import onnx_models
from retrieval_lab.profiles import say


@dataclass(frozen=True)
class Backend:
    """A model behind two functions, so that the service knows neither torch nor onnxruntime.

    ``tokens(texts, truncate)`` gives one `tokenizers.Encoding` a text or pair; ``forward(encodings)`` gives one row each:
    vectors (n, dim) of an embedding model, (n, 2) scores and logits of a reranker.
    """

    name: str
    runtime: str  # "onnx fp32", "onnx int8", "torch"
    family: str  # "embedding" or "reranker"
    max_seq_length: int
    tokens: Callable[[list, bool], list]
    forward: Callable[[list], np.ndarray]
    dim: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    task_prompts: dict[str, str] = field(default_factory=dict)


def load(name: str | Path, family: str = "embedding", int8: bool = False) -> Backend:
    """A backend for a model: onnxruntime if the folder was exported, torch otherwise.

    Parameters
    ----------
    name : exported folder, or what `models.resolve` takes
    family : "embedding" or "reranker"
    int8 : take the quantised graph; needs an exported folder

    Raises
    ------
    ValueError
        If the model is of another family, or int8 is asked of a model that was not exported.
    """
    exported = (Path(name) / onnx_models.CARD).is_file()
    if int8 and not exported:
        raise ValueError(
            say(
                en=f"int8 needs an exported folder, and {name} is none: `retrieval-lab export {name} --to onnx --int8 --output-dir DIR`",
                zh=f"int8 需要先导出，而 {name} 不是导出的文件夹：`retrieval-lab export {name} --to onnx --int8 --output-dir DIR`",
            )
        )
    backend = _of_onnx(Path(name), int8) if exported else _of_torch(name)
    if backend.family != family:
        raise ValueError(
            say(
                en=f"{name} holds a model of family {backend.family!r}; {family!r} is needed here",
                zh=f"{name} 里的模型属于 {backend.family!r}，这里需要 {family!r}",
            )
        )
    return backend


def _of_onnx(folder: Path, int8: bool) -> Backend:
    model = onnx_models.load(folder, int8)

    def forward(encodings: list) -> np.ndarray:
        found = model.forward(encodings)
        if model.family == "embedding":
            return found["sentence_embedding"]
        return np.stack([found["scores"], found["logits"]], axis=1)

    return Backend(
        name=folder.name,
        runtime="onnx int8" if int8 else "onnx fp32",
        family=model.family,
        max_seq_length=model.max_seq_length,
        tokens=model.tokens,
        forward=forward,
        dim=model.card.get("dim"),
        prompts=model.prompts,
        task_prompts=model.card["task_prompts"],
    )


def _of_torch(name: str | Path) -> Backend:
    from retrieval_lab import export_card

    return of_model(export_card.load(name).eval(), Path(name).name)


def of_model(model, name: str) -> Backend:
    """A backend around a SentenceTransformer or a CrossEncoder that is already there.

    Raises
    ------
    ValueError
        If more than a tokenizer stands before the model, as the prompt of a decoder reranker does.
    """
    import torch

    from retrieval_lab import export_card

    card = export_card.describe(model)
    tokenizers = {truncate: _tokenizer(model, truncate) for truncate in (True, False)}

    def forward(encodings: list) -> np.ndarray:
        arrays = onnx_models.padded(encodings, card["inputs"], card["pad_id"])
        features = {key: torch.from_numpy(values).to(model.device) for key, values in arrays.items()}
        with torch.inference_mode():
            found = model(features)
            if card["family"] == "reranker":
                logits = found["scores"].squeeze(-1)
                return torch.stack([model.activation_fn(logits), logits], dim=1).cpu().numpy()
            return torch.nn.functional.normalize(found["sentence_embedding"], dim=-1).cpu().numpy()

    def tokens(texts: list, truncate: bool = True) -> list:
        return tokenizers[truncate].encode_batch(list(texts))

    return Backend(
        name=name,
        runtime="torch",
        family=card["family"],
        max_seq_length=card["max_seq_length"],
        tokens=tokens,
        forward=forward,
        dim=card.get("dim"),
        prompts=card["prompts"],
        task_prompts=card["task_prompts"],
    )


def _tokenizer(model, truncate: bool):
    """The model's own fast tokenizer, as a copy whose settings nobody else changes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    if truncate:
        tokenizer.enable_truncation(model.max_seq_length)
    else:
        tokenizer.no_truncation()
    return tokenizer
