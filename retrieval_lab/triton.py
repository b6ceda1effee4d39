"""A model repository for NVIDIA Triton from an exported folder: a tokenizer in Python, the graph, and an ensemble of the two.
Taught in lesson 06.
"""

import math
import shutil
from pathlib import Path

from retrieval_lab import onnx_models, triton_schema
from retrieval_lab.profiles import say

_TOKENIZER = '''"""Triton's Python backend runs this: texts in, token ids out. It needs `tokenizers` and numpy in Triton's image."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb
from tokenizers import Tokenizer

INPUTS = {inputs}
STEP = {step}  # lengths are rounded up to a multiple, so that requests of like length share one run of the graph


class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self.tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token!r}, pad_to_multiple_of=STEP)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        texts = pb.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
        encodings = self.tokenizer.encode_batch([text.decode("utf-8") for text in texts])
        found = {{
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }}
        tensors = [pb.Tensor(name, np.array(found[name], np.int64)) for name in INPUTS]
        return pb.InferenceResponse(output_tensors=tensors)
'''


def repository(
    folder: str | Path, target: str | Path, *, name: str = "retriever", int8: bool = False, tensorrt: bool = False
) -> Path:
    """Write ``name`` (ensemble), ``name_tokenizer`` (Python) and ``name_graph`` (ONNX Runtime) and check them.

    Clients send texts with their prompt as BYTES of shape (n, 1) to the ensemble and get vectors of shape (n, dim).

    Parameters
    ----------
    folder : what `export.to_onnx` wrote for an embedding model
    target : the repository, new or existing; give it to ``tritonserver --model-repository``
    name : of the ensemble
    int8 : serve the quantised graph; it runs on the CPU
    tensorrt : on a GPU, let ONNX Runtime hand the graph to TensorRT in fp16; the engine is built when Triton loads it

    Raises
    ------
    ValueError
        If the folder holds another family, or both int8 and tensorrt are asked for.

    Source: Triton's model configuration; lesson 06.
    """
    import onnx

    model = onnx_models.load(folder, int8)
    if model.family != "embedding" or (int8 and tensorrt):
        raise ValueError(
            say(
                en=f"a repository is written for embedding models, int8 on the CPU or TensorRT on a GPU; got {model.family}, int8={int8}, tensorrt={tensorrt}",
                zh=f"只能为向量模型生成仓库，int8 用于 CPU，TensorRT 用于 GPU；现在是 {model.family}、int8={int8}、tensorrt={tensorrt}",
            )
        )
    target = Path(target)
    _write(target / name, _ensemble(name, model), {})
    source = Path(folder) / onnx_models.FILES[int8]
    graph = {"model.onnx": source} | {
        name: source.with_name(name) for name in _weights(onnx.load(source, load_external_data=False).graph)
    }
    _write(target / f"{name}_graph", _graph(name, model, tensorrt), graph)
    tokenizer = {"tokenizer.json": Path(folder) / "tokenizer.json", "model.py": _python(model)}
    _write(target / f"{name}_tokenizer", _tokenizer(name, model), tokenizer)
    check(target)
    return target


def check(repository: str | Path) -> list[str]:
    """Names of the models in a repository, after every file was read and the ensemble's wiring followed.

    Raises
    ------
    ValueError
        If a configuration has a field that Triton does not know, a file is missing, a tensor differs from the graph's, or the
        ensemble names a model or tensor that does not exist.
    """
    configs = {
        path.parent.name: triton_schema.parse(path.read_text())
        for path in sorted(Path(repository).glob("*/config.pbtxt"))
    }
    for name, config in configs.items():
        _require(config.name == name, f"{name}/config.pbtxt is about {config.name!r}; Triton wants the folder's name")
        _require((Path(repository) / name / "1").is_dir(), f"{name} has no version folder 1/")
        if config.backend == "onnxruntime":
            _check_graph(config, Path(repository) / name / "1" / "model.onnx")
    for config in configs.values():
        if config.platform == "ensemble":
            _check_wiring(config, configs)
    _require(bool(configs), f"{repository} holds no */config.pbtxt")
    return list(configs)


def _check_graph(config, path: Path) -> None:
    import onnx

    _require(path.is_file(), f"{path} is missing")
    graph = onnx.load(path, load_external_data=False).graph
    for name in _weights(graph):
        _require((path.parent / name).is_file(), f"{path} keeps its weights in {name}, which is missing")
    for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
        real = {t.name: (t.type.tensor_type.elem_type, len(t.type.tensor_type.shape.dim)) for t in theirs}
        for tensor in ours:  # Triton's dims leave the batch out; ONNX counts FLOAT as 1 and INT64 as 7
            expected = ({"TYPE_FP32": 1, "TYPE_INT64": 7}.get(triton_schema.type_name(tensor)), len(tensor.dims) + 1)
            _require(
                real.get(tensor.name) == expected,
                f"{config.name}: {tensor.name} is {real.get(tensor.name)} in the graph, {expected} here",
            )


def _weights(graph) -> set[str]:
    """Names of the files beside a graph that hold its weights; none for most graphs of less than 1.5 GB."""
    return {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}


def _check_wiring(config, configs: dict) -> None:
    known = {tensor.name for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        _require(step.model_name in configs, f"{config.name} uses {step.model_name}, which is not in the repository")
        model = configs[step.model_name]
        _require(
            set(step.input_map) == {t.name for t in model.input},
            f"{step.model_name}: inputs {sorted(step.input_map)} do not fit",
        )
        _require(
            set(step.output_map) <= {t.name for t in model.output},
            f"{step.model_name}: outputs {sorted(step.output_map)} do not fit",
        )
        _require(
            set(step.input_map.values()) <= known,
            f"{step.model_name} reads {sorted(step.input_map.values())}, only {sorted(known)} are there",
        )
        known |= set(step.output_map.values())
    _require(
        {t.name for t in config.output} <= known, f"{config.name}: no step makes {[t.name for t in config.output]}"
    )


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(
            say(
                en=f"Triton repository: {problem}; correct the file, or write it again with `triton.repository`",
                zh=f"Triton 模型仓库有误：{problem}；改正这个文件，或用 `triton.repository` 重新生成",
            )
        )


def _write(folder: Path, config: str, files: dict[str, Path | str]) -> None:
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / ".keep").touch()  # an ensemble has no file, but Triton wants the folder
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, version / name)
        else:
            (version / name).write_text(content, encoding="utf-8")


def _python(model) -> str:
    pad = model.card["pad_id"]
    values = {"inputs": tuple(model.card["inputs"]), "pad_id": pad, "pad_token": model.token(pad)}
    values["step"] = math.gcd(16, model.max_seq_length)  # rounding up must not pass the longest that the model reads
    return _TOKENIZER.format(**values)


def _tensors(kind: str, names: list[str], data_type: str, dims: int) -> str:
    rows = ",\n".join(f'  {{ name: "{name}" data_type: {data_type} dims: [ {dims} ] }}' for name in names)
    return f"{kind} [\n{rows}\n]\n"


def _header(name: str, line: str) -> str:
    return f'name: "{name}"\n{line}\nmax_batch_size: 64\n'


def _tokenizer(name: str, model) -> str:
    tensors = _tensors("input", ["TEXT"], "TYPE_STRING", 1) + _tensors("output", model.card["inputs"], "TYPE_INT64", -1)
    return (
        _header(f"{name}_tokenizer", 'backend: "python"') + tensors + "instance_group [ { count: 2 kind: KIND_CPU } ]\n"
    )


def _graph(name: str, model, tensorrt: bool) -> str:
    tensors = _tensors("input", model.card["inputs"], "TYPE_INT64", -1)
    tensors += _tensors("output", model.card["outputs"], "TYPE_FP32", model.card["dim"])
    batching = "dynamic_batching { max_queue_delay_microseconds: 2000 }\n"
    where = f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if tensorrt else 'KIND_CPU'} }} ]\n"
    if tensorrt:
        fp16 = 'parameters { key: "precision_mode" value: "FP16" }'
        where += f'optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "tensorrt" {fp16} }} ] }} }}\n'
    return _header(f"{name}_graph", 'backend: "onnxruntime"') + tensors + batching + where


def _ensemble(name: str, model) -> str:
    tensors = _tensors("input", ["TEXT"], "TYPE_STRING", 1)
    tensors += _tensors("output", model.card["outputs"], "TYPE_FP32", model.card["dim"])
    steps = [
        _step(f"{name}_tokenizer", ["TEXT"], model.card["inputs"]),
        _step(f"{name}_graph", model.card["inputs"], model.card["outputs"]),
    ]
    return (
        _header(name, 'platform: "ensemble"')
        + tensors
        + "ensemble_scheduling {\n  step [\n"
        + ",\n".join(steps)
        + "\n  ]\n}\n"
    )


def _step(model_name: str, inputs: list[str], outputs: list[str]) -> str:
    maps = [f'      input_map {{ key: "{key}" value: "{key}" }}' for key in inputs]
    maps += [f'      output_map {{ key: "{key}" value: "{key}" }}' for key in outputs]
    return f'    {{\n      model_name: "{model_name}"\n      model_version: -1\n' + "\n".join(maps) + "\n    }"
