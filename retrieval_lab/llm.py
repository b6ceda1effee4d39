"""A causal language model as a reranker: it reads a query and a document and answers Yes or No; the score is the difference of the two logits.
Taught in lesson 04. Everything here is a plain CrossEncoder before and after; `llm_scalar` has the variant with a head of its own.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval_lab import llm_lora, llm_prompts, models, reranker
from retrieval_lab.llm_inputs import batches, fit_data, fitted, prompt_ids, with_shared_start
from retrieval_lab.profiles import device, language, say
from retrieval_lab.reranker_data import checked_pairs
from retrieval_lab.training import Config

__all__ = ["LORA", "answer_rows", "checked", "fitted", "load", "prompt_ids", "score", "tokens", "train"]

LORA = Config(
    use_lora=True,
    lora_target_modules=["q_proj", "v_proj"],
    learning_rate=5e-4,
    num_train_epochs=1,
    per_device_train_batch_size=4,  # queries, each with its documents
)


def load(name: str | Path, lang: str | None = None, *, prompt=None, words=None, max_seq_length: int = 512):
    """A CrossEncoder over a causal model, by alias, hub id or folder, with the prompt and the two answers fixed.

    Prompt and words are written into the chat template and the last module, so they are saved with the model; a folder
    saved so is loaded as it is, here and by sentence-transformers alone.

    Parameters
    ----------
    name : what `models.resolve` takes
    lang : "en" or "zh": which of our prompts; the reader's language when not given
    prompt : a key of `llm_prompts.PROMPTS` or a `Prompt`; None takes the model's own where its name tells it (`llm_prompts.own`),
        or that of ``lang``
    words : the two answers, e.g. ("Yes", "No"), one token each; None takes the prompt's
    max_seq_length : tokens of prompt, texts and answer slot together; longer documents are cut, see `score`

    Raises
    ------
    ValueError
        If an answer is not a single token, the prompt does not reach the model as it should, or a saved reranker is given another.

    Source: Nogueira et al. 2020 (a generated word as the score), section 3; lesson 04.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from torch.nn import Identity
    from transformers import AutoTokenizer

    folder = models.resolve(name)
    if (folder / "modules.json").is_file():
        if prompt or words:
            raise ValueError(
                say(
                    en=f"{name} was saved with a prompt and answers of its own; leave `prompt` and `words` out, or load the base model",
                    zh=f"{name} 保存时带有自己的提示词和回答用词；不要再给 prompt 和 words，或者改为加载基座模型",
                )
            )
        return checked(CrossEncoder(str(folder), device=device()))
    lang = lang or language()
    chosen = _prompt(name, prompt, lang)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = llm_prompts.layout(tokenizer, chosen, lang)
    ids = _answer_ids(tokenizer, parts.after, words or chosen.words)
    transformer = Transformer(
        str(folder),
        transformer_task="text-generation",
        model_kwargs=dtype(),
        processor_kwargs=tokens(tokenizer, parts),
    )
    transformer.max_seq_length = min(max_seq_length, transformer.max_seq_length)
    model = CrossEncoder(modules=[transformer, LogitScore(*ids)], activation_fn=Identity(), device=device())
    return checked(model.eval())


def _prompt(name, prompt, lang: str) -> llm_prompts.Prompt:
    if isinstance(prompt, llm_prompts.Prompt):
        return prompt
    key = prompt or llm_prompts.own(name) or lang
    if key not in llm_prompts.PROMPTS:
        known = ", ".join(llm_prompts.PROMPTS)
        raise ValueError(
            say(
                en=f"prompt={key!r} is not known; use one of {known}, or a Prompt",
                zh=f"没有 prompt={key!r}；可用：{known}，或者给一个 Prompt",
            )
        )
    return llm_prompts.PROMPTS[key]


def _answer_ids(tokenizer, ending: str, words) -> list[int]:
    """The answers' tokens where the answer begins; after "Answer:" an English word starts with a blank."""
    blank = " " if ending.endswith("Answer:") else ""
    return [llm_prompts.word_id(tokenizer, ending, blank + word) for word in words if word]


def dtype() -> dict:
    """fp32 on a CPU, where half precision is slow and rounds scores together; elsewhere what the checkpoint has."""
    import torch

    return {"dtype": torch.float32 if device() == "cpu" else "auto"}


def tokens(tokenizer, parts: llm_prompts.Layout, note: dict | None = None) -> dict:
    """What the saved tokenizer must say: our template, on which side the document is to be cut, a padding token."""
    side = "right" if parts.roles[1] == "document" else "left"
    template = llm_prompts.template(tokenizer, parts, note)
    return {"chat_template": template, "truncation_side": side, "pad_token": tokenizer.pad_token or tokenizer.eos_token}


def checked(model):
    """The model, after a look at what else fails in silence: both texts in the prompt, its end intact even when a text is cut.

    Raises
    ------
    ValueError
        If the model is no such reranker, its chat template loses a text, or the prompt's end is cut off.
    """
    formatter = getattr(model[0], "input_formatter", None)
    problem = "no chat template" if formatter is None else formatter.pair_roles_failure()
    if problem:
        raise ValueError(
            say(
                en=f"this model's template cannot carry a query and a document ({problem}); make the reranker with llm.load or llm_scalar.load from the base model",
                zh=f"这个模型的模板装不下查询和文档（{problem}）；用 llm.load 或 llm_scalar.load 从基座模型构建重排器",
            )
        )
    short, long = prompt_ids(model, [("a", "b"), ("a", "b c d " * model.max_seq_length)])
    end = _common_end(short, prompt_ids(model, [("x y", "z z z")])[0])
    if not 0 < end < len(short) or long[-end:] != short[-end:]:  # all the same: the texts are not in it
        raise ValueError(
            say(
                en=f"max_seq_length={model.max_seq_length} leaves no room for the end of the prompt, where the answer is read; raise it",
                zh=f"max_seq_length={model.max_seq_length} 放不下提示词结尾，而答案正是从那里读出的；调大它",
            )
        )
    return model


def _common_end(one: list[int], other: list[int]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def score(model, pairs: Sequence[tuple[str, str]], budget: int = 2048) -> np.ndarray:
    """One score a pair: logit(Yes) - logit(No) after the last token of the prompt, or what a scalar head says.

    Equal to ``model.predict``, but batched by tokens and through the two answer rows of the output matrix only; what the prompts
    of one query have in common, instruction and query, is read once for all its documents. A prompt longer than ``model.max_seq_length`` loses the end of its document; its instruction, query and answer slot stay whole. Only a query that
    fills more than half of the room for texts, beside a long document, is cut to that half.

    Parameters
    ----------
    model : CrossEncoder of `load` or `llm_scalar.load`
    pairs : n of (query, document), in any order and of any length
    budget : tokens of a padded batch

    Returns
    -------
    (n,) float32; (n, num_labels) for a scalar head with several outputs

    Raises
    ------
    ValueError
        If a pair is not two strings.

    Source: lesson 04.
    """
    import torch
    from tqdm.auto import tqdm

    pairs = checked_pairs(pairs)
    rows = prompt_ids(model, pairs)
    found = np.zeros((len(rows), model.num_labels), np.float32)
    bar = tqdm(total=len(rows), unit="pair", desc="rerank", leave=False, disable=len(rows) < 64)
    model.eval()
    with torch.inference_mode(), answer_rows(model), bar:
        for batch in batches(model, rows, [query for query, _ in pairs], budget):
            features = with_shared_start(model, [rows[i] for i in batch])
            found[batch] = model(features)["scores"].float().cpu().numpy()
            bar.update(len(batch))
    return found[:, 0] if model.num_labels == 1 else found


@contextlib.contextmanager
def answer_rows(model):
    """Inside, the output layer has the rows of the two answers only, instead of one a word of the vocabulary.

    A model without a Yes/No module is left as it is.
    """
    import torch

    decoder, answers = model[0].model, model[-1]
    if model[0].transformer_task != "text-generation":
        yield
        return
    whole = decoder.get_output_embeddings()
    ids = [answers.true_token_id, answers.false_token_id]
    kept = [i for i in ids if i is not None]
    rows = torch.nn.Linear(whole.in_features, len(kept), bias=whole.bias is not None, device="meta")
    rows.weight = torch.nn.Parameter(whole.weight[kept], requires_grad=False)
    if whole.bias is not None:
        rows.bias = torch.nn.Parameter(whole.bias[kept], requires_grad=False)
    decoder.set_output_embeddings(rows)
    answers.true_token_id, answers.false_token_id = 0, None if ids[1] is None else 1
    try:
        yield
    finally:
        decoder.set_output_embeddings(whole)
        answers.true_token_id, answers.false_token_id = ids


def train(model, data, config: Config | None = None):
    """Fine-tune the reranker at exactly the position that `score` reads, by sentence-transformers' own trainer and losses.

    Parameters
    ----------
    model : CrossEncoder of `load` or `llm_scalar.load`; changed in place and returned
    data, config : as for `reranker.train`; `LORA` when not given. With ``config.use_lora`` adapters are put in first unless they
        are there (`llm_lora.add` can limit them to the upper layers)

    The adapters of a Yes/No reranker stay in it: `llm_lora.merge` folds them in, before saving for a machine that has no base
    model. Those of a scalar head are folded in here: the head's padding token and special token are not in an adapter's folder,
    so only the whole model loads with the same scores.

    Raises
    ------
    ValueError
        If a setting is one that only other families read, or as `reranker.train`.

    Source: Nogueira et al. 2020, section 3.1; Hu et al. 2022; lesson 04.
    """
    config = config or LORA
    config.refuse_unread("llm_decoder" if llm_lora.is_scalar(model) else "llm")
    llm_lora.ensure(model, config)
    with config.applied_to(model):
        data = fit_data(model, data)
    model = reranker.fitted(model, data, config)
    return llm_lora.merge(model) if llm_lora.is_scalar(model) else model
