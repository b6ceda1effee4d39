"""What `embedding.train` makes of its data: which loss, which columns, which batches.
Taught in lesson 01b.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.util.distributed import get_world_size

from retrieval_lab import batching, formats
from retrieval_lab.negatives import HIDDEN
from retrieval_lab.profiles import say
from retrieval_lab.training import Config

# Columns that each loss needs; the first whose columns are there is the default.
COLUMNS = {
    "in_batch": ["query", "positive"],
    "kl": ["query", "document", "score"],
    "cosent": ["query", "document", "score"],
    "teacher": ["query", "label"],
}

# Settings that would do nothing, by loss. "teacher" reads no temperature either, but a run may set it once for several losses.
UNREAD = {
    "in_batch": ["teacher_temperature"],
    "kl": ["use_inbatch_neg"],
    "cosent": ["teacher_temperature", "use_inbatch_neg"],
    "teacher": ["use_inbatch_neg"],
}


@dataclass(frozen=True)
class Recipe:
    """What the trainer takes: rows, their text columns, the loss, the prompt of each column, the sampler's maker."""

    rows: object
    loss: object
    prompts: dict[str, str] | None
    sampler: object


def recipe(model, data, config: Config, *, weights: dict | None = None) -> Recipe:
    """Choose by ``config.loss_type``, or by the columns of the data when it is None.

    Parameters
    ----------
    model : SentenceTransformer
    data : what `formats.read` returns for kind "pair", "triplet", "scored" or "teacher"
    config : its loss_type is "in_batch", "kl", "cosent", "teacher" or None
    weights : see `losses.TeacherVectors`; None for every other loss

    Raises
    ------
    ValueError
        If the loss is unknown or does not read a setting or the weights, if the data lack its columns, have no rows or a transform
        of their own, if no query of scored pairs has two documents, or if the teacher's width is not the model's.

    Source: lesson 01b.
    """
    name, data = _loss_name(data, config), _stored(data)
    _refuse_unread(name, config, weights)
    # Prompts of the rows take the place of the model's query prompt. A teacher's texts are documents, too: they stand as they are.
    own_prompts = name == "teacher" or "prompt_for_query" in data.column_names
    rows = _ROWS[name](formats.apply_prompts(data))
    texts = [column for column in rows[0] if column != "label"]
    prompts = batching.prompts(model, [column for column in texts if column != "query" or not own_prompts])
    loss = _LOSSES[name](model, rows, config, weights)
    with config.applied_to(model):  # lengths are counted after truncation
        sampler = _SAMPLERS[name](model, rows, texts, data)
    return Recipe(rows, loss, prompts, sampler)


def _loss_name(data, config: Config) -> str:
    fitting = [name for name, columns in COLUMNS.items() if set(columns) <= set(data.column_names)]
    name = config.chosen_loss(COLUMNS, fitting[0] if fitting else "in_batch")
    if name != "in_batch" and (name not in fitting or not len(data)):
        raise ValueError(
            say(
                en=f"loss_type {name!r} needs rows with columns {', '.join(COLUMNS[name])}; got {len(data)} rows with {data.column_names}",
                zh=f"loss_type {name!r} 需要 {'、'.join(COLUMNS[name])} 这些列；现在是 {len(data)} 行，列为 {data.column_names}",
            )
        )
    return name


def _refuse_unread(loss: str, config: Config, weights) -> None:
    defaults = type(config).model_fields
    given = {name: value for name in UNREAD[loss] if (value := getattr(config, name)) != defaults[name].default}
    given |= {"weights": weights} if weights is not None and loss != "teacher" else {}
    for name, value in given.items():
        raise ValueError(
            say(
                en=f"{name}={value!r} would do nothing: the loss {loss} does not read it; leave it out, or choose another loss_type",
                zh=f"{name}={value!r} 不会起作用：损失 {loss} 不读它；去掉它，或换一个 loss_type",
            )
        )


def _stored(data):
    """The rows without a format (tensors are no texts and no ids), but for negatives that are drawn anew each epoch."""
    if data.format["type"] != "custom":
        return data.with_format(None)
    if isinstance(data.format["format_kwargs"].get("transform"), formats.NegativeDraw):
        return data
    raise ValueError(
        say(
            en="the data have a transform of your own, and batches are laid out by texts that are known beforehand; apply it once: Dataset.from_dict(data[:])",
            zh="数据带有自定义的 transform，而排批次要事先知道文本；先应用一次：Dataset.from_dict(data[:])",
        )
    )


def _in_batch_rows(data):
    # Negatives drawn anew each epoch exist only in what the rows show; what they are drawn from is no column of the loss.
    hidden = HIDDEN if data.format["type"] == "custom" else ()
    return data.select_columns([*batching.checked_columns(data.remove_columns([*hidden])), *hidden])


def _groups(data) -> list[int]:
    """A number from 0 for each row, equal for rows of the same query; a large id would not survive the label's float32."""
    names = data["group" if "group" in data.column_names else "query"][:]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def _scored_rows(data):
    """The group travels with the score, because the trainer would take any other column for a text."""
    groups = _groups(data)
    if len(set(groups)) == len(groups):
        raise ValueError(
            say(
                en=f"{len(groups)} scored pairs, each of another query: within a query there is nothing to compare; give each query two documents or more, or use loss_type='cosent'",
                zh=f"{len(groups)} 个打分对各属于不同的查询，同一查询内没有可比的；每个查询至少给两篇文档，或改用 loss_type='cosent'",
            )
        )
    labels = [list(pair) for pair in zip(data["score"], groups, strict=True)]
    return data.select_columns(["query", "document"]).add_column("label", labels)


def _cosent_rows(data):
    return data.select_columns(["query", "document", "score"]).rename_column("score", "label")


def _teacher_rows(data):
    return data.select_columns(["query", "label"])


_ROWS = {"in_batch": _in_batch_rows, "kl": _scored_rows, "cosent": _cosent_rows, "teacher": _teacher_rows}


def _ranking_loss(model, rows, config: Config, _):
    from sentence_transformers.sentence_transformer import losses as library

    from retrieval_lab import losses

    if not config.use_inbatch_neg:
        if len(rows[0]) == 2:
            raise ValueError(
                say(
                    en="use_inbatch_neg=False leaves these pairs without any negative; give triplets, or leave it True",
                    zh="use_inbatch_neg=False 时，这些正例对一个负例也没有；给三元组数据，或保持 True",
                )
            )
        return _prefixes(model, losses.OwnNegatives(model, config.temperature), config)
    if config.mini_batch_size:
        cached = library.CachedMultipleNegativesRankingLoss
        loss = cached(model, scale=1 / config.temperature, mini_batch_size=config.mini_batch_size)
    else:
        loss = library.MultipleNegativesRankingLoss(model, scale=1 / config.temperature)
    return _prefixes(model, loss, config)


def _kl_loss(model, rows, config: Config, _):
    from retrieval_lab import losses

    if config.per_device_train_batch_size < 2:
        raise ValueError(
            say(
                en="per_device_train_batch_size=1: a softmax over one document has no gradient; use 2 or more",
                zh="per_device_train_batch_size=1：只有一篇文档的 softmax 没有梯度；至少设为 2",
            )
        )
    return _prefixes(model, losses.GroupedKL(model, config.temperature, config.teacher_temperature), config)


def _cosent_loss(model, rows, config: Config, _):
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return _prefixes(model, CoSENTLoss(model, scale=1 / config.temperature), config)


def _teacher_loss(model, rows, config: Config, weights):
    from retrieval_lab import losses

    _check_dims(model, config)
    loss = losses.TeacherVectors(model, weights, config.mrl_dims or ())
    losses.check_width(len(rows[0]["label"]), model.get_embedding_dimension(), loss.weights, model)
    return loss


_LOSSES = {"in_batch": _ranking_loss, "kl": _kl_loss, "cosent": _cosent_loss, "teacher": _teacher_loss}


def _check_dims(model, config: Config) -> int:
    """The model's width, which no entry of ``config.mrl_dims`` may go beyond."""
    from retrieval_lab import losses

    width = model.get_embedding_dimension()
    if max(config.mrl_dims or (), default=0) > width:
        head = losses.head_call(model, max(config.mrl_dims))
        raise ValueError(
            say(
                en=f"mrl_dims {config.mrl_dims} go beyond the model's {width} dims; leave the larger ones out{head and f', or add a head: {head}'}",
                zh=f"mrl_dims {config.mrl_dims} 超过了模型的 {width} 维；去掉更大的{head and f'，或加一个输出头：{head}'}",
            )
        )
    return width


def _prefixes(model, loss, config: Config):
    """The loss at every width of ``config.mrl_dims`` as well, or as it is."""
    if not config.mrl_dims:
        return loss
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    width = _check_dims(model, config)
    return MatryoshkaLoss(model, loss, sorted({*config.mrl_dims, width}))


def _group_sampler(model, rows, texts: list[str], data):
    lengths = batching.token_lengths(model, rows["document"])
    return batching.maker(GroupBatchSampler, groups=_groups(data), lengths=lengths)


def _text_sampler(model, rows, texts: list[str], data):
    once = [{text} for text in rows["query"]]  # a text next to itself would teach nothing
    return batching.buckets(batching.token_lengths(model, rows["query"]), once)


_SAMPLERS = {
    "in_batch": lambda model, rows, texts, data: batching.sampler(model, rows, texts),
    "kl": _group_sampler,
    "cosent": _group_sampler,
    "teacher": _text_sampler,
}


class GroupBatchSampler(DefaultBatchSampler):
    """Batches that keep a query's rows together, for losses that compare them: whole groups, of like length.

    The groups are laid into batches once, shortest first, which pads least; so every epoch has equally many batches, which the
    trainer counts on, and only their order changes. To a loss within groups ("kl") neighbours make no difference. "cosent" compares
    all rows of a batch, so its queries meet the same neighbours in every epoch; batches drawn anew did no better (nDCG@10 .497
    against .516 with these). A group that no batch can hold is cut into nearly even parts, other ones each epoch; only batches of
    two can leave a row of it alone. No row is left out; under several processes the first batches come again, until each process
    has equally many.

    Parameters
    ----------
    groups : a number for each row of the dataset; rows with the same number belong together
    lengths : tokens of each row

    >>> sampler = GroupBatchSampler(range(5), 3, groups=[7, 8, 7, 8, 8], lengths=[9, 1, 1, 2, 1])
    >>> sorted(sorted(batch) for batch in sampler)
    [[0, 2], [1, 3, 4]]
    """

    def __init__(self, dataset, batch_size, drop_last=False, *, groups, lengths, **kwargs):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **kwargs)
        members: dict[int, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        self.members = sorted(members.values(), key=lambda rows: max(lengths[i] for i in rows))
        self.rows, self.world_size = batch_size, get_world_size()
        if self.world_size > 1:
            self.batch_size = None  # accelerate would leave out batches that are not full

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}-{self.epoch}")
        batches = self._filled(rng)
        rng.shuffle(batches)
        yield from (batches * self.world_size)[: len(self)]  # as many for each process

    def _filled(self, rng: random.Random) -> list[list[int]]:
        batches: list[list[int]] = []
        for rows in self.members:
            shuffled = rng.sample(rows, len(rows))
            n_parts = -(-len(rows) // self.rows)
            for part in (shuffled[i::n_parts] for i in range(n_parts)):
                if not batches or len(batches[-1]) + len(part) > self.rows:
                    batches.append([])
                batches[-1] += part
        return batches

    def __len__(self) -> int:
        n_batches = len(self._filled(random.Random(0)))
        return n_batches + -n_batches % self.world_size
