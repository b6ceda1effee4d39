"""Low-rank adapters for decoder rerankers: put in, and folded back into the weights.
Taught in lesson 04.
"""

import re
from pathlib import Path

from retrieval_lab.profiles import say
from retrieval_lab.training_config import Config


def add(model, config: Config, upper_layers: int | None = None):
    """Put trainable low-rank adapters into a model and freeze all else; a scalar head stays trainable and is saved with them.

    Parameters
    ----------
    model : CrossEncoder over a decoder, or a SentenceTransformer over one; changed in place and returned
    config : its ``lora_r``, ``lora_alpha`` and ``lora_target_modules`` count
    upper_layers : only the last so many layers get adapters, which saves the backward pass through the layers below; None: all

    Raises
    ------
    ValueError
        If the model has an adapter already, or ``upper_layers`` is not between 1 and its number of layers.

    Source: Hu et al. 2022 (LoRA), section 4.1; lesson 04.
    """
    from peft import LoraConfig

    decoder = model[0].model
    if has_adapter(model):
        raise ValueError(
            say(
                en="the model has an adapter already; merge it first: llm_lora.merge(model)",
                zh="模型里已有适配器；先合并：llm_lora.merge(model)",
            )
        )
    n_layers = decoder.config.num_hidden_layers
    if upper_layers is not None and not 1 <= upper_layers <= n_layers:
        raise ValueError(
            say(
                en=f"upper_layers={upper_layers}; the model has {n_layers} layers",
                zh=f"upper_layers={upper_layers}；模型共 {n_layers} 层",
            )
        )
    targets = config.lora_target_modules
    if upper_layers is not None:
        targets = _above(decoder, targets, n_layers - upper_layers)
    shape = {"r": config.lora_r, "lora_alpha": config.lora_alpha, "target_modules": targets}
    task = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if is_scalar(model) else {"task_type": "CAUSAL_LM"}
    model.add_adapter(LoraConfig(**shape, **task, lora_dropout=0.0, bias="none"))
    return model


def ensure(model, config: Config):
    """The adapters that ``config.use_lora`` asks for, drawn from its seed, unless the model has some."""
    from transformers import set_seed

    if config.use_lora and not has_adapter(model):
        set_seed(config.seed)
        add(model, config)
    return model


def _above(decoder, targets: str | list[str], first: int) -> list[str]:
    """Full names of the targets from layer ``first`` on: peft's own choice of layers misses those of a decoder without its head."""
    import torch

    linear = [name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = {name: found for name in linear if (found := re.search(r"(?:^|\.)(\d+)\.", name))}
    upper = [name for name, found in layers.items() if int(found[1]) >= first]
    return [name for name in upper if targets == "all-linear" or name.rpartition(".")[2] in targets]


def has_adapter(model) -> bool:
    """Whether the model holds adapters that are not merged."""
    return getattr(model[0].model, "_hf_peft_config_loaded", False)


def is_scalar(model) -> bool:
    """Whether the model is a decoder with a scalar head, whose adapters alone are no model.

    What `llm_scalar.load` changes in the base, its padding token and a word table with one row more, is not in their folder.
    """
    return getattr(model[0], "transformer_task", None) == "sequence-classification"


def restore(model, folder: str | Path):
    """Put a checkpoint's adapters and head into the model that they were trained on, whose base the folder does not hold."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(Path(folder) / "adapter_model.safetensors")
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in saved.items()}
    set_peft_model_state_dict(model[0].model, weights)
    return model


def merge(model):
    """Fold the adapters into the weights: the same scores, no extra work at inference, and a folder that needs no base model.

    Parameters
    ----------
    model : CrossEncoder, changed in place and returned; one without adapters comes back as it is

    Source: Hu et al. 2022, section 4.1 (no inference latency); lesson 04.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    decoder = model[0].model
    if not has_adapter(model):
        return model
    for name, module in list(decoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            decoder.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            decoder.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    decoder._hf_peft_config_loaded = False
    del decoder.peft_config
    return model
