"""Moment matching: p(x_0 | x_t) is approximated by a normal distribution with the exact mean and covariance."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
from jaxtyping import Array

from diffusion.guidance.model import ConditionalModel
from diffusion.inverse_problems.base import (
    LinearInverse,
    Measured,
    bound,
    conjugate_gradients,
    pullback,
)
from diffusion.inverse_problems.operators import Operator
from diffusion.numerics import at_least
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Data, Denoiser, Scalar, Time


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MomentMatched(Measured):
    """D + scale C A^T (A C A^T + std^2 I)^-1 r, with C = sigma^2 / alpha J."""

    num_iterations: int = dataclasses.field(default=8, metadata={"static": True})
    tolerance: float = dataclasses.field(default=1e-5, metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Data:
        c = self.process.coefficients(t, x_t)
        x_0, transposed = pullback(self.denoise, x_t, t)
        shape = x_0.shape[1:]

        def spread(v: Array) -> Array:  # C A^T v
            return c.sigma**2 / c.alpha * transposed(self.operator.adjoint(v, shape))

        def covariance(v: Array) -> Array:  # of y given x_t
            return self.operator.forward(spread(v)) + self.variance(v) * v

        r = self.residual(x_0)
        v = conjugate_gradients(covariance, r, self.num_iterations, self.tolerance)
        return self.blend(x_0, spread(v))


@takes_names
def moment_matching(
    process: AffineProcess,
    denoise: Denoiser,
    operator: Operator,
    measurement: Any,
    *,
    std: Scalar = 0.0,
    scale: Scalar = 1.0,
    num_iterations: int = 8,
    tolerance: float = 1e-5,
) -> Denoiser:
    """Return E[x_0 | x_t, y] with p(x_0 | x_t) approximated as normal, which is exact for normal data.

        D + C A^T (A C A^T + std^2 I)^-1 (y - A D),   C = Cov[x_0 | x_t] = sigma^2 / alpha J

    The system is solved by conjugate gradients with matrix-free products with J^T (Boys et al.,
    2023, "Tweedie moment projected diffusions"; Rozet et al., 2024, "moment matching posterior
    sampling").

    Args:
        process: a process with normal noise.
        denoise: E[x_0 | x_t].
        operator: A.
        measurement: y, with a batch axis.
        std: standard deviation of the noise of y.
        scale: scale of the correction.
        num_iterations: largest number of products with J^T to solve the system; one more follows.
        tolerance: relative tolerance of the residual of the system.

    Raises:
        TypeError: the noise of the process is not normal.
    """
    require_process(process, GaussianProcess, "moment_matching")
    return bound(
        MomentMatched, process, denoise, operator, measurement, std=std, scale=scale,
        num_iterations=num_iterations, tolerance=tolerance,
    )  # fmt: skip


@register("guidance", "moment_matching")
@final
@dataclass(frozen=True, kw_only=True)
class MomentMatching(LinearInverse):
    """D + scale C A^T (A C A^T + std^2 I)^-1 (y - A D), with C = sigma^2 / alpha dD/dx_t.

    Exact for normal data; otherwise, with an exact C, it uses the normal approximation with the right mean and
    covariance (Boys et al., 2023; Rozet et al., 2024).
    """

    requires: ClassVar[type[Process]] = GaussianProcess

    num_iterations: int = 8
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, num_iterations=self.num_iterations)
        at_least(0, tolerance=self.tolerance)

    def guide(self, model: ConditionalModel) -> Denoiser:
        return moment_matching(
            *self.arguments(model), std=self.std, scale=self.scale,
            num_iterations=self.num_iterations, tolerance=self.tolerance,
        )  # fmt: skip
