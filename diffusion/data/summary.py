"""What is in a data set: counts, moments, and the noise levels that suit it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion.data.base import Dataset
from diffusion.data.order import chunks

_NUM_ENDLESS = 10_000  # examples drawn from a set without an end
_NUM_PAIRED = 500  # examples whose mutual distances are compared


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of a data set, in the units of `batch["data"]`.

    Args:
        num_examples: examples that were read.
        class_counts: per class; empty without labels. With several labels, those of the first.
        mean: over all values.
        std: over all values: `sigma_data` of Karras et al., 2022.
        low: smallest value.
        high: largest value.
        sigma_min: suggested smallest noise: a quarter of the distance of two levels of discrete
            data, a thousandth of `std` otherwise.
        sigma_max: suggested largest noise: the largest distance between two examples (Song and
            Ermon, 2020, technique 1), over 500 of them.
    """

    num_examples: int
    class_counts: tuple[int, ...]
    mean: float
    std: float
    low: float
    high: float
    sigma_min: float
    sigma_max: float


def _largest_distance(points: np.ndarray) -> float:
    """Largest Euclidean distance between two rows of (n, dims)."""
    flat = points.reshape(len(points), -1).astype(np.float64)
    norms = (flat**2).sum(axis=1)
    squared = norms[:, None] + norms[None] - 2 * flat @ flat.T
    return float(np.sqrt(max(squared.max(), 0.0)))


def summarize(
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    chunk: int = 1024,
) -> Summary:
    """Read a set once and describe it; of an endless one, the first 10,000 examples.

    Args:
        dataset: the set.
        progress: called with the examples read so far and their total.
        chunk: examples read at a time.
    """
    spec = dataset.spec
    total = spec.size or _NUM_ENDLESS
    classes = spec.num_classes if isinstance(spec.num_classes, int) else spec.num_classes[0]
    counts = np.zeros(classes, np.int64)
    first = second = 0.0
    low, high, sample = np.inf, -np.inf, []
    stride = max(1, total // _NUM_PAIRED)  # spread over the set, which may be sorted by class
    for start, count in chunks(total, chunk):
        batch = dataset.examples(start, count)
        data = batch["data"].astype(np.float64)
        first, second = first + data.sum(), second + (data**2).sum()
        low, high = min(low, data.min()), max(high, data.max())
        sample.append(batch["data"][-start % stride :: stride])
        if classes:
            label = batch["cond"]["label"].reshape(len(data), -1)[:, 0]
            counts += np.bincount(label[label >= 0], minlength=classes)
        if progress:
            progress(start + count, total)
    values = total * int(np.prod(spec.shape))
    mean = first / values
    std = float(np.sqrt(max(second / values - mean**2, 0.0)))
    return Summary(
        num_examples=total,
        class_counts=tuple(int(c) for c in counts),
        mean=float(mean),
        std=std,
        low=float(low),
        high=float(high),
        sigma_min=2 / (2**spec.bits - 1) / 4 if spec.bits else std / 1000,
        sigma_max=_largest_distance(np.concatenate(sample)),
    )
