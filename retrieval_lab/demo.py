"""`make demo`: BM25, a pretrained encoder, the same encoder fine-tuned, and the two fused, measured on the shipped corpus.
The cells of lesson 01 in one run, for whoever wants to see the result first.
"""

import hashlib
import tempfile
import time
from pathlib import Path

from retrieval_lab import corpora, embedding, experiment, formats, lexical, models, search, training
from retrieval_lab.profiles import current, say


def run(lang: str, output_dir: str | Path | None = None):
    """Train and compare in one language; write the table, the figure and the model.

    Parameters
    ----------
    lang : "en" or "zh"
    output_dir : where table.csv, figure.png and model/ go; ``runs/demo-LANG`` when not given

    Returns
    -------
    The table of `experiment.compare`, each row against the one above.

    Source: lesson 01, with the same sizes.
    """
    profile, clock = current(), _Clock()
    folder = Path(output_dir or f"runs/demo-{lang}")
    collection = corpora.load("city_services", lang=lang).sample(profile.n_queries)
    clock.say(str(collection))
    bm25 = lexical.BM25(collection)
    zero_shot = search.Dense(embedding.load(profile.encoder(lang)), collection, say(en="zero-shot", zh="零样本"))
    model = embedding.load(profile.encoder(lang))  # a second copy: training changes it in place
    clock.say(say(en="zero-shot vectors are there; training ...", zh="零样本向量已就绪；开始训练 ……"))
    embedding.train(model, training_data(lang, profile.n_train), config(profile, lang, folder))
    clock.say(say(en="trained; encoding again ...", zh="训练完成；重新编码 ……"))
    tuned = search.Dense(model, collection, say(en="fine-tuned", zh="微调后"))
    fused = search.Fused([bm25, tuned], say(en="BM25 + fine-tuned", zh="BM25 + 微调后"))
    table = experiment.compare([bm25, zero_shot, tuned, fused], collection, baseline="above")
    model.save_pretrained(str(folder / "model"))
    _write(table, folder)
    clock.say(say(en="done", zh="完成"))
    return table


def training_data(lang: str, n: int | None = None):
    """The shipped training triplets as a dataset: a query, its passage and one hard negative a row."""
    data = formats.read(corpora.DATA / "city_services" / "training" / f"triplet.{lang}.jsonl", "triplet", neg_nums=1)
    return data.select(range(min(n or len(data), len(data))))


def config(profile, lang: str, folder: Path) -> training.Config:
    """The demo's training run: sizes of the profile, the rest at the defaults of `training.Config`."""
    return training.Config(
        output_dir=str(Path(folder) / "checkpoints"),
        num_train_epochs=profile.epochs,
        per_device_train_batch_size=profile.per_device_train_batch_size,
        max_seq_length=profile.max_seq_length,
        temperature=profile.temperature(lang),
    )


def retriever(lang: str):
    """The fine-tuned encoder of lesson 01, which later lessons start from: trained once, then loaded.

    Kept beside the downloaded models, under a name that changes with the profile's sizes and with the training file.

    >>> model = retriever("en")  # doctest: +SKIP
    """
    from filelock import FileLock

    profile = current()
    data, settings = training_data(lang, profile.n_train), config(profile, lang, Path("runs/retriever"))
    made_from = f"{profile.encoder(lang)} {settings.model_dump_json(exclude_defaults=True)} {data.to_list()}"
    folder = models.cache_dir() / "trained" / f"retriever-{lang}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            model = embedding.train(embedding.load(profile.encoder(lang)), data, settings)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # a rename makes it appear whole
                model.save_pretrained(f"{scratch}/model")
                Path(scratch, "model").rename(folder)
    return embedding.load(folder)


def _write(table, folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from retrieval_lab import plots

    plots.style()
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "table.csv")
    plots.comparison(table).figure.savefig(folder / "figure.png", dpi=150)


class _Clock:
    """Prints a line with the seconds since the start."""

    def __init__(self):
        self.start = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", flush=True)
