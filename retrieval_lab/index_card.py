"""What a saved index was made of, so that it is never read by another model or for other texts; and what every search checks.
Used by the searches of lessons 01 and 02.
"""

import hashlib
import json
from pathlib import Path

from retrieval_lab.profiles import say

PROBE = "Straße, Ａ１ CAFÉ don't re-tie!  你好，世界。 ½ 😀"  # case, accents, width, blanks: where tokenizers differ


def fingerprint(model) -> str:
    """Short hash of all that decides a model's vectors: weights, modules and their settings, adapters, tokenizer, prompts, lengths."""
    digest = hashlib.sha256(f"{[type(m).__name__ for m in model]}{model.prompts}{model.max_seq_length}".encode())
    for module in model.modules():
        if hasattr(module, "get_config_dict"):  # pooling, activations, masks, query expansion, lengths a side
            digest.update(json.dumps(_settings(module.get_config_dict()), sort_keys=True, default=_kind).encode())
    digest.update(str(_active_adapters(model)).encode())
    # The same weights under other tokens: other vectors.
    digest.update(str(model.tokenizer(PROBE)["input_ids"]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _settings(value):
    """The same with names that JSON can write."""
    return {str(name): _settings(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _kind(value) -> str:
    """Of a setting that JSON cannot write, its type: its text may hold an address, another one in each process."""
    return type(value).__name__


def _active_adapters(model) -> list:
    """Of each layer with adapters, those that count now and by how much: their weights are in the model even when they are off."""
    layers = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "disable_adapters")]
    return [
        (name, adapter, getattr(layer, "scaling", {}).get(adapter))
        for name, layer in layers
        if layer.disable_adapters is False  # a whole model has a method of this name
        for adapter in layer.active_adapters
    ]


def check_k(k: int) -> None:
    """Refuse to search for less than one document."""
    if k < 1:
        raise ValueError(say(en=f"k={k}; use 1 or more", zh=f"k={k}；至少为 1"))


def check_size(n: int, collection, holder: str) -> None:
    """Refuse vectors of ``n`` documents where the collection has another number; ``holder`` says whose they are."""
    if n != len(collection.corpus):
        raise ValueError(
            say(
                en=f"{holder} {n} documents, {collection.name} has {len(collection.corpus)}; build it from this collection",
                zh=f"{holder} {n} 篇文档，{collection.name} 有 {len(collection.corpus)} 篇；要用这个文档集建",
            )
        )


def texts_hash(corpus: dict[str, str]) -> str:
    """Short hash of the documents, their ids and their order."""
    return hashlib.sha256(json.dumps(corpus, ensure_ascii=False).encode()).hexdigest()[:16]


def write(folder: str | Path, name: str, model, corpus_hash: str, **more) -> Path:
    """Make the folder and its ``index.json``; ``more`` is kept as it is, e.g. ``file``, in which the vectors lie."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = {"name": name, "model": fingerprint(model), "texts": corpus_hash} | more
    (folder / "index.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return folder


def read(folder: str | Path, model, collection, file: str) -> dict:
    """The card of a saved index whose vectors lie in ``file``.

    Raises
    ------
    ValueError
        If there is no such file, the index was made by another model (or other prompts or length), or from other texts.
    """
    card = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
    if card.get("file", file) != file or not (Path(folder) / file).is_file():
        raise ValueError(
            say(
                en=f"{folder} holds no index with {file}: another kind of search saved it; load it with that one, or build the index again",
                zh=f"{folder} 里没有带 {file} 的索引，是另一种检索保存的；用那一种来加载，或重新建索引",
            )
        )
    if card.get("model") != fingerprint(model):
        raise ValueError(
            say(
                en=f"{folder} was made by another model (or with other prompts, pooling or length); its vectors mean nothing to this one: build the index again",
                zh=f"{folder} 是另一个模型（或不同的提示词、池化、长度）建的，这些向量对当前模型没有意义：重新建索引",
            )
        )
    if card["texts"] != texts_hash(collection.corpus):
        raise ValueError(
            say(
                en=f"{folder} was made from other texts than {collection.name}'s; build the index again",
                zh=f"{folder} 不是用 {collection.name} 现在的文本建的；重新建索引",
            )
        )
    return card
