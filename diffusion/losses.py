"""Losses: what training minimises, per example.

A loss is a function of parameters, a key and a batch; it returns one number per example and a record for
logging. Averaging, masking and accumulation stay outside. A batch has the entries

    data    (batch, ...)   clean examples
    row     (batch,)       their numbers within the global batch, which their random draws depend on
    cond    a pytree with leading axis batch, optional
    noise   (batch, ...)   the z to pair each example with, optional: a coupling (reflow, bridges)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import require, row_keys
from diffusion.prediction import Prediction, network_inputs
from diffusion.processes import AffineProcess, Process
from diffusion.registry import nearest
from diffusion.time_sampling import TimeDistribution
from diffusion.types import Key, Network, Params
from diffusion.weighting import Weight

PerExample = Float[Array, " batch"]
Loss = Callable[[Params, Key, Mapping], tuple[PerExample, dict[str, PerExample]]]

REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda e: e.reshape(len(e), -1).mean(axis=-1),
    "sum": lambda e: e.reshape(len(e), -1).sum(axis=-1),
}


@dataclass(frozen=True, kw_only=True)
class Demolition:
    """A draw of times, noise and noisy states for a batch."""

    x_0: Array
    z: Array
    t: Array
    x_t: Array


def demolish(
    process: Process, time: TimeDistribution, key: Key, batch: Mapping, batch_size: int
) -> Demolition:
    """Draw t and z for each row of a batch and interpolate."""
    key_t, key_z = jax.random.split(key)
    x_0, row = batch["data"], batch["row"]
    t = time.draw(process, key_t, row, batch_size).astype(x_0.dtype)
    z = (
        batch["noise"]
        if "noise" in batch
        else process.sample_noise(row_keys(key_z, row), x_0.shape)
    )
    return Demolition(x_0=x_0, z=z, t=t, x_t=process.interpolate(x_0, z, t))


def _reduction(name: str) -> Callable[[Array], Array]:
    require(
        name in REDUCTIONS,
        f"`reduction` over pixels must be one of {', '.join(REDUCTIONS)}; got {name!r}."
        f"{nearest(name, REDUCTIONS)}",
    )
    return REDUCTIONS[name]


def regression_loss(
    network: Network,
    process: AffineProcess,
    prediction: Prediction,
    weight: Weight,
    time: TimeDistribution,
    *,
    batch_size: int,
    reduction: str = "mean",
) -> Loss:
    """Regress the prediction's target: weight |network(x_t, log_snr, cond) - (a x_0 + b z)|^2.

    Args:
        network: a pure init/apply pair.
        process: how data is demolished.
        prediction: what the network outputs.
        weight: how strongly each noise level counts.
        time: which times are drawn.
        batch_size: the size of the global batch, for stratified times.
        reduction: over the features of an example, "mean" or "sum". The sum keeps the gradients of a
            tiny loss away from the smallest floats (Su, kexue.fm 9119).
    """
    over_features = _reduction(reduction)

    def loss(params: Params, key: Key, batch: Mapping) -> tuple[PerExample, dict[str, PerExample]]:
        key_draw, key_net = jax.random.split(key)
        d = demolish(process, time, key_draw, batch, batch_size)
        c = process.coefficients(d.t, d.x_0)
        a, b = prediction.target(c)
        scaled, log_snr = network_inputs(process, prediction, c, d.x_t, d.t)
        y = network.apply(params, scaled, log_snr, batch.get("cond"), key_net)
        factor = weight(c, jnp.asarray(prediction.recover(c)[1])).reshape(-1)
        error = over_features((y - (a * d.x_0 + b * d.z)) ** 2)
        return factor * error, {"log_snr": log_snr}

    return loss


def flow_matching_loss(
    network: Network,
    process: Process,
    time: TimeDistribution,
    *,
    batch_size: int,
    reduction: str = "mean",
) -> Loss:
    """Regress the conditional velocity: |network(x_t, level, cond) - d/dt interpolate(x_0, z, t)|^2.

    It holds on every rung; the optimum is the velocity of the generative ODE (Lipman et al., 2023; Su,
    kexue.fm 9379, 9497).
    """
    over_features = _reduction(reduction)

    def loss(params: Params, key: Key, batch: Mapping) -> tuple[PerExample, dict[str, PerExample]]:
        key_draw, key_net = jax.random.split(key)
        d = demolish(process, time, key_draw, batch, batch_size)
        level = process.noise_level(d.t)
        y = network.apply(params, d.x_t, level, batch.get("cond"), key_net)
        error = over_features((y - process.velocity(d.x_0, d.z, d.t)) ** 2)
        return error, {"log_snr": level}

    return loss
