"""Denoisers and velocities from networks; training and sampling share this code for the network's input.

The network receives x_t scaled to unit variance and the log-SNR, never t, so its weights can be used with
other processes. The results are callable pytrees: parameters and conditions are leaves, so a compiled
sampler is reused for new parameters, conditions and keys.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.models.prediction import Noise, Prediction, network_inputs, velocity_inputs
from diffusion.models.variance import split_output
from diffusion.numerics.shapes import shaped_like
from diffusion.processes import AffineProcess, Process
from diffusion.registry import takes_names
from diffusion.types import Cond, Data, Network, Params, Time, Velocity


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class NetworkDenoiser:
    """E[x_0 | x_t, cond] = skip x_t + out network(scale x_t, log_snr, cond)."""

    params: Params
    cond: Cond = None
    network: Network = dataclasses.field(metadata={"static": True})
    process: AffineProcess = dataclasses.field(metadata={"static": True})
    prediction: Prediction = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the posterior mean of the data, shaped like x_t."""
        return self._solve(x_t, t, self._output(x_t, t))

    def _output(self, x_t: Array, t: Time) -> Array:
        c = self.process.coefficients(t, x_t)
        inputs = network_inputs(self.process, self.prediction, c, x_t, t)
        return self.network.apply(self.params, *inputs, self.cond).astype(x_t.dtype)

    def _solve(self, x_t: Array, t: Time, y: Array) -> Array:
        skip, out = self.prediction.recover(self.process.coefficients(t, x_t))
        return skip * x_t + out * shaped_like(y, x_t, "the network")

    def with_cond(self, cond: Cond) -> "NetworkDenoiser":
        """Return this denoiser with another condition."""
        return dataclasses.replace(self, cond=cond)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class VarianceDenoiser(NetworkDenoiser):
    """A `NetworkDenoiser` whose network has twice the outputs; the second half is a learned variance."""

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the posterior mean of the data, shaped like x_t."""
        return self.mean_and_variance_output(x_t, t)[0]

    def mean_and_variance_output(self, x_t: Data, t: Time) -> tuple[Data, Data]:
        """Return the posterior mean and v, which interpolates the log variance between its two bounds."""
        y, variance_output = split_output(self._output(x_t, t), x_t)
        return self._solve(x_t, t, y), variance_output


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RegressedVariance:
    """A denoiser with the posterior variance sbar^2(x_t) of a second network, trained by `losses.variance_loss`.

    npr   sbar^2 = sigma^2 / alpha^2 g(x_t)                 g regressed on (z - z_hat)^2
    sn    sbar^2 = sigma^2 / alpha^2 (h(x_t) - z_hat^2)      h regressed on z^2

    Both are bounded below by 0, but not above: sigma^2 / alpha^2 bounds Var[x_0 | x_t] on average over x_t, but
    between two modes it may be larger. `sn` assumes that the denoiser is exact (Bao et al., 2022b).
    """

    denoise: Any
    params: Params
    network: Network = dataclasses.field(metadata={"static": True})
    process: AffineProcess = dataclasses.field(metadata={"static": True})
    kind: str = dataclasses.field(default="npr", metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the posterior mean of the data."""
        return self.denoise(x_t, t)

    def posterior_variance(self, x_t: Data, t: Time) -> Data:
        """Return sbar^2, shaped like x_t; `sn` also evaluates the denoiser."""
        c = self.process.coefficients(t, x_t)
        inputs = network_inputs(self.process, Noise(), c, x_t, t)
        variance_output = self.network.apply(self.params, *inputs).astype(x_t.dtype)
        if self.kind == "sn":
            variance_output = (
                variance_output - ((x_t - c.alpha * self.denoise(x_t, t)) / c.sigma) ** 2
            )
        return (c.sigma / c.alpha) ** 2 * jnp.maximum(variance_output, 0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class NetworkVelocity:
    """dx_t/dt = network(input_scale(t) x_t, level, cond): the model of a plain `Process`."""

    params: Params
    cond: Cond = None
    network: Network = dataclasses.field(metadata={"static": True})
    process: Process = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the velocity, shaped like x_t."""
        y = self.network.apply(self.params, *velocity_inputs(self.process, x_t, t), self.cond)
        return shaped_like(y, x_t, "the network").astype(x_t.dtype)

    def with_cond(self, cond: Cond) -> "NetworkVelocity":
        """Return this velocity field with another condition."""
        return dataclasses.replace(self, cond=cond)


@takes_names
def make_denoiser(
    network: Network,
    params: Params,
    process: AffineProcess,
    prediction: Prediction,
    cond: Cond = None,
    *,
    learned_variance: bool = False,
) -> NetworkDenoiser:
    """Return the denoiser E[x_0 | x_t, cond] of a network and its parameters.

    Args:
        network: a pure init/apply pair that compares by value.
        params: its parameters, a pytree.
        process: the process of the inputs x_t; it may differ from that of training.
        prediction: the quantity that the network was trained to predict.
        cond: a pytree with leading axis batch, or None for the unconditional model.
        learned_variance: whether the network has twice the outputs, with a variance as the second half.
    """
    kind = VarianceDenoiser if learned_variance else NetworkDenoiser
    return kind(params=params, cond=cond, network=network, process=process, prediction=prediction)


@takes_names
def make_velocity(
    network: Network, params: Params, process: Process, cond: Cond = None
) -> Velocity:
    """Return the velocity dx_t/dt of a network and its parameters, for a plain `Process`."""
    return NetworkVelocity(params=params, cond=cond, network=network, process=process)
