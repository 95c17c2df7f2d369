"""Methods that differentiate an approximation of log p(y | x_t): DPS and pseudo-inverse guidance.

E[x_0 | x_t, y] = D + sigma^2 / alpha grad_x_t log p(y | x_t)
"""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import given
from diffusion.guidance.model import ConditionalModel
from diffusion.guidance.scales import Stepped
from diffusion.inverse_problems.base import (
    LinearInverse,
    Measured,
    bound,
    conjugate_gradients,
    pullback,
)
from diffusion.inverse_problems.operators import Operator
from diffusion.numerics import per_example, positive, sum_features
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.samplers.levels import levels, namespace
from diffusion.types import Data, Denoiser, Scalar, Time

# of conjugate gradients, if A A^T is not a multiple of I; each costs products with A only
ITERATIONS = 50


class _Tilted(Measured):
    """D + scale sigma^2 / alpha J^T A^T v, with v defined by the method."""

    @abc.abstractmethod
    def weighted(self, r: Array, x_t: Data, t: Time) -> Array:
        """Return v, the gradient of log p(y | x_t) with respect to A D."""

    def __call__(self, x_t: Data, t: Time) -> Data:
        c = self.process.coefficients(t, x_t)
        x_0, transposed = pullback(self.denoise, x_t, t)
        v = self.weighted(self.residual(x_0), x_t, t)
        gradient = transposed(self.operator.adjoint(v, x_0.shape[1:]))
        return self.blend(x_0, c.sigma**2 / c.alpha * gradient)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Likelihood(_Tilted):
    """D - scale sigma^2 / alpha grad_x_t |r|^2 / (2 std^2)."""

    def weighted(self, r: Array, x_t: Data, t: Time) -> Array:
        del x_t, t
        return r / self.variance(r)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DiffusionPosterior(Measured):
    """D - scale w(t) grad_x_t |r|^2 / |r|."""

    weight: Any = None

    def __call__(self, x_t: Data, t: Time) -> Data:
        x_0, transposed = pullback(self.denoise, x_t, t)
        r = self.residual(x_0)
        square = sum_features(r**2).reshape(-1, *(1,) * (r.ndim - 1))
        explained = square == 0
        direction = jnp.where(explained, 0, r / jnp.sqrt(jnp.where(explained, 1, square)))
        gradient = -2 * transposed(self.operator.adjoint(direction, x_0.shape[1:]))
        return self.blend(x_0, -per_example(self.weight(t), x_0) * gradient)


def step_weight(process: AffineProcess, times: Any) -> Stepped:
    """Return t -> 1 / (alpha_s - alpha_t sigma_s / sigma_t), with s the next time after t on this grid.

    This is the inverse of the coefficient of x_0 in a DDIM step, so a correction of x_0 multiplied by it shifts the
    state by exactly the correction. At the last time, where x_0 is the result, it is 1.

    Args:
        process: the process to which the times refer.
        times: decreasing, (num_steps + 1,).
    """
    t, alpha, sigma = levels(process, times, "dps")
    xp = namespace(t)
    pull = alpha[1:] - alpha[:-1] * sigma[1:] / sigma[:-1]
    up = t[::-1]
    return Stepped((up[1:] + up[:-1]) / 2, xp.append(1 / pull, 1.0)[::-1])


@takes_names
def dps(
    process: AffineProcess,
    denoise: Denoiser,
    operator: Operator,
    measurement: Any,
    *,
    times: Any = None,
    std: Scalar = 0.0,
    scale: Scalar = 0.3,
) -> Denoiser:
    """Return the posterior mean of diffusion posterior sampling (Chung et al., 2023).

        D - scale w(t) grad_x_t |y - A D|^2 / |y - A D|

    p(y | x_t) is approximated by p(y | x_0 = D), as if x_t determined x_0. The paper shifts the state by the
    gradient over |y - A D| in each step, independent of the step's length; so w(t) is the inverse of the coefficient
    of x_0 in a DDIM step of the grid, and with ddim on these times this is the paper's algorithm 1. Without times the
    gradient is that of the log-likelihood itself,

        D - scale sigma^2 / alpha grad_x_t |y - A D|^2 / (2 std^2),

    which is stiff if std is small. Neither is exact for any data, and the scale must be tuned: the paper uses
    0.3 to 1 with 1,000 steps.

    Args:
        process: a process with normal noise.
        denoise: E[x_0 | x_t].
        operator: A.
        measurement: y, with a batch axis.
        times: the sampling times, decreasing, or None.
        std: standard deviation of the noise of y; used without times.
        scale: scale of the correction.

    Raises:
        TypeError: the noise of the process is not normal.
        ValueError: `times` is None and std is 0.
    """
    require_process(process, GaussianProcess, "dps")
    if times is not None:
        weight = step_weight(process, times)
        return bound(
            DiffusionPosterior, process, denoise, operator, measurement, std=std, scale=scale, weight=weight
        )  # fmt: skip
    _require_noise(std)
    return bound(Likelihood, process, denoise, operator, measurement, std=std, scale=scale)


def _require_noise(std: Scalar) -> None:
    positive(std=std, hint="dps divides by it: give one, or the times (or normalized=True).")


@register("guidance", "dps")
@final
@dataclass(frozen=True, kw_only=True)
class DPS(LinearInverse):
    """D - scale w(t) grad |y - A D|^2 / |y - A D| (Chung et al., 2023).

    With `normalized=False`, D - scale sigma^2 / alpha grad |y - A D|^2 / (2 std^2).
    """

    requires: ClassVar[type[Process]] = GaussianProcess

    scale: Scalar = 0.3
    normalized: bool = dataclasses.field(default=True, metadata={"renamed_from": "normalised"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.normalized:
            _require_noise(self.std)

    def guide(self, model: ConditionalModel) -> Denoiser:
        arguments = self.arguments(model)
        times = given(model, "times", self) if self.normalized else None
        times = times() if callable(times) else times
        return dps(*arguments, times=times, std=self.std, scale=self.scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PseudoInverseGuided(_Tilted):
    """D + scale sigma^2 / alpha J^T A^T (r_t^2 A A^T + std^2 I)^-1 r."""

    data_std: Scalar = 1.0

    def weighted(self, r: Array, x_t: Data, t: Time) -> Array:
        c = self.process.coefficients(t, x_t)
        ratio, spread = (c.sigma / c.alpha) ** 2, jnp.asarray(self.data_std, x_t.dtype) ** 2
        known = ratio * spread / (ratio + spread)  # variance of x_0 given x_t for normal x_0
        known = known.reshape(-1, *(1,) * (r.ndim - 1)) if known.ndim else known
        shape, variance = x_t.shape[1:], self.variance(r)
        gram = self.operator.gram(shape)
        if gram is not None:
            return r / (known * gram + variance)
        forward, adjoint = self.operator.forward, self.operator.adjoint
        total = lambda v: known * forward(adjoint(v, shape)) + variance * v
        return conjugate_gradients(total, r, ITERATIONS, 1e-6)


@takes_names
def pigdm(
    process: AffineProcess,
    denoise: Denoiser,
    operator: Operator,
    measurement: Any,
    *,
    std: Scalar = 0.0,
    scale: Scalar = 1.0,
    data_std: Scalar = 1.0,
) -> Denoiser:
    """Return the posterior mean of pseudo-inverse guidance (Song et al., 2023, "Pseudoinverse-guided diffusion").

        D + scale sigma^2 / alpha J^T A^T (r_t^2 A A^T + std^2 I)^-1 (y - A D)
        r_t^2 = q s^2 / (q + s^2),   q = sigma^2 / alpha^2,   s = data_std

    p(x_0 | x_t) is approximated by N(D, r_t^2 I), exact for data N(m, s^2 I). Without noise the residual is
    multiplied by the pseudo-inverse A^+.

    Args:
        process: a process with normal noise.
        denoise: E[x_0 | x_t].
        operator: A.
        measurement: y, with a batch axis.
        std: standard deviation of the noise of y.
        scale: scale of the correction.
        data_std: standard deviation of the data per dimension; 1 in the paper.

    Raises:
        TypeError: the noise of the process is not normal.
    """
    require_process(process, GaussianProcess, "pigdm")
    return bound(
        PseudoInverseGuided, process, denoise, operator, measurement, std=std, scale=scale,
        data_std=data_std,
    )  # fmt: skip


@register("guidance", "pigdm")
@final
@dataclass(frozen=True, kw_only=True)
class PiGDM(LinearInverse):
    """D + scale sigma^2 / alpha J^T A^T (r_t^2 A A^T + std^2 I)^-1 (y - A D) (Song et al., 2023).

    r_t^2 is the variance of x_0 given x_t for data N(m, data_std^2 I), for which the method is exact.
    """

    requires: ClassVar[type[Process]] = GaussianProcess

    data_std: Scalar = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(data_std=self.data_std)

    def guide(self, model: ConditionalModel) -> Denoiser:
        return pigdm(*self.arguments(model), std=self.std, scale=self.scale, data_std=self.data_std)
