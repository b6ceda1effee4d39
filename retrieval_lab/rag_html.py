"""The text of a web page, with its headings as Markdown's, in one walk over its tags.
Taught in lesson 05; called by `rag_files.load`.
"""

import re
from collections import Counter
from collections.abc import Iterator

BLOCKS = {"p", "li", "tr", "div", "br", "dt", "dd", "section", "table", "blockquote", "pre"}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
HIDDEN = {"nav", "noscript", "title"}  # and what is no text for the parser: scripts, styles, templates, comments
# A line of the source that ends between two Chinese characters: neither a blank nor the end of a sentence.
BETWEEN_HAN = re.compile(r"(?<=[\u3000-\u9fff，。；：！？])[ \t\r]*\n[ \t\r]*(?=[\u3000-\u9fff])")


def title_and_text(page: str) -> tuple[str, str]:
    """The title of a page, "" when it has none, and what a reader sees of it.

    Raises
    ------
    bs4.builder.ParserRejectedMarkup
        If the parser can make nothing of the page.

    >>> title_and_text("<title>Fees</title><h2>Boats</h2><p>Two\\n crowns.</p><p>Bikes")
    ('Fees', '## Boats\\n\\nTwo crowns.\\n\\nBikes')
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(page, "html.parser")
    title = soup.title.get_text(strip=True) if soup.title else ""
    lines = [re.sub(r" +", " ", line).strip() for line in "".join(_shown(soup)).split("\n")]
    return title, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _shown(soup) -> Iterator[str]:
    """Texts and breaks in order. Each tag is met once where it opens and once where it ends, however deep it lies."""
    from bs4 import NavigableString, Tag

    open_tags, inside = [], Counter()
    for element in soup.descendants:
        while open_tags and open_tags[-1] is not element.parent:
            tag = open_tags.pop()
            inside[tag.name] -= 1
            yield _sign(tag.name, inside)
        if isinstance(element, Tag):
            yield _sign(element.name, inside, opens=True)
            open_tags.append(element)
            inside[element.name] += 1
        elif type(element) is NavigableString and not _among(inside, HIDDEN):
            yield element if inside["pre"] else re.sub(r"[ \t\r\n\xa0]+", " ", BETWEEN_HAN.sub("", element))


def _sign(name: str, inside: Counter, opens: bool = False) -> str:
    """What stands for the beginning or the end of a tag; a line break within a heading would end the heading."""
    if _among(inside, HIDDEN):
        return ""
    if name in HEADINGS:
        return f"\n\n{'#' * HEADINGS[name]} " if opens else "\n\n"
    if name in BLOCKS and not _among(inside, HEADINGS):
        return "\n"
    return " " if name in BLOCKS or name in ("td", "th") else ""


def _among(inside: Counter, names) -> bool:
    return any(inside[name] for name in names)
