"""Measures colbert.md: one vector a token before and after fine-tuning, and what a small index costs. Minutes a collection.

python benchmarks/colbert.py                       every collection that is found
python benchmarks/colbert.py city_services:zh      one

One epoch, one seed, the settings of lesson 02; nothing was chosen on the test queries.
"""

import argparse
import tempfile
import time

from run import add_row, as_markdown

from retrieval_lab import colbert, corpora, demo, embedding, experiment, profiles, search
from retrieval_lab.token_stores import Compressed
from retrieval_lab.training import Config

NAMES = ["city_services:en", "city_services:zh", "scifact:en", "tldr-zh:zh"]


def measure(source: str, lang: str) -> str:
    """The table of one collection; intervals are against the untrained token vectors."""
    profile, test = profiles.current(), corpora.load(source, lang, "test").sample(profiles.current().n_queries)
    encoder, data = profile.encoder(lang), training_data(source, lang, profile.n_train)
    start = time.perf_counter()
    model = colbert.train(colbert.load(encoder), data, config(profile, lang))
    seconds = time.perf_counter() - start
    before = search.LateInteraction(colbert.load(encoder), test, "zero-shot")
    after = search.LateInteraction(model, test, "fine-tuned")
    small = search.LateInteraction(model, test, "fine-tuned, 2 bits", store=Compressed.of(after.store, bits=2))
    single = search.Dense(embedding.load(encoder), test, "zero-shot, one vector a text")
    table = experiment.compare([single, before, after, small], test, baseline="zero-shot")
    table["MB"] = [single.vectors.nbytes / 1e6, *(index.megabytes for index in (before, after, small))]
    return as_markdown(table, f"{encoder}, {len(data)} rows, {seconds:.0f} s of training")


def training_data(source: str, lang: str, n: int | None):
    """The shipped corpus brings hard negatives; a public one has pairs only."""
    if source == "city_services":
        return demo.training_data(lang, n)
    data = corpora.pairs(corpora.load(source, lang, "train"))
    return data.select(range(min(n or len(data), len(data))))


def config(profile, lang: str) -> Config:
    return Config(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=profile.per_device_train_batch_size,
        learning_rate=5e-5,
        temperature=profile.temperature(lang),
        max_seq_length=profile.max_seq_length,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="COLLECTION:LANG")
    for name in parser.parse_args().names or NAMES:
        try:
            text = measure(*name.split(":"))
        except FileNotFoundError as missing:
            print(f"skipped {name}: {missing}; RETRIEVAL_LAB_DATA names the folder that holds beir/")
            continue
        add_row("colbert.md", name, text)
