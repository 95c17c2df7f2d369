"""Regression targets of networks: linear combinations of data and noise.

A prediction is y = a x_0 + b z. With x_t = alpha x_0 + sigma z it can be solved for the data, x_0 =
skip x_t + out y. Each prediction is one class with these two pairs of coefficients, and one law,
recover(target) = x_0, tests all of them on all processes. `input_scale` scales x_t to unit variance for
the network's input.

References: Ho et al. 2020 (noise), Salimans and Ho 2022 (v), Karras et al. 2022 (edm), Lipman et al. 2023
(velocity), Su, kexue.fm 9119, 9164, 11428.
"""

import abc
from dataclasses import dataclass, field
from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import per_example, positive
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register, takes_names
from diffusion.types import Coefficients, Scalar, Time

Pair = tuple[Array | float, Array | float]


@dataclass(frozen=True)
class Prediction(abc.ABC):
    """A network output y = a x_0 + b z and its inverse, x_0 = skip x_t + out y."""

    @abc.abstractmethod
    def target(self, c: Coefficients) -> Pair:
        """Return (a, b), so that y = a x_0 + b z."""

    @abc.abstractmethod
    def recover(self, c: Coefficients) -> Pair:
        """Return (skip, out), so that x_0 = skip x_t + out y."""

    def input_scale(self, c: Coefficients) -> Array:
        """Return the factor that scales x_t to unit variance, for data of unit variance."""
        return jax.lax.rsqrt(c.alpha**2 + c.sigma**2)


@register("prediction", "data")
@final
@dataclass(frozen=True)
class Data(Prediction):
    """y = x_0."""

    def target(self, c: Coefficients) -> Pair:
        return 1.0, 0.0

    def recover(self, c: Coefficients) -> Pair:
        return 0.0, 1.0


@register("prediction", "noise")
@final
@dataclass(frozen=True)
class Noise(Prediction):
    """y = z."""

    def target(self, c: Coefficients) -> Pair:
        return 0.0, 1.0

    def recover(self, c: Coefficients) -> Pair:
        return 1 / c.alpha, -c.sigma / c.alpha


@register("prediction", "score")
@final
@dataclass(frozen=True)
class Score(Prediction):
    """y = -z / sigma, the score of p(x_t | x_0)."""

    def target(self, c: Coefficients) -> Pair:
        return 0.0, -1 / c.sigma

    def recover(self, c: Coefficients) -> Pair:
        return 1 / c.alpha, c.sigma**2 / c.alpha


@register("prediction", "v")
@final
@dataclass(frozen=True)
class V(Prediction):
    """y = alpha z - sigma x_0."""

    def target(self, c: Coefficients) -> Pair:
        return -c.sigma, c.alpha

    def recover(self, c: Coefficients) -> Pair:
        norm = c.alpha**2 + c.sigma**2
        return c.alpha / norm, -c.sigma / norm


@register("prediction", "velocity")
@final
@dataclass(frozen=True)
class Velocity(Prediction):
    """y = alpha' x_0 + sigma' z, the speed of the conditional path."""

    def target(self, c: Coefficients) -> Pair:
        return c.d_alpha, c.d_sigma

    def recover(self, c: Coefficients) -> Pair:
        wronskian = c.alpha * c.d_sigma - c.sigma * c.d_alpha  # 0 only where the SNR is stationary
        return c.d_sigma / wronskian, -c.sigma / wronskian


@register("prediction", "edm")
@final
@dataclass(frozen=True)
class EDMPrediction(Prediction):
    """The unit-variance residual of Karras et al. (2022), table 1, for any signal scale alpha.

    With n^2 = (alpha sigma_data)^2 + sigma^2: x_0 = alpha sigma_data^2 / n^2 x_t + sigma sigma_data / n y.
    On a variance-preserving process with sigma_data = 1 it is -v.
    """

    sigma_data: Scalar = 0.5

    def __post_init__(self) -> None:
        positive(sigma_data=self.sigma_data, hint="It is the standard deviation of the data.")

    def _norm(self, c: Coefficients) -> Array:
        return jnp.sqrt((c.alpha * self.sigma_data) ** 2 + c.sigma**2)

    def target(self, c: Coefficients) -> Pair:
        norm = self._norm(c)
        return c.sigma / self.sigma_data / norm, -c.alpha * self.sigma_data / norm

    def recover(self, c: Coefficients) -> Pair:
        norm = self._norm(c)
        return c.alpha * self.sigma_data**2 / norm**2, c.sigma * self.sigma_data / norm

    def input_scale(self, c: Coefficients) -> Array:
        return 1 / self._norm(c)


@register("prediction", "previous_mean")
@final
@dataclass(frozen=True, kw_only=True)
class PreviousMean(Prediction):
    """y = E[x_s | x_t, x_0], s = t - step: the mean of the previous state of a chain.

    y = keep x_t + pull x_0 with keep = alpha_t sigma_s^2 / (alpha_s sigma_t^2) and pull = alpha_s (1 -
    SNR_t / SNR_s) (Ho et al., 2020, eq. 7), which is alpha_s x_0 + keep sigma_t z. An error of y is multiplied
    by 1 / pull in the data, which is large for short steps: prefer noise or v if there is a choice.

    Args:
        step: in units of t, by default the `chain_step` of the process: 1 / T for a chain, else 0.001. Before the
            start of the definition, the previous state is the data.
    """

    step: Scalar | None = field(
        default=None, metadata={"formerly": 1e-3, "of_process": "chain_step"}
    )

    def __post_init__(self) -> None:
        positive(step=self.step, of="previous_mean", none="that of the process")

    def _posterior(self, c: Coefficients) -> tuple[Array, Array, Array]:
        """Return keep, pull and alpha_s."""
        alpha, sigma = c.before(self.step)
        keep = c.alpha * sigma**2 / (alpha * c.sigma**2)
        # 1 - SNR_t / SNR_s by log1p and expm1, since the two SNRs are nearly equal
        log_share = jnp.log1p((c.alpha - alpha) / alpha) + jnp.log1p((sigma - c.sigma) / c.sigma)
        return keep, -alpha * jnp.expm1(2 * log_share), alpha

    def target(self, c: Coefficients) -> Pair:
        keep, _, alpha = self._posterior(c)
        return alpha, keep * c.sigma

    def recover(self, c: Coefficients) -> Pair:
        keep, pull, _ = self._posterior(c)
        return -keep / pull, 1 / pull


@takes_names
def error_gain(process: AffineProcess, prediction: Prediction, t: Time) -> float:
    """Return the ratio of the error of x_0 at time t to the relative error of the network's output.

    The ratio is |out| sqrt(a^2 + b^2), for data and noise of unit variance: sigma / alpha for noise and score, at
    most 1 for v on a variance-preserving process, 1 for data.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        c = process.coefficients(jnp.asarray(t, float), jnp.zeros((1, 1)))
        (a, b), out = prediction.target(c), prediction.recover(c)[1]
        return float(jnp.squeeze(jnp.abs(out) * jnp.sqrt(jnp.square(a) + jnp.square(b))))


def network_inputs(
    process: AffineProcess, prediction: Prediction, c: Coefficients, x_t: Array, t: Time
) -> tuple[Array, Array]:
    """Return the inputs of a network: x_t scaled to unit variance, and the log-SNR."""
    return prediction.input_scale(c) * x_t, process.noise_conditioning(t)


def velocity_inputs(process: Process, x_t: Array, t: Time) -> tuple[Array, Array]:
    """Return input_scale(t) x_t and `noise_conditioning(t)`, the inputs of a network that predicts the velocity."""
    scale = process.input_scale(jnp.asarray(t, x_t.dtype))
    return per_example(scale, x_t) * x_t, process.noise_conditioning(t)
