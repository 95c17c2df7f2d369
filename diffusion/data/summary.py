"""Summary of a data set: counts, moments, and suggested noise levels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion.data.base import Dataset
from diffusion.data.order import chunks

_NUM_ENDLESS = 10_000  # examples drawn from an endless data set
_NUM_PAIRED = 500  # examples whose pairwise distances are computed


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of a data set, in the units of `batch["data"]`.

    Args:
        num_examples: number of examples read.
        class_counts: examples per class; empty without labels. With several labels, those of the first.
        mean: mean over all values.
        std: standard deviation over all values: `sigma_data` of Karras et al., 2022.
        low: smallest value.
        high: largest value.
        sigma_min: suggested smallest noise: a quarter of the spacing of the levels of discrete
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
    """Return the largest Euclidean distance between two rows of (n, dims)."""
    flat = points.reshape(len(points), -1).astype(np.float64)
    norms = (flat**2).sum(axis=1)
    squared = norms[:, None] + norms[None] - 2 * flat @ flat.T
    return float(np.sqrt(max(squared.max(), 0.0)))


def summarize(
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    chunk: int = 1024,
) -> Summary:
    """Read a data set once and return its summary; for an endless one, that of the first 10,000 examples.

    Args:
        dataset: the data set.
        progress: called with the number of examples read so far and their total.
        chunk: number of examples read at a time.
    """
    spec = dataset.spec
    total = spec.size or _NUM_ENDLESS
    classes = spec.num_classes if isinstance(spec.num_classes, int) else spec.num_classes[0]
    counts = np.zeros(classes, np.int64)
    first = second = 0.0
    low, high, sample = np.inf, -np.inf, []
    # evenly spaced, since the data set may be sorted by class
    stride = max(1, total // _NUM_PAIRED)
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
