"""Replacement: what the measurement says of x_0 replaces what the denoiser says of it."""

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
        """Put alpha y + noise in the place of what A sees of a state with these scales.

        The noise of y counts as a part of the state's, sigma^2 = alpha^2 std^2 / c + rest, and z fills the rest;
        once y is noisier than the state, the state stays as it is.
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
    """Return x + A^+ (y - A x): the nearest examples to x that a measurement without noise could be of.

    Args:
        operator: A, with a pseudo-inverse.
        measurement: y, with a batch axis.
        x: examples, (batch, ...), such as those of a method that keeps to y only roughly.

    Raises:
        ValueError: the operator states no pseudo-inverse, or the measurement does not fit.
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

    It is Song et al.'s (2021, appendix I) replacement done on the posterior mean, where any sampler sees it
    (Wang et al., 2023, do so with the null space of A). The unmeasured part hears of y through x_t only: exact
    where the two parts are independent. Where A A^T is no multiple of I, std is ignored. `Repaint` replaces in
    the state.

    Args:
        process: affine; its noise may have any law.
        denoise: E[x_0 | x_t].
        operator: A, with a pseudo-inverse.
        measurement: y, with a batch axis.
        std: of the noise of y.
        scale: of the correction.

    Raises:
        TypeError: the process is not affine.
        ValueError: the operator states no pseudo-inverse.
    """
    require_process(process, AffineProcess, "replacement")
    _require_pinv(operator, "replacement")
    return bound(Replaced, process, denoise, operator, measurement, std=std, scale=scale)


@register("guidance", "replacement")
@final
@dataclass(frozen=True, kw_only=True)
class Replacement(LinearInverse):
    """D + scale w_t A^+ (y - A D), with w_t = 1 for a measurement without noise (Song et al., 2021).

    The sampler `repaint` replaces in the state as well, and repeats its steps.
    """

    requires: ClassVar[type[Process]] = AffineProcess

    def guide(self, model: ConditionalModel) -> Denoiser:
        return replacement(*self.arguments(model), std=self.std, scale=self.scale)
