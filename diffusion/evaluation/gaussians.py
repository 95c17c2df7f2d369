"""Distances between two Gaussians in closed form, in float64.

    KL(1 | 2) = (delta^T C_2^-1 delta + tr(C_2^-1 C_1) - log det(C_2^-1 C_1) - d) / 2
    Bhattacharyya = delta^T C^-1 delta / 8 + log(det C / sqrt(det C_1 det C_2)) / 2,  C = (C_1 + C_2) / 2
    W_2^2 = |delta|^2 + tr(C_1 + C_2 - 2 (C_1^(1/2) C_2 C_1^(1/2))^(1/2))

with delta = m_1 - m_2 (Su, kexue.fm 8512). The first two need covariances that are not singular.
"""

import numpy as np
from jaxtyping import Float

from diffusion.evaluation.frechet import gaussian_distance
from diffusion.numerics import alike

Mean = Float[np.ndarray, "dim"]
Covariance = Float[np.ndarray, "dim dim"]


def _cholesky(cov: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.linalg.cholesky(np.asarray(cov, np.float64))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"`{name}` is singular: use more examples than features, a ridge, or the Wasserstein distance."
        ) from None


def _log_det(root: np.ndarray) -> float:
    return 2 * float(np.log(np.diag(root)).sum())


def gaussian_kl(mean_1: Mean, cov_1: Covariance, mean_2: Mean, cov_2: Covariance) -> float:
    """Return KL(N(mean_1, cov_1) | N(mean_2, cov_2)) in nats.

    Raises:
        ValueError: a covariance is singular.
    """
    root_1, root_2 = _cholesky(cov_1, "cov_1"), _cholesky(cov_2, "cov_2")
    shift = np.linalg.solve(root_2, mean_1 - mean_2)
    inner = np.linalg.solve(root_2, root_1)  # tr(C_2^-1 C_1) is the sum of its squares
    value = shift @ shift + (inner**2).sum() - len(mean_1) + _log_det(root_2) - _log_det(root_1)
    return float(value) / 2


def bhattacharyya(mean_1: Mean, cov_1: Covariance, mean_2: Mean, cov_2: Covariance) -> float:
    """Return the Bhattacharyya distance of two Gaussians: -log of the integral of the root of their product.

    Raises:
        ValueError: a covariance is singular.
    """
    root_1, root_2 = _cholesky(cov_1, "cov_1"), _cholesky(cov_2, "cov_2")
    root = _cholesky((cov_1 + cov_2) / 2, "the mean covariance")
    shift = np.linalg.solve(root, mean_1 - mean_2)
    volumes = _log_det(root) - (_log_det(root_1) + _log_det(root_2)) / 2
    return float(shift @ shift) / 8 + volumes / 2


def wasserstein_2(mean_1: Mean, cov_1: Covariance, mean_2: Mean, cov_2: Covariance) -> float:
    """Return the Wasserstein-2 distance of two Gaussians, singular or not.

    Raises:
        ValueError: the sizes differ.
    """
    alike("shape", cov_1=np.shape(cov_1), cov_2=np.shape(cov_2))
    return float(np.sqrt(max(0.0, gaussian_distance(mean_1, cov_1, mean_2, cov_2))))
