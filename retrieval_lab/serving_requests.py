"""The bodies that the service takes, in the shapes of text-embeddings-inference and of OpenAI, and the errors that it gives.
Taught in lesson 06.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=200_000)]


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the service; beyond it the answer is a 4xx that says so."""

    max_body_bytes: int = 1_000_000
    max_batch: int = 64  # texts in a request
    max_waiting: int = 65_536  # tokens waiting over all requests; beyond it: 429
    body_seconds: float = 10.0  # for a body to arrive; beyond it: 408
    budget: int = 2048  # tokens of a padded batch


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")  # to ignore a field would answer another question than was asked


class EmbedRequest(_Request):
    """POST /embed: as text-embeddings-inference takes it. Without ``prompt_name`` the text is encoded as it is."""

    inputs: Text | list[Text]
    normalize: Literal[True] = True  # the graph gives unit vectors
    truncate: bool = False  # cut texts that are too long, instead of refusing them
    truncation_direction: Literal["Right"] = "Right"  # the end is cut off
    prompt_name: str | None = None


class OpenAIRequest(_Request):
    """POST /v1/embeddings: as OpenAI's clients send it; ``prompt_name`` and ``truncate`` are ours."""

    input: Text | list[Text]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None  # OpenAI's mark against abuse; its clients may send it, nothing is done with it
    truncate: bool = False
    prompt_name: str | None = None


class RerankRequest(_Request):
    """POST /rerank: as text-embeddings-inference takes it."""

    query: Text
    texts: list[Text]
    raw_scores: bool = False  # logits instead of the model's own scores
    return_text: bool = False
    truncate: bool = False
    truncation_direction: Literal["Right"] = "Right"


class SearchRequest(_Request):
    """POST /search: over the corpus that the service was started with. A query that is too long is cut."""

    query: Annotated[Text, Field(min_length=1)]
    top_k: Annotated[int, Field(ge=1, le=100)] = 10
    rerank: bool = False  # the reranker's logit and the cosine, each standardised over the candidates, are added
    # Share of the reranker; 1: it alone decides. English dev questions, lesson 03's reranker: retriever .626, then .632 at 0.3,
    # .630 at 0.5, .588 at 1. A large reranker deserves more.
    rerank_weight: Annotated[float, Field(gt=0, le=1)] = 0.3


class RefusedError(Exception):
    """A request that gets an error: HTTP status, kind as text-embeddings-inference names it, and what to do."""

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message

    def body(self, path: str) -> dict:
        """The JSON in the shape that the path's clients read."""
        return error_body(path, self.kind, self.message, self.status)


def error_body(path: str, kind: str, message: str, status: int) -> dict:
    """One error, shaped for OpenAI's clients under /v1 and for text-embeddings-inference elsewhere.

    >>> error_body("/embed", "Empty", "`inputs` is empty", 400)
    {'error': '`inputs` is empty', 'error_type': 'Empty'}
    """
    if path.startswith("/v1/"):
        name = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": name, "param": None, "code": kind.lower()}}
    return {"error": message, "error_type": kind}


def as_list(texts: str | list[str], name: str, limits: Limits) -> list[str]:
    """The texts of a request, counted.

    Raises
    ------
    RefusedError
        400 if there is none, 413 if there are more than ``limits.max_batch``.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not texts:
        raise RefusedError(400, "Empty", f"`{name}` is empty; send at least one text")
    if len(texts) > limits.max_batch:
        raise RefusedError(
            413,
            "Validation",
            f"`{name}` holds {len(texts)} texts, at most {limits.max_batch} are taken; send several requests",
        )
    return texts
