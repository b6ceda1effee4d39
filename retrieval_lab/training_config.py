"""One typed configuration for every family: read from YAML, from the command line or made in a notebook, with the same result.
Taught in lesson 01 (the first fields) and lesson 07.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from retrieval_lab import setting_names
from retrieval_lab.profiles import say

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]  # 1 would be read as a number of steps
Count = Annotated[int, Field(ge=1)]
Strategy = Literal["no", "epoch", "steps"]
Dims = Annotated[list[Count] | None, BeforeValidator(setting_names.numbers)]
Text = Annotated[str | None, BeforeValidator(lambda value: value or None)]  # an empty line in YAML means "none"
Prompt = Annotated[str | None, BeforeValidator(setting_names.prompt)]
Pooling = Annotated[str | None, BeforeValidator(setting_names.pooling)]


# Fields that the libraries' trainers take under the same name.
PASSED_ON = {
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm", "seed"),
    *("logging_steps", "save_strategy", "save_steps"),
}


class Config(BaseModel):
    """What training needs to know. Unknown names and impossible values are refused when the object is made.

    The names are those of transformers, accelerate and peft where they have one; the names that other projects use for
    the same thing are read too (`setting_names.ALIASES`).

    >>> Config(learning_rate="1e-4").learning_rate
    0.0001
    >>> Config(lr=2e-5, epoch=3).num_train_epochs
    3.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # Model and data: used by `retrieval-lab train`; a notebook hands over objects instead.
    model_name_or_path: Text = None  # what `models.resolve` takes
    model_type: str = "embedding"  # embedding, colbert, reranker or llm; bert_encoder and llm_decoder are rerankers
    train_dataset: Text = None  # a training file, see `formats`
    val_dataset: Text = None  # the same format; the best epoch is chosen by nDCG@10 on it
    output_dir: Annotated[str, AfterValidator(os.path.expanduser)] = "runs/latest"  # checkpoints, configuration, model
    neg_nums: Count | None = (
        None  # hard negatives a row, for "embedding" drawn anew every epoch; None: 1, or none without any
    )
    min_label: float = 0
    max_label: float = 1
    skip_bad: bool = False  # train on the lines without a problem, and say how many were left out

    # Length of the run
    num_train_epochs: Positive = 2  # more overfits a thousand pairs
    max_steps: int = -1  # -1: as many as the epochs need
    per_device_train_batch_size: Count = 16  # each other row of a batch is a negative
    mini_batch_size: Count | None = None  # rows at a time (GradCache, in-batch loss); None: the whole batch
    gradient_accumulation_steps: Count = 1  # adds gradients up, adds no negatives
    seed: int = 0

    # Optimiser
    learning_rate: Positive = 5e-5  # 1e-5 to 5e-5 for all weights; ten times that for LoRA
    warmup_ratio: Share = 0.1
    lr_scheduler_type: str = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"  # the forward pass; the weights stay in fp32
    gradient_checkpointing: bool = False  # less memory, a second forward pass

    # Loss
    loss_type: str | None = None  # a family's own names; None: its default
    temperature: Positive = 0.05  # of the softmax over the batch: SimCSE, section 3; smaller is steeper, E5 wants 0.02
    teacher_temperature: Positive = (
        1.0  # of scores in a KL loss, see `losses.grouped_kl`; grades 0 to 3 want 0.25, scores 0 to 1 0.08
    )
    use_inbatch_neg: bool = True
    negatives_cross_device: bool = True  # under several processes, their batches lend each other negatives
    use_mrl: bool | None = None  # None: where mrl_dims is given
    mrl_dims: Dims = None  # beyond the model's width: `retrieval-lab train` adds a layer, see `matryoshka.add_head`
    num_labels: Count = 1

    # Text
    max_seq_length: Count | None = None  # tokens; None: the model's own
    query_max_len: Count | None = None  # tokens of a query, where the family can cut queries and documents apart
    passage_max_len: Count | None = None
    pooling: Pooling = None  # only for a plain checkpoint that does not say it
    query_prompt: Prompt = None  # None: the model's own
    document_prompt: Prompt = None
    query_format: str | None = None  # decoder rerankers, see `llm`
    document_format: str | None = None
    seq: str | None = None
    special_token: str | None = None

    # What is trained
    dropout: bool = False  # off: its random numbers are slow on a CPU (benchmarks/speed.md)
    freeze_word_embeddings: bool = True  # only tables of over 100,000 rows: most of a multilingual model's weights
    use_lora: bool = False  # train low-rank adapters instead of all weights
    lora_r: Count = 16  # rank of the adapters
    lora_alpha: Count = 32  # their scale is lora_alpha / lora_r
    lora_target_modules: str | list[str] = "all-linear"  # "all-linear", or names such as ["q_proj", "v_proj"]

    # Evaluation, checkpoints, logs
    eval_strategy: Strategy = "epoch"  # when there is an evaluator
    eval_steps: Count | None = None
    metric_for_best_model: str | None = None  # None: the evaluator's own first metric
    early_stopping_patience: Count | None = None  # evaluations without a gain before training stops
    save_strategy: Strategy = "no"
    save_steps: Count = 500
    save_total_limit: Count | None = None  # checkpoints kept beside the best one; None: all
    resume_from_checkpoint: bool = False  # go on after the last whole checkpoint in output_dir
    logging_steps: Count = 10
    report_to: Annotated[
        list[str], BeforeValidator(setting_names.loggers)
    ] = []  # tensorboard, wandb; the run log is always written

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, settings):
        return setting_names.canonical(settings, cls.model_fields)

    @model_validator(mode="after")
    def _dims_for_mrl(self):
        if self.use_mrl and not self.mrl_dims:
            raise ValueError(
                say(
                    en="use_mrl needs mrl_dims, e.g. 64, 128, 384",
                    zh="use_mrl 需要同时给出 mrl_dims，例如 64, 128, 384",
                )
            )
        if self.use_mrl is False:
            self.__dict__["mrl_dims"] = None  # a frozen model has no other way
        return self

    @classmethod
    def read(cls, path: str | Path, **overrides) -> "Config":
        """The configuration of a YAML file; ``overrides``, e.g. from the command line, beat the file.

        Raises
        ------
        OSError
            If there is no such file.
        ValueError
            If the file is not a YAML mapping, names an unknown setting, or a value is impossible.
        """
        import yaml

        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(_not_yaml(path, error)) from None
        if not isinstance(settings, dict):
            raise ValueError(
                say(
                    en=f"{path} holds {type(settings).__name__}, not lines of `name: value`",
                    zh=f"{path} 里不是一行行的“名字: 值”",
                )
            )
        fields = cls.model_fields
        return cls(
            **(
                setting_names.canonical(settings, fields, where=f"{path}: ")
                | setting_names.canonical(overrides, fields)
            )
        )

    def save(self, folder: str | Path) -> Path:
        """Write the configuration, defaults included, as ``config.yaml``, which `read` takes."""
        import yaml

        file = Path(folder) / "config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        return file

    def refuse_unread(self, family: str) -> None:
        """Stop before training where a setting is set that the family would ignore, see `setting_names.refuse_unread`.

        >>> Config(temperature=0.02).refuse_unread("embedding")
        """
        setting_names.refuse_unread(self, family)

    def chosen_loss(self, known: Iterable[str], default: str) -> str:
        """``loss_type``, or the default of a family whose losses are ``known``.

        Raises
        ------
        ValueError
            If the family does not know the loss, or mini_batch_size is set for one that it would do nothing for.

        >>> Config().chosen_loss(["in_batch", "distill"], "in_batch")
        'in_batch'
        """
        name, known = self.loss_type or default, list(known)
        if name not in known:
            raise ValueError(
                say(
                    en=f"loss_type={name!r} is not known; use one of {', '.join(known)}",
                    zh=f"不认识 loss_type={name!r}；可用：{'、'.join(known)}",
                )
            )
        loss = name if self.use_inbatch_neg else f"{name}, use_inbatch_neg=False"
        if self.mini_batch_size and loss != "in_batch":
            raise ValueError(
                say(
                    en=f"mini_batch_size={self.mini_batch_size} would do nothing: GradCache is there for in-batch negatives (in_batch), not for {loss}; leave it out, and to save memory lower per_device_train_batch_size and raise gradient_accumulation_steps",
                    zh=f"mini_batch_size={self.mini_batch_size} 不会起作用：GradCache 只用于批内负例（in_batch），不用于 {loss}；去掉它，想省显存就调小 per_device_train_batch_size，调大 gradient_accumulation_steps",
                )
            )
        return name

    def arguments(self) -> dict:
        """The fields that are arguments of the libraries' trainers, as they name them."""
        # Newer versions of transformers have another name for it and warn of this one; older ones know no other.
        checkpointing = {"gradient_checkpointing": True} if self.gradient_checkpointing else {}
        return (
            self.model_dump(include=PASSED_ON)
            | checkpointing
            | {
                "warmup_steps": self.warmup_ratio,  # transformers 5 reads a warm-up below 1 as a share of all steps
                "fp16": self.mixed_precision == "fp16",
                "bf16": self.mixed_precision == "bf16",
                "report_to": self.report_to or "none",
                "logging_nan_inf_filter": False,  # a NaN is to be seen
                "disable_tqdm": os.environ.get("RETRIEVAL_LAB_QUIET") == "1",
                "dataloader_pin_memory": False,
            }
        )

    @contextlib.contextmanager
    def applied_to(self, model):
        """While training: dropout and length as configured and, if asked for, a large word table frozen. Undone afterwards.

        Raises
        ------
        ValueError
            If max_seq_length is more than the model has positions for.
        """
        import torch

        self._check_length(model)
        length = getattr(model, "max_seq_length", None)
        rates = {module: module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings > 100_000]
        frozen = [table for table in tables if self.freeze_word_embeddings and table.requires_grad]
        for module, rate in rates.items():
            module.p = rate if self.dropout else 0.0
        for table in frozen:
            table.requires_grad_(False)
        if self.max_seq_length:
            model.max_seq_length = self.max_seq_length
        try:
            yield
        finally:
            for module, rate in rates.items():
                module.p = rate
            for table in frozen:
                table.requires_grad_(True)
            if self.max_seq_length:
                model.max_seq_length = length

    def _check_length(self, model) -> None:
        positions = _positions(model)
        if self.max_seq_length and positions and self.max_seq_length > positions:
            raise ValueError(
                say(
                    en=f"max_seq_length={self.max_seq_length}, but the model has {positions} positions; use at most that many",
                    zh=f"max_seq_length={self.max_seq_length}，但模型只有 {positions} 个位置；最多设到这个数",
                )
            )


def _positions(model) -> int | None:
    """Tokens that a model has positions for; None: no limit is known. RoBERTa's kind of table counts from the padding's row on."""
    configs = (getattr(module, "config", None) for module in model.modules())
    positions = next((n for c in configs if (n := getattr(c, "max_position_embeddings", None))), None)
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    padding = next((row for table in tables if (row := getattr(table, "padding_idx", None)) is not None), None)
    return positions if positions is None or padding is None else positions - padding - 1


def _not_yaml(path, error) -> str:
    """What a YAML parser found, with the line where it stands; a file that is not even text has none."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark else f"{path}"
    reason = getattr(error, "problem", None) or error
    return say(
        en=f"{place}: not YAML ({reason}); write one `name: value` a line, without indentation",
        zh=f"{place}：不是 YAML（{reason}）；每行写一个“名字: 值”，行首不留空格",
    )
