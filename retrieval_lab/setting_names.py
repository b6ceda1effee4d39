"""The names of settings: which other names mean the same, which families read them, and what an unknown one may have been meant to be.
Taught in lesson 07.
"""

import difflib

from retrieval_lab.profiles import say

# Another project's name -> ours, which is that of transformers, accelerate or peft where they have one.
ALIASES = {
    "lr": "learning_rate",
    "epoch": "num_train_epochs",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "max_len": "max_seq_length",
    "max_length": "max_seq_length",
    "warmup_proportion": "warmup_ratio",
    "log_interval": "logging_steps",
    "log_with": "report_to",
    "save_on_epoch_end": "save_strategy",
    "num_max_checkpoints": "save_total_limit",
    "pooling_method": "pooling",
    "query_instruction": "query_prompt",
    "document_instruction": "document_prompt",
    "lora_rank": "lora_r",
    "negatives_x_device": "negatives_cross_device",
    "resume": "resume_from_checkpoint",
}

# Settings that only some families read; for another family they are refused (`Config.refuse_unread`), because they would do nothing.
READ_BY = dict.fromkeys(("pooling", "mrl_dims", "use_mrl", "use_inbatch_neg"), ("embedding",))
READ_BY |= dict.fromkeys(
    (
        "temperature",
        "teacher_temperature",
        "mini_batch_size",
        "neg_nums",
        "query_max_len",
        "passage_max_len",
        "query_prompt",
        "document_prompt",
    ),
    ("embedding", "colbert"),
)
READ_BY |= {"use_lora": ("embedding", "llm", "llm_decoder")}
READ_BY |= dict.fromkeys(("query_format", "document_format", "seq", "special_token", "num_labels"), ("llm_decoder",))

# Settings of the model and the data that `retrieval-lab train` makes from files -> how a notebook, which hands over objects, says it.
OF_A_FILE = {
    "pooling": "embedding.load(name, {})",
    "query_prompt": "model.prompts['query'] = {}",
    "document_prompt": "model.prompts['document'] = {}",
    "query_max_len": "model[0].query_length = {}",
    "passage_max_len": "model[0].document_length = {}",
    "neg_nums": "formats.read(file, 'triplet', neg_nums={})",
    "skip_bad": "formats.read(file, kind, skip_bad={})",
}
OF_A_FILE |= {
    name: f"llm_scalar.load(name, {name}={{}})"
    for name in ("query_format", "document_format", "seq", "special_token", "num_labels")
}


def canonical(settings: dict, known, where: str = "") -> dict:
    """The settings under our own names.

    Parameters
    ----------
    settings : name -> value; ``-`` in a name counts as ``_``
    known : our names
    where : put before a message, e.g. the file

    Raises
    ------
    ValueError
        If a name is unknown, or two names of one setting are given.

    >>> canonical({"lr": "1e-4", "save-on-epoch-end": 1}, ["learning_rate", "save_strategy"])
    {'learning_rate': '1e-4', 'save_strategy': 'epoch'}
    """
    found, given = {}, {}
    for written, value in settings.items():
        plain = str(written).replace("-", "_")
        name = ALIASES.get(plain, plain)
        if name not in known:
            raise ValueError(where + _unknown(written, known))
        if name in found:
            raise ValueError(
                where
                + say(
                    en=f"{given[name]} and {written} are one setting ({name}); keep one",
                    zh=f"{given[name]} 和 {written} 是同一个设置（{name}），只留一个",
                )
            )
        given[name] = written
        found[name] = strategy(value) if plain == "save_on_epoch_end" else value
    return found


def refuse_unread(config, family: str) -> None:
    """Stop where a setting is not at its default and would be ignored: by the family, or because no files are named.

    Parameters
    ----------
    config : training_config.Config
    family : "embedding", "colbert", "reranker", "llm" or "llm_decoder"

    Raises
    ------
    ValueError
        If there is such a setting; the message names it, the family and the families that read it, or what to write instead.
    """
    changed = {name: value for name, value in config if value != type(config).model_fields[name].default}
    for setting, value in changed.items():
        families = READ_BY.get(setting, (family,))
        if family not in families:
            raise ValueError(_of_others(setting, value, family, families))
        if setting in OF_A_FILE and config.train_dataset is None:
            raise ValueError(_of_a_file(setting, value))


def _of_others(setting: str, value, family: str, families: tuple[str, ...]) -> str:
    return say(
        en=f"{setting}={value!r} would do nothing: model_type {family} does not read it, only {', '.join(families)}; leave it out",
        zh=f"{setting}={value!r} 不会起作用：model_type {family} 不读这个设置，只有 {'、'.join(families)} 读；去掉它",
    )


def _of_a_file(setting: str, value) -> str:
    instead = OF_A_FILE[setting].format(repr(value))
    return say(
        en=f"{setting}={value!r} would do nothing: only `retrieval-lab train` reads it, together with train_dataset; with a model and data of your own write {instead}",
        zh=f"{setting}={value!r} 不会起作用：只有 `retrieval-lab train` 会连同 train_dataset 一起读它；自己传入模型和数据时，要写 {instead}",
    )


def _unknown(name: str, known) -> str:
    near = difflib.get_close_matches(str(name).replace("-", "_"), [*known, *ALIASES], n=1, cutoff=0)[0]
    return say(en=f"{name} is no setting; the nearest is {near}", zh=f"没有 {name} 这个设置；最接近的是 {near}")


def strategy(value) -> str:
    """``save_on_epoch_end`` as a strategy.

    >>> strategy(True), strategy("0"), strategy("epoch")
    ('epoch', 'no', 'epoch')
    """
    words = {"1": "epoch", "true": "epoch", "yes": "epoch", "0": "no", "false": "no", "none": "no", "": "no"}
    return words.get(str(value).strip().lower(), value)


def numbers(value):
    """A list of numbers, also where it is written as "128, 256".

    >>> numbers("128, 256"), numbers([64]), numbers(32)
    ([128, 256], [64], [32])
    """
    if isinstance(value, str):
        value = [part for part in value.strip("[]() ").replace(",", " ").split() if part] or None
        return [int(part) if part.isdigit() else part for part in value] if value else None
    return [value] if isinstance(value, int) else value


def loggers(value) -> list[str]:
    """``report_to`` as a list; nothing, "none" and an empty line are the empty list.

    >>> loggers("tensorboard"), loggers(None), loggers("tensorboard, wandb")
    (['tensorboard'], [], ['tensorboard', 'wandb'])
    """
    words = value.replace(",", " ").split() if isinstance(value, str) else list(value or [])
    return [word for word in words if word.lower() not in ("none", "null")]


def pooling(value):
    """A pooling method in the words of sentence-transformers.

    >>> pooling("last"), pooling("avg"), pooling("weighted"), pooling("cls")
    ('lasttoken', 'mean', 'weightedmean', 'cls')
    """
    names = {"last": "lasttoken", "last_token": "lasttoken", "avg": "mean", "average": "mean"}
    names |= {"weighted": "weightedmean", "weighted_mean": "weightedmean", "": None}
    return names.get(value, value) if isinstance(value, str) else value


def prompt(value):
    """A prompt as the text that is put before a query: one ``{}`` at its end marks the query's place and is taken off.

    Raises
    ------
    ValueError
        If a ``{}`` stands anywhere else: what follows it would be lost.

    >>> prompt("Query: {}"), prompt("Query: ")
    ('Query: ', 'Query: ')
    """
    if not isinstance(value, str):
        return value
    text = value.removesuffix("{}")
    if "{}" in text:
        raise ValueError(
            say(
                en=f"a prompt stands before the text, but {value!r} has a {{}} inside; only one at its end is understood",
                zh=f"提示词放在文本之前，但 {value!r} 中间有 {{}}；只认结尾处的一个",
            )
        )
    return text
