"""Measures the tables of this folder. Each takes minutes; run one at a time, on a machine with nothing else to do.

python benchmarks/run.py finetune          the embedding recipe of lesson 01 on every collection found
python benchmarks/run.py speed             encoding and training against the library's defaults
"""

import argparse
import platform
import time
from pathlib import Path

import torch

from retrieval_lab import corpora, demo, embedding, experiment, lexical, profiles, search, training

HERE = Path(__file__).parent


def finetune(names: list[str]) -> None:
    """Zero-shot against fine-tuned, one collection after another; writes finetune.md."""
    for name in names or ["city_services:en", "city_services:zh", "scifact:en"]:
        source, lang = name.split(":")
        try:
            corpora.load(source, lang, "test")
        except FileNotFoundError as missing:
            print(f"skipped {name}: {missing}; RETRIEVAL_LAB_DATA names the folder that holds beir/")
            continue
        add_row("finetune.md", name, finetune_one(source, lang))


def finetune_one(source: str, lang: str) -> str:
    profile = profiles.PROFILES["fast"]
    test = corpora.load(source, lang, "test")
    data = demo.training_data(lang) if source == "city_services" else corpora.pairs(corpora.load(source, lang, "train"))
    model = embedding.load(profile.encoder(lang))
    before = search.Dense(embedding.load(profile.encoder(lang)), test, "zero-shot")
    start = time.perf_counter()
    embedding.train(model, data, demo.config(profile, lang, Path("runs/bench")))
    seconds = time.perf_counter() - start
    after = search.Dense(model, test, "fine-tuned")
    bm25 = lexical.BM25(test)
    table = experiment.compare([bm25, before, after, search.Fused([bm25, after])], test, baseline=1)
    return as_markdown(table, f"{profile.encoder(lang)}, {len(data)} rows, {seconds:.0f} s of training")


def as_markdown(table, caption: str) -> str:
    shown = table.rename(columns={"95 % interval": "95 % interval against zero-shot"}).drop(columns="p")
    lines = ["| system | " + " | ".join(shown.columns) + " |", "|---" * (len(shown.columns) + 1) + "|"]
    for name, row in shown.iterrows():
        lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row) + " |")
    return f"{caption}\n\n" + "\n".join(lines) + "\n"


def add_row(file: str, name: str, text: str) -> None:
    """Put a section into a Markdown file, in the place of the one with the same name."""
    path = HERE / file
    old = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else [f"# {path.stem}\n\n{machine()}\n"]
    kept = [section for section in old if not section.startswith(name + "\n")]
    path.write_text("\n## ".join([*kept, f"{name}\n\n{text}"]), encoding="utf-8")
    print(text, flush=True)


def machine() -> str:
    return f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, profile FAST."


def speed(_) -> None:
    """Encoding and one training epoch, ours over the library's default, in one run; writes speed.md."""
    city = corpora.load("city_services", "en")
    texts = list(city.corpus.values()) + list(city.queries.values())
    model = embedding.load("minilm")
    default = timed(lambda: model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False))
    ours = timed(lambda: embedding.encode(model, texts))
    row = f"| encode {len(texts)} texts | {default:.1f} s | {ours:.1f} s | {default / ours:.2f} |"
    lines = ["| task | library default | here | ratio |", "|---|---|---|---|", row, speed_of_training()]
    add_row("speed.md", "minilm", "\n".join(lines) + "\n")


def speed_of_training() -> str:
    """256 rows: the library's random batches with dropout, and ours."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    data = demo.training_data("en", 256)
    config = training.Config(num_train_epochs=1, max_seq_length=128)
    model = embedding.load("minilm")
    model.max_seq_length = 128
    arguments = SentenceTransformerTrainingArguments(**config.arguments())
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(model))
    default = timed(trainer.train, repeats=1)
    ours = timed(lambda: embedding.train(embedding.load("minilm"), data, config), repeats=1)
    return f"| train on {len(data)} rows, 1 epoch | {default:.1f} s | {ours:.1f} s | {default / ours:.2f} |"


def timed(call, repeats: int = 3) -> float:
    """Median seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["finetune", "speed"], nargs="?", default="finetune")
    parser.add_argument("names", nargs="*", help="COLLECTION:LANG")
    options = parser.parse_args()
    {"finetune": finetune, "speed": speed}[options.table](options.names)
