"""Any chat model by name, for the answering step: a server by LangChain's own loader, or a small local model that streams.
Taught in lesson 05.
"""

from collections.abc import Iterator
from threading import Thread
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from retrieval_lab import models
from retrieval_lab.profiles import say


def chat_model(name: str, **options):
    """A LangChain chat model.

    Parameters
    ----------
    name : "smollm2", another local model's alias or folder; or "provider:model" for a server, as LangChain's ``init_chat_model`` takes it:
        "openai:NAME" with ``base_url="http://localhost:11434/v1"`` for Ollama, vLLM, llama.cpp and every other server of that shape
    options : ``max_new_tokens`` of a local model; whatever the provider's class takes

    Raises
    ------
    ModelError
        If no local model of that name can be had.

    Source: lesson 05.
    """
    if ":" in name and not models.find(name):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name, **options)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.resolve(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return LocalChat(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), **options)


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
        from transformers import TextIteratorStreamer

        inputs = self._inputs(messages)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        problems: list[BaseException] = []
        options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, "stop_strings": stop or None}
        work = Thread(target=self._run, args=(inputs, streamer, problems, options), daemon=True)
        work.start()
        for text in streamer:
            if text:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
                if run_manager:
                    run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk
        work.join()
        if problems:
            raise problems[0]

    def _run(self, inputs, streamer, problems: list, options: dict) -> None:
        """The body of the thread: an error there must reach the reader of the stream, who would wait for ever."""
        import torch

        try:
            with torch.inference_mode():
                self.model.generate(**inputs, streamer=streamer, tokenizer=self.tokenizer, **options)
        except Exception as problem:  # raised again where the stream is read
            problems.append(problem)
            streamer.end()

    def _inputs(self, messages: list[BaseMessage]) -> dict:
        """The conversation in the model's own template, with the slot for its answer."""
        roles = {"system": "system", "human": "user", "ai": "assistant"}
        conversation = [{"role": roles[message.type], "content": str(message.content)} for message in messages]
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
