"""Distributions of training times.

A distribution of t is defined by its quantile function, from a uniform number in (0, 1) to a time in [t_min, t_max].
`stratified` replaces independent uniform numbers by u_i = u + i / batch (mod 1), one random shift per
batch (Kingma et al., 2021), which lowers the variance of the loss for every distribution. Row i of a
batch gets a number that depends on the key and on i alone, not on the layout of devices.

A distribution may adapt to the losses: it keeps `statistics`, a pytree in the training state, draws times
accordingly with a correction 1 / p that leaves the expected loss unchanged, and updates them.
"""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.numerics import at_least, in_interval, positive, row_keys
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register
from diffusion.types import Key, Scalar


class Times(NamedTuple):
    """Drawn times and, if losses are tracked, the correction of each loss and its bin."""

    t: Float[Array, " batch"]
    correction: Float[Array, " batch"] | None = None
    bin: Int[Array, " batch"] | None = None


_CLOCK_STEPS = 1024  # number of default times that the distribution `default` interpolates


@dataclass(frozen=True, kw_only=True)
class TimeDistribution(abc.ABC):
    """A distribution of training times."""

    stratified: bool = False

    @abc.abstractmethod
    def quantile(self, process: Process, u: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Return the quantile function at u: the time below which a fraction u of the training times is."""

    def draw(
        self, process: Process, key: Key, row: Int[Array, " batch"], batch_size: int
    ) -> Float[Array, " batch"]:
        """Draw one time per row.

        Args:
            process: the process to train.
            key: one key for the whole batch.
            row: indices of these rows within the global batch.
            batch_size: size of the global batch.
        """
        return self._times(process, self._uniform(key, row, batch_size))

    def _uniform(self, key: Key, row: Array, batch_size: int) -> Array:
        if self.stratified:
            return (jax.random.uniform(key) + row / batch_size) % 1.0
        return jax.vmap(jax.random.uniform)(row_keys(key, row))

    def _times(self, process: Process, u: Array) -> Array:
        t = self.quantile(process, u)
        return jnp.clip(t, jnp.asarray(process.t_min, t.dtype), jnp.asarray(process.t_max, t.dtype))

    def statistics(self) -> Any:
        """Return the initial statistics of the losses; () if they are not tracked."""
        return ()

    def draw_tracked(
        self,
        process: Process,
        key: Key,
        row: Int[Array, " batch"],
        batch_size: int,
        statistics: Any,
    ) -> Times:
        """Draw one time per row, adapted to these statistics."""
        del statistics
        return Times(self.draw(process, key, row, batch_size))

    def update(self, statistics: Any, total: Array, count: Array) -> Any:
        """Return the statistics after a batch.

        Args:
            statistics: the statistics before the batch.
            total: sums of the squared losses in each bin, over the global batch.
            count: number of losses in each bin.
        """
        del total, count
        return statistics


@register("time", "uniform")
@final
@dataclass(frozen=True, kw_only=True)
class UniformTime(TimeDistribution):
    """t uniform on [t_min, t_max]."""

    def quantile(self, process: Process, u: Array) -> Array:
        return process.t_min + (process.t_max - process.t_min) * u


@register("time", "low_discrepancy")
@final
@dataclass(frozen=True, kw_only=True)
class LowDiscrepancyTime(TimeDistribution):
    """t uniform on [t_min, t_max], stratified over each batch (Kingma et al., 2021, appendix I.1)."""

    stratified: bool = True

    def quantile(self, process: Process, u: Array) -> Array:
        return process.t_min + (process.t_max - process.t_min) * u


@register("time", "uniform_log_snr")
@final
@dataclass(frozen=True, kw_only=True)
class UniformLogSNRTime(TimeDistribution):
    """Log-SNR uniform between its values at t_max and t_min."""

    def quantile(self, process: Process, u: Array) -> Array:
        require_process(process, AffineProcess, "the time distribution uniform_log_snr")
        assert isinstance(process, AffineProcess)
        high, low = process.log_snr(process.t_min), process.log_snr(process.t_max)
        return process.time_of_log_snr(high + (low - high) * u)


@register("time", "default", renamed_from="natural")
@final
@dataclass(frozen=True, kw_only=True)
class DefaultTime(TimeDistribution):
    """Distributed like the process's default times: uniform in log-SNR for an `AffineProcess` by default."""

    def quantile(self, process: Process, u: Array) -> Array:
        clock = jnp.asarray(process.default_times(_CLOCK_STEPS)[::-1], u.dtype)
        return jnp.interp(u, jnp.linspace(0, 1, len(clock), dtype=u.dtype), clock)


@register("time", "log_normal")
@final
@dataclass(frozen=True, kw_only=True)
class LogNormalTime(TimeDistribution):
    """log(sigma / alpha) normal with mean `mean` and standard deviation `std` (Karras et al., 2022, table 1)."""

    mean: Scalar = -1.2
    std: Scalar = 1.2

    def __post_init__(self) -> None:
        positive(std=self.std)

    def quantile(self, process: Process, u: Array) -> Array:
        require_process(process, AffineProcess, "the time distribution log_normal")
        assert isinstance(process, AffineProcess)
        log_sigma = self.mean + self.std * jax.scipy.special.ndtri(_inside(u))
        return process.time_of_log_snr(-2 * log_sigma)


@register("time", "logit_normal")
@final
@dataclass(frozen=True, kw_only=True)
class LogitNormalTime(TimeDistribution):
    """t = t_min + (t_max - t_min) sigmoid(mean + std n), n normal (Esser et al., 2024, section 3.1)."""

    mean: Scalar = 0.0
    std: Scalar = 1.0

    def __post_init__(self) -> None:
        positive(std=self.std)

    def quantile(self, process: Process, u: Array) -> Array:
        fraction = jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(_inside(u)))
        return process.t_min + (process.t_max - process.t_min) * fraction


@register("time", "importance")
@final
@dataclass(frozen=True, kw_only=True)
class ImportanceTime(TimeDistribution):
    """Times with p(t) proportional to sqrt(E[L^2]), losses divided by p(t) (Nichol and Dhariwal, 2021, eq. 18).

    The expected loss, and so its optimum, is that of `base`; the gradient has less noise. The range of `base`
    is divided into bins of equal probability, each with a running mean of its squared losses.

    Args:
        base: the distribution whose expected loss is preserved, a time distribution or its name; its field
            `stratified` is ignored.
        num_bins: number of bins.
        decay: decay of the running means, per example in the bin.
        warmup: number of examples that every bin must receive before the bins' probabilities differ.
        floor: fraction of the draws that follow `base`, so that every bin keeps receiving examples.
    """

    base: TimeDistribution = dataclasses.field(default=UniformTime(), metadata={"kind": "time"})
    num_bins: int = 100
    decay: Scalar = 0.99
    warmup: int = 10
    floor: Scalar = 1e-3

    def __post_init__(self) -> None:
        at_least(1, num_bins=self.num_bins)
        in_interval("[0, 1)", decay=self.decay)
        at_least(1, warmup=self.warmup)
        in_interval("(0, 1]", floor=self.floor)

    def quantile(self, process: Process, u: Array) -> Array:
        return self.base.quantile(process, u)

    def statistics(self) -> dict[str, Array]:
        return {"moment": jnp.zeros(self.num_bins), "seen": jnp.zeros(self.num_bins)}

    def shares(self, statistics: Mapping[str, Array]) -> Float[Array, " bins"]:
        """Return the probability of each bin."""
        even = jnp.full_like(statistics["moment"], 1 / self.num_bins)
        rms = jnp.sqrt(statistics["moment"])
        total = rms.sum()
        ready = (statistics["seen"] >= self.warmup).all() & (total > 0)
        p = (1 - self.floor) * rms / jnp.where(ready, total, 1) + self.floor * even
        return jnp.where(ready, p, even)

    def draw_tracked(
        self,
        process: Process,
        key: Key,
        row: Int[Array, " batch"],
        batch_size: int,
        statistics: Any,
    ) -> Times:
        u = self._uniform(key, row, batch_size)
        p = self.shares(statistics if statistics else self.statistics()).astype(u.dtype)
        edges = jnp.concatenate([jnp.zeros(1, u.dtype), jnp.cumsum(p)])
        bin = jnp.clip(jnp.searchsorted(edges, u, side="right") - 1, 0, self.num_bins - 1)
        within = jnp.clip((u - edges[bin]) / p[bin], 0, 1)
        t = self._times(process, (bin + within) / self.num_bins)
        return Times(t, 1 / (self.num_bins * p[bin]), bin)

    def update(self, statistics: Any, total: Array, count: Array) -> dict[str, Array]:
        moment, seen = statistics["moment"], statistics["seen"]
        total, count = total.astype(moment.dtype), count.astype(moment.dtype)
        # an arithmetic mean at first, then an exponential one
        fraction = jnp.maximum(1 - self.decay**count, count / jnp.maximum(seen + count, 1))
        moved = moment + fraction * (total / jnp.maximum(count, 1) - moment)
        return {"moment": moved, "seen": jnp.minimum(seen + count, 1e6)}


def _inside(u: Array) -> Array:
    """Clip u away from 0 and 1, where the normal quantile is infinite."""
    tiny = jnp.finfo(u.dtype).eps / 2
    return jnp.clip(u, tiny, 1 - tiny)
