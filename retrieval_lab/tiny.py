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
    special = {f"{name}_token_id": getattr(text, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(architecture, vocab_size=len(text), **(special | sizes))
    torch.manual_seed(seed)
    kind.from_config(config).save_pretrained(path)
    text.save_pretrained(path)
    return Path(path)


def m3_folder(path: str | Path, seed: int = 0) -> Path:
    """Write a folder laid out as bge-m3's: an XLM-R encoder, and the layers of its token vectors (24 dims) and of its lexical weights."""
    import torch

    folder("xlm-roberta", path, seed)
    for name, size in (("colbert_linear.pt", 24), ("sparse_linear.pt", 1)):
        torch.save(torch.nn.Linear(_SIZES["hidden_size"], size).state_dict(), Path(path) / name)
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
    """A random CrossEncoder with one output; "pooled" is one that `reranker.load` makes of a mean-pooling retriever."""
    from sentence_transformers import CrossEncoder

    from retrieval_lab import reranker

    with tempfile.TemporaryDirectory() as path:
        if architecture == "pooled":
            encoder(seed=seed).save_pretrained(path)
            return reranker.load(path, seed)
        return CrossEncoder(str(folder(architecture, path, seed)), num_labels=1, device="cpu")


def causal_lm(architecture: str = "llama", seed: int = 0):
    """A random causal language model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as path:
        folder(architecture, path, seed)
        return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chat_tokenizer(chat_template: str | None = CHATML, pad: str = "<|endoftext|>", bos: bool = False):
    """A byte-level tokenizer as causal models have it: any text survives, Yes, No, 是 and 否 are one token each.

    Parameters
    ----------
    chat_template : None for a model without one
    pad : its padding token; "<|im_end|>", which ends a turn, is what many models pad with
    bos : put "<|im_start|>" before each text

    >>> chat_tokenizer().tokenize("Yes 否")
    ['Yes', 'Ġ', 'åĲ¦']
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["Yes", "No", "yes", "no", "是", "否", "Query", "Document", "Does", "the", "answer", "Say", "or", "Yes:"]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator([*words, " Yes", " No"] * 9, trainer)
    if bos:
        fast.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    return PreTrainedTokenizerFast(tokenizer_object=fast, chat_template=chat_template, **tokens)


def chat_folder(architecture: str, path: str | Path, text=None, seed: int = 0) -> Path:
    """Write a random causal model of 1,024 positions with a `chat_tokenizer`, or the tokenizer given as ``text``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    text = chat_tokenizer() if text is None else text
    sizes = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024}
    tokens = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": None}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, vocab_size=len(text), initializer_range=0.2, **tokens, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    model.config.pad_token_id = text.pad_token_id  # not before: the padding's row would start as zeros
    model.save_pretrained(path)
    text.save_pretrained(path)
    return Path(path)


def multi_vector_encoder(seed: int = 0):
    """A random ColBERT-like MultiVectorEncoder."""
    from sentence_transformers import MultiVectorEncoder

    with tempfile.TemporaryDirectory() as path:
        return MultiVectorEncoder(str(folder("bert", path, seed)), device="cpu")
