"""BM25 for English and Chinese: counts words, knows no meaning, and is the baseline that a neural model has to beat.
Taught in lesson 00.
"""

import re
import unicodedata
from functools import cache

from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say

_HAN = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"\w+")


def tokenise(text: str) -> list[str]:
    """Words, English ones as stems; text with Chinese is cut by jieba (or into character pairs without it).

    An English word is the same token in both kinds of text. English text loses its function words; in Chinese text they stay,
    being as often names and commands. Full-width letters and digits count as the usual ones.

    >>> tokenise("The trams, every 8 min")
    ['tram', 'everi', '8', 'min']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    if _HAN.search(text):
        words = [word for word in _segmenter()(text) if _WORD.search(word)]
        return [word if _HAN.search(word) else _stemmer().stemWord(word) for word in words]
    from bm25s.stopwords import STOPWORDS_EN

    return _stemmer().stemWords([word for word in _WORD.findall(text) if word not in STOPWORDS_EN])


@cache
def _stemmer():
    import Stemmer

    return Stemmer.Stemmer("english")


@cache
def _segmenter():
    try:
        import jieba
    except ImportError:
        print(
            say(en="jieba is not installed: Chinese is cut into character pairs", zh="未安装 jieba：中文按相邻两字切分")
        )
        return character_pairs
    jieba.setLogLevel("ERROR")
    return jieba.cut_for_search


def character_pairs(text: str) -> list[str]:
    """Each word, and within Chinese each pair of neighbouring characters: a segmenter that needs no dictionary.

    >>> character_pairs("学期票 31")
    ['学期', '期票', '31']
    """
    tokens = []
    for run in re.findall(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+", text):
        is_han = bool(_HAN.match(run))
        tokens += [run[i : i + 2] for i in range(max(1, len(run) - 1))] if is_han else [run]
    return tokens


class BM25:
    """BM25 over a collection, through bm25s.

    Parameters
    ----------
    collection : what to search
    k1, b : saturation of repeated words and normalisation by length. 0.9 and 0.4 are Anserini's defaults for short passages.

    Raises
    ------
    ValueError
        If no document holds a word.

    Source: Robertson & Zaragoza 2009, section 3; variant of Lucene (idf never negative), lesson 00.
    """

    name = "BM25"

    def __init__(self, collection: Collection, k1: float = 0.9, b: float = 0.4):
        import bm25s

        self.doc_ids = list(collection.corpus)
        self.index = bm25s.BM25(k1=k1, b=b, method="lucene")
        words = [tokenise(text) for text in collection.corpus.values()]
        if not any(words):
            raise ValueError(
                say(
                    en=f"none of the {len(words)} documents of {collection.name!r} holds a word; was the corpus read?",
                    zh=f"{collection.name!r} 的 {len(words)} 篇文档里一个词也没有；语料读进来了吗？",
                )
            )
        self.index.index(words, show_progress=False)

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query with a score above zero, as a run.

        Documents that share no word with the query are left out: BM25 has no opinion on them.
        """
        known = self.index.vocab_dict
        words = [[word for word in tokenise(text) if word in known] for text in queries.values()]
        run = {query_id: {} for query_id in queries}
        matched = [(query_id, terms) for query_id, terms in zip(queries, words, strict=True) if terms]
        if not matched:
            return run
        depth = min(k, len(self.doc_ids))
        docs, scores = self.index.retrieve([terms for _, terms in matched], k=depth, show_progress=False)
        for (query_id, _), row, values in zip(matched, docs, scores, strict=True):
            pairs = zip(row, values, strict=True)
            run[query_id] = {self.doc_ids[i]: float(value) for i, value in pairs if value > 0}
        return run
