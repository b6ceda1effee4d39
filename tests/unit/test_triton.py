"""The generated repository: read back, followed, and its Python part run with the same texts as the graph."""

import shutil
import sys
import types

import numpy as np
import onnx
import onnxruntime
import pytest

from retrieval_lab import export, tiny, triton, triton_schema

PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts=PROMPTS)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export.to_onnx(model, tmp_path_factory.mktemp("exported"), int8=True)


@pytest.fixture
def repository(folder, tmp_path):
    return triton.repository(folder, tmp_path / "repository", name="city")


def test_repository_has_three_models_with_their_files(repository):
    found = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    keep = [f"city{part}/1/.keep" for part in ("", "_graph", "_tokenizer")]
    own = ["city_graph/1/model.onnx", "city_tokenizer/1/model.py", "city_tokenizer/1/tokenizer.json"]
    assert found == sorted([*keep, *own, *(f"city{part}/config.pbtxt" for part in ("", "_graph", "_tokenizer"))])
    assert triton.check(repository) == ["city", "city_graph", "city_tokenizer"]


def test_graph_is_configured_as_the_graph_is(repository):
    config = triton_schema.parse((repository / "city_graph" / "config.pbtxt").read_text())
    session = onnxruntime.InferenceSession(str(repository / "city_graph" / "1" / "model.onnx"))
    assert [t.name for t in config.input] == [t.name for t in session.get_inputs()]
    assert config.output[0].name == "sentence_embedding" and list(config.output[0].dims) == [32]
    assert triton_schema.type_name(config.output[0]) == "TYPE_FP32"
    assert config.max_batch_size == 64 and config.dynamic_batching.max_queue_delay_microseconds == 2000


def test_tensorrt_is_asked_for_on_a_gpu_only_when_wanted(folder, tmp_path):
    text = (triton.repository(folder, tmp_path, tensorrt=True) / "retriever_graph" / "config.pbtxt").read_text()
    (accelerator,) = triton_schema.parse(text).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt" and dict(accelerator.parameters) == {"precision_mode": "FP16"}
    assert "KIND_GPU" in text


def test_texts_through_both_parts_give_the_models_vectors(repository, model, monkeypatch):
    """Triton itself cannot run here; its Python interface is four names."""
    backend = types.ModuleType("triton_python_backend_utils")
    backend.Tensor = lambda name, values: types.SimpleNamespace(name=name, as_numpy=lambda: values)
    backend.InferenceResponse = lambda output_tensors: output_tensors
    backend.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    path = repository / "city_tokenizer" / "1" / "model.py"
    code = {"__file__": str(path), "__name__": "model"}
    exec(compile(path.read_text(), str(path), "exec"), code)
    part = code["TritonPythonModel"]()
    part.initialize({})
    texts = ["query: tram", "query: 在这 and a longer one", "query: " + "a" * 300]
    column = np.array([[text.encode()] for text in texts], object)
    (answer,) = part.execute([{"TEXT": backend.Tensor("TEXT", column)}])
    inputs = {tensor.name: tensor.as_numpy() for tensor in answer}
    assert inputs["input_ids"].shape == (3, 128)  # 128 tokens, a multiple of 16
    session = onnxruntime.InferenceSession(str(repository / "city_graph" / "1" / "model.onnx"))
    found = session.run(["sentence_embedding"], inputs)[0]
    np.testing.assert_allclose(found, model.encode(texts, normalize_embeddings=True), atol=1e-5)
    (short,) = part.execute([{"TEXT": backend.Tensor("TEXT", column[:1])}])
    assert short[0].as_numpy().shape == (1, 16)


BROKEN = {
    "unknown field": ("city_graph", "max_batch_size", "max_batch", 'no field named "max_batch"'),
    "wrong type": ("city_graph", "max_batch_size: 64", 'max_batch_size: "many"', "config.pbtxt: 3"),
    "unknown data type": ("city_graph", "TYPE_FP32", "TYPE_FLOAT", "TYPE_FLOAT"),
    "other name": ("city_graph", 'name: "city_graph"', 'name: "graph"', "Triton wants the folder's name"),
    "other tensor": ("city_graph", "sentence_embedding", "vector", "vector is None in the graph"),
    "other dims": (
        "city_graph",
        "dims: [ 32 ]",
        "dims: [ 32, 1 ]",
        r"sentence_embedding is \(1, 2\) in the graph, \(1, 3\)",
    ),
    "other output": ("city_graph", "TYPE_INT64", "TYPE_STRING", r"\(None, 2\) here"),
    "missing model": ("city", 'model_name: "city_graph"', 'model_name: "graph"', "city uses graph, which is not"),
    "unknown input": ("city", 'input_map { key: "input_ids"', 'input_map { key: "ids"', "inputs .* do not fit"),
    "unknown output": (
        "city",
        'output_map { key: "sentence_embedding"',
        'output_map { key: "v"',
        "outputs .* do not fit",
    ),
    "loose end": (
        "city",
        'input_map { key: "TEXT" value: "TEXT"',
        'input_map { key: "TEXT" value: "T"',
        r"reads \['T'\]",
    ),
    "nothing made": (
        "city",
        'key: "sentence_embedding" value: "sentence_embedding"',
        'key: "sentence_embedding" value: "x"',
        "no step makes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_configuration_is_found(repository, case):
    name, old, new, words = BROKEN[case]
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
        triton.check(repository)


def test_missing_graph_and_empty_folder_are_found(repository, tmp_path):
    (repository / "city_graph" / "1" / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"model.onnx is missing"):
        triton.check(repository)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \*/config.pbtxt"):
        triton.check(tmp_path / "empty")


@pytest.mark.parametrize("int8", [False, True])
def test_weights_beside_the_graph_come_along(folder, model, tmp_path, int8):
    shutil.copytree(folder, tmp_path / "large")
    graph = tmp_path / "large" / ("model_int8.onnx" if int8 else "model.onnx")
    kept = {
        "save_as_external_data": True,
        "location": f"{graph.name}.data",
        "size_threshold": 1024,
    }  # as torch above 1.5 GB
    onnx.save_model(onnx.load(graph), graph, **kept)
    target = triton.repository(tmp_path / "large", tmp_path / "repository", int8=int8)
    version = target / "retriever_graph" / "1"
    onnxruntime.InferenceSession(str(version / "model.onnx"))
    (version / f"{graph.name}.data").unlink()
    with pytest.raises(ValueError, match=rf"model\.onnx keeps its weights in {graph.name}\.data, which is missing"):
        triton.check(target)


def test_int8_with_tensorrt_is_refused(folder, tmp_path, lang):
    words = {"en": "int8 on the CPU or TensorRT on a GPU; got embedding, int8=True", "zh": "只能为向量模型生成仓库"}
    with pytest.raises(ValueError, match=words[lang]):
        triton.repository(folder, tmp_path, int8=True, tensorrt=True)
