"""How a saved decoder LLM is told from an encoder, and what it needs to give one vector a text: an end-of-sequence token that has seen it all.
Taught in lesson 01b; the reranking decoder is `llm`.
"""

import json
from pathlib import Path

from retrieval_lab.profiles import say

# Arguments of sentence-transformers' Transformer: read the text itself. By default it wraps a text in the chat template that
# the model may have.
PLAIN_TEXT = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def is_decoder(folder: Path) -> bool:
    """Whether a saved model is a causal language model, or a reranker made of one, which keeps the chat template of its pairs."""
    is_reranker = bool(modules(folder)) and (folder / "chat_template.jinja").is_file()
    return is_reranker or architecture(folder).endswith(("ForCausalLM", "LMHeadModel"))


def architecture(folder: Path) -> str:
    """The class of transformers that a saved model names; "" where it names none."""
    config = json.loads((weights_folder(folder) / "config.json").read_text(encoding="utf-8"))
    return (config.get("architectures") or [""])[0]


def architectures(folder: Path) -> list[str]:
    """The classes that a saved model names; none where it names none or has no config.json."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config.get("architectures") or []


def causal_lm(folder: Path):
    """A causal language model in fp32, ready for inference, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def saved_as(folder: Path) -> str | None:
    """The class that sentence-transformers or PyLate saved a folder from; None for any other folder."""
    file = folder / "config_sentence_transformers.json"
    return json.loads(file.read_text(encoding="utf-8")).get("model_type") if file.is_file() else None


def modules(folder: Path) -> list[dict]:
    """What sentence-transformers says of a model's modules, each with its type and path; none for any other folder."""
    file = folder / "modules.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def only_transformer(folder: Path) -> bool:
    """Whether a saved model is a lone Transformer that gives token vectors and no module to make one of them."""
    found = modules(folder)
    if len(found) != 1 or not found[0]["type"].endswith(".Transformer"):
        return False
    file = folder / found[0]["path"] / "sentence_bert_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config.get("module_output_name", "token_embeddings") == "token_embeddings"  # CLIP's gives one vector


def weights_folder(folder: Path) -> Path:
    """Where the transformer lies: sentence-transformers may keep it in a folder of its own."""
    found = modules(folder)
    return folder / found[0]["path"] if found else folder


def plain_text(folder: Path):
    """A plain checkpoint as sentence-transformers' Transformer that reads the text itself and can pad.

    A tokenizer without a padding token pads with its end-of-sequence token: poolings go by the attention mask and never see it.
    """
    from sentence_transformers.base.modules import Transformer

    transformer = Transformer(str(folder), **PLAIN_TEXT)
    if transformer.tokenizer.pad_token is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    return transformer


def append_eos(tokenizer) -> None:
    """Make a fast tokenizer end every text with its end-of-sequence token, also a text that is cut. Saved with the tokenizer.

    A decoder's token sees only what stands before it, so the last one is the only one that can stand for the whole text. Decoders'
    own tokenizers add no such token, because a prompt is to be continued. A tokenizer that adds it already is left alone.

    Raises
    ------
    ValueError
        If the tokenizer has no end-of-sequence token.

    Source: Wang et al. 2024 (E5-Mistral), section 3.1; lesson 01b.
    """
    from tokenizers import processors

    if tokenizer.eos_token is None:
        raise ValueError(
            say(
                en="the tokenizer has no end-of-sequence token, and last-token pooling needs one: set tokenizer.eos_token, or pool by 'mean'",
                zh="分词器没有结束符，而末词元池化需要它：设置 tokenizer.eos_token，或改用 'mean' 池化",
            )
        )
    found = tokenizer("a")["input_ids"]
    if found[-1:] == [tokenizer.eos_token_id]:
        return
    # One template for start and end: of two templates in a row, the tokenizers library applies the first only.
    start = tokenizer.convert_ids_to_tokens(found[: -len(tokenizer("a", add_special_tokens=False)["input_ids"])])
    known = [(token, tokenizer.convert_tokens_to_ids(token)) for token in {*start, tokenizer.eos_token}]
    template = [*start, "$A", tokenizer.eos_token]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
