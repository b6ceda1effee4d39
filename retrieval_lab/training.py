"""One typed configuration for training, with the ecosystem's argument names, and the one function that trains any family.
Taught in lesson 01 (the first five fields) and lesson 07.
"""

import contextlib
import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """What training needs to know. Unknown names and impossible values are refused when the object is made.

    >>> Config(learning_rate="1e-4").learning_rate
    0.0001
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_dir: str = "runs/latest"  # checkpoints and logs
    num_train_epochs: Positive = 2  # more overfits a thousand pairs
    max_steps: int = -1  # -1: as many as the epochs need
    per_device_train_batch_size: Count = 16  # each other row of a batch is a negative
    gradient_accumulation_steps: Count = 1
    learning_rate: Positive = 5e-5  # 1e-5 to 5e-5 for all weights; ten times that for LoRA
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    lr_scheduler_type: str = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    temperature: Positive = 0.05  # of the softmax over the batch: SimCSE, section 3; smaller is steeper, E5 wants 0.02
    max_seq_length: Count | None = None  # tokens; None: the model's own
    dropout: bool = False  # off: its random numbers are slow on a CPU (benchmarks/speed.md)
    freeze_word_embeddings: bool = True  # only tables of over 100,000 rows: most of a multilingual model's weights
    use_lora: bool = False  # train low-rank adapters instead of all weights
    lora_r: Count = 16  # rank of the adapters
    lora_alpha: Count = 32  # their scale is lora_alpha / lora_r
    lora_target_modules: str | list[str] = "all-linear"  # "all-linear", or names such as ["q_proj", "v_proj"]
    loss_type: str | None = None  # a family's own names; None: its default
    seed: int = 0
    logging_steps: Count = 10

    def arguments(self) -> dict:
        """The fields that are arguments of the libraries' trainers, as they name them."""
        ours = {"temperature", "max_seq_length", "dropout", "freeze_word_embeddings", "warmup_ratio", "loss_type"}
        ours |= {name for name in type(self).model_fields if "lora" in name}
        fields = self.model_dump(exclude=ours)
        # transformers 5 reads a warm-up below 1 as a share of all steps.
        return fields | {
            "warmup_steps": self.warmup_ratio,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": os.environ.get("RETRIEVAL_LAB_QUIET") == "1",
            "dataloader_pin_memory": False,
        }

    @contextlib.contextmanager
    def applied_to(self, model):
        """While training: dropout and length as configured and, if asked for, a large word table frozen. Undone afterwards."""
        import torch

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


def fit(model, data, loss, config: Config, *, evaluator=None, **arguments):
    """Train a model of sentence-transformers, of any family, with its own trainer; the model is changed in place and returned.

    Parameters
    ----------
    model : SentenceTransformer, MultiVectorEncoder or CrossEncoder
    data : datasets.Dataset with the columns that the loss wants, in its order
    loss : a loss object of the model's family
    config : what to train with
    evaluator : a sentence-transformers evaluator
    arguments : further training arguments of the library, e.g. ``prompts`` or ``batch_sampler``

    Source: lesson 07.
    """
    trainer_class = _trainer_class(model)
    with config.applied_to(model):
        args = trainer_class.training_args_class(**config.arguments(), **arguments)
        trainer = trainer_class(model=model, args=args, train_dataset=data, loss=loss, evaluator=evaluator)
        trainer.train()
    return model.eval()


def _trainer_class(model):
    from sentence_transformers import (
        CrossEncoder,
        CrossEncoderTrainer,
        MultiVectorEncoder,
        MultiVectorEncoderTrainer,
        SentenceTransformerTrainer,
    )

    # By family, not by the class named in the model: a learner's own subclass trains as its parent does.
    families = {CrossEncoder: CrossEncoderTrainer, MultiVectorEncoder: MultiVectorEncoderTrainer}
    return next((t for family, t in families.items() if isinstance(model, family)), SentenceTransformerTrainer)
