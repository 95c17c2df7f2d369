"""Measures of images, shared by several studies, that are not registered metrics."""

import numpy as np


def diversity(x: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean distance between two different examples of one class, averaged over the classes."""
    means = []
    for k in np.unique(labels):
        rows = x[labels == k][:200].reshape(-1, int(np.prod(x.shape[1:]))).astype(np.float64)
        squares = (rows**2).sum(axis=1)
        distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
        means.append(distance.sum() / (len(rows) * (len(rows) - 1)))
    return float(np.mean(means))
