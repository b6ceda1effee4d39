"""Files for `accelerate launch`: several GPUs with DDP, FSDP or DeepSpeed, and the layer class that FSDP has to know.
Taught in lesson 07; `retrieval-lab accelerate-config --model NAME --kind fsdp` prints one.
"""

from collections import Counter
from pathlib import Path

from retrieval_lab.profiles import say

KINDS = ("ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")


def layer_class(model) -> str:
    """The name of the class of which a transformer stacks its layers: what FSDP shards one by one.

    It is found by looking: of all lists of modules of one class, the one that holds the most weights.

    Parameters
    ----------
    model : any torch module with a transformer in it

    Raises
    ------
    ValueError
        If there is no such list.

    Source: lesson 07.

    >>> from retrieval_lab import tiny
    >>> layer_class(tiny.encoder("bert")), layer_class(tiny.encoder("modernbert"))
    ('BertLayer', 'ModernBertEncoderLayer')
    """
    import torch

    weights: Counter = Counter()
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len({type(layer) for layer in module}) == 1:
            weights[type(module[0]).__name__] += sum(p.numel() for p in module.parameters())
    if not weights:
        raise ValueError(
            say(
                en=f"{type(model).__name__} has no list of equal layers; name the class yourself in fsdp_transformer_layer_cls_to_wrap",
                zh=f"{type(model).__name__} 里没有由同一类层组成的列表；请自己在 fsdp_transformer_layer_cls_to_wrap 里写类名",
            )
        )
    return weights.most_common(1)[0][0]


def make(kind: str, *, layer: str = "BertLayer", num_processes: int = 2, mixed_precision: str = "bf16") -> dict:
    """The settings of a file for ``accelerate launch --config_file``.

    Parameters
    ----------
    kind : one of `KINDS`
    layer : class that FSDP shards by, see `layer_class`; the others do not need it
    num_processes : GPUs
    mixed_precision : "no", "fp16" or "bf16"

    Raises
    ------
    ValueError
        If kind is unknown.

    >>> make("fsdp", layer="XLMRobertaLayer")["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    'XLMRobertaLayer'
    """
    if kind not in KINDS:
        raise ValueError(
            say(en=f"kind={kind!r}; use one of {', '.join(KINDS)}", zh=f"kind={kind!r}；可用：{'、'.join(KINDS)}")
        )
    special = {"ddp": _ddp, "fsdp": lambda: _fsdp(layer)}.get(kind, lambda: _deepspeed(int(kind[-1])))
    common = {
        "compute_environment": "LOCAL_MACHINE",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": mixed_precision,
        "num_machines": 1,
        "num_processes": num_processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
    }
    return special() | common


def _ddp() -> dict:
    return {"distributed_type": "MULTI_GPU", "gpu_ids": "all"}


def _fsdp(layer: str) -> dict:
    return {
        "distributed_type": "FSDP",
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_transformer_layer_cls_to_wrap": layer,
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_offload_params": False,
        },
    }


def _deepspeed(stage: int) -> dict:
    settings = {"zero_stage": stage, "gradient_accumulation_steps": "auto", "gradient_clipping": "auto"}
    settings |= {"offload_optimizer_device": "none", "offload_param_device": "none"}
    if stage == 3:
        settings |= {"zero3_init_flag": False, "zero3_save_16bit_model": True}
    return {"distributed_type": "DEEPSPEED", "deepspeed_config": settings}


def text(kind: str, **options) -> str:
    """`make` as YAML, with a line on top that says how to use it."""
    import yaml

    head = f"# accelerate launch --config_file {kind}.yaml -m retrieval_lab.cli train --config configs/embedding.yaml\n"
    return head + yaml.safe_dump(make(kind, **options), sort_keys=True)


def for_model(name: str | Path, kind: str, **options) -> str:
    """`text` with the layer class of a model by alias, hub id or folder; no weights are loaded."""
    return text(kind, layer=layer_class(_empty(name)), **options) if kind == "fsdp" else text(kind, **options)


def _empty(name: str | Path):
    """The model's architecture without its weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    from retrieval_lab import decoders, models

    folder = decoders.weights_folder(models.resolve(name))
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.from_pretrained(folder))
