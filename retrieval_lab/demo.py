"""`make demo`: BM25, a pretrained encoder, the same encoder fine-tuned, and its results reranked, measured on the shipped corpus.
The cells of lessons 01 and 03 in one run, for whoever wants to see the result first.
"""

import hashlib
import tempfile
import time
from pathlib import Path

from retrieval_lab import corpora, embedding, experiment, formats, lexical, models, search, training
from retrieval_lab import reranker as cross_encoder
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

    Source: lessons 01 and 03, with the same sizes.
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
    model.save_pretrained(str(folder / "model"))
    _kept_retriever(lang, lambda: model)  # the lessons need not train it again
    clock.say(
        say(
            en="training the cross-encoder, which reads query and passage together ...",
            zh="开始训练交叉编码器，它把查询和文档放在一起读 ……",
        )
    )
    cross = train_reranker(lang, folder / "model", folder, tuned.vectors)
    cross.save_pretrained(str(folder / "reranker"))
    _kept_reranker(lang, lambda: cross)
    clock.say(say(en="trained; measuring ...", zh="训练完成；开始测量 ……"))
    alone, both = reranked(tuned, cross, collection)
    table = experiment.compare([bm25, zero_shot, tuned, both, alone], collection, baseline="above")
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
    """The fine-tuned encoder of lesson 01, which later lessons start from: kept by `run`, or trained at the first call.

    It lies beside the downloaded models, under a name that changes with the profile's sizes and with the training file.

    >>> model = retriever("en")  # doctest: +SKIP
    """
    return embedding.load(_kept_retriever(lang))


def _kept_retriever(lang: str, make=None) -> Path:
    profile = current()
    data, settings = training_data(lang, profile.n_train), config(profile, lang, Path("runs/retriever"))
    made_from = f"{profile.encoder(lang)} {_values(settings)} {data.to_list()}"

    def train():
        return embedding.train(embedding.load(profile.encoder(lang)), data, settings)

    return _kept(f"retriever-{lang}", made_from, make or train)


def _values(settings) -> str:
    return settings.model_dump_json(exclude_defaults=True, exclude={"output_dir"})


# Chosen on the dev split, in both languages.
CANDIDATES = 3  # documents of a training list: the answer, the hardest other and an easy one
DEPTH = 5  # documents that are reranked; deeper costs more and gains nothing on the shipped corpus
WEIGHT = 0.5  # of the cross-encoder's logit against the retriever's cosine / temperature: their plain sum


def reranker_config(profile, folder: Path) -> training.Config:
    """The cross-encoder's training run: sizes of the profile; it reads whole passages, so it needs more tokens than the retriever."""
    return training.Config(
        output_dir=str(Path(folder) / "checkpoints"),
        num_train_epochs=profile.epochs,
        per_device_train_batch_size=8,  # queries, each with its candidates
        max_seq_length=max(profile.max_seq_length, 176) if profile.name != "smoke" else 64,
        learning_rate=2e-4,  # the fresh head learns nothing in one epoch at the retriever's rate
    )


def frozen_layers(model) -> int:
    """How many of a cross-encoder's first layers are not trained: all but six, to save a third of e5-small's time; none in FULL."""
    return 0 if current().name == "full" else max(0, model.model.config.num_hidden_layers - 6)


def train_reranker(lang: str, base: Path, folder: Path, vectors=None):
    """A cross-encoder from the fine-tuned retriever's weights, trained on what that retriever confuses in the train split.

    ``vectors`` are the corpus' by that retriever, if they are there: all splits search the same passages.
    """
    profile = current()
    train = corpora.load("city_services", lang, "train").sample(profile.n_lists)
    data = cross_encoder.candidates(search.Dense(embedding.load(base), train, vectors=vectors), train, CANDIDATES)
    model = cross_encoder.load(base)
    return cross_encoder.train(model, data, reranker_config(profile, folder), freeze_layers=frozen_layers(model))


def reranked(first, model, collection) -> tuple[search.Reranked, search.Reranked]:
    """The first stage reranked by the cross-encoder alone, and by both scores together; the pairs are scored once.

    The retriever was trained with the profile's temperature, so its cosines are divided by it.
    """
    options = {"depth": DEPTH, "score": search.remember_last(cross_encoder.score)}
    alone = search.Reranked(
        first, model, collection, name=say(en="cross-encoder alone", zh="只用交叉编码器"), **options
    )
    name = say(en="retriever + cross-encoder", zh="检索器 + 交叉编码器")
    temperature = current().temperature(collection.lang)
    both = search.Reranked(first, model, collection, name=name, weight=WEIGHT, temperature=temperature, **options)
    return alone, both


def reranker(lang: str):
    """The fine-tuned cross-encoder of lesson 03, kept or trained as `retriever` is; it reranks what that one finds."""
    return cross_encoder.load(_kept_reranker(lang))


def _kept_reranker(lang: str, make=None) -> Path:
    base, settings = _kept_retriever(lang), reranker_config(current(), Path("runs/reranker"))
    made_from = f"{base.name} {CANDIDATES} {current().n_lists} {_values(settings)}"
    return _kept(f"reranker-{lang}", made_from, make or (lambda: train_reranker(lang, base, Path("runs/reranker"))))


def _kept(name: str, made_from: str, make) -> Path:
    """The folder of a model that is trained once for all that it was made from."""
    from filelock import FileLock

    folder = models.cache_dir() / "trained" / f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            model = make()
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # a rename makes it appear whole
                model.save_pretrained(f"{scratch}/model")
                Path(scratch, "model").rename(folder)
    return folder


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
