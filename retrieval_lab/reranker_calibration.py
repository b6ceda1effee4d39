"""From scores that only order documents to scores that mean something: a threshold, and probabilities.
Taught in lesson 03.
"""

import numpy as np

from retrieval_lab.profiles import say


def threshold(scores, labels) -> float:
    """The score from which on a document is called an answer: the one with the best F1 on these pairs.

    Choose it on the dev split; on the pairs that it was chosen on, it looks better than it is.

    Parameters
    ----------
    scores : (n,) logits or probabilities
    labels : (n,) true or false, at least one of them true

    Raises
    ------
    ValueError
        If no label is true.

    Source: lesson 03.

    >>> threshold([0.9, 0.7, 0.6, 0.1], [True, True, False, False])
    0.7
    """
    from sklearn.metrics import precision_recall_curve

    if not np.any(labels):
        raise ValueError(say(en="no label is true; give pairs of both kinds", zh="没有一个标签为真；两类文本对都要有"))
    precision, recall, cuts = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(cuts[np.argmax(f1[:-1])])  # the last point is recall 0, without a cut


def calibrate(model, scores, labels):
    """Stretch and shift the model's output so that its sigmoid is the probability of an answer; the order stays.

    A straight line is fitted to the logits (Platt scaling) and written into the last layer: saved with the model, in effect in
    every library that loads it.

    Parameters
    ----------
    model : CrossEncoder of `reranker.load`, whose last layer has one output and a bias; it is changed in place and returned
    scores : (n,) its logits for pairs that it was not trained on, e.g. of the dev split
    labels : (n,) true or false, both present

    Raises
    ------
    ValueError
        If all labels are equal, better scores go with worse labels, or the model has no such layer (a decoder of `llm` or
        `llm_scalar`); the message then gives the line, to be applied to the scores.

    Source: Platt 1999; lesson 03.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    if len(set(map(bool, labels))) < 2:
        raise ValueError(say(en="all labels are equal; give pairs of both kinds", zh="标签全都一样；两类文本对都要有"))
    scores = np.asarray(scores, float).reshape(-1, 1)
    unit = scores.std() or 1.0  # the solver stops early where a step is small against 1
    fitted = LogisticRegression(C=1e6).fit(scores / unit, np.asarray(labels, bool))
    slope, offset = float(fitted.coef_[0, 0] / unit), float(fitted.intercept_[0])
    if slope <= 0:
        raise ValueError(
            say(
                en=f"higher scores go with fewer answers (slope {slope:.2f}); is this the model, and are these its labels?",
                zh=f"分数越高，答案反而越少（斜率 {slope:.2f}）；模型和标签对得上吗？",
            )
        )
    heads = [
        m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1 and m.bias is not None
    ]
    if not heads:
        raise ValueError(
            say(
                en=f"a decoder reranker has no last layer with a bias that the line could be saved in; apply it to the scores: sigmoid({slope:.3f} * score {offset:+.3f})",
                zh=f"解码器重排器的最后一层没有偏置，这条直线存不进模型；请直接用在分数上：sigmoid({slope:.3f} * score {offset:+.3f})",
            )
        )
    head = heads[-1]
    with torch.no_grad():
        head.weight.mul_(slope)
        head.bias.mul_(slope).add_(offset)
    return model
