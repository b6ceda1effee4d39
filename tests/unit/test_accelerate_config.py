"""Files for `accelerate launch`: read by accelerate's own loader, with the right layer class."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

from retrieval_lab import accelerate_config, cli, tiny

LAYERS = {
    "bert": "BertLayer",
    "xlm-roberta": "XLMRobertaLayer",
    "modernbert": "ModernBertEncoderLayer",
    "llama": "LlamaDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "gemma": "GemmaDecoderLayer",
}
CONFIGS = Path(accelerate_config.__file__).parents[1] / "configs" / "accelerate"


def model(architecture):
    return (
        tiny.encoder(architecture)
        if architecture in ("bert", "xlm-roberta", "modernbert")
        else tiny.causal_lm(architecture)[0]
    )


@pytest.mark.parametrize("architecture", LAYERS)
def test_layer_class_is_found_by_looking(architecture):
    assert accelerate_config.layer_class(model(architecture)) == LAYERS[architecture]


@pytest.mark.parametrize("architecture", LAYERS)
def test_accelerate_wraps_exactly_the_layers(architecture):
    """The plugin that `accelerate launch` makes of the file resolves the name in the model."""
    given, name = model(architecture), LAYERS[architecture]
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=[name]
    )
    plugin.set_auto_wrap_policy(given)
    layers = [m for m in given.modules() if type(m).__name__ == name]
    assert len(layers) == 2
    wanted = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert wanted == {type(layers[0])}


def test_model_without_layers_is_refused(lang):
    words = {"en": "Linear has no list of equal layers", "zh": "Linear 里没有由同一类层组成的列表"}
    with pytest.raises(ValueError, match=words[lang]):
        accelerate_config.layer_class(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", accelerate_config.KINDS)
def test_shipped_file_is_what_the_command_writes_and_accelerate_reads_it(kind):
    file = CONFIGS / f"{kind}.yaml"
    assert file.read_text() == accelerate_config.text(kind)
    loaded = load_config_from_file(str(file))
    expected = {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(kind, "DEEPSPEED")
    assert str(getattr(loaded.distributed_type, "value", loaded.distributed_type)) == expected
    assert loaded.num_processes == 2 and loaded.mixed_precision == "bf16"


@pytest.mark.parametrize("kind", [k for k in accelerate_config.KINDS if k != "ddp"])
def test_each_setting_is_one_that_accelerate_launch_knows(kind):
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    settings = accelerate_config.make(kind)
    inner = settings.get("fsdp_config") or settings.get("deepspeed_config")
    assert set(inner) <= known


def test_unknown_kind_is_refused(lang):
    with pytest.raises(ValueError, match={"en": "kind='zero9'; use one of ddp", "zh": "kind='zero9'；可用：ddp"}[lang]):
        accelerate_config.make("zero9")


@pytest.mark.parametrize("architecture", ["xlm-roberta", "llama"])
def test_command_prints_a_file_for_a_model(tmp_path, capsys, architecture):
    tiny.folder(architecture, tmp_path / "model")
    assert cli.main(["accelerate-config", "--model", str(tmp_path / "model"), "--num-processes", "4"]) == 0
    (tmp_path / "f.yaml").write_text(capsys.readouterr().out)
    loaded = load_config_from_file(str(tmp_path / "f.yaml"))
    assert (
        loaded.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == LAYERS[architecture] and loaded.num_processes == 4
    )
