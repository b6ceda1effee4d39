"""Two losses that the library lacks: scored pairs compared within each query only, and a teacher's vectors as targets.
Taught in lesson 01b.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from retrieval_lab.profiles import say

DISTILLATION_WEIGHTS = {"cosine": 10.0, "structure": 200.0, "triplet": 20.0}  # Zhang et al. 2025, section 3


def grouped_kl(
    similarities: Tensor, scores: Tensor, groups: Tensor, *, temperature: float = 0.05, teacher_temperature: float = 1.0
) -> Tensor:
    """Mean over queries of KL(softmax of the scores || softmax of the similarities), each softmax within one query.

    A softmax over a batch that mixes queries would compare scores that were never given on one scale.

    Parameters
    ----------
    similarities : (n,) cosines of each query with its document
    scores : (n,) what a person, a reranker or a language model gave the pair; any scale
    groups : (n,) equal numbers mark the pairs of one query; a query with one pair teaches nothing and adds 0
    temperature : of the similarities, as in `training.Config`
    teacher_temperature : of the scores; 1 takes them as logits. The loss asks for cosines that differ by temperature /
        teacher_temperature for each 1 of score: at .05 and 1 two grades are to be .05 apart, which is less than a good encoder
        keeps them apart already, so that training makes it worse. Grades 0 to 3 want about .25 (dev split), scores 0 to 1 a third.

    Source: Zhang et al. 2023 (LLM-Embedder), section 3.2, a language model's preferences as scores; lesson 01b.

    >>> similarities, scores = torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.2])
    >>> round(grouped_kl(similarities, scores, torch.tensor([0, 0]), temperature=1).item(), 4)
    0.0175
    """
    found, wanted = similarities / temperature, scores / teacher_temperature
    losses = [
        _kl(wanted[groups == group].log_softmax(0), found[groups == group].log_softmax(0)) for group in groups.unique()
    ]
    return torch.stack(losses).mean()


def _kl(wanted: Tensor, found: Tensor) -> Tensor:
    """Both are logarithms of probabilities."""
    return (wanted.exp() * (wanted - found)).sum()


class GroupedKL(torch.nn.Module):
    """`grouped_kl` as a loss of sentence-transformers: columns ``query, document`` and ``label`` = [score, group].

    Parameters
    ----------
    model : SentenceTransformer
    temperature, teacher_temperature : see `grouped_kl`
    """

    def __init__(self, model, temperature: float = 0.05, teacher_temperature: float = 1.0):
        super().__init__()
        self.model, self.temperature, self.teacher_temperature = model, temperature, teacher_temperature

    def forward(self, sentence_features, labels: Tensor) -> Tensor:  # labels: (n, 2)
        queries, docs = (self.model(features)["sentence_embedding"] for features in sentence_features)
        cosines = (normalize(queries, dim=1) * normalize(docs, dim=1)).sum(1)  # (n,)
        temperatures = {"temperature": self.temperature, "teacher_temperature": self.teacher_temperature}
        return grouped_kl(cosines, labels[:, 0].to(cosines), labels[:, 1].long(), **temperatures)

    def get_config_dict(self) -> dict:
        """What the library writes into the model card."""
        return {"temperature": self.temperature, "teacher_temperature": self.teacher_temperature}


def distillation_terms(student: Tensor, teacher: Tensor, margin: float = 0.015) -> dict[str, Tensor]:
    """How far a student's vectors are from a teacher's: each alone, in pairs, and in the order of pairs.

    Parameters
    ----------
    student : (n, dim), n >= 1
    teacher : (n, teacher_dim) of the same texts; without the cosine term the widths may differ
    margin : by how much of a cosine a pair that the teacher finds nearer should be nearer. Where the teacher's own difference is
        smaller, that counts: a student equal to its teacher has the loss 0, which the source's fixed margin does not give.

    Returns
    -------
    "cosine": mean of 1 - cosine with the teacher (only for equal widths); "structure": mean squared difference of the n x n cosines;
    "triplet": mean shortfall over all (i, j, k) where the teacher has j nearer to i than k. All are 0 for one text, the last for two.

    Source: Zhang et al. 2025 (Jasper and Stella), section 3; there the triplets are pairs of any two pairs.

    >>> terms = distillation_terms(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    >>> {name: term.item() for name, term in terms.items()}  # one of two cosines is 0; two of four pairs differ by 1
    {'cosine': 0.5, 'structure': 0.5, 'triplet': 0.0}
    """
    student, teacher = normalize(student, dim=1), normalize(teacher.to(student), dim=1)
    terms = {"cosine": (1 - (student * teacher).sum(1)).mean()} if student.shape == teacher.shape else {}
    found, wanted = student @ student.T, teacher @ teacher.T  # (n, n)
    terms["structure"] = (found - wanted).square().mean()
    terms["triplet"] = _triplet_shortfall(found, wanted, margin)
    return terms


def _triplet_shortfall(found: Tensor, wanted: Tensor, margin: float) -> Tensor:
    gaps = [cosines.unsqueeze(2) - cosines.unsqueeze(1) for cosines in (found, wanted)]  # (n, n, n): [i, j] - [i, k]
    other = ~torch.eye(len(found), dtype=torch.bool, device=found.device)
    counted = (gaps[1] > 0) & other.unsqueeze(2) & other.unsqueeze(1)  # neither j nor k is i itself
    shortfall = (gaps[1].clamp(max=margin) - gaps[0]).relu() * counted
    return shortfall.sum() / counted.sum().clamp(min=1)  # no triplet: 0, never 0 / 0


class TeacherVectors(torch.nn.Module):
    """Distillation from a teacher's vectors: a text column and ``label``, the teacher's vector of that text.

    Parameters
    ----------
    model : SentenceTransformer
    weights : of the three `distillation_terms`; missing ones are 0. None: `DISTILLATION_WEIGHTS`
    mrl_dims : also train these prefixes, each normalised. A prefix has another width than the teacher, so it learns from the
        structure and triplet terms only.

    Raises
    ------
    ValueError
        If a weight is of no term, and, in training, if the cosine term is wanted and the teacher is wider or narrower than the model.

    Source: Zhang et al. 2025 (Jasper and Stella), section 3 and, for the prefixes, stage 3; lesson 01b.
    """

    def __init__(self, model, weights: dict[str, float] | None = None, mrl_dims=()):
        super().__init__()
        _check_names(weights or {})
        self.model, self.weights, self.mrl_dims = model, weights or DISTILLATION_WEIGHTS, tuple(mrl_dims)

    def forward(self, sentence_features, labels: Tensor) -> Tensor:  # labels: (n, teacher_dim)
        (features,) = sentence_features
        vectors = self.model(features)["sentence_embedding"]  # (n, dim)
        check_width(labels.shape[1], vectors.shape[1], self.weights, self.model)
        prefixes = {vectors.shape[1], *self.mrl_dims}
        return sum(self._weighted(vectors[:, :dim], labels) for dim in sorted(prefixes))

    def _weighted(self, student: Tensor, teacher: Tensor) -> Tensor:
        return sum(self.weights.get(name, 0) * term for name, term in distillation_terms(student, teacher).items())

    def get_config_dict(self) -> dict:
        """What the library writes into the model card."""
        return {"weights": self.weights, "mrl_dims": self.mrl_dims}


def _check_names(weights: dict[str, float]) -> None:
    if unknown := [name for name in weights if name not in DISTILLATION_WEIGHTS]:
        raise ValueError(
            say(
                en=f"weights of {', '.join(map(repr, unknown))}: there is no such term; the terms are {', '.join(DISTILLATION_WEIGHTS)}",
                zh=f"weights 里的 {'、'.join(map(repr, unknown))} 不是损失项；损失项有 {'、'.join(DISTILLATION_WEIGHTS)}",
            )
        )


def head_call(model, dim: int) -> str:
    """What would widen the model, for a message; "" for a model with such a layer, which `matryoshka.add_head` refuses."""
    from sentence_transformers.sentence_transformer.modules import Dense

    has_head = any(isinstance(module, Dense) for module in model.modules())
    return "" if has_head else f"matryoshka.add_head(model, {dim})"


def check_width(teacher_dim: int, dim: int, weights: dict[str, float], model) -> None:
    """Refuse a teacher wider or narrower than the model where the cosine term would need equal widths."""
    if not weights.get("cosine") or teacher_dim == dim:
        return
    head = head_call(model, teacher_dim)
    raise ValueError(
        say(
            en=f"the teacher's vectors have {teacher_dim} dims, the model's {dim}; {head and f'give the model a head: {head}, or '}leave the cosine term out: weights={{'structure': 200, 'triplet': 20}}",
            zh=f"教师的向量是 {teacher_dim} 维，模型的是 {dim} 维；{head and f'给模型加一个输出头：{head}，或'}去掉余弦项：weights={{'structure': 200, 'triplet': 20}}",
        )
    )


class OwnNegatives(torch.nn.Module):
    """Softmax over a row's own positive and hard negatives; the other rows of the batch play no part.

    For files whose rows answer each other's questions, where in-batch negatives would often be false ones.
    Columns ``query, positive, negative_1, ...``.
    """

    def __init__(self, model, temperature: float = 0.05):
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, sentence_features, labels=None) -> Tensor:
        queries, *docs = (normalize(self.model(f)["sentence_embedding"], dim=1) for f in sentence_features)
        scores = torch.stack([(queries * column).sum(1) for column in docs], dim=1) / self.temperature  # (n, columns)
        return (scores.logsumexp(1) - scores[:, 0]).mean()

    def get_config_dict(self) -> dict:
        """What the library writes into the model card."""
        return {"temperature": self.temperature}
