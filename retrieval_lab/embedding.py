"""One vector a text: load, encode, fine-tune. Everything here is a plain SentenceTransformer before and after.
Taught in lesson 01.
"""

import copy
from pathlib import Path

import numpy as np

from retrieval_lab import batching, decoders, embedding_recipes, llm_lora, models, run_log, setting_names
from retrieval_lab.profiles import say
from retrieval_lab.training import Config, fit

# What else sentence-transformers and PyLate save with a modules.json -> what loads it.
OTHER_KINDS = {
    "CrossEncoder": "reranker.load",
    "MultiVectorEncoder": "colbert.load",
    "ColBERT": "colbert.load",
    "SparseEncoder": "sparse.load",
}


def load(name: str | Path, pooling: str | None = None, *, prompts: dict[str, str] | None = None):
    """A SentenceTransformer by alias, hub id or folder.

    Parameters
    ----------
    name : what `models.resolve` takes
    pooling : "cls", "mean", "weightedmean" or "lasttoken" (or another of the library's, or an alias, see `setting_names.pooling`);
        needed when the folder is a plain checkpoint, or a lone Transformer, that does not say which pooling it was trained with.
        "lasttoken" makes the tokenizer end every text with its end-of-sequence token, cut texts too.
    prompts : put before texts, e.g. ``{"query": "Instruct: ...\\nQuery: ", "document": ""}``; None: what the model was saved with

    Raises
    ------
    ValueError
        If the model does not say how to pool and ``pooling`` is not given, or does say and another one is given; if the pooling is
        unknown; or if the folder holds a reranker, a ColBERT or a sparse encoder.

    Source: lesson 01.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder, pooling = models.resolve(name), setting_names.pooling(pooling)
    _refuse_other_kinds(name, decoders.saved_as(folder))
    _check_pooling(pooling)
    saved = decoders.modules(folder)
    if saved and not decoders.only_transformer(folder):
        return _with_known_pooling(SentenceTransformer(str(folder), prompts=prompts), name, pooling)
    if pooling is None:
        raise ValueError(
            say(
                en=f"{name} does not say how its token vectors become one vector; give pooling='cls' (BERT, BGE), 'mean' (E5, GTE) or 'lasttoken' (decoder LLMs), as its card says: a wrong one costs quality in silence",
                zh=f"{name} 没有写明怎样把词元向量合成一个向量；按模型卡给出 pooling='cls'（BERT、BGE）、'mean'（E5、GTE）或 'lasttoken'（解码器大模型）：选错不会报错，只会变差",
            )
        )
    if saved:  # with its own prompts and length
        model = SentenceTransformer(str(folder), prompts=prompts)
    else:
        model = SentenceTransformer(modules=[decoders.plain_text(folder)], prompts=prompts)
    if pooling == "lasttoken":
        decoders.append_eos(model.tokenizer)
    return model.append(modules.Pooling(model[0].get_embedding_dimension(), pooling))


def _refuse_other_kinds(name, kind: str | None) -> None:
    if kind in (None, "SentenceTransformer"):
        return
    how = OTHER_KINDS.get(kind)
    raise ValueError(
        say(
            en=f"{name} was saved as a {kind}, which does not give one vector a text; "
            + (f"load it with {how}" if how else "name a model that does"),
            zh=f"{name} 是作为 {kind} 保存的，它不会给每段文本一个向量；"
            + (f"用 {how} 加载它" if how else "换一个会的模型"),
        )
    )


def _check_pooling(pooling) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    for mode in [pooling] if isinstance(pooling, str) else pooling or ():
        if mode not in Pooling.POOLING_MODES:
            known = ", ".join(Pooling.POOLING_MODES)
            raise ValueError(
                say(
                    en=f"pooling={mode!r} is not known; use one of {known}",
                    zh=f"不认识 pooling={mode!r}；可用：{known}",
                )
            )


def _with_known_pooling(model, name, pooling):
    saved = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    if pooling is not None and saved and saved[0] not in (pooling, (pooling,)):
        raise ValueError(
            say(
                en=f"{name} was trained with pooling {saved[0]!r}, not {pooling!r}; leave `pooling` out",
                zh=f"{name} 训练时用的池化是 {saved[0]!r}，不是 {pooling!r}；不要再给 pooling",
            )
        )
    return model


def encode(
    model, texts: list[str], kind: str = "document", budget: int = 2048, *, prompt: str | None = None
) -> np.ndarray:
    """Vectors of unit length, equal to ``model.encode_query`` / ``encode_document`` but batched by tokens.

    Parameters
    ----------
    model : SentenceTransformer
    texts : n texts, in any order and of any length
    kind : "query" or "document": which of the model's prompts is put before each text, once
    budget : tokens of a padded batch
    prompt : put before each text in place of the model's own; None: the model's

    Returns
    -------
    (n, dim) float32

    Raises
    ------
    ValueError
        If ``texts`` is one string instead of a list, or ``kind`` is neither of the two.

    >>> from retrieval_lab import tiny
    >>> encode(tiny.encoder(), ["tram", "ferry"]).shape
    (2, 32)
    """
    vectors = np.zeros((len(texts), model.get_embedding_dimension()), np.float32)
    options = {"normalize_embeddings": True} | ({} if prompt is None else {"prompt": prompt})
    for batch, found in batching.encoded(model, texts, kind, budget, **options):
        vectors[batch] = found
    return vectors


def train(model, data, config: Config | None = None, *, evaluator=None, weights=None):
    """Fine-tune by sentence-transformers' own trainer, with the loss that the data's columns call for.

    ======================================  =============================================================================
    columns, as `formats.read` gives them   loss (``config.loss_type``)
    ======================================  =============================================================================
    query, positive[, negative_1, ...]      softmax over all positives and negatives of the batch ("in_batch")
    query, document, score, group           KL between scores and cosines within each query ("kl"), or "cosent"
    query, label (a teacher's vector)       cosine, similarity structure and triplets ("teacher")
    ======================================  =============================================================================

    The model's own prompts are put before queries and documents, as `encode` will do; where rows have a prompt_for_query, that
    stands in place of the query prompt. A teacher's texts are queries and documents in one column: they stand as they are, after
    their prompt_for_query if they have one. Rows that share a text, or one of which holds another answer to the other's query,
    never meet in a batch with in-batch negatives. With ``config.mrl_dims`` prefixes of the vectors are trained too.

    Parameters
    ----------
    model : SentenceTransformer; it is changed in place and returned
    data : datasets.Dataset
    config : see `training.Config`; the defaults fit a thousand pairs on a CPU
    evaluator : a sentence-transformers evaluator
    weights : of the distillation terms, see `losses.TeacherVectors`; only for "teacher"

    Raises
    ------
    ValueError
        If the data have no rows or other columns than the loss needs, or could teach nothing, see `embedding_recipes.recipe`; or
        if a setting is one that only other families or losses read.

    Source: Henderson et al. 2017, section 4 (in-batch negatives); Karpukhin et al. 2020, section 3.2; lessons 01 and 01b.
    """
    config = config or Config()
    config.refuse_unread("embedding")
    parts = embedding_recipes.recipe(model, data, config, weights=weights)
    llm_lora.ensure(model, config)
    given = {"prompts": parts.prompts, "batch_sampler": parts.sampler}
    return fit(model, parts.rows, parts.loss, config, evaluator=evaluator, **given)


def average(models: list, weights: list[float] | None = None):
    """A new model whose weights are a mean of several models' weights, all descended from one.

    Half original and half fine-tuned keeps most of what fine-tuning gained and of what it would have forgotten. The library's
    ``SentenceTransformer.merge`` has further methods and needs the package mergekit.

    Parameters
    ----------
    models : SentenceTransformers of one architecture; unchanged
    weights : one a model, adding up to 1; None: equal

    Returns
    -------
    SentenceTransformer, whose ``lab_card`` has each parent's weight and card (or name, of one that was not trained here)

    Raises
    ------
    ValueError
        If there are no two models, the weights do not fit or do not add up to 1, or a layer is missing or of another shape.

    Source: Wortsman et al. 2022 (WiSE-FT), section 3; lesson 01b.

    >>> from retrieval_lab import tiny
    >>> one, two = tiny.encoder(seed=0), tiny.encoder(seed=1)
    >>> half = average([one, two])
    >>> name = "0.model.embeddings.word_embeddings.weight"
    >>> bool((half.state_dict()[name] == (one.state_dict()[name] + two.state_dict()[name]) / 2).all())
    True
    """
    import torch

    weights = [1 / len(models) for _ in models] if weights is None else [float(weight) for weight in weights]
    states = [model.state_dict() for model in models]
    _check_average(states, weights)
    mean = copy.deepcopy(models[0])
    for name, tensor in mean.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                sum(w * state[name].double() for w, state in zip(weights, states, strict=True)).to(torch.float32)
            )
    cards = [getattr(model, "lab_card", None) or {"model": run_log.base(model)} for model in models]
    mean.lab_card = {"average_of": [{"weight": w} | card for w, card in zip(weights, cards, strict=True)]}
    mean.sharded_by = None
    return mean.eval()


def _check_average(states: list[dict], weights: list[float]) -> None:
    if len(states) < 2 or len(weights) != len(states) or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            say(
                en=f"{len(states)} models with weights {weights}; give two models or more and as many weights that add up to 1",
                zh=f"{len(states)} 个模型，权重 {weights}；至少给两个模型，权重个数相同且和为 1",
            )
        )
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    for shape in shapes[1:]:
        if differing := [name for name in shapes[0] | shape if shapes[0].get(name) != shape.get(name)]:
            name = differing[0]
            raise ValueError(
                say(
                    en=f"{name} has shape {shapes[0].get(name)} in the first model and {shape.get(name)} in another; average only models that started from the same one",
                    zh=f"{name} 的形状在第一个模型里是 {shapes[0].get(name)}，在另一个里是 {shape.get(name)}；只能平均同源的模型",
                )
            )
