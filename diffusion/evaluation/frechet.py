"""The Frechet distance between two sets of features, and the moments that it needs.

    d^2 = |m_1 - m_2|^2 + tr(C_1) + tr(C_2) - 2 tr((C_1^(1/2) C_2 C_1^(1/2))^(1/2))

(Heusel et al., 2017; Su, kexue.fm 8512). All computations are in float64. With C_1 = A^T A and C_2 = B^T B the last
term is 2 |A B^T|_*, the sum of the singular values; this avoids the matrix square root of a non-symmetric product,
which loses half the digits. A comes from the eigenvalues of the symmetric C_1; with fewer examples than features, A is
the centered features divided by sqrt(n - 1): then no covariance is needed, and equal sets have distance 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from diffusion.numerics import alike, at_least, finite, require


@dataclass
class Moments:
    """The running mean and covariance of features, in float64; batches merge exactly."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray  # sum of (x - mean)(x - mean)^T

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Return the moments of an empty set."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def add(self, features: Float[np.ndarray, "batch dim"]) -> "Moments":
        """Return the moments with a batch added (Chan et al., 1979)."""
        x = np.asarray(features, np.float64).reshape(len(features), -1)
        finite(features=x)
        mean = x.mean(axis=0)
        centered = x - mean
        total = self.count + len(x)
        shift = mean - self.mean
        scatter = self.scatter + centered.T @ centered
        scatter += np.outer(shift, shift) * (self.count * len(x) / total)
        return Moments(total, self.mean + shift * (len(x) / total), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance."""
        at_least(2, count=self.count, hint="A covariance needs two examples.")
        return self.scatter / (self.count - 1)


def factor_of(cov: np.ndarray) -> np.ndarray:
    """Return A of shape (rank, dim) with A^T A = cov, for a symmetric positive semidefinite matrix.

    Eigenvalues that are 0 up to roundoff are dropped, since the square root of 1e-16 is not small.
    """
    values, vectors = np.linalg.eigh(np.asarray(cov, np.float64))
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _distance(shift: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return |shift|^2 + |A|^2 + |B|^2 - 2 |A B^T|_*, the distance of covariances A^T A and B^T B."""
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() if len(a) and len(b) else 0.0
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * cross)


def gaussian_distance(
    mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray
) -> float:
    """Return the squared Wasserstein-2 distance between two Gaussians."""
    return _distance(mean_1 - mean_2, factor_of(cov_1), factor_of(cov_2))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the Frechet distance between two sets of features."""
    alike("number of features", a=len(a.mean), b=len(b.mean))
    return gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)


@dataclass
class Sample:
    """Running statistics of features: their moments, and the features themselves while there are few examples.

    Attributes:
        moments: moments of all features.
        rows: all features, (n, dim), while n <= dim; None after that.
    """

    moments: Moments
    rows: list[np.ndarray] | None = field(default_factory=list)

    @classmethod
    def of(cls, batches: Iterable[np.ndarray], dim: int) -> "Sample":
        """Accumulate batches of features; memory holds one batch, `dim` rows and a dim x dim matrix."""
        found = cls(Moments.empty(dim))
        for features in batches:
            found.add(features)
        return found

    def add(self, features: Float[np.ndarray, "batch dim"]) -> None:
        """Add a batch."""
        self.moments = self.moments.add(features)
        if self.rows is not None:
            self.rows.append(np.asarray(features, np.float64))
            if self.moments.count > self.dim:
                self.rows = None

    @property
    def dim(self) -> int:
        """The number of features."""
        return len(self.moments.mean)

    @property
    def count(self) -> int:
        """The number of examples."""
        return self.moments.count

    def factor(self) -> np.ndarray:
        """Return A with C = A^T A: the centered features themselves if they are few, else from C."""
        at_least(2, count=self.count, hint="A covariance needs two examples.")
        if self.rows is None:
            return factor_of(self.moments.covariance)
        return (np.concatenate(self.rows) - self.moments.mean) / np.sqrt(self.count - 1)


def frechet_of_samples(a: Sample, b: Sample) -> float:
    """Return the Frechet distance between two sets, by the formula that is efficient for their sizes."""
    require(a.dim == b.dim, f"both sets need features of one size; got {a.dim} and {b.dim}.")
    return _distance(a.moments.mean - b.moments.mean, a.factor(), b.factor())
