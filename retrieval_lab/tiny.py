"""Random models of each architecture, a few thousand weights large, with one token a character: for tests that need mechanics and no meaning.
Used by the tests and by the doctests; no lesson measures with them.
"""

import tempfile
from pathlib import Path

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?!:%{}-_/()的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"


def tokenizer(eos_as_pad: bool = False):
    """A fast tokenizer: one token a character, BERT's special tokens, ``[CLS] text [SEP]``."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *dict.fromkeys(CHARACTERS)])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    names = {"pad_token": "[SEP]" if eos_as_pad else "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="[UNK]", mask_token="[MASK]", eos_token="[SEP]", model_max_length=128, **names
    )


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,  # 128 tokens; xlm-roberta counts from the padding id + 1
}


def folder(architecture: str, path: str | Path, seed: int = 0) -> Path:
    """Write a random model and its tokenizer where plain transformers can load them.

    Parameters
    ----------
    architecture : "bert", "xlm-roberta", "modernbert" (encoders), "llama", "qwen2" or "gemma" (decoders)
    path : an existing or new folder

    Raises
    ------
    KeyError
        If the architecture is not one of those.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    text = tokenizer(eos_as_pad=architecture in ("llama", "qwen2", "gemma"))
    kind = {"bert": AutoModel, "xlm-roberta": AutoModel, "modernbert": AutoModel}.get(
        architecture, AutoModelForCausalLM
    )
    sizes = dict(_SIZES)
    if kind is AutoModelForCausalLM:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8, "eos_token_id": 2, "bos_token_id": 1}
    config = AutoConfig.for_model(architecture, vocab_size=len(text), pad_token_id=text.pad_token_id, **sizes)
    torch.manual_seed(seed)
    kind.from_config(config).save_pretrained(path)
    text.save_pretrained(path)
    return Path(path)


def encoder(architecture: str = "bert", pooling: str = "mean", prompts: dict | None = None, seed: int = 0):
    """A random SentenceTransformer of 32 dims.

    >>> encoder().get_embedding_dimension()
    32
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    with tempfile.TemporaryDirectory() as path:
        transformer = modules.Transformer(str(folder(architecture, path, seed)), max_seq_length=128)
    layers = [transformer, modules.Pooling(_SIZES["hidden_size"], pooling), modules.Normalize()]
    return SentenceTransformer(modules=layers, prompts=prompts, device="cpu").eval()


def cross_encoder(architecture: str = "bert", seed: int = 0):
    """A random CrossEncoder with one output."""
    from sentence_transformers import CrossEncoder

    with tempfile.TemporaryDirectory() as path:
        return CrossEncoder(str(folder(architecture, path, seed)), num_labels=1, device="cpu")


def causal_lm(architecture: str = "llama", seed: int = 0):
    """A random causal language model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as path:
        folder(architecture, path, seed)
        return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def multi_vector_encoder(seed: int = 0):
    """A random ColBERT-like MultiVectorEncoder."""
    from sentence_transformers import MultiVectorEncoder

    with tempfile.TemporaryDirectory() as path:
        return MultiVectorEncoder(str(folder("bert", path, seed)), device="cpu")
