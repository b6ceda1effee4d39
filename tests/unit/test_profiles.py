"""Profiles, language and device."""

import pytest
import torch

from retrieval_lab import profiles


def test_fast_is_the_profile_when_none_is_named(monkeypatch):
    monkeypatch.delenv("RETRIEVAL_LAB_PROFILE")
    assert profiles.current().name == "fast"


@pytest.mark.parametrize("name", ["smoke", "SMOKE", "Full"])
def test_profile_comes_from_the_environment_in_any_case(monkeypatch, name):
    monkeypatch.setenv("RETRIEVAL_LAB_PROFILE", name)
    assert profiles.current() is profiles.PROFILES[name.lower()]


def test_unknown_profile_is_refused_with_the_choices(monkeypatch, lang):
    monkeypatch.setenv("RETRIEVAL_LAB_PROFILE", "fsat")
    words = {"en": "is no profile; use one of smoke, fast, full", "zh": "不是已有的运行档位；可用：smoke、fast、full"}
    with pytest.raises(ValueError, match=f"RETRIEVAL_LAB_PROFILE='fsat' {words[lang]}"):
        profiles.current()


def test_each_language_has_its_encoder():
    smoke = profiles.PROFILES["smoke"]
    assert [smoke.encoder(lang) for lang in profiles.LANGUAGES] == ["minilm", "e5-small"]


def test_encoder_of_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language 'fr' is not known; use 'en' or 'zh' / 语言只能是 'en' 或 'zh'"):
        profiles.PROFILES["fast"].encoder("fr")


def test_language_is_english_when_not_set(monkeypatch):
    monkeypatch.delenv("RETRIEVAL_LAB_LANG")
    assert profiles.language() == "en"


def test_unknown_language_is_refused_in_both_languages(monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "de")
    with pytest.raises(ValueError, match="language 'de' is not known.*现在是 'de'"):
        profiles.language()


def test_say_takes_the_readers_language(lang):
    assert profiles.say(en="query", zh="查询") == {"en": "query", "zh": "查询"}[lang]


def test_smoke_is_smaller_than_fast_and_fast_than_full():
    smoke, fast, full = (profiles.PROFILES[name] for name in ("smoke", "fast", "full"))
    assert smoke.n_train and smoke.n_queries and fast.n_train is None and fast.n_queries is None
    assert smoke.max_seq_length < fast.max_seq_length < full.max_seq_length
    assert smoke.per_device_train_batch_size < fast.per_device_train_batch_size < full.per_device_train_batch_size


@pytest.mark.parametrize("cuda, mps, expected", [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_device_is_the_fastest_that_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert profiles.device() == expected
