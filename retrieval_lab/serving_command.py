"""What `retrieval-lab serve --api` starts, from names to a running service.
Taught in lesson 06.
"""

import ipaddress

from retrieval_lab.profiles import current, language

LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]  # as they stand in a Host header


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
    host : "0.0.0.0" opens the service to the network, without a password. On a loopback address it answers only to this
        machine's own names, so that no website reaches it through a visitor's browser
    port : of the service
    """
    from retrieval_lab import corpora, serving, serving_backends
    from retrieval_lab.serving_requests import Limits

    embedder = serving_backends.load(model or current().encoder(language()), int8=int8)
    rescorer = serving_backends.load(reranker, "reranker", int8=int8) if reranker else None
    texts = corpora.load(corpus, lang=language()).corpus if corpus else None
    limits = Limits(budget=batch_tokens)
    app = serving.create_app(embedder, rescorer, texts, limits=limits, hosts=allowed_hosts(host))
    serving.run(app, host, port)


def allowed_hosts(host: str) -> list[str]:
    """Names under which a service that listens on ``host`` may be asked for; anything but loopback is open to all.

    >>> allowed_hosts("::1")
    ['localhost', '127.0.0.1', '[::1]']
    >>> allowed_hosts("0.0.0.0")
    ['*']
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        loopback = host == "localhost"
    other = [] if host in (*LOOPBACK, "::1") else [host]  # 127.0.0.2
    return LOOPBACK + other if loopback else ["*"]
