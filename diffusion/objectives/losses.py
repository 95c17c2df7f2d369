"""Losses: what training minimizes, per example.

A loss is a function of parameters, a key and a batch; it returns one number per example and a record for
logging. Averaging, masking and accumulation stay outside. A batch has the entries

    data    (batch, ...)   clean examples
    row     (batch,)       their numbers within the global batch, which their random draws depend on
    cond    a pytree with leading axis batch, optional
    noise   (batch, ...)   the z to pair each example with, optional: a coupling (reflow, bridges)
    statistics             what the distribution of times knows of the losses, optional; no batch axis

The record has log_snr, and where losses are tracked `bin` and `plain`, the loss before its correction.
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
    """A draw of times, noise and noisy states for a batch."""

    x_0: Array
    z: Array
    t: Array
    x_t: Array
    times: Times

    def corrected(self, loss: PerExample, log_snr: PerExample) -> tuple[PerExample, Record]:
        """Return the loss as it enters training, and the record."""
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
    """Return what multiplies |y - y_hat|^2: the weight of the loss's target, in units of the network's."""
    out = jnp.asarray(prediction.recover(c)[1])
    if loss_target is None:
        return weight(c, out).reshape(-1)
    of_loss = jnp.asarray(loss_target.recover(c)[1])
    return (weight(c, of_loss) * (out / of_loss) ** 2).reshape(-1)


def batch_mean(process: AffineProcess, d: Demolition, cond: Cond) -> Array:
    """Return E[x_0 | x_t] as if the batch were the whole data set; examples of other labels do not count.

    Weights are a softmax of log p(x_t | x_0) over the batch. As a target it has less variance than x_0, and a
    bias that falls with the batch size (Xu et al., 2022, the field of a batch; 2023, stable target field).

    Raises:
        TypeError: a condition is not made of labels, so that none equals another.
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
    """Regress the prediction's target: weight |network(x_t, log_snr, cond) - (a x_0 + b z)|^2.

    Args:
        network: a pure init/apply pair, wrapped by `weight.wrap` if the weight is learned.
        process: how data is demolished.
        prediction: what the network outputs.
        weight: how strongly each noise level counts.
        time: which times are drawn.
        batch_size: the size of the global batch, for stratified times.
        reduction: over the features of an example, "mean" or "sum". The sum keeps the gradients of a
            tiny loss away from the smallest floats (Su, kexue.fm 9119).
        loss_target: what the error is taken of, after the output has been turned into it, where that is
            not the output itself (Su, kexue.fm 11428: data out, velocity in the loss). Given x_t the one
            error is the other times out / out', so it is the weight that changes.
        variance: learn the variance of reverse steps as well; the network has twice the outputs.
        batch_target: regress the posterior mean over the batch in place of x_0; see `batch_mean`.

    Raises:
        TypeError: the variance is to be learned on a process that is not Gaussian.
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
        if u is not None:  # per feature, so that both reductions have the same optimum
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
    """Regress the conditional velocity: |network(x_t, level, cond) - d/dt interpolate(x_0, z, t)|^2.

    It holds for every class of process; the optimum is the velocity of the generative ODE (Lipman et al., 2023; Su,
    kexue.fm 9379, 9497). The network sees input_scale(t) x_t.
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
    """Regress the square behind sbar^2(x_t), with the denoiser held fixed: a second stage of training.

    The target is (z - z_hat)^2 for "npr", z^2 for "sn" (Bao et al., 2022b; Su, kexue.fm 9246). Their conditional
    expectations given x_t differ by z_hat^2 when the denoiser is perfect; when it is not, only "npr" is the
    second moment about the mean that a sampler uses. `denoiser.RegressedVariance` makes a model of it.

    Args:
        network: what is trained: a pure init/apply pair, unconditional.
        process: how data is demolished.
        denoise: (x_t, t) -> E[x_0 | x_t], trained before.
        time: which times are drawn.
        batch_size: the size of the global batch, for stratified times.
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
