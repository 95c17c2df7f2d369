"""The Frechet distance between two sets of features, and the moments that it needs.

    d^2 = |m_1 - m_2|^2 + tr(C_1) + tr(C_2) - 2 tr((C_1^(1/2) C_2 C_1^(1/2))^(1/2))

(Heusel et al., 2017; Su, kexue.fm 8512). Everything in float64 with symmetric eigenvalues; no matrix square
root of a non-symmetric product, which loses half the digits. The name of a distance states the features
and the counts: it is never called FID here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from diffusion.numerics import require


@dataclass
class Moments:
    """The running mean and covariance of features, in float64; batches merge exactly."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray  # sum of (x - mean)(x - mean)^T

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Return the moments of nothing."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def add(self, features: Float[np.ndarray, "batch dim"]) -> "Moments":
        """Return the moments with a batch added (Chan et al., 1979)."""
        x = np.asarray(features, np.float64).reshape(len(features), -1)
        require(bool(np.isfinite(x).all()), "features must be finite; some are NaN or infinite.")
        mean = x.mean(axis=0)
        centred = x - mean
        total = self.count + len(x)
        shift = mean - self.mean
        scatter = self.scatter + centred.T @ centred
        scatter += np.outer(shift, shift) * (self.count * len(x) / total)
        return Moments(total, self.mean + shift * (len(x) / total), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance."""
        require(self.count >= 2, f"a covariance needs at least 2 examples; got {self.count}.")
        return self.scatter / (self.count - 1)


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def gaussian_distance(
    mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray
) -> float:
    """Return the squared Wasserstein-2 distance between two Gaussians."""
    root = _root(cov_1)
    inner = np.linalg.eigvalsh(root @ cov_2 @ root)
    cross = np.sqrt(np.maximum(inner, 0.0)).sum()
    difference = mean_1 - mean_2
    return float(difference @ difference + np.trace(cov_1) + np.trace(cov_2) - 2 * cross)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the Frechet distance between two sets of features."""
    require(
        a.mean.shape == b.mean.shape,
        f"both sets need features of one size; got {a.mean.shape[0]} and {b.mean.shape[0]}.",
    )
    return gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)
