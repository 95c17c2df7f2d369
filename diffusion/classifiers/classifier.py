"""Classifiers of noisy data, log p(cond | x_t): their training loss and evaluation.

A classifier has the inputs of a denoiser of the same process: x_t at unit variance, and the log-SNR. Its
scores have one column per class, with the classes of several labels concatenated and a softmax for each
label; or one column per entry of a multi-hot condition. See `diffusion.classifiers.losses`.

Reference: Dhariwal and Nichol 2021.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.classifiers.losses import (
    ClassifierLoss,
    Scores,
    held,
    not_held,
    symmetric_divergence,
)
from diffusion.models.prediction import Noise, network_inputs, velocity_inputs
from diffusion.numerics import require, row_keys
from diffusion.objectives.losses import Loss, PerExample, Record, demolish
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.processes import AffineProcess, Process
from diffusion.types import Cond, Data, Key, Network, Params, Time


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The meaning of the columns of the scores.

    Args:
        sizes: number of classes of each label; () for a multi-hot condition.
        multi_hot: number of entries of the multi-hot condition.
        multi_label: whether each column is a binary decision, rather than part of one softmax per label.
    """

    sizes: tuple[int, ...] = ()
    multi_hot: int = 0
    multi_label: bool = False

    @property
    def count(self) -> int:
        """Number of columns."""
        return sum(self.sizes) + self.multi_hot

    def target(self, cond: Mapping[str, Any]) -> Scores:
        """Return the targets, shaped like the scores, of a condition."""
        if self.multi_hot:
            return jnp.asarray(cond["multi_hot"], jnp.float32)
        label = jnp.asarray(cond["label"])
        label = label.reshape(len(label), -1)
        columns = []
        for i, size in enumerate(self.sizes):
            known = label[:, i : i + 1] >= 0
            columns.append(jnp.where(known, jax.nn.one_hot(label[:, i], size), -1.0))
        return jnp.concatenate(columns, axis=-1)

    def split(self, scores: Scores) -> list[Float[Array, "batch _"]]:
        """Split the columns by label; those of a multi-label classifier stay together."""
        if self.multi_label:
            return [scores]
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(scores, ends, axis=-1)


def columns_of(
    loss: ClassifierLoss, num_classes: int | tuple[int, ...], multi_hot_dim: int
) -> Columns:
    """Return the columns for a loss and the conditions of the data; multi-hot has precedence if the loss supports it.

    Raises:
        ValueError: the data has no condition that the loss can learn.
    """
    sizes = num_classes if isinstance(num_classes, tuple) else (num_classes,) * bool(num_classes)
    if loss.multi_label and multi_hot_dim:
        return Columns(multi_hot=multi_hot_dim, multi_label=True)
    if not sizes and multi_hot_dim:
        raise ValueError(
            f"{type(loss).__name__} learns one label of several classes, and the data has multi-hot attributes: "
            "take classifier_loss zlpr or binary_cross_entropy."
        )
    if not sizes:
        raise ValueError("a classifier learns labels, and this data set has none.")
    return Columns(sizes=sizes, multi_label=loss.multi_label)


def classifier_inputs(process: Process, x_t: Data, t: Time) -> tuple[Array, Array]:
    """Return the inputs of a network, (scaled x_t, log-SNR), which are those of a denoiser of this process."""
    if isinstance(process, AffineProcess):
        return network_inputs(process, Noise(), process.coefficients(t, x_t), x_t, t)
    return velocity_inputs(process, x_t, t)


@dataclass(frozen=True, kw_only=True)
class AtData(TimeDistribution):
    """Always t = t_min, for a classifier of clean data."""

    def quantile(self, process: Process, u: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.full_like(u, process.t_min)


def classification_loss(
    network: Network,
    process: Process,
    time: TimeDistribution,
    loss: ClassifierLoss,
    columns: Columns,
    *,
    batch_size: int,
) -> Loss:
    """Return the loss that trains scores of x_t to predict the condition of x_0.

    Args:
        network: a pure init/apply pair with outputs (batch, columns.count).
        process: the process of the generator to be guided.
        time: distribution of the training times.
        loss: loss of scores against targets.
        columns: meaning of the columns of the scores.
        batch_size: size of the global batch, for stratified times.
    """

    def total(scores: Scores, target: Scores) -> PerExample:
        parts = zip(columns.split(scores), columns.split(target), strict=True)
        return jnp.stack([loss(s, loss.smoothed(y)) for s, y in parts]).sum(axis=0)

    def between(scores: Scores, other: Scores) -> PerExample:
        pairs = zip(columns.split(scores), columns.split(other), strict=True)
        each = [symmetric_divergence(s, o, multi_label=loss.multi_label) for s, o in pairs]
        return jnp.stack(each).sum(axis=0)

    def per_example(params: Params, key: Key, batch: Mapping) -> tuple[PerExample, Record]:
        key_draw, key_net, key_z, key_again = jax.random.split(key, 4)
        d = demolish(process, time, key_draw, batch, batch_size)
        target = columns.target(batch["cond"])
        inputs, level = classifier_inputs(process, d.x_t, d.t)
        scores = network.apply(params, inputs, level, None, key_net)
        each = total(scores, target)
        if loss.consistency:
            require("noise" not in batch, "`consistency` needs noise that is drawn, no coupling.")
            z = process.sample_noise(row_keys(key_z, batch["row"]), d.x_0.shape)
            again, _ = classifier_inputs(process, process.interpolate(d.x_0, z, d.t), d.t)
            other = network.apply(params, again, level, None, key_again)
            each = (each + total(other, target)) / 2
            each = each + loss.consistency * between(scores, other)
        return d.corrected(each, level)

    return per_example


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class NetworkClassifier:
    """log p(column holds | x_t): a network's scores as log-probabilities. Parameters are leaves.

    `clean` is for a classifier that was trained on clean data only: it ignores t and treats its input as clean data,
    so it should be applied to a predicted x_0.
    """

    params: Params
    network: Network = dataclasses.field(metadata={"static": True})
    process: Process = dataclasses.field(metadata={"static": True})
    loss: ClassifierLoss = dataclasses.field(metadata={"static": True})
    columns: Columns = dataclasses.field(metadata={"static": True})
    clean: bool = dataclasses.field(default=False, metadata={"static": True})

    def scores(self, x_t: Data, t: Time) -> Scores:
        """Return the network's output, (batch, columns)."""
        if self.clean:
            t = jnp.full(len(x_t), self.process.t_min, x_t.dtype)
            x_t = self.process.interpolate(x_t, jnp.zeros_like(x_t), t)
        y = self.network.apply(self.params, *classifier_inputs(self.process, x_t, t))
        return y.astype(x_t.dtype)

    def __call__(self, x_t: Data, t: Time) -> Scores:
        """Return log-probabilities, (batch, columns)."""
        parts = [self.loss.log_probs(s) for s in self.columns.split(self.scores(x_t, t))]
        return jnp.concatenate(parts, axis=-1)

    def log_prob(self, x_t: Data, t: Time, cond: Cond) -> PerExample:
        """Return log p(cond | x_t) with labels and entries independent given x_t; a label or entry -1 adds 0."""
        scores, target = self.scores(x_t, t), self.columns.target(cond)
        total = jnp.zeros(len(x_t), x_t.dtype)
        for s, y in zip(self.columns.split(scores), self.columns.split(target), strict=True):
            total += (held(y) * self.loss.log_probs(s)).sum(axis=-1)
            if self.loss.multi_label:  # log p(does not hold) = log p(holds) at -s, for both losses
                total += (not_held(y) * self.loss.log_probs(-s)).sum(axis=-1)
        return total
