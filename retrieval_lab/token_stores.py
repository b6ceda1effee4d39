"""Where the token vectors of a collection are kept: as they are, or as a centroid's number and a few bits a dimension.
Taught in lesson 02; used by `search.LateInteraction`.
"""

import math

import torch
from torch import Tensor

from retrieval_lab.profiles import say


def flat_maxsim(query: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """MaxSim of one query with every document, without padding: one matrix product over all their tokens.

    Parameters
    ----------
    query : (n_query, dim)
    tokens : (sum of lengths, dim): the documents' tokens, one document after the other
    lengths : (n_docs,) int, each at least 1

    Returns
    -------
    (n_docs,)

    Source: lesson 02.

    >>> two_documents = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    >>> flat_maxsim(torch.tensor([[1.0, 0.0]]), two_documents, torch.tensor([2, 1])).tolist()
    [1.0, -1.0]
    """
    return _sum_of_best(tokens @ query.T, lengths)


def _sum_of_best(similarity: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths, n_query) -> (n_docs,): the best row of each document, column by column, then their sum."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    best = similarity.new_full((len(lengths), similarity.shape[1]), -torch.inf)
    best.scatter_reduce_(0, owner[:, None].expand_as(similarity), similarity, "amax")
    return best.sum(dim=1)


def _rows(lengths: Tensor, docs: Tensor) -> Tensor:
    """Places of the tokens of some documents in the flat array."""
    starts = torch.cumsum(lengths, 0) - lengths
    shift = torch.repeat_interleave(starts[docs] - torch.cumsum(lengths[docs], 0) + lengths[docs], lengths[docs])
    return shift + torch.arange(len(shift))


class Exact:
    """All token vectors in fp32.

    Parameters
    ----------
    vectors : (n_tokens, dim)
    lengths : (n_docs,) int64
    """

    def __init__(self, vectors: Tensor, lengths: Tensor):
        self.vectors, self.lengths = vectors, lengths

    @classmethod
    def of(cls, tokens: list[Tensor]) -> "Exact":
        """From one tensor (n_tokens_i, dim) a document."""
        return cls(torch.cat(tokens), torch.tensor([len(vectors) for vectors in tokens]))

    def pooled(self, factor: float) -> "Exact":
        """About one vector for ``factor`` tokens of a document: the mean of those that are alike. The first token stays.

        Source: Clavié, Chaffin & Adams 2024, *Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance Impact*.
        """
        from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

        return self.of(HierarchicalTokenPooling(factor).pool(list(self.vectors.split(self.lengths.tolist()))))

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        return {"vectors": self.vectors, "lengths": self.lengths}

    def candidates(self, query: Tensor, depth: int) -> Tensor:
        """Documents worth scoring: all of them."""
        return torch.arange(len(self.lengths))

    def scores(self, query: Tensor, docs: Tensor) -> Tensor:
        """(len(docs),) MaxSim with some documents."""
        if len(docs) == len(self.lengths):  # sorted and different: all of them
            return flat_maxsim(query, self.vectors, self.lengths)
        return flat_maxsim(query, self.vectors[_rows(self.lengths, docs)], self.lengths[docs])


class Compressed:
    """Each token as the number of its nearest centroid and the remainder, ``bits`` a dimension.

    The remainder's values are cut into ``2**bits`` ranges that are equally full; each is remembered by its mean. A search
    first takes each token for its centroid, which needs no vector at all, and restores only the tokens of the best documents.

    Source: Santhanam et al. 2022, ColBERTv2 (section 3.3) and PLAID (section 4); lesson 02.
    """

    def __init__(self, centroids: Tensor, codes: Tensor, remainders: Tensor, values: Tensor, lengths: Tensor):
        self.centroids, self.codes, self.lengths = centroids, codes, lengths
        self.remainders, self.values = remainders, values  # (n_tokens, dim * bits / 8) uint8, (2**bits,)
        self._unpacked = _unpacking(values)  # (256, 8 / bits): the values that a byte stands for

    @classmethod
    def of(cls, exact: Exact, bits: int = 2, seed: int = 0) -> "Compressed":
        """Compress.

        Parameters
        ----------
        bits : 1, 2, 4 or 8 a dimension
        seed : of the centroids

        Raises
        ------
        ValueError
            If ``bits`` is another number, or a vector's bits do not fill whole bytes.
        """
        dim = exact.vectors.shape[1]
        if bits not in (1, 2, 4, 8) or dim * bits % 8:
            raise ValueError(
                say(
                    en=f"bits={bits} with {dim} dims; use 1, 2, 4 or 8, so that dims x bits fill whole bytes",
                    zh=f"bits={bits}，{dim} 维；只能用 1、2、4、8，且维数 × 位数要凑成整字节",
                )
            )
        centroids = nearest_centroids(exact.vectors, seed)
        codes = _nearest(exact.vectors, centroids)
        rest = exact.vectors - centroids[codes]
        borders, values = _ranges(rest, bits, seed)
        return cls(
            centroids, codes.to(torch.int32), _packed(torch.bucketize(rest, borders), bits), values, exact.lengths
        )

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        names = ("centroids", "codes", "remainders", "values", "lengths")
        return {name: getattr(self, name) for name in names}

    def restored(self, rows: Tensor) -> Tensor:
        """(len(rows), dim) the token vectors as well as they are remembered, unit length again."""
        rest = self._unpacked[self.remainders[rows].long()].flatten(1)
        return torch.nn.functional.normalize(self.centroids[self.codes[rows]] + rest, dim=1)

    def candidates(self, query: Tensor, depth: int) -> Tensor:
        """The ``depth`` best documents if every token were its centroid."""
        similarity = (self.centroids @ query.T)[self.codes]  # (n_tokens, n_query), without touching a vector
        order = torch.argsort(_sum_of_best(similarity, self.lengths), descending=True, stable=True)
        return order[:depth].sort().values

    def scores(self, query: Tensor, docs: Tensor) -> Tensor:
        """(len(docs),) MaxSim with the restored tokens of some documents."""
        return flat_maxsim(query, self.restored(_rows(self.lengths, docs)), self.lengths[docs])


def nearest_centroids(vectors: Tensor, seed: int = 0) -> Tensor:
    """Unit vectors in the midst of the tokens, by k-means over 20,000 of them; about 2 for each root of the number of tokens.

    Few, because centroids take space too: the source uses 16 for each root, on collections a thousand times larger.
    """
    from sklearn.cluster import KMeans

    n = min(len(vectors), 2 ** round(1 + math.log2(len(vectors)) / 2))
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[:20_000]
    means = KMeans(n, init="random", n_init=1, max_iter=8, random_state=seed).fit(vectors[chosen].numpy())
    return torch.nn.functional.normalize(torch.from_numpy(means.cluster_centers_), dim=1)


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    return torch.cat([(part @ centroids.T).argmax(dim=1) for part in vectors.split(8192)])


def _ranges(rest: Tensor, bits: int, seed: int) -> tuple[Tensor, Tensor]:
    """Borders of 2**bits equally full ranges of a matrix's numbers, and the mean of each, from a million of them."""
    chosen = torch.randint(rest.numel(), (1_000_000,), generator=torch.Generator().manual_seed(seed))
    numbers = rest.flatten()[chosen].sort().values
    parts = numbers.tensor_split(2**bits)
    return torch.stack([part[0] for part in parts[1:]]), torch.stack([part.mean() for part in parts])


def _packed(buckets: Tensor, bits: int) -> Tensor:
    """(n, dim) numbers below 2**bits -> (n, dim * bits / 8) bytes, the first number in the lowest bits."""
    shifts = torch.arange(0, 8, bits)
    return (buckets.unflatten(1, (-1, len(shifts))) << shifts).sum(dim=2).to(torch.uint8)


def _unpacking(values: Tensor) -> Tensor:
    bits = (len(values) - 1).bit_length()
    numbers = (torch.arange(256)[:, None] >> torch.arange(0, 8, bits)) & (len(values) - 1)
    return values[numbers]
