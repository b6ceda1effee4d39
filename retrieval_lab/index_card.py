"""What a saved index was made of, so that it is never read by another model or for other texts.
Used by the searches of lessons 01 and 02.
"""

import hashlib
import json
from pathlib import Path

from retrieval_lab.profiles import say

PROBE = "Straße, Ａ１ CAFÉ don't re-tie!  你好，世界。 ½ 😀"  # case, accents, width, blanks: where tokenizers differ


def fingerprint(model) -> str:
    """Short hash of all that decides a model's vectors: weights, modules, tokenizer, prompts and lengths."""
    digest = hashlib.sha256(f"{[type(m).__name__ for m in model]}{model.prompts}{model.max_seq_length}".encode())
    for module in model:
        if hasattr(module, "pooling_mode"):
            digest.update(f"{module.pooling_mode}{module.include_prompt}".encode())
        if hasattr(module, "skiplist_words"):
            digest.update(f"{module.skiplist_words}{module.skiplist_tasks}".encode())
        for name in ("query_expansion", "query_length", "document_length"):
            if getattr(module, name, None) is not None:
                digest.update(f"{name}{getattr(module, name)}".encode())
    # The same weights under other tokens: other vectors.
    digest.update(str(model.tokenizer(PROBE)["input_ids"]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def texts_hash(corpus: dict[str, str]) -> str:
    """Short hash of the documents, their ids and their order."""
    return hashlib.sha256(json.dumps(corpus, ensure_ascii=False).encode()).hexdigest()[:16]


def write(folder: str | Path, name: str, model, corpus_hash: str, **more) -> Path:
    """Make the folder and its ``index.json``; ``more`` is kept as it is."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = {"name": name, "model": fingerprint(model), "texts": corpus_hash} | more
    (folder / "index.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return folder


def read(folder: str | Path, model, collection) -> dict:
    """The card of a saved index.

    Raises
    ------
    ValueError
        If the index was made by another model (or other prompts or length), or from other texts.
    """
    card = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
    if card["model"] != fingerprint(model):
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
