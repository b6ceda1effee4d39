"""How large a run is (SMOKE, FAST, FULL), on which device, in which language.
Taught in lesson 00; every notebook starts with `course.setup`, which reads this.
"""

import os
from dataclasses import dataclass

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Profile:
    """The sizes that differ between a test run, a learner's laptop and a GPU.

    ``None`` means "all there is". Lengths are in tokens.
    """

    name: str
    encoders: tuple[str, str]  # (en, zh): names that `models.resolve` takes
    n_train: int | None  # training rows
    n_lists: int | None  # a cross-encoder's training lists, each a question with three passages
    n_queries: int | None  # evaluated queries
    epochs: int
    per_device_train_batch_size: int
    max_seq_length: int  # of training
    temperatures: tuple[float, float] = (
        0.05,
        0.02,
    )  # (en, zh): E5's cosines lie close together and want a steeper softmax

    def encoder(self, lang: str) -> str:
        """Name of the encoder for a language.

        >>> PROFILES["fast"].encoder("zh")
        'e5-small'
        """
        return self.encoders[LANGUAGES.index(_known(lang))]

    def temperature(self, lang: str) -> float:
        """Temperature of the training loss for the language's encoder."""
        return self.temperatures[LANGUAGES.index(_known(lang))]


# Trained on 112 tokens, searched with 256: on the shipped corpus as good as training on 192, in a third of the time.
PROFILES = {
    "smoke": Profile("smoke", ("minilm", "e5-small"), 32, 32, 24, 1, 8, 64),
    "fast": Profile("fast", ("minilm", "e5-small"), None, 420, None, 1, 16, 112),
    "full": Profile("full", ("BAAI/bge-base-en-v1.5", "BAAI/bge-base-zh-v1.5"), None, None, None, 3, 64, 512),
}


def current() -> Profile:
    """The profile named by the environment variable ``RETRIEVAL_LAB_PROFILE``; FAST when it is not set.

    Raises
    ------
    ValueError
        If the variable names no profile.
    """
    name = os.environ.get("RETRIEVAL_LAB_PROFILE", "fast").lower()
    if name not in PROFILES:
        raise ValueError(
            say(
                en=f"RETRIEVAL_LAB_PROFILE={name!r} is no profile; use one of {', '.join(PROFILES)}",
                zh=f"RETRIEVAL_LAB_PROFILE={name!r} 不是已有的运行档位；可用：{'、'.join(PROFILES)}",
            )
        )
    return PROFILES[name]


def language() -> str:
    """Language of messages and figures, "en" or "zh", from ``RETRIEVAL_LAB_LANG``; "en" when it is not set."""
    return _known(os.environ.get("RETRIEVAL_LAB_LANG", "en"))


def say(*, en: str, zh: str) -> str:
    """The text in the reader's language.

    >>> say(en="query", zh="查询")
    'query'
    """
    return {"en": en, "zh": zh}[language()]


def device() -> str:
    """The device that torch should use: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _known(lang: str) -> str:
    if lang not in LANGUAGES:
        raise ValueError(f"language {lang!r} is not known; use 'en' or 'zh' / 语言只能是 'en' 或 'zh'，现在是 {lang!r}")
    return lang
