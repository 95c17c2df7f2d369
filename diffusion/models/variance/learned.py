"""A variance of reverse steps that the network learns in addition to the mean; see `diffusion.models.variance`."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import positive
from diffusion.numerics.shapes import bare
from diffusion.processes import AffineProcess
from diffusion.types import Coefficients, Data, Scalar, Time


@runtime_checkable
class LearnsVariance(Protocol):
    """A denoiser whose network also learned the variance of a step."""

    def mean_and_variance_output(self, x_t: Array, t: Any) -> tuple[Array, Array]:
        """Return E[x_0 | x_t] and v, both shaped like x_t."""
        ...


def learned_variance(model: Any) -> LearnsVariance:
    """Return the model if its network learned the variance of a step.

    Raises:
        TypeError: the network did not; the message says how to train one that does.
    """
    model = bare(model)
    if isinstance(model, LearnsVariance):
        return model
    raise TypeError(
        f"variance='learned' needs a model with `mean_and_variance_output(x_t, t)`; {type(model).__name__} has none. "
        "Train with train.learn_variance=True, or choose another of posterior, beta, analytic."
    )


@dataclass(frozen=True, kw_only=True)
class LearnedVariance:
    """log variance of a step = v log(forward variance) + (1 - v) log(posterior variance).

    The network has twice the outputs; v = (1 + second half) / 2 for each number. It is trained by the
    divergence of the chain's step with the mean held fixed (Nichol and Dhariwal, 2021, eq. 15, 16).

    Args:
        step: step of the chain, in units of t; None means that of the process.
        weight: weight of the chain's bound in the loss; the bound is a mean or sum over dimensions, as the loss is.
    """

    step: Scalar | None = None
    weight: Scalar = 1e-3

    def __post_init__(self) -> None:
        positive(step=self.step, of="the learned variance", none="that of the process")
        positive(weight=self.weight, of="the learned variance")

    def num_steps(self, process: AffineProcess) -> Scalar:
        """Return the number of steps of the chain, the factor that turns a mean over t into the bound."""
        step = process.chain_step if self.step is None else self.step
        return (process.t_max - process.t_min) / step

    def divergence(self, c: Coefficients, variance_output: Array, squared_error: Array) -> Array:
        """Return KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, elementwise.

        Args:
            c: coefficients at t.
            variance_output: v.
            squared_error: (x_0 - E[x_0 | x_t])^2.
        """
        alpha, sigma = c.before(self.step, trained=True)
        log_sigma = jnp.log1p((c.sigma - sigma) / sigma)
        log_ratio = 2 * (log_sigma + jnp.log1p((alpha - c.alpha) / c.alpha))
        gap = (c.alpha / c.sigma) ** 2 * jnp.expm1(log_ratio)  # SNR_s - SNR_t = pull^2 / posterior
        excess = 2 * variance_output * log_sigma  # log of the variance over the posterior's
        return 0.5 * (excess + jnp.expm1(-excess) + jnp.exp(-excess) * gap * squared_error)


def split_output(y: Array, like: Array) -> tuple[Array, Array]:
    """Split a network's output along the last axis into halves, and return (prediction, v).

    Raises:
        ValueError: the last axis is not twice as long as that of the data.
    """
    if y.shape != (*like.shape[:-1], 2 * like.shape[-1]):
        wanted = (*like.shape[:-1], 2 * like.shape[-1])
        raise ValueError(
            f"a network that learns the variance must give {wanted}; this gives {y.shape}. Build it with outputs=2."
        )
    first, second = jnp.split(y, 2, axis=-1)
    return first, 0.5 * (1 + second)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanWithVarianceOutput:
    """A denoiser with the mean of one denoiser, such as a guided one, and the learned variance of another."""

    denoise: Any
    learned: Any

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the posterior mean."""
        return self.denoise(x_t, t)

    def mean_and_variance_output(self, x_t: Data, t: Time) -> tuple[Data, Data]:
        """Return the mean of the first denoiser and v of the second, at the cost of one more evaluation."""
        return self.denoise(x_t, t), self.learned.mean_and_variance_output(x_t, t)[1]
