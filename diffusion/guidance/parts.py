"""Partial guidance: in an interval of noise levels, or on some channels. Both wrap another entry, `inner`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidance
from diffusion.guidance.extrapolation import ClassifierFree
from diffusion.guidance.model import CallablePytree, ConditionalModel
from diffusion.guidance.scales import as_scale
from diffusion.numerics import one_of, ordered, per_example, require
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Denoiser, Scalar, Time

NEUTRAL = ClassifierFree(scale=1.0)
CLOCKS = ("log_snr", "t")


@dataclass(frozen=True, kw_only=True)
class Wrapper(Guidance):
    """Base class of entries that wrap another entry, `inner`, and have its requirements."""

    neutral: ClassVar[Mapping[str, Any]] = {"inner": NEUTRAL}

    inner: Any = dataclasses.field(default=ClassifierFree(), metadata={"kind": "guidance"})

    @property
    def needs_cond(self) -> bool:
        """Whether the inner entry compares conditions."""
        return getattr(self.inner, "needs_cond", False)

    @property
    def needs_null(self) -> bool:
        """Whether the inner entry needs a network that was also trained without conditions."""
        return getattr(self.inner, "needs_null", False)

    def check_process(self, process: Process) -> None:
        super().check_process(process)
        if isinstance(self.inner, Guidance):
            self.inner.check_process(process)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if isinstance(self.inner, Guidance):
            self.inner.check_shape(shape)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.inner.output_shape(shape) if isinstance(self.inner, Guidance) else shape


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnInterval(CallablePytree):
    """The guided denoiser where low <= clock(t) <= high, else the plain one; only one of them is evaluated."""

    guided: Denoiser
    plain: Denoiser
    low: Any
    high: Any
    process: Process = dataclasses.field(metadata={"static": True})
    by: str = dataclasses.field(default="log_snr", metadata={"static": True})

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the posterior mean; if there is one t per example, both denoisers are evaluated."""
        guided = lambda x, t: self.guided(x, t).astype(x_t.dtype)
        plain = lambda x, t: self.plain(x, t).astype(x_t.dtype)
        level = jnp.asarray(t if self.by == "t" else self._log_snr(t))
        inside = (level >= self.low) & (level <= self.high)
        if jnp.ndim(t):
            choose = per_example(inside, x_t) != 0
            return jnp.where(choose, guided(x_t, t), plain(x_t, t))
        return jax.lax.cond(inside, guided, plain, x_t, jnp.asarray(t))

    def _log_snr(self, t: Time) -> Array:
        return self.process.noise_conditioning(t)


@takes_names
def on_interval(
    process: Process,
    guided: Denoiser,
    plain: Denoiser,
    low: Scalar,
    high: Scalar,
    by: str = "log_snr",
) -> Denoiser:
    """Guide only where low <= log-SNR <= high, or t with by="t" (Kynkaanniemi et al., 2024).

    Args:
        process: the process that defines the log-SNR of t; for by="t" any process.
        guided: used inside the interval.
        plain: used outside, where the guided denoiser is not evaluated.
        low: the lower bound, which for log-SNR is the noisier one.
        high: the upper bound.
        by: "log_snr" or "t".
    """
    _check_clock(by, low, high)
    if by == "log_snr":
        require_process(process, AffineProcess, "an interval of log-SNR")
    return OnInterval(guided, plain, as_scale(low), as_scale(high), process, by)


def _check_clock(by: str, low: Scalar, high: Scalar) -> None:
    one_of(CLOCKS, by=by)
    ordered(low=low, high=high, hint=f"Both are {by}: noise has the lower log-SNR, the higher t.")


@register("guidance", "interval")
@final
@dataclass(frozen=True, kw_only=True)
class Interval(Wrapper):
    """`inner` where low <= log-SNR <= high (or t, with by="t"), no guidance and no cost elsewhere.

    Kynkaanniemi et al., 2024. The default is their interval of sigma / alpha from 0.28 to 2.9.
    """

    low: Scalar = -2.13
    high: Scalar = 2.55
    by: str = "log_snr"

    def __post_init__(self) -> None:
        _check_clock(self.by, self.low, self.high)

    @property
    def requires(self) -> type[Process]:
        """The class of process that defines the variable `by`."""
        return AffineProcess if self.by == "log_snr" else Process

    def guide(self, model: ConditionalModel) -> Denoiser:
        guided, plain = self.inner(model), model.conditional
        if guided is plain:
            return plain
        return on_interval(model.process, guided, plain, self.low, self.high, self.by)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Masked(CallablePytree):
    """The guided posterior mean where the mask is true, the plain one elsewhere.

    Args:
        guided: used where the mask is true.
        plain: used elsewhere.
        mask: booleans that broadcast against x_t: (channels,), (height, width, 1), (batch, ...).
    """

    guided: Denoiser
    plain: Denoiser
    mask: Any

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the posterior mean."""
        mask = jnp.asarray(self.mask, bool)
        return jnp.where(mask, self.guided(x_t, t), self.plain(x_t, t))


masked = Masked


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnChannels(CallablePytree):
    """The guided denoiser on some channels (the last axis), the plain one on the others."""

    guided: Denoiser
    plain: Denoiser
    channels: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the posterior mean."""
        check_channels(self.channels, x_t.shape[-1])
        mask = jnp.zeros(x_t.shape[-1], bool).at[jnp.array(self.channels, int)].set(True)
        return Masked(self.guided, self.plain, mask)(x_t, t)


def check_channels(channels: tuple[int, ...], count: int) -> None:
    """Raise ValueError for a channel that does not exist."""
    bad = [c for c in channels if not -count <= c < count]
    require(not bad, f"`channels` must lie in 0 ... {count - 1}; got {bad[:1]}.")


@register("guidance", "channels")
@final
@dataclass(frozen=True, kw_only=True)
class Channels(Wrapper):
    """`inner` on some channels of the last axis; the posterior mean of the other channels is unchanged."""

    channels: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        require(
            all(isinstance(c, int) for c in self.channels),
            f"`channels` must be whole numbers; got {self.channels}.",
        )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_channels(self.channels, shape[-1])

    def guide(self, model: ConditionalModel) -> Denoiser:
        return OnChannels(self.inner(model), model.conditional, self.channels)
