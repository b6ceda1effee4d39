"""`retrieval-lab serve`: the page over the shipped corpus or over a folder of your own documents.
Taught in lesson 05.
"""

from functools import partial

from retrieval_lab import corpora, demo, embedding, rag, rag_documents
from retrieval_lab.profiles import current, language, say

EVERYWHERE = ("0.0.0.0", "::")
CHUNK_TOKENS = 160  # as in lesson 05's table of sizes


def serve(host: str = "127.0.0.1", port: int = 8765, **options) -> None:
    """Answer in the browser until interrupted.

    Parameters
    ----------
    host : "0.0.0.0" or "::" opens the page to the network; there is no password
    options : see `assistant`
    """
    import uvicorn

    from retrieval_lab import rag_page

    print(say(en="loading models and index ...", zh="正在加载模型和索引 ……"), flush=True)
    made = assistant(language(), **options)
    name = f"[{host}]" if ":" in host else host  # as a URL and a browser write an IPv6 address
    hosts = ["*"] if host in EVERYWHERE else [*rag_page.LOCAL, name]
    url = f"http://{'localhost' if host in (*EVERYWHERE, '127.0.0.1') else name}:{port}"
    print(say(en=f"open {url} (Ctrl+C ends)", zh=f"在浏览器中打开 {url}（按 Ctrl+C 结束）"), flush=True)
    uvicorn.run(rag_page.app(made, hosts), host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


def assistant(
    lang: str,
    *,
    docs: str | None = None,
    model: str | None = None,
    reranker: str | None = None,
    chat: str | None = None,
    base_url: str | None = None,
    index: str | None = None,
    chroma: str | None = None,
) -> rag.Assistant:
    """The assistant behind the page.

    Parameters
    ----------
    lang : "en" or "zh"
    docs : file or folder of documents; the shipped corpus when not given
    model, reranker : names; those of lesson 01 and lesson 03 when not given. reranker="none" for none
    chat, base_url : a chat model's name, and where its server is; extractive answers when not given
    index, chroma : folder of the index, runs/chroma when not given, or URL of a Chroma server

    The threshold for abstaining is chosen on the shipped questions; over your own documents it is a first guess.

    Raises
    ------
    ValueError
        If ``base_url`` is given without ``chat``, or ``index`` beside ``chroma``.
    """
    _check(chat, base_url, index, chroma)
    own = None if docs is None else rag_documents.load(docs)  # first: a wrong path shows at once
    encoder = embedding.load(model) if model else demo.retriever(lang)
    parts = {"score": _reranker(reranker, lang), "answerer": _answerer(chat, base_url)}
    parts["temperature"] = None if model or reranker else current().temperature(lang)  # another model's is not known
    where = {"folder": index, "url": chroma}
    shipped = rag_documents.from_collection(corpora.load("city_services", lang=lang))
    city = rag.Assistant(encoder, shipped, name=f"city-{lang}", **where, **parts)
    city.calibrate(lang)
    if own is None:
        return city
    chunks = rag_documents.split(own, CHUNK_TOKENS, length=rag_documents.token_counter(encoder))
    return rag.Assistant(encoder, chunks, name=f"docs-{lang}", thresholds=city.thresholds, **where, **parts)


def _check(chat, base_url, index, chroma) -> None:
    """Refuse at once, before any model is loaded, what would not be read."""
    if base_url and chat is None:
        raise ValueError(
            say(
                en=f"--base-url {base_url} without --chat; add the model's name, e.g. --chat openai:NAME",
                zh=f"给了 --base-url {base_url}，没有给 --chat；加上模型名，例如 --chat openai:NAME",
            )
        )
    if index and chroma:
        raise ValueError(
            say(
                en=f"--index {index} beside --chroma {chroma}: the index is in the one or in the other; leave one out",
                zh=f"--index {index} 和 --chroma {chroma} 只能给一个：索引要么在文件夹里，要么在服务器上",
            )
        )


def _answerer(chat: str | None, base_url: str | None):
    if chat is None:
        return None
    return rag.generative(rag.chat_model(chat, **({"base_url": base_url} if base_url else {})))


def _reranker(name: str | None, lang: str):
    from retrieval_lab import reranker

    if name == "none":
        return None
    return partial(reranker.score, reranker.load(name) if name else demo.reranker(lang))
