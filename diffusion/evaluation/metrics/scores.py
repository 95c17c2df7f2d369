"""The score of class predictions: high if single examples are classified with confidence and all classes occur.

    exp E KL(p(y | x) | p(y))

between 1 and the number of classes (Salimans et al., 2016). It does not depend on real data, so the score of the
held-out data is reported with it. It is called Inception score only for the classes of Inception and
50,000 examples.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np

from diffusion.evaluation import reference
from diffusion.evaluation.features import Classifier, Extractor, Features
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.evaluation.metrics.frechet import FID_COUNT
from diffusion.numerics import require
from diffusion.registry import register


class ClassScore(NamedTuple):
    """The score over all examples; and mean and standard error over parts, which are biased downward."""

    value: float
    mean_over_parts: float
    standard_error: float
    num_parts: int


@dataclass
class _Part:
    """Sums over examples: of p, of sum p log p, and of ones."""

    p: np.ndarray
    negative_entropy: float = 0.0
    count: int = 0

    def score(self) -> float:
        mean = self.p / self.count
        inside = mean[mean > 0]
        return float(np.exp(self.negative_entropy / self.count - (inside * np.log(inside)).sum()))


def class_score(log_probs: Iterable[np.ndarray], count: int, num_parts: int = 10) -> ClassScore:
    """Return the score of predictions from batches, keeping only sums in memory.

    Args:
        log_probs: batches (n, classes), in nats, with `count` rows in total.
        count: number of all examples.
        num_parts: number of consecutive parts of equal size, for the standard error.

    Raises:
        ValueError: rows are missing, not finite, or not log-probabilities.
    """
    num_parts = max(2, min(num_parts, count // 2))
    parts: list[_Part] = []
    start = 0
    for batch in log_probs:
        rows = np.asarray(batch, np.float64)
        p = np.exp(rows)
        require(
            bool((np.abs(p.sum(axis=1) - 1) < 1e-3).all()),
            "log-probabilities must be numbers whose exponentials sum to 1 in every row.",
        )
        parts = parts or [_Part(np.zeros(rows.shape[1])) for _ in range(num_parts)]
        inner = np.where(p > 0, p * rows, 0.0).sum(axis=1)
        which = np.minimum(np.arange(start, start + len(p)) * num_parts // count, num_parts - 1)
        for number in np.unique(which):
            here = which == number
            parts[number].p += p[here].sum(axis=0)
            parts[number].negative_entropy += float(inner[here].sum())
            parts[number].count += int(here.sum())
        start += len(p)
    require(start == count and count >= 4, f"a score needs at least 4 examples, all; got {start}.")
    whole = _Part(
        sum((part.p for part in parts), np.zeros(len(parts[0].p))),
        sum(part.negative_entropy for part in parts),
        count,
    )
    scores = [part.score() for part in parts]
    error = float(np.std(scores, ddof=1) / np.sqrt(num_parts))
    return ClassScore(whole.score(), float(np.mean(scores)), error, num_parts)


def _log_probs(batches: Iterable[np.ndarray], extractor: Extractor) -> Iterable[np.ndarray]:
    for x in batches:
        found = extractor.log_probs(x)
        require(
            found is not None,
            f"class_score needs probabilities of classes; {extractor.name} knows none. Use classifier or inception.",
        )
        assert found is not None
        yield found


@register("metric", "class_score")
@final
@dataclass(frozen=True, kw_only=True)
class ClassScoreMetric(Metric):
    """exp E KL(p(y | x) | p(y)) of generated examples, reported with that of held-out examples.

    Args:
        features: features that predict class probabilities.
        num_parts: number of parts for the standard error.
    """

    features: Features = field(default=Classifier(), metadata={"kind": "features"})
    num_parts: int = 10

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        held_out, count = inputs.held_out, inputs.held_out.spec.size or inputs.num_samples
        made = class_score(
            _log_probs(inputs.generated(), extractor), inputs.num_samples, self.num_parts
        )
        real = class_score(
            _log_probs(reference.batches_of(held_out, count), extractor), count, self.num_parts
        )
        name = f"class_score_{extractor.name}"
        own = f"{name}@{inputs.num_samples}"
        if extractor.name == "inception" and inputs.num_samples == FID_COUNT:
            own = f"inception_score@{inputs.num_samples}"
        return {own: made._asdict(), f"{name}_of_held_out_data@{count}": real._asdict()}
