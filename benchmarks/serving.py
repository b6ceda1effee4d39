"""Measures serving.md: what int8 costs and saves, and the service under load. Some minutes; nothing else should run meanwhile.

python benchmarks/serving.py quality       size, speed and nDCG@10 of torch, fp32 and the ways to quantise
python benchmarks/serving.py load          requests a second, p50, p99 and memory of the service
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from run import add_row

from retrieval_lab import corpora, demo, embedding, experiment, export, onnx_models, profiles, search, serving_process

SMALL = profiles.current().name == "smoke"  # RETRIEVAL_LAB_PROFILE=smoke only shows that the script runs
N_TEXTS = 16 if SMALL else 200
SECONDS = 1.0 if SMALL else 10.0


def quality(lang: str, folder: Path) -> str:
    """One row a graph, each compared with torch."""
    model = demo.retriever(lang)
    city = corpora.load("city_services", lang).sample(profiles.current().n_queries)
    if SMALL:
        city = replace(city, corpus=dict(list(city.corpus.items())[:N_TEXTS]))
    exported = {"onnx fp32": onnx_models.load(export.to_onnx(model, folder / "fp32"))}
    for name, quantise in WAYS.items():
        exported[name] = _quantised(folder, name, quantise)
    systems = [search.Dense(model, city, "torch fp32")]
    systems += [search.Dense(graph, city, name) for name, graph in exported.items()]
    table = experiment.compare(systems, city, names=["nDCG@10"])
    texts = list(city.corpus.values())[:N_TEXTS]
    expected = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    table["MB"] = [None, *(_megabytes(folder, name) for name in exported)]
    table["texts/s"] = [
        _speed(lambda: embedding.encode(model, texts)),
        *(_speed(lambda g=g: g.encode(texts, batch_size=8)) for g in exported.values()),
    ]
    table["cosine"] = [1.0, *((g.encode(texts, batch_size=8) * expected).sum(1).mean() for g in exported.values())]
    table["cosine, alone and in a batch"] = [None, *(_alone_and_together(g, texts) for g in exported.values())]
    return _markdown(table.drop(columns=["ms/query", "p"]))


def _per_channel(source: Path, target: Path) -> None:
    export.quantise(source, target)


def _per_tensor(source: Path, target: Path) -> None:
    quantize_dynamic(source, target)


def _weights_only(source: Path, target: Path) -> None:
    """8-bit weights in blocks of 128, activations quantised row by row."""
    quantiser = MatMulNBitsQuantizer(onnx.load(source), bits=8, block_size=128, is_symmetric=True, accuracy_level=4)
    quantiser.process()
    quantiser.model.save_model_to_file(str(target))


WAYS = {"int8, a scale a channel": _per_channel, "int8, a scale a matrix": _per_tensor, "8-bit blocks": _weights_only}


def _quantised(folder: Path, name: str, quantise) -> onnx_models.Embedding:
    shutil.copytree(folder / "fp32", folder / name)
    quantise(folder / name / "model.onnx", folder / name / "model_int8.onnx")
    return onnx_models.load(folder / name, int8=True)


def _megabytes(folder: Path, name: str) -> float:
    path = folder / "fp32" / "model.onnx" if name == "onnx fp32" else folder / name / "model_int8.onnx"
    return path.stat().st_size / 1e6


def _speed(encode) -> float:
    encode()
    start = time.perf_counter()
    encode()
    return N_TEXTS / (time.perf_counter() - start)


def _alone_and_together(graph: onnx_models.Embedding, texts: list[str]) -> float:
    return float(np.mean((graph.encode(texts, batch_size=1) * graph.encode(texts, batch_size=16)).sum(1)))


def load(lang: str, folder: Path) -> str:
    """16 clients that send one query each and wait for its vector."""
    model = demo.retriever(lang)
    model.save_pretrained(str(folder / "torch"))
    export.to_onnx(model, folder / "onnx", int8=True)
    queries = list(corpora.load("city_services", lang).queries.values())
    rows = {}
    for name, arguments in _services(folder).items():
        with serving_process.Running(*arguments) as service:
            rows[name] = serving_process.load_test(service.url, queries, SECONDS)
            rows[name]["memory MB"] = service.memory_mb()
        if rows[name].pop("errors"):
            raise RuntimeError(f"{name}: some requests got an error; their times mean nothing")
    return _markdown(pd.DataFrame(rows).T)


def _services(folder: Path) -> dict[str, list[str]]:
    trained, graph = ["--model", str(folder / "torch")], ["--model", str(folder / "onnx")]
    ways = {"torch fp32": trained, "onnx fp32": graph, "onnx int8": [*graph, "--int8"]}
    return ways | {f"{name}, no batching": [*given, "--batch-tokens", "1"] for name, given in ways.items()}


def _markdown(table) -> str:
    lines = ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(value) for value in row) + " |" for name, row in table.iterrows()]
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["quality", "load"])
    parser.add_argument("--lang", choices=["en", "zh"], default="en")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = {"quality": quality, "load": load}[options.table](options.lang, Path(scratch))
        add_row("serving.md", f"{options.table}: lesson 01's retriever, {options.lang}", text)
