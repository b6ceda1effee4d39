"""From a name to a MultiVectorEncoder: saved ones as they are, bge-m3 with its own layer, plain encoders with a new one.
Taught in lesson 02; called as `colbert.load`.
"""

import copy
import string
import warnings
from pathlib import Path

import torch

from retrieval_lab import batching, decoders, models
from retrieval_lab.profiles import say

PUNCTUATION = string.punctuation + "，。！？；：、“”‘’（）《》【】…—·～"
# What sentence-transformers saves that is no encoder -> what it was trained for.
NO_ENCODERS = {
    "CrossEncoder": lambda: say(en="score a query together with a document", zh="给“查询+文档”打分"),
    "SparseEncoder": lambda: say(en="weigh the words of the vocabulary", zh="给词表里的词加权"),
}


def load(name: str | Path, dim: int | None = None, **options):
    """A MultiVectorEncoder by alias, hub id or folder; no weight is ever random without a warning.

    * A saved multi-vector model (sentence-transformers, PyLate or Stanford ColBERT) is loaded as it is.
    * A folder with ``colbert_linear.pt`` (bge-m3) gets that layer and its conventions, see `with_own_linear`.
    * Any other encoder goes through `from_encoder`, which takes ``dim`` and ``options``.

    Parameters
    ----------
    name : what `models.resolve` takes
    dim : width of the token vectors of a plain encoder; None: its hidden size, without a new layer
    options : ``markers``, ``query_expansion``, ``skip_punctuation``, ``seed`` of `from_encoder`

    Raises
    ------
    ValueError
        If the model brings its own layer and markers, and others are asked for; or the folder holds a reranker or a sparse encoder.

    Source: Khattab & Zaharia 2020 (ColBERT), section 3; Chen et al. 2024 (M3-Embedding), section 3.2; lesson 02.
    """
    from sentence_transformers import MultiVectorEncoder

    folder = models.resolve(name)
    if _is_multi_vector(folder):
        return _unchanged(MultiVectorEncoder(str(folder)), name, dim, options)
    if (folder / "colbert_linear.pt").is_file():
        return _unchanged(with_own_linear(folder), name, dim, options)
    return from_encoder(bare_encoder(folder), dim, **options)


def _is_multi_vector(folder: Path) -> bool:
    native = any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in decoders.architectures(folder))
    return decoders.saved_as(folder) in ("MultiVectorEncoder", "ColBERT") or native


def _unchanged(model, name, dim: int | None, options: dict):
    own = model.get_embedding_dimension()
    asked = {key: value for key, value in options.items() if key != "seed" and value}
    if dim not in (None, own):
        asked = {"dim": dim} | asked
    if asked:
        given = ", ".join(f"{key}={value!r}" for key, value in asked.items())
        raise ValueError(
            say(
                en=f"{name} is a multi-vector model with {own} dims and markers of its own, so {given} cannot be had; leave it out, or start from a plain encoder",
                zh=f"{name} 本身就是多向量模型，有自己的 {own} 维投影和标记，不能再给 {given}；去掉它，或换一个普通编码器",
            )
        )
    return model


def bare_encoder(folder: Path):
    """The encoder's modules in a SentenceTransformer; a bare checkpoint needs no pooling here, for nothing is pooled.

    Raises
    ------
    ValueError
        If the folder was saved from a model that gives no vectors of its tokens, e.g. a reranker.
    """
    from sentence_transformers import SentenceTransformer

    if (kind := decoders.saved_as(folder)) in NO_ENCODERS:
        raise ValueError(
            say(
                en=f"{folder} was saved from a {kind}, trained to {NO_ENCODERS[kind]()}, not to encode tokens; start from an encoder, or from the one that it was made from",
                zh=f"{folder} 是由 {kind} 保存的，训练它是为了{NO_ENCODERS[kind]()}，不是给词元编码；换一个编码器，或用它原来的编码器",
            )
        )
    if (folder / "modules.json").is_file():
        return SentenceTransformer(str(folder))
    return SentenceTransformer(modules=[decoders.plain_text(folder)])


def from_encoder(
    encoder, dim: int | None = None, *, markers=None, query_expansion=None, skip_punctuation=False, seed=0
):
    """A MultiVectorEncoder that starts from a SentenceTransformer: its pooling goes, its token vectors stay.

    Parameters
    ----------
    encoder : SentenceTransformer; it is copied, not changed
    dim : None keeps the encoder's width and adds no weight. A number adds a linear layer with orthonormal rows: at full width
        it changes no cosine, below it loses a part that training wins back
    markers : two tokens put before every query and document, e.g. ("[Q]", "[D]"); the ones that the tokenizer lacks are added
        and start as the mean of the word table. None: only the encoder's own prompts
    query_expansion : queries are filled up to this many tokens with mask tokens, which score too (32 in the source); longer queries are
        not cut. None or 0: no filling
    skip_punctuation : leave punctuation out of the documents' vectors
    seed : of the new layer

    Warns
    -----
    UserWarning
        If there are new weights: train before use.

    Raises
    ------
    ValueError
        If ``dim`` or ``markers`` are impossible, or queries would be filled up beyond the encoder's positions.

    Source: Khattab & Zaharia 2020, sections 3.2 and 3.3; lesson 02.

    >>> from retrieval_lab import tiny
    >>> [len(vectors) for vectors in from_encoder(tiny.encoder()).encode_document(["ab", "abcd"])]  # and two special tokens
    [4, 6]
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    transformer = copy.deepcopy(encoder[0])
    heads = [_at_token_level(copy.deepcopy(module)) for module in encoder if isinstance(module, Dense)]
    prompts = {kind: batching.prompt(encoder, kind) for kind in ("query", "document")}
    if markers:
        _add_markers(transformer, markers)
        prompts = {kind: f"{marker} {prompts[kind]}" for kind, marker in zip(prompts, markers, strict=True)}
    if query_expansion:
        _check_expansion(transformer.auto_model, query_expansion)
        transformer.query_expansion = {"strategy": "min", "length": query_expansion}
    if dim is not None:
        width = heads[-1].out_features if heads else transformer.get_embedding_dimension()
        heads.append(_new_projection(width, dim, seed))
    skipped = _punctuation(transformer.tokenizer) if skip_punctuation else None
    layers = [transformer, *heads, MultiVectorMask(skipped), Normalize("token_embeddings")]
    return MultiVectorEncoder(modules=layers, prompts=prompts, similarity_fn_name="maxsim", device=str(encoder.device))


def _check_expansion(encoder, length: int) -> None:
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    offset = getattr(table, "padding_idx", None)  # XLM-R counts positions from its padding id + 1
    most = getattr(encoder.config, "max_position_embeddings", 10**6) - (0 if offset is None else offset + 1)
    if not isinstance(length, int) or not 1 <= length <= most:
        raise ValueError(
            say(
                en=f"query_expansion={length}; the encoder has {most} positions, use 1 to {most}, or 0 for no filling",
                zh=f"query_expansion={length}；编码器有 {most} 个位置，可用 1 到 {most}，0 表示不补齐",
            )
        )


def _at_token_level(dense):
    dense.module_input_name = dense.module_output_name = "token_embeddings"
    return dense


def _new_projection(width: int, dim: int, seed: int):
    from sentence_transformers.base.modules.dense import Dense

    if not 1 <= dim <= width:
        raise ValueError(
            say(
                en=f"dim={dim}; the encoder's tokens have {width} dims, use 1 to {width}",
                zh=f"dim={dim}；编码器的词元向量是 {width} 维，可用 1 到 {width}",
            )
        )
    warnings.warn(
        say(
            en=f"the projection {width} -> {dim} is new: its weights are random until you train them",
            zh=f"投影层 {width} -> {dim} 是新加的：训练之前，权重是随机的",
        ),
        stacklevel=3,
    )
    weight = torch.nn.init.orthogonal_(torch.empty(dim, width), generator=torch.Generator().manual_seed(seed))
    options = {"bias": False, "activation_function": torch.nn.Identity(), "module_input_name": "token_embeddings"}
    return Dense(width, dim, init_weight=weight, **options)


def _add_markers(transformer, markers) -> None:
    from transformers import AddedToken

    if len(markers) != 2 or not all(isinstance(marker, str) and marker.split() == [marker] for marker in markers):
        raise ValueError(
            say(
                en=f"markers={markers!r}; give two tokens without blanks: one for queries, one for documents",
                zh=f"markers={markers!r}；要给两个不含空格的词元：查询一个，文档一个",
            )
        )
    new = [marker for marker in markers if marker not in transformer.tokenizer.get_vocab()]
    transformer.tokenizer.add_tokens([AddedToken(m, special=True, normalized=False) for m in markers])
    if not new:
        return
    table = transformer.auto_model.get_input_embeddings().weight
    mean, ids = table.detach().mean(dim=0), transformer.tokenizer.convert_tokens_to_ids(new)
    if max(ids) >= len(table):
        table = transformer.auto_model.resize_token_embeddings(max(ids) + 1, mean_resizing=False).weight
    with torch.no_grad():
        table[ids] = mean
    warnings.warn(
        say(
            en=f"new tokens {', '.join(new)}: they mean nothing until you train them (with freeze_word_embeddings=False)",
            zh=f"新词元 {'、'.join(new)}：训练之前没有含义（训练时要设 freeze_word_embeddings=False）",
        ),
        stacklevel=3,
    )


def _punctuation(tokenizer) -> list[str]:
    """The tokens that read as one punctuation mark, alone or at the start of a word ("▁" in SentencePiece).

    A byte-level tokenizer writes its tokens in letters of its own, so every token is read back: "·" may stand for a byte there. A
    mark that it has no single token for is not skipped.
    """
    vocabulary, found = tokenizer.get_vocab(), {}
    for mark in PUNCTUATION:
        whole = [tokenizer.tokenize(text) for text in (mark, f" {mark}")]
        tokens = [mark, f"▁{mark}", *(tokens[0] for tokens in whole if len(tokens) == 1)]
        known = [token for token in tokens if token in vocabulary]
        found |= dict.fromkeys(token for token in known if tokenizer.decode(vocabulary[token]).strip() == mark)
    return list(found)


def with_own_linear(folder: Path):
    """The ColBERT head of a bge-m3 folder: ``colbert_linear.pt``, every token but the first, unit length, mean instead of sum.

    The other heads of the same folder are not part of the result; `embedding.load` gives the dense, `sparse.load` the lexical one.

    Raises
    ------
    ValueError
        If the layer does not fit the encoder.

    Source: Chen et al. 2024 (M3-Embedding), section 3.2: the first token is left to the dense vector.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    encoder = bare_encoder(folder)
    transformer = encoder[0]
    saved = torch.load(folder / "colbert_linear.pt", map_location="cpu", weights_only=True)
    weight, bias = saved["weight"].float(), saved.get("bias")
    dim, width = weight.shape
    if width != transformer.get_embedding_dimension():
        raise ValueError(
            say(
                en=f"{folder}/colbert_linear.pt takes {width} dims, the encoder beside it gives {transformer.get_embedding_dimension()}; they are of two models",
                zh=f"{folder}/colbert_linear.pt 需要 {width} 维，旁边的编码器给出 {transformer.get_embedding_dimension()} 维；两者不是同一个模型",
            )
        )
    options = {"bias": bias is not None, "activation_function": torch.nn.Identity()}
    init = {"init_weight": weight, "init_bias": None if bias is None else bias.float()}
    dense = Dense(width, dim, module_input_name="token_embeddings", **options, **init)
    first = transformer.tokenizer.cls_token
    mask = MultiVectorMask([first], skiplist_tasks=["query", "document"])
    layers = [transformer, dense, mask, Normalize("token_embeddings")]
    return MultiVectorEncoder(modules=layers, similarity_fn_name="meanmaxsim", device=str(encoder.device))
