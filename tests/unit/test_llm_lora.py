"""Adapters: where they go, what they train, what stays after merging."""

import pytest
import torch

from retrieval_lab import embedding, llm, llm_lora, llm_scalar, tiny
from retrieval_lab.training import Config


@pytest.fixture
def model(tmp_path):
    return llm.load(tiny.chat_folder("llama", tmp_path), "en")


def trainable(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_adapters_are_all_that_trains(model):
    llm_lora.add(model, Config(lora_r=2, lora_target_modules=["q_proj", "v_proj"]))
    assert len(trainable(model)) == 2 * 2 * 2  # two layers, q and v, A and B
    assert all("lora_" in name for name in trainable(model))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_upper_layers_alone(model, targets):
    llm_lora.add(model, Config(lora_target_modules=targets), upper_layers=1)
    assert trainable(model) and all(".layers.1." in name for name in trainable(model))


def test_upper_layers_of_an_encoder_that_has_no_language_head(tmp_path):
    model = embedding.load(tiny.chat_folder("llama", tmp_path), "lasttoken")
    llm_lora.add(model, Config(lora_r=2, lora_target_modules=["q_proj", "v_proj"]), upper_layers=1)
    assert len(trainable(model)) == 2 * 2 and all(".layers.1." in name for name in trainable(model))  # q and v, A and B


def test_adapters_change_nothing_before_training(model):
    before = llm.score(model, [("a", "b")])
    llm_lora.add(model, Config())
    assert llm.score(model, [("a", "b")]) == pytest.approx(before, abs=1e-6)


def test_head_of_a_scalar_reranker_trains_too(tmp_path):
    model = llm_scalar.load(tiny.chat_folder("llama", tmp_path))
    llm_lora.add(model, Config(lora_target_modules=["q_proj"]))
    assert any("score.modules_to_save" in name for name in trainable(model))


def test_merged_weight_is_the_weight_plus_scaled_product(model):
    layer = model[0].model.model.layers[0].self_attn
    weight = layer.q_proj.weight.detach().clone()
    llm_lora.add(model, Config(lora_r=2, lora_alpha=6, lora_target_modules=["q_proj"]))
    down, up = layer.q_proj.lora_A["default"].weight, layer.q_proj.lora_B["default"].weight
    torch.nn.init.normal_(up)
    expected = weight + 6 / 2 * up.detach() @ down.detach()
    llm_lora.merge(model)
    torch.testing.assert_close(layer.q_proj.weight, expected)
    assert type(layer.q_proj) is torch.nn.Linear and not llm_lora.has_adapter(model)


def test_model_without_adapter_comes_back_from_merge_as_it_is(model):
    assert llm_lora.merge(model) is model


def test_adapters_can_be_added_again_after_merging(model):
    llm_lora.merge(llm_lora.add(model, Config()))
    assert llm_lora.has_adapter(llm_lora.add(model, Config()))


def test_second_adapter_is_refused(model, lang):
    llm_lora.add(model, Config())
    words = {"en": "has an adapter already; merge it first", "zh": "模型里已有适配器；先合并"}
    with pytest.raises(ValueError, match=words[lang]):
        llm_lora.add(model, Config())


@pytest.mark.parametrize("n", [0, 3])
def test_layers_that_the_model_does_not_have_are_refused(model, lang, n):
    words = {"en": f"upper_layers={n}; the model has 2 layers", "zh": f"upper_layers={n}；模型共 2 层"}
    with pytest.raises(ValueError, match=words[lang]):
        llm_lora.add(model, Config(), upper_layers=n)
