"""The training doctor: looks at the data before and at every step during training, and prints the FAQ entry that fits.
Taught in lesson 07.
"""

import contextlib
import math
from collections import Counter

import torch
from sentence_transformers.util.distributed import get_rank, get_world_size
from transformers import TrainerCallback

from retrieval_lab.profiles import say
from retrieval_lab.training_faq import FAQ, TrainingError

# Losses that take query, positive, negatives by position and read no label.
RANKING = (
    "MultipleNegativesRankingLoss",
    "CachedMultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
)
# Losses that cannot do without a label.
LABELLED = ("BinaryCrossEntropyLoss", "MSELoss", "CoSENTLoss", "AnglELoss", "CosineSimilarityLoss", "MarginMSELoss")
LABELS = {"label", "labels", "score", "scores"}
PATIENCE = 3  # steps in a row: one may be an accident of its batch


class Doctor(TrainerCallback):
    """Prints each finding once, in the reader's language; `findings` keeps their names.

    Parameters
    ----------
    model, data, loss : what is about to be trained

    Raises
    ------
    ValueError
        When it is made, if the data cannot fit the loss.
    TrainingError
        While training, if the gradient is NaN or infinite.
    """

    def __init__(self, model, data, loss):
        self.findings: list[str] = []
        self.streaks: Counter = Counter()
        self.model, self.loss = model, loss
        self.values: list[float] = []  # of the loss, since the last step
        self.spread: list[float] = []  # of the model's outputs, since the last step
        self.examine(data)

    def examine(self, data) -> None:
        """What can be seen before the first step."""
        name, shown = type(inner(self.loss)).__name__, columns(data)
        if name in RANKING and (wrong := _wrong_for_ranking(shown)):
            raise ValueError(f"{name}: {wrong}\n{FAQ['columns'].text()}")
        if name in LABELLED and not LABELS & set(shown):
            missing = say(en=f"needs a label column, got {shown}", zh=f"需要标签列，现有的列是 {shown}")
            raise ValueError(f"{name}: {missing}\n{FAQ['columns'].text()}")
        if "group" in shown and max(Counter(data["group"]).values()) == 1:
            self.report("one_row")
        if any(p.requires_grad and p.dtype in (torch.float16, torch.bfloat16) for p in self.model.parameters()):
            self.report("half_precision")

    def report(self, code: str) -> None:
        """Print the entry, once a run."""
        if code not in self.findings:
            self.findings.append(code)
            if get_rank() == 0:
                print(f"[{say(en='training doctor', zh='训练医生')}] {FAQ[code].text()}", flush=True)

    @contextlib.contextmanager
    def watching(self):
        """Look at what loss and model return, until the end or an error."""
        hooks = [self.loss.register_forward_hook(self._saw_loss), self.model.register_forward_hook(self._saw_output)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _saw_loss(self, loss, inputs, value):
        if loss.training and isinstance(value, torch.Tensor):
            self.values.append(value.detach().float().item())
            rows, n_columns = _size(inputs[0])
            if rows * get_world_size() == 1 and n_columns == 2 and type(inner(loss)).__name__ in RANKING:
                self.streaks["one_row"] += 1
                self.report("one_row")

    def _saw_output(self, model, inputs, output):
        outputs = output.get("sentence_embedding", output.get("scores")) if hasattr(output, "get") else None
        if model.training and outputs is not None and len(outputs) > 1:
            self.spread.append(outputs.detach().float().std(dim=0).max().item())

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        norm = _gradient_norm(self.loss)
        if norm is not None and not math.isfinite(norm):
            self._not_finite(args)
        nothing = bool(self.values) and max(map(abs, self.values)) < 1e-6
        self._streak("gradient_zero", norm == 0 and not self.streaks["one_row"])
        self._streak("saturated", nothing and not self.streaks["one_row"])
        self._streak("constant_scores", bool(self.spread) and max(self.spread) < 1e-6)
        self.streaks["one_row"] = 0
        self.values, self.spread = [], []

    def _not_finite(self, args) -> None:
        """fp16 with loss scaling meets infinities while it looks for its scale; anywhere else they are an error."""
        self.streaks["gradient_nan"] += 1
        if not args.fp16 or self.streaks["gradient_nan"] > 20:
            self.findings.append("gradient_nan")
            raise TrainingError(FAQ["gradient_nan"].text())

    def _streak(self, code: str, seen: bool) -> None:
        self.streaks[code] = self.streaks[code] + 1 if seen else 0
        if self.streaks[code] >= PATIENCE:
            self.report(code)

    def compare(self, before: dict | None, trainer) -> None:
        """After training: is the best evaluation worse than the one before the first step?"""
        metric, best = trainer.args.metric_for_best_model, trainer.state.best_metric
        if before and best is not None:
            gain = best - before[metric] if trainer.args.greater_is_better else before[metric] - best
            if gain < 0:
                self.report("worse")


def inner(loss):
    """The loss inside a wrapper such as MatryoshkaLoss."""
    while isinstance(getattr(loss, "loss", None), torch.nn.Module):
        loss = loss.loss
    return loss


def columns(data) -> list[str]:
    """The columns as the trainer sees them, drawn negatives included."""
    return list(data[0]) if len(data) else data.column_names


def _wrong_for_ranking(shown: list[str]) -> str | None:
    if LABELS & set(shown):
        return say(en=f"ignores the label of {shown}", zh=f"会忽略这些列里的标签：{shown}")
    places = {"query": 0, "anchor": 0, "question": 0, "positive": 1, "answer": 1}
    for name, place in places.items():
        if name in shown and shown.index(name) != place:
            found = shown.index(name) + 1
            return say(
                en=f"{name} is column {found} of {shown}, not {place + 1}",
                zh=f"{name} 是 {shown} 的第 {found} 列，应为第 {place + 1} 列",
            )
    return None


def _size(inputs) -> tuple[int, int]:
    """(rows, text columns) of what a loss gets: features of bi-encoders, lists of texts of cross-encoders."""
    first = inputs[0]
    rows = (
        next(len(value) for value in first.values() if hasattr(value, "shape"))
        if isinstance(first, dict)
        else len(first)
    )
    return rows, len(inputs)


def _gradient_norm(loss) -> float | None:
    """Length of the whole gradient; None where the weights hold none, because DeepSpeed keeps it elsewhere."""
    gradients = [p.grad for p in loss.parameters() if p.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm([g.float() for g in gradients])
    return (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
