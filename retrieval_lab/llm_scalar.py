"""A decoder reranker with a head of its own: one number (or several) from the last token of "query: ... document: ...</s>".
Taught in lesson 04. A plain CrossEncoder over ``...ForSequenceClassification``; `llm.score`, `llm.train` and `llm_lora` take it too.
"""

from pathlib import Path

from retrieval_lab import llm, llm_prompts, models, reranker
from retrieval_lab.profiles import device, say


def load(
    name: str | Path,
    *,
    query_format: str = "query: {}",
    document_format: str = "document: {}",
    seq: str = " ",
    special_token: str | None = None,
    document_first: bool = False,
    num_labels: int = 1,
    max_seq_length: int = 512,
    seed: int = 0,
):
    """A CrossEncoder whose input is ``query_format + seq + document_format + special_token``, read at the special token.

    The formats are written into the tokenizer's chat template, so a saved model needs nothing of ours: ``CrossEncoder(folder)``
    formats, pools and scores the same. A model saved like that is loaded as it is; a plain checkpoint gets a fresh head.

    Parameters
    ----------
    name : what `models.resolve` takes
    query_format, document_format : texts with one {} each, where the query or document goes
    seq : between the two
    special_token : one token that closes the text; it is added to the vocabulary if need be. None: the model's end-of-text token
    document_first : put the document before the query, whose words can then look back for their match: a small model learns
        faster (lesson 04)
    num_labels : outputs of the head
    max_seq_length : tokens in all; of a longer text the end of the document is cut, the special token stays
    seed : of the fresh head's random weights

    Raises
    ------
    ValueError
        If a format does not hold {} exactly once, or the model has no end-of-text token and none is given.

    Source: Ma et al. 2023 (RankLLaMA), section 2.2; the formats are those of RAG-Retrieval; lesson 04.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from transformers import AutoTokenizer

    folder = models.resolve(name)
    if (folder / "modules.json").is_file():
        return llm.checked(CrossEncoder(str(folder), device=device()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = special_token or tokenizer.eos_token
    note = {"query_format": query_format, "document_format": document_format, "seq": seq, "special_token": special}
    note |= {"document_first": document_first}
    _prepare(tokenizer, special, name)
    parts = _parts(tokenizer, **note)
    with reranker.fresh_head(seed):
        task = {"transformer_task": "sequence-classification", "config_kwargs": {"num_labels": num_labels}}
        kept = llm.tokens(tokenizer, parts, note)
        transformer = Transformer(str(folder), **task, model_kwargs=llm.dtype(), processor_kwargs=kept)
        _prepare(transformer.tokenizer, special, name)
        if len(transformer.tokenizer) > transformer.model.get_input_embeddings().num_embeddings:
            transformer.model.resize_token_embeddings(len(transformer.tokenizer))
    transformer.model.config.pad_token_id = transformer.tokenizer.pad_token_id
    transformer.max_seq_length = min(max_seq_length, transformer.max_seq_length)
    model = CrossEncoder(modules=[transformer], activation_fn=torch.nn.Identity(), device=device())
    return llm.checked(model.eval())


def formats(model) -> dict:
    """The query_format, document_format, seq, special_token and document_first that a model was made with, also after loading.

    >>> import tempfile; from retrieval_lab import tiny
    >>> model = load(tiny.chat_folder("llama", tempfile.mkdtemp()), seq=" | ")
    a fresh head: train it before you trust a score
    >>> formats(model)["seq"]
    ' | '
    """
    return llm_prompts.note_of(model.tokenizer)


def _parts(
    tokenizer, *, query_format: str, document_format: str, seq: str, special_token: str, document_first: bool
) -> llm_prompts.Layout:
    for field, text in (("query_format", query_format), ("document_format", document_format)):
        if text.count("{}") != 1:
            raise ValueError(
                say(
                    en=f"{field}={text!r} must hold {{}} exactly once, where the text goes; without it the text would be lost",
                    zh=f"{field}={text!r} 里必须恰好有一个 {{}}，文本就填在那里；没有它，文本会丢失",
                )
            )
    texts = {"query": query_format.split("{}"), "document": document_format.split("{}")}
    roles = ("document", "query") if document_first else ("query", "document")
    (before, between), (start, end) = (texts[role] for role in roles)
    return llm_prompts.Layout(llm_prompts.bos(tokenizer) + before, between + seq + start, end + special_token, roles)


def _prepare(tokenizer, special: str | None, name) -> None:
    """Make the special token one token that no text can run into, and the padding token another one.

    The model reads at its last token that is not padding: if the special token were the padding too, it would read one too early.
    """
    if not special:
        raise ValueError(
            say(
                en=f"{name} has no end-of-text token; give special_token, e.g. '</s>'",
                zh=f"{name} 没有文本结束词元；请给出 special_token，例如 '</s>'",
            )
        )
    if special not in tokenizer.get_added_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [special]}, replace_extra_special_tokens=False)
    taken = {special, tokenizer.eos_token, tokenizer.bos_token}
    if tokenizer.pad_token in (None, special):
        free = [token for token in tokenizer.all_special_tokens if token not in taken]
        tokenizer.add_special_tokens({"pad_token": free[0] if free else "<|padding|>"})
