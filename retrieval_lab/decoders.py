"""What a decoder LLM needs to give one vector a text: an end-of-sequence token whose state has seen all the others.
Taught in lesson 01b; the reranking decoder is `llm`.
"""

from retrieval_lab.profiles import say


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
    if tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return
    ends = [(tokenizer.eos_token, tokenizer.eos_token_id)]
    last = processors.TemplateProcessing(single=["$A", tokenizer.eos_token], special_tokens=ends)
    before = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([before, last]) if before else last
