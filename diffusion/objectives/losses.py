"""Losses per example, which training minimizes.

A loss is a function of parameters, a key and a batch; it returns one number per example and a record for
logging. Averaging, masking and accumulation are left to the caller. A batch has the entries

    data    (batch, ...)   clean examples
    row     (batch,)       their indices within the global batch, on which their random draws depend
    cond    a pytree with leading axis batch, optional
    noise   (batch, ...)   the z to pair each example with, optional: a coupling (reflow, bridges)
    statistics             statistics of the losses kept by the time distribution, optional; no batch axis

The record has log_snr and, if losses are tracked, `bin` and `plain`, the loss before its correction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from diffusion.models.exact_field import exact_field
from diffusion.models.prediction import Noise, Prediction, network_inputs, velocity_inputs
from diffusion.models.variance import LearnedVariance, split_output
from diffusion.numerics import one_of, row_keys
from diffusion.numerics.shapes import shaped_like
from diffusion.objectives.time_sampling import TimeDistribution, Times
from diffusion.objectives.weighting import Weight
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import takes_names
from diffusion.types import Coefficients, Cond, Denoiser, Key, Network, Params, PerExample

Record = dict[str, Shaped[Array, " batch"]]
Loss = Callable[[Params, Key, Mapping[str, Any]], tuple[PerExample, Record]]

REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda e: e.reshape(len(e), -1).mean(axis=-1),
    "sum": lambda e: e.reshape(len(e), -1).sum(axis=-1),
}


@dataclass(frozen=True, kw_only=True)
class Demolition:
    """Drawn times, noise and noisy states of a batch."""

    x_0: Array
    z: Array
    t: Array
    x_t: Array
    times: Times

    def corrected(self, loss: PerExample, log_snr: PerExample) -> tuple[PerExample, Record]:
        """Return the loss with the correction for non-uniform times, and the record."""
        correction, bin = self.times.correction, self.times.bin
        if correction is None or bin is None:
            return loss, {"log_snr": log_snr}
        return correction * loss, {"log_snr": log_snr, "bin": bin, "plain": loss}


def demolish(
    process: Process, time: TimeDistribution, key: Key, batch: Mapping[str, Any], batch_size: int
) -> Demolition:
    """Draw t and z for each row of a batch and interpolate."""
    key_t, key_z = jax.random.split(key)
    x_0, row = batch["data"], batch["row"]
    times = time.draw_tracked(process, key_t, row, batch_size, batch.get("statistics", ()))
    t = times.t.astype(x_0.dtype)
    z = (
        batch["noise"]
        if "noise" in batch
        else process.sample_noise(row_keys(key_z, row), x_0.shape)
    )
    return Demolition(x_0=x_0, z=z, t=t, x_t=process.interpolate(x_0, z, t), times=times)


def _reduction(name: str) -> Callable[[Array], Array]:
    one_of(REDUCTIONS, reduction=name, of="losses over pixels")
    return REDUCTIONS[name]


def _factor(
    c: Coefficients, prediction: Prediction, loss_target: Prediction | None, weight: Weight
) -> PerExample:
    """Return the factor of |y - y_hat|^2: the weight for `loss_target`, converted to the network's output y."""
    out = jnp.asarray(prediction.recover(c)[1])
    if loss_target is None:
        return weight(c, out).reshape(-1)
    of_loss = jnp.asarray(loss_target.recover(c)[1])
    return (weight(c, of_loss) * (out / of_loss) ** 2).reshape(-1)


def batch_mean(process: AffineProcess, d: Demolition, cond: Cond) -> Array:
    """Return E[x_0 | x_t] with the batch as the data set, over examples with the same labels.

    Weights are a softmax of log p(x_t | x_0) over the batch. As a target it has less variance than x_0, and a
    bias that decreases with the batch size (Xu et al., 2022, the field of a batch; 2023, stable target field).

    Raises:
        TypeError: a condition is not an integer label, so that conditions cannot be compared.
    """
    log_p = exact_field(process, d.x_0, chunk=len(d.x_0)).log_posterior(d.x_t, d.t)
    for label in jax.tree.leaves(cond):
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(f"the target of a batch needs integer labels; got {label.dtype}.")
        rows = label.reshape(len(label), 1, -1)
        same = (rows == rows.swapaxes(0, 1)) | (rows == -1)
        log_p = jnp.where(same.all(axis=-1), log_p, -jnp.inf)
    return jnp.tensordot(jax.nn.softmax(log_p, axis=-1), d.x_0, axes=1)


@takes_names
def regression_loss(
    network: Network,
    process: AffineProcess,
    prediction: Prediction,
    weight: Weight,
    time: TimeDistribution,
    *,
    batch_size: int,
    reduction: str = "mean",
    loss_target: Prediction | None = None,
    variance: LearnedVariance | None = None,
    batch_target: bool = False,
) -> Loss:
    """Return the loss weight |network(x_t, log_snr, cond) - (a x_0 + b z)|^2, with the prediction's (a, b).

    Args:
        network: a pure init/apply pair, wrapped by `weight.wrap` if the weight is learned.
        process: the forward process.
        prediction: the quantity that the network outputs.
        weight: weight of the loss as a function of the noise level.
        time: distribution of the training times.
        batch_size: size of the global batch, for stratified times.
        reduction: "mean" or "sum" over the features of an example. The sum keeps the gradients of a tiny
            loss away from the smallest floats (Su, kexue.fm 9119).
        loss_target: the quantity whose error is the loss, computed from the output, if it is not the output
            itself (Su, kexue.fm 11428: data as output, velocity in the loss). Given x_t the two errors differ
            by the factor out / out', so this changes the weight only.
        variance: also learn the variance of reverse steps; the network then has twice the outputs.
        batch_target: regress the posterior mean over the batch instead of x_0; see `batch_mean`.

    Raises:
        TypeError: `variance` is set, but the process is not a `GaussianProcess`.
    """
    over_features = _reduction(reduction)
    if variance is not None:
        require_process(process, GaussianProcess, "a learned variance")

    def loss(params: Params, key: Key, batch: Mapping[str, Any]) -> tuple[PerExample, Record]:
        key_draw, key_net = jax.random.split(key)
        d = demolish(process, time, key_draw, batch, batch_size)
        c = process.coefficients(d.t, d.x_0)
        a, b = prediction.target(c)
        scaled, log_snr = network_inputs(process, prediction, c, d.x_t, d.t)
        y = network.apply(params, scaled, log_snr, batch.get("cond"), key_net)
        y, variance_output = (y, None) if variance is None else split_output(y, d.x_0)
        x_0, z = d.x_0, d.z
        if batch_target:
            x_0 = batch_mean(process, d, batch.get("cond"))
            z = (d.x_t - c.alpha * x_0) / c.sigma
        error = shaped_like(y, x_0, "the network") - (a * x_0 + b * z)
        each = _factor(c, prediction, loss_target, weight) * over_features(error**2)
        u = weight.uncertainty(params, log_snr)
        if u is not None:  # scaled per feature, so that both reductions have the same optimum
            each = jnp.exp(-u) * each + u * over_features(jnp.ones_like(error))
        if variance is not None and variance_output is not None:
            fixed = jax.lax.stop_gradient(prediction.recover(c)[1] * error)
            bound = over_features(variance.divergence(c, variance_output, fixed**2))
            each = each + variance.weight * variance.num_steps(process) * bound
        return d.corrected(each, log_snr)

    return loss


@takes_names
def flow_matching_loss(
    network: Network,
    process: Process,
    time: TimeDistribution,
    *,
    batch_size: int,
    reduction: str = "mean",
) -> Loss:
    """Return the flow-matching loss |network(x_t, level, cond) - d/dt interpolate(x_0, z, t)|^2.

    It works for every class of process; the optimum is the velocity of the generative ODE (Lipman et al., 2023; Su,
    kexue.fm 9379, 9497). The input of the network is input_scale(t) x_t.
    """
    over_features = _reduction(reduction)

    def loss(params: Params, key: Key, batch: Mapping[str, Any]) -> tuple[PerExample, Record]:
        key_draw, key_net = jax.random.split(key)
        d = demolish(process, time, key_draw, batch, batch_size)
        scaled, level = velocity_inputs(process, d.x_t, d.t)
        y = network.apply(params, scaled, level, batch.get("cond"), key_net)
        y = shaped_like(y, d.x_0, "the network")
        error = over_features((y - process.velocity(d.x_0, d.z, d.t)) ** 2)
        return d.corrected(error, level)

    return loss


@takes_names
def variance_loss(
    network: Network,
    process: GaussianProcess,
    denoise: Denoiser,
    time: TimeDistribution,
    *,
    batch_size: int,
    kind: str = "npr",
) -> Loss:
    """Return the loss of a second training stage for sbar^2(x_t), with the denoiser held fixed.

    The target is (z - z_hat)^2 for "npr", z^2 for "sn" (Bao et al., 2022b; Su, kexue.fm 9246). For an exact
    denoiser their conditional expectations given x_t differ by z_hat^2; for an inexact one only "npr" is the
    second moment about the mean that a sampler uses. `denoiser.RegressedVariance` is the resulting model.

    Args:
        network: the network to train: a pure init/apply pair, unconditional.
        process: the forward process.
        denoise: (x_t, t) -> E[x_0 | x_t], already trained.
        time: distribution of the training times.
        batch_size: size of the global batch, for stratified times.
        kind: "npr" or "sn".

    Raises:
        ValueError: the kind is unknown.
        TypeError: the noise of the process is not normal.
    """
    require_process(process, GaussianProcess, "a learned posterior variance")
    one_of(SQUARES, kind=kind)

    def loss(params: Params, key: Key, batch: Mapping[str, Any]) -> tuple[PerExample, Record]:
        key_draw, key_net = jax.random.split(key)
        d = demolish(process, time, key_draw, batch, batch_size)
        c = process.coefficients(d.t, d.x_0)
        z_hat = jax.lax.stop_gradient((d.x_t - c.alpha * denoise(d.x_t, d.t)) / c.sigma)
        scaled, log_snr = network_inputs(process, Noise(), c, d.x_t, d.t)
        y = network.apply(params, scaled, log_snr, None, key_net)
        y = shaped_like(y, d.x_0, "the network")
        error = REDUCTIONS["mean"]((y - SQUARES[kind](d.z, z_hat)) ** 2)
        return d.corrected(error, log_snr)

    return loss


SQUARES: dict[str, Callable[[Array, Array], Array]] = {
    "npr": lambda z, z_hat: (z - z_hat) ** 2,
    "sn": lambda z, z_hat: z**2,
}
