"""Replacement: the measured part of the denoiser's x_0 is replaced by that of the measurement."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from diffusion.guidance.model import ConditionalModel
from diffusion.inverse_problems.base import LinearInverse, Measured, bound, unexplained
from diffusion.inverse_problems.operators import Operator
from diffusion.numerics.shapes import shaped_like
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Data, Denoiser, Scalar, Time


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Replaced(Measured):
    """D + scale w_t A^+ r."""

    def _gram(self, x: Data) -> float | None:
        return self.operator.gram(x.shape[1:])

    def __call__(self, x_t: Data, t: Time) -> Data:
        x_0 = shaped_like(self.denoise(x_t, t), x_t)
        correction = self.operator.pinv(self.residual(x_0), x_0.shape[1:])
        gram = self._gram(x_0)
        if gram is None:
            return self.blend(x_0, correction)
        c = self.process.coefficients(t, x_t)
        free = gram * (c.sigma / c.alpha) ** 2
        return self.blend(x_0, free / (free + self.variance(x_0)) * correction)

    def impose(self, x: Data, alpha: Any, sigma: Any, z: Data) -> Data:
        """Replace the measured part A x of a state with these scales by alpha y + noise.

        The noise of y is part of the state's noise, sigma^2 = alpha^2 std^2 / c + rest, and z adds the rest; if y
        is noisier than the state, the state is unchanged.
        """
        shape, gram = x.shape[1:], self._gram(x)
        own = self.variance(x) / gram if gram is not None else jnp.zeros((), x.dtype)
        rest = sigma**2 - alpha**2 * own
        drawn = jnp.sqrt(jnp.maximum(rest, 0)) * z - x
        seen = self.operator.pinv(self.operator.restrict(self.seen(drawn)), shape)
        y = jnp.broadcast_to(jnp.asarray(self.measurement, x.dtype), self._measured_shape(x))
        known = self.operator.pinv(self.operator.restrict(y), shape)
        return jnp.where(rest >= 0, self.blend(x, alpha * known + seen), x)

    def _measured_shape(self, x: Data) -> tuple[int, ...]:
        return (len(x), *self.operator.output_shape(x.shape[1:]))


@takes_names
def consistent(operator: Operator, measurement: Any, x: Data) -> Data:
    """Return x + A^+ (y - A x), the examples nearest to x that are consistent with a measurement without noise.

    Args:
        operator: A, with a pseudo-inverse.
        measurement: y, with a batch axis.
        x: examples, (batch, ...), such as samples that satisfy y only approximately.

    Raises:
        ValueError: the operator has no pseudo-inverse, or the shape of the measurement is wrong.
    """
    _require_pinv(operator, "consistent")
    r = unexplained(operator, measurement, x)
    return x + operator.pinv(r, x.shape[1:]).astype(x.dtype)


def _require_pinv(operator: Operator, who: str) -> None:
    if not operator.has_pinv:
        raise ValueError(
            f"{who} needs a pseudo-inverse, and {operator!r} states none: take dps, pigdm or moment_matching."
        )


@takes_names
def replacement(
    process: AffineProcess,
    denoise: Denoiser,
    operator: Operator,
    measurement: Any,
    *,
    std: Scalar = 0.0,
    scale: Scalar = 1.0,
) -> Denoiser:
    """Return the posterior mean with the measured part of x_0 replaced.

        D + scale w_t A^+ (y - A D),   w_t = q c / (q c + std^2),   q = sigma^2 / alpha^2,   A A^T = c I

    This is Song et al.'s (2021, appendix I) replacement applied to the posterior mean, so that it works with any
    sampler (as in Wang et al., 2023, with the null space of A). The unmeasured part depends on y through x_t only,
    which is exact if the two parts are independent. If A A^T is not a multiple of I, std is ignored. `Repaint`
    replaces part of the state instead.

    Args:
        process: an `AffineProcess`; its noise may have any law.
        denoise: E[x_0 | x_t].
        operator: A, with a pseudo-inverse.
        measurement: y, with a batch axis.
        std: standard deviation of the noise of y.
        scale: scale of the correction.

    Raises:
        TypeError: the process is not an `AffineProcess`.
        ValueError: the operator has no pseudo-inverse.
    """
    require_process(process, AffineProcess, "replacement")
    _require_pinv(operator, "replacement")
    return bound(Replaced, process, denoise, operator, measurement, std=std, scale=scale)


@register("guidance", "replacement")
@final
@dataclass(frozen=True, kw_only=True)
class Replacement(LinearInverse):
    """D + scale w_t A^+ (y - A D), with w_t = 1 for a measurement without noise (Song et al., 2021).

    The sampler `repaint` also replaces the measured part of the state, and repeats its steps.
    """

    requires: ClassVar[type[Process]] = AffineProcess

    def guide(self, model: ConditionalModel) -> Denoiser:
        return replacement(*self.arguments(model), std=self.std, scale=self.scale)
