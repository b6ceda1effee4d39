"""Things to click in a lesson: each a pure ``view(state) -> HTML`` and a thin ipywidgets shell; without a live kernel a table stands in.
Used by lesson 02 (which tokens matched) and lesson 05 (ask the assistant).
"""

import html
from dataclasses import dataclass
from itertools import groupby

from retrieval_lab.profiles import say


@dataclass(frozen=True)
class TokenState:
    """What the reader has chosen: a document, and a token of the query or all of them (None)."""

    document: int = 0
    token: int | None = None


def token_view(alignments: list, state: TokenState) -> str:
    """The document's text as HTML, each token as dark as it matches the chosen query token, the best one framed.

    With no token chosen, a document token is as dark as the best match that it gives any query token that chose it.

    Parameters
    ----------
    alignments : `colbert.Alignment` objects, one a document
    state : what is chosen

    Raises
    ------
    IndexError
        If there is no such document or token.

    >>> import numpy as np
    >>> from retrieval_lab.colbert import Alignment
    >>> view = token_view([Alignment(["tram"], ["a", "bus"], np.array([[0.0, 0.5]]))], TokenState(token=0))
    >>> "0,114,178,0.50" in view, "0,114,178,0.00" in view
    (True, True)
    """
    found = alignments[state.document]
    if state.token is None:
        won = {int(place): 0.0 for place in found.best}
        for place, share in zip(found.best, found.shares, strict=True):
            won[int(place)] = max(won[int(place)], float(share))
        shades, framed = [won.get(place, 0.0) for place in range(len(found.doc_tokens))], set()
        line = say(
            en=f"sum of the best matches: {found.shares.sum():.2f}", zh=f"各词元最佳匹配之和：{found.shares.sum():.2f}"
        )
    else:
        place = int(found.best[state.token])
        shades, framed = found.similarity[state.token].tolist(), {place}
        pair = f"{found.query_tokens[state.token]} → {found.doc_tokens[place]}"
        line = f"{html.escape(pair)}: {found.shares[state.token]:.2f}"
    tokens = zip(found.doc_tokens, shades, strict=True)
    spans = [_span(token, shade, i in framed) for i, (token, shade) in enumerate(tokens)]
    return f"<p>{line}</p><p style='line-height:1.9'>{' '.join(spans)}</p>"


def _span(token: str, shade: float, framed: bool) -> str:
    strength = min(1.0, max(0.0, shade))
    frame = "outline:2px solid #E69F00;" if framed else ""
    ink = "color:white;" if strength > 0.6 else ""
    style = f"background:rgba(0,114,178,{strength:.2f});{ink}{frame}padding:1px 3px;border-radius:3px"
    return f"<span style='{style}'>{html.escape(token)}</span>"


def token_table(alignments: list, names: list[str]) -> str:
    """What the widget shows, as one HTML table for a page without a kernel: for each query token its best match in each document."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for i, token in enumerate(alignments[0].query_tokens):
        cells = [f"<td>{html.escape(a.doc_tokens[a.best[i]])} {a.shares[i]:.2f}</td>" for a in alignments]
        rows.append(f"<tr><th>{html.escape(token)}</th>{''.join(cells)}</tr>")
    total = say(en="sum", zh="合计")
    sums = "".join(f"<td><b>{a.shares.sum():.2f}</b></td>" for a in alignments)
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}<tr><th>{total}</th>{sums}</tr></table>"


class TokenMatches:
    """A query against a few documents: choose a document and a query token, and see what it matched.

    Parameters
    ----------
    alignments : one `colbert.Alignment` a document, of the same query
    names : of the documents

    Raises
    ------
    ValueError
        If there are not as many names as alignments, or none.
    """

    def __init__(self, alignments: list, names: list[str]):
        if len(alignments) != len(names) or not names:
            raise ValueError(
                say(
                    en=f"{len(alignments)} alignments with {len(names)} names; give one name a document, at least one",
                    zh=f"{len(alignments)} 个对齐结果，{len(names)} 个名称；每篇文档给一个名称，至少一篇",
                )
            )
        self.alignments, self.names = list(alignments), list(names)

    def shell(self):
        """The ipywidgets box: two menus, and the view below them."""
        import ipywidgets

        every = say(en="all tokens", zh="全部词元")
        tokens = [(every, None), *((token, i) for i, token in enumerate(self.alignments[0].query_tokens))]
        menus = {
            "document": ipywidgets.Dropdown(
                options=[(name, i) for i, name in enumerate(self.names)], description=say(en="document", zh="文档")
            ),
            "token": ipywidgets.Dropdown(options=tokens, value=None, description=say(en="query token", zh="查询词元")),
        }
        view = ipywidgets.HTML()

        def update(_=None):
            view.value = token_view(self.alignments, TokenState(**{name: menu.value for name, menu in menus.items()}))

        for menu in menus.values():
            menu.observe(update, names="value")
        update()
        return ipywidgets.VBox([*menus.values(), view])

    def _repr_mimebundle_(self, **_) -> dict:
        """The live widget, and beside it the table that a saved page shows."""
        table = {"text/plain": repr(self), "text/html": token_table(self.alignments, self.names)}
        try:
            return self.shell()._repr_mimebundle_() | table
        except ImportError:  # no ipywidgets: the table is what there is
            return table

    def __repr__(self) -> str:
        return f"TokenMatches({', '.join(self.names)})"


def chat_view(result: dict) -> str:
    """A cited answer and its sources as HTML, the quoted words marked; text of documents stays text.

    Parameters
    ----------
    result : what a chain of `rag.chain` returned

    >>> chat_view({"answer": "a < b", "documents": [], "citations": []})
    '<p><b>a &lt; b</b></p><ol></ol>'
    """
    citations = result["citations"]
    wrong = "".join(f"<p style='color:#A33A16'>✗ {html.escape(c.problem)}</p>" for c in citations if c.problem)
    items = [_source_item(n, document, citations) for n, document in enumerate(result["documents"], 1)]
    return f"<p><b>{html.escape(result['answer'])}</b></p>{wrong}<ol>{''.join(items)}</ol>"


def _source_item(number: int, document, citations: list) -> str:
    scores = [
        f"{name} {document.metadata[name]:.3f}" for name in ("cosine", "rerank_score") if name in document.metadata
    ]
    head = html.escape(" · ".join([document.metadata["source"], *scores]))
    quotes = [citation.quote for citation in citations if citation.number == number and not citation.problem]
    return f"<li><small>{head}</small><br>{_marked(document.page_content, quotes)}</li>"


def _marked(text: str, quotes: list[str]) -> str:
    """The text as HTML, the first occurrence of each quote marked; where quotes overlap, one mark covers them."""
    places = [(start, start + len(quote)) for quote in quotes if (start := text.find(quote)) >= 0]
    quoted = {place for start, end in places for place in range(start, end)}
    parts = []
    for is_quoted, group in groupby(enumerate(text), key=lambda letter: letter[0] in quoted):
        part = html.escape("".join(letter for _, letter in group)).replace("\n", "<br>")
        parts.append(f"<mark>{part}</mark>" if is_quoted else part)
    return "".join(parts)


class Chat:
    """Ask an assistant in the notebook: choose the retriever, switch the reranker, see the answer with its sources.

    Parameters
    ----------
    assistant : `rag.Assistant`
    question : asked first; its answer is what a saved page shows
    """

    def __init__(self, assistant, question: str):
        self.assistant, self.question = assistant, question

    def view(self, question: str, retriever: str = "both", rerank: bool = False) -> str:
        """The answer as HTML; what went wrong as text."""
        try:
            return chat_view(self.assistant.chain(retriever, rerank).invoke(question))
        except ValueError as problem:
            return f"<p>{html.escape(str(problem))}</p>"
        except Exception as problem:  # of a chat server; the last answer must not stay below this question
            return f"<p>{html.escape(f'{type(problem).__name__}: {problem}')}</p>"

    def shell(self):
        """The ipywidgets box: question, retriever, reranker, button, and the view below them."""
        import ipywidgets

        names = {"both": ("both", "两者结合"), "meaning": ("meaning", "按语义"), "words": ("words", "按词")}
        kinds = [(say(en=en, zh=zh), kind) for kind, (en, zh) in names.items()]
        wide = {"layout": {"width": "95%"}, "continuous_update": False}
        question = ipywidgets.Text(value=self.question, description=say(en="question", zh="问题"), **wide)
        retriever = ipywidgets.Dropdown(options=kinds, description=say(en="search by", zh="检索方式"))
        has_none = self.assistant.score is None
        rerank = ipywidgets.Checkbox(description=say(en="rerank", zh="重排"), disabled=has_none)
        button, view = ipywidgets.Button(description=say(en="Ask", zh="提问")), ipywidgets.HTML()

        def update(_=None):
            view.value = self.view(question.value, retriever.value, rerank.value)

        for part in (question, retriever, rerank):
            part.observe(update, names="value")
        button.on_click(update)
        update()
        return ipywidgets.VBox([question, ipywidgets.HBox([retriever, rerank, button]), view])

    def _repr_mimebundle_(self, **_) -> dict:
        """The live widget, and beside it the first answer, which a saved page shows."""
        answer = {"text/plain": repr(self), "text/html": self.view(self.question)}
        try:
            return self.shell()._repr_mimebundle_() | answer
        except ImportError:  # no ipywidgets: the answer is what there is
            return answer

    def __repr__(self) -> str:
        return f"Chat({self.question!r})"
