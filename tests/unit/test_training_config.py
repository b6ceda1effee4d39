"""Settings from YAML, the command line and a notebook: one meaning whatever the name, and nothing misread."""

import pytest
from pydantic import ValidationError

from retrieval_lab import setting_names, train_command
from retrieval_lab.training_config import Config

VALUES = {
    "save_on_epoch_end": (True, "epoch"),
    "pooling_method": ("last", "lasttoken"),
    "query_instruction": ("Query: {}", "Query: "),
}
VALUES |= {"document_instruction": ("", ""), "log_with": ("wandb", ["wandb"]), "resume": ("true", True)}
VALUES |= {"negatives_x_device": ("0", False), "warmup_proportion": ("0.2", 0.2)}


@pytest.mark.parametrize("alias", setting_names.ALIASES)
def test_each_alias_sets_the_field_it_stands_for(alias):
    given, expected = VALUES.get(alias, (1, 1))
    assert getattr(Config(**{alias: given}), setting_names.ALIASES[alias]) == expected


SOURCES = [
    "model_name_or_path",
    "model_type",
    "train_dataset",
    "val_dataset",
    "neg_nums",
    "query_max_len",
    "passage_max_len",
    "max_len",
    "batch_size",
    "lr",
    "epoch",
    "seed",
    "temperature",
    "use_mrl",
    "mrl_dims",
    "warmup_proportion",
    "gradient_accumulation_steps",
    "mixed_precision",
    "weight_decay",
    "max_grad_norm",
    "save_on_epoch_end",
    "num_max_checkpoints",
    "log_interval",
    "log_with",
    "loss_type",
    "num_labels",
    "min_label",
    "max_label",
    "query_format",
    "document_format",
    "seq",
    "special_token",
    "query_instruction",
    "document_instruction",
    "pooling_method",
    "use_lora",
    "use_inbatch_neg",
    "output_dir",
]


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_of_the_source_projects_is_known(name):
    assert setting_names.ALIASES.get(name, name) in Config.model_fields


def write(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_yaml_is_read_with_numbers_that_yaml_takes_for_text(tmp_path):
    config = Config.read(write(tmp_path, 'lr: 1e-4\nepoch: 3\nval_dataset:\nmrl_dims: "128, 256"\nuse_mrl: true\n'))
    assert (config.learning_rate, config.num_train_epochs, config.val_dataset) == (1e-4, 3, None)
    assert config.mrl_dims == [128, 256]


def test_command_line_beats_yaml_under_either_name(tmp_path):
    file = write(tmp_path, "learning_rate: 1e-4\nseed: 3\n")
    config = Config.read(file, **train_command.overrides(["--lr", "2e-5", "--save-on-epoch-end"]))
    assert (config.learning_rate, config.seed, config.save_strategy) == (2e-5, 3, "epoch")


def test_saved_configuration_is_read_as_the_same(tmp_path):
    config = Config(lr=3e-4, mrl_dims=[8, 16], query_prompt="问题：", log_with="tensorboard", save_on_epoch_end=1)
    assert Config.read(config.save(tmp_path)) == config


@pytest.mark.parametrize(
    "name, near", [("learning_rat", "learning_rate"), ("batchsize", "batch_size"), ("epoc", "epoch")]
)
def test_unknown_name_is_refused_with_the_nearest(tmp_path, lang, name, near):
    words = {"en": f"{name} is no setting; the nearest is {near}", "zh": f"没有 {name} 这个设置；最接近的是 {near}"}
    with pytest.raises(ValueError, match=words[lang]):
        Config.read(write(tmp_path, f"{name}: 1\n"))


def test_message_about_a_file_names_the_file(tmp_path):
    with pytest.raises(ValueError, match="config.yaml: epoc is no setting"):
        Config.read(write(tmp_path, "epoc: 1\n"))


def test_two_names_of_one_setting_are_refused(lang):
    words = {"en": "lr and learning_rate are one setting", "zh": "lr 和 learning_rate 是同一个设置"}
    with pytest.raises(ValueError, match=words[lang]):
        Config(lr=1e-4, learning_rate=1e-5)


def test_yaml_that_is_no_mapping_is_refused(tmp_path, lang):
    with pytest.raises(ValueError, match={"en": "holds list, not lines of", "zh": "不是一行行的"}[lang]):
        Config.read(write(tmp_path, "- lr\n"))


def test_broken_yaml_is_refused_with_its_line_and_a_remedy(tmp_path, lang):
    words = {
        "en": r"config.yaml:2: not YAML \(mapping values are not allowed here\); write one `name: value` a line",
        "zh": r"config.yaml:2：不是 YAML（mapping values are not allowed here）；每行写一个“名字: 值”",
    }
    with pytest.raises(ValueError, match=words[lang]):
        Config.read(write(tmp_path, "lr: 1e-4\n  epoch: [1\n"))


def test_configuration_that_is_no_utf_8_is_refused_with_its_name(tmp_path, lang):
    (tmp_path / "config.yaml").write_bytes("output_dir: 结果".encode("gb18030"))
    with pytest.raises(ValueError, match={"en": "config.yaml: not YAML", "zh": "config.yaml：不是 YAML"}[lang]):
        Config.read(tmp_path / "config.yaml")


def test_matryoshka_needs_dims_and_can_be_switched_off(lang):
    with pytest.raises(
        ValidationError, match={"en": "use_mrl needs mrl_dims", "zh": "use_mrl 需要同时给出 mrl_dims"}[lang]
    ):
        Config(use_mrl=True)
    assert Config(use_mrl=False, mrl_dims=[8]).mrl_dims is None
    assert Config(mrl_dims=[8]).mrl_dims == [8]


def test_prompt_with_a_place_inside_is_refused(lang):
    words = {"en": "only one at its end is understood", "zh": "只认结尾处的一个"}
    with pytest.raises(ValidationError, match=words[lang]):
        Config(query_instruction="Query: {} Answer:")


def test_words_of_the_command_line_that_are_no_setting_are_refused(lang):
    with pytest.raises(ValueError, match={"en": "'1e-4' is no setting", "zh": "'1e-4' 不是设置"}[lang]):
        train_command.overrides(["1e-4"])


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_mixed_precision_becomes_the_trainers_flags(precision):
    arguments = Config(mixed_precision=precision).arguments()
    assert (arguments["fp16"], arguments["bf16"]) == (precision == "fp16", precision == "bf16")


def test_arguments_of_the_trainer_bring_no_warning(tmp_path, recwarn):
    from sentence_transformers import SentenceTransformerTrainingArguments

    made = SentenceTransformerTrainingArguments(**Config(output_dir=str(tmp_path), lr=3e-4).arguments())
    assert made.learning_rate == 3e-4 and not made.gradient_checkpointing
    assert [str(warning.message) for warning in recwarn] == []
    arguments = Config(output_dir=str(tmp_path), gradient_checkpointing=True).arguments()
    assert SentenceTransformerTrainingArguments(**arguments).gradient_checkpointing


def test_loss_is_the_configured_one_or_the_familys_default(lang):
    assert Config().chosen_loss(["a", "b"], "b") == "b" and Config(loss_type="a").chosen_loss(["a", "b"], "b") == "a"
    words = {"en": "loss_type='c' is not known; use one of a, b", "zh": "不认识 loss_type='c'；可用：a、b"}
    with pytest.raises(ValueError, match=words[lang]):
        Config(loss_type="c").chosen_loss(["a", "b"], "b")


def test_gradcache_is_refused_by_every_loss_but_the_in_batch_one(lang):
    assert Config(mini_batch_size=4).chosen_loss(["in_batch"], "in_batch") == "in_batch"
    words = {
        "en": "mini_batch_size=4 would do nothing: .* not for listwise",
        "zh": "mini_batch_size=4 .*不用于 listwise",
    }
    with pytest.raises(ValueError, match=words[lang]):
        Config(mini_batch_size=4).chosen_loss(["listwise"], "listwise")
