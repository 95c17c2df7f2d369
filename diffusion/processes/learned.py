"""Learned schedules: the monotone network of variational diffusion models.

    gamma~(t) = w_1 t + sum_j w_3j sigmoid(w_2j w_1 t + b_j),   all w positive
    log_snr(t) = log_snr_max - (log_snr_max - log_snr_min) (gamma~(t) - gamma~(0)) / (gamma~(1) - gamma~(0))

(Kingma et al., 2021, appendix H.) A loss constructs the process from the parameters that are being trained.
Between fixed ends the likelihood bound does not depend on the schedule, only the variance of its estimate
does, so the schedule is trained to reduce this variance.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_time, at_least, is_traced, one_of, ordered
from diffusion.processes.log_snr import LogSNRSchedule
from diffusion.registry import register
from diffusion.types import Key, Scalar, Time


class ScheduleParams(NamedTuple):
    """Parameters of the monotone network; the weights w are the softplus of the stored values."""

    w_1: Any  # ()
    w_2: Any  # (num_hidden,)
    b: Any  # (num_hidden,)
    w_3: Any  # (num_hidden,)
    ends: Any = None  # (2,): log_snr_max and log_snr_min, if these are learned


def init_schedule(
    key: Key, num_hidden: int = 1024, ends: Sequence[float] | None = None
) -> ScheduleParams:
    """Draw parameters of a schedule that is close to linear, with sigmoids centered across [0, 1].

    Args:
        key: one random key.
        num_hidden: the width of the network.
        ends: initial log_snr_max and log_snr_min, to learn these as well; None keeps them fixed, as fields
            of the process.
    """
    at_least(1, num_hidden=num_hidden)
    key_steep, key_center = jax.random.split(key)
    inverse_softplus = lambda w: jnp.log(jnp.expm1(w))
    steep = jnp.exp(jax.random.uniform(key_steep, (num_hidden,), minval=1.0, maxval=3.0))
    center = jax.random.uniform(key_center, (num_hidden,))
    return ScheduleParams(
        w_1=inverse_softplus(jnp.ones(())),
        w_2=inverse_softplus(steep),
        b=-steep * center,
        w_3=inverse_softplus(jnp.full((num_hidden,), 0.2 / num_hidden)),
        ends=None if ends is None else jnp.asarray(ends, jnp.result_type(float)),
    )


def _freeze(value: Any) -> Any:
    """Return an array as nested tuples, so that the process is hashable and can be a static argument of jit."""
    return None if value is None else _tuples(np.asarray(value, np.float64).tolist())


def _thaw(value: Any, dtype: Any) -> Array:
    """Return the nested tuples of `_freeze` as an array, by NumPy: JAX would convert every number separately."""
    return jnp.asarray(np.asarray(value) if isinstance(value, tuple) else value, dtype)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=8)
def _drawn(seed: int, num_hidden: int) -> ScheduleParams:
    # without x64, so that the draws do not depend on whether it is enabled
    with jax.ensure_compile_time_eval(), jax.enable_x64(False):
        return ScheduleParams(*map(_freeze, init_schedule(jax.random.key(seed), num_hidden)))


@register("process", "learned")
@final
@dataclass(frozen=True, kw_only=True)
class LearnedSchedule(LogSNRSchedule):
    """A variance-preserving process whose log-SNR is a monotone network (Kingma et al., 2021).

    Args:
        params: from `init_schedule`. Traced parameters, inside a loss, are used unchanged; concrete ones are
            kept as nested tuples, so that the process is hashable. None draws them from `seed` and
            `num_hidden`.
        log_snr_max, log_snr_min: the log-SNR at both ends, unless the parameters contain `ends`.
    """

    t_min: Scalar = 0.0
    log_snr_max: Scalar = 13.3
    log_snr_min: Scalar = -5.0
    params: Any = None
    seed: int = 0
    num_hidden: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.params is not None:
            parts = tuple(self.params)
            one_of((4, 5), entries=len(parts), of="`params`", hint="Take those of `init_schedule`.")
            parts = parts if is_traced(parts) else map(_freeze, parts)
            object.__setattr__(self, "params", ScheduleParams(*parts))
        high, low = self._ends()
        ordered(log_snr_min=low, log_snr_max=high)

    def _params(self) -> ScheduleParams:
        return _drawn(self.seed, self.num_hidden) if self.params is None else self.params

    def _ends(self) -> tuple[Scalar, Scalar]:
        ends = None if self.params is None else self.params.ends
        return (self.log_snr_max, self.log_snr_min) if ends is None else (ends[0], ends[1])

    def _rise(self, t: Array) -> Array:
        """Return gamma~(t) - gamma~(0) without cancellation near t = 0."""
        stored = self._params()
        w_1, w_2, w_3 = (
            jax.nn.softplus(_thaw(w, t.dtype)) for w in (stored.w_1, stored.w_2, stored.w_3)
        )
        b = _thaw(stored.b, t.dtype)
        u = w_2 * (w_1 * t)[..., None]
        # sigmoid(u + b) - sigmoid(b) = sigmoid(u + b) sigmoid(-b) (1 - exp(-u))
        steps = jax.nn.sigmoid(u + b) * jax.nn.sigmoid(-b) * -jnp.expm1(-u)
        return w_1 * t + (w_3 * steps).sum(axis=-1)

    def log_snr(self, t: Time) -> Array:
        t = as_time(t)
        high, low = self._ends()
        return high - (high - low) * self._rise(t) / self._rise(jnp.ones_like(t))
