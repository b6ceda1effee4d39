"""Any chat model by name, for the answering step: a server by LangChain's own loader, or a small local model that streams.
Taught in lesson 05.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from threading import Event, Thread
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from retrieval_lab import decoders, models
from retrieval_lab.profiles import say


def chat_model(name: str, **options):
    """A LangChain chat model.

    Parameters
    ----------
    name : "smollm2", another local model's alias or folder; or "provider:model" for a server, as LangChain's ``init_chat_model`` takes it:
        "openai:NAME" with ``base_url="http://localhost:11434/v1"`` for Ollama, vLLM, llama.cpp and every other server of that shape
    options : the fields of `LocalChat` for a local model, ``max_new_tokens`` above all; whatever the provider's class takes

    Raises
    ------
    ModelError
        If no local model of that name can be had.
    ValueError
        If a local model has no such option.

    Source: lesson 05.
    """
    if ":" in name and not models.find(name):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name, **options)
    if unknown := sorted(options.keys() - LocalChat.model_fields.keys()):
        raise ValueError(
            say(
                en=f"a local model has no option {', '.join(unknown)}; {name!r} takes max_new_tokens. A server's model is named provider:model",
                zh=f"本地模型没有选项 {'、'.join(unknown)}；{name!r} 可用 max_new_tokens。服务器上的模型要写成 provider:model",
            )
        )
    model, tokenizer = decoders.causal_lm(models.resolve(name))
    return LocalChat(model=model, tokenizer=tokenizer, **options)


class LocalChat(BaseChatModel):
    """A causal language model of transformers as a LangChain chat model: greedy, token by token.

    ``langchain-huggingface`` would do the same but cannot be installed beside transformers 5.
    """

    model: Any = Field(repr=False)
    tokenizer: Any = Field(repr=False)
    max_new_tokens: int = Field(128, ge=1)

    @property
    def _llm_type(self) -> str:
        return "retrieval-lab-local"

    def _generate(self, messages: list[BaseMessage], stop=None, run_manager=None, **kwargs) -> ChatResult:
        text = "".join(chunk.message.content for chunk in self._stream(messages, stop, run_manager, **kwargs))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def _stream(self, messages: list[BaseMessage], stop=None, run_manager=None, **kwargs) -> Iterator[Any]:
        with closing(self._texts(messages)) as texts:
            for text in until(texts, stop or []):
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
                if run_manager:
                    run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk

    def _texts(self, messages: list[BaseMessage]) -> Iterator[str]:
        """The answer in pieces, from a thread that ends when the answer is complete or nobody reads on."""
        import torch
        from transformers import TextIteratorStreamer

        inputs, left = self._inputs(messages), Event()
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        problems: list[BaseException] = []
        has_left = lambda ids, _, **__: torch.full((len(ids),), left.is_set(), device=ids.device)  # noqa: E731
        options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, "stopping_criteria": [has_left]}
        work = Thread(target=self._run, args=(inputs, streamer, problems, options))
        work.start()
        try:
            yield from filter(None, streamer)
        finally:
            left.set()
            work.join()
        if problems:
            raise problems[0]

    def _run(self, inputs, streamer, problems: list, options: dict) -> None:
        """The body of the thread: an error there must reach the reader of the stream, who would wait for ever."""
        import torch

        try:
            with torch.inference_mode():
                self.model.generate(**inputs, streamer=streamer, **options)
        except Exception as problem:  # raised again where the stream is read
            problems.append(problem)
            streamer.end()

    def _inputs(self, messages: list[BaseMessage]) -> dict:
        """The conversation in the model's own template, with the slot for its answer."""
        conversation = [{"role": _role(message), "content": str(message.text)} for message in messages]
        options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        inputs = self.tokenizer.apply_chat_template(conversation, **options).to(self.model.device)
        length = inputs["input_ids"].shape[1] + self.max_new_tokens
        room = getattr(self.model.config, "max_position_embeddings", length)
        if length > room:
            raise ValueError(
                say(
                    en=f"prompt and answer take {length} tokens, the model has room for {room}; give it fewer or shorter documents",
                    zh=f"提示词和回答共 {length} 个词元，模型只容得下 {room} 个；减少文档，或切得更短",
                )
            )
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def _role(message: BaseMessage) -> str:
    """The template's name for who speaks; pieces of a stream are messages too."""
    for kind, role in ((SystemMessage, "system"), (HumanMessage, "user"), (AIMessage, "assistant")):
        if isinstance(message, kind):
            return role
    name = type(message).__name__
    raise ValueError(
        say(
            en=f"a message is a {name}; a local model reads system, human and AI messages only",
            zh=f"有一条消息是 {name}；本地模型只读 system、human、AI 三种消息",
        )
    )


def until(pieces: Iterable[str], stop: list[str]) -> Iterator[str]:
    """The pieces of a text up to the first of the stop strings, which may itself come in pieces; always one, for LangChain.

    >>> list(until(["one t", "w", "o three", " four"], ["two"]))
    ['one', ' ', '']
    """
    text, given, held = "", 0, max(map(len, stop), default=1) - 1  # what may be the beginning of a stop string waits
    for piece in pieces:
        text += piece
        places = [place for word in stop if (place := text.find(word, given)) >= 0]
        if places:
            yield text[given : min(places)]
            return
        if len(text) - held > given:
            yield text[given : len(text) - held]
            given = len(text) - held
    yield text[given:]
