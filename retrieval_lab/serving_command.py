"""What `retrieval-lab serve --api` starts, from names to a running service.
Taught in lesson 06.
"""

from retrieval_lab.profiles import current, language


def serve(
    model: str | None = None,
    *,
    reranker: str | None = None,
    corpus: str | None = None,
    int8: bool = False,
    batch_tokens: int = 2048,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Load the models and answer until SIGTERM.

    Parameters
    ----------
    model : exported folder, alias, hub id or folder of an embedding model; None: the profile's encoder
    reranker : the same for a cross-encoder
    corpus : name or folder that `corpora.load` takes; /search looks there
    int8 : take the quantised graphs
    batch_tokens : of a padded batch; 1 runs every text alone
    host : "0.0.0.0" opens the service to the network, without a password
    port : of the service
    """
    from retrieval_lab import corpora, serving, serving_backends
    from retrieval_lab.serving_requests import Limits

    embedder = serving_backends.load(model or current().encoder(language()), int8=int8)
    rescorer = serving_backends.load(reranker, "reranker", int8=int8) if reranker else None
    texts = corpora.load(corpus, lang=language()).corpus if corpus else None
    limits = Limits(budget=batch_tokens)
    serving.run(serving.create_app(embedder, rescorer, texts, limits=limits), host, port)
