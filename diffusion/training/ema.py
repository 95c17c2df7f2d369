"""Averages of the parameters during training.

Each kind defines the weight of the new parameters after an update: average <- average + weight
(params - average), where t is the number of earlier updates, each of `batch_size` images.

    constant    weight = 1 - min(decay, (1 + t) / (10 + t)): a fixed decay after a warm-up
    half_life   weight = 1 - 2^(-batch_size / h), h = min(images, ramp_up * images seen)   (EDM)
    power       weight = 1 - (1 - 1/(t + 1))^(exponent + 1): the weight of step s in the average is
                proportional to s^exponent, independent of the length of the run (EDM2, eq. 121 ff.)

References: Karras et al. 2022 (EDM), Karras et al. 2024 (EDM2).
"""

import abc
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffusion.numerics import at_least, in_interval, one_of, positive
from diffusion.types import Params, Scalar

Count = Int[Array, ""] | int


@dataclass(frozen=True, kw_only=True)
class Average(abc.ABC):
    """A kind of average."""

    @abc.abstractmethod
    def weight(self, count: Count, batch_size: int) -> Float[Array, ""]:
        """Return the weight of the new parameters.

        Args:
            count: number of earlier updates, without skipped steps.
            batch_size: images per update, over all devices.
        """


def _number(count: Count) -> Array:
    return jnp.asarray(count, jnp.result_type(float))


@dataclass(frozen=True, kw_only=True)
class ConstantDecay(Average):
    """average <- decay average + (1 - decay) params, with decay at most (1 + t) / (10 + t).

    Without the warm-up, the initial parameters, which are noise, would stay in the average for 1 / (1 - decay) steps.
    """

    decay: Scalar = 0.999
    warmup: bool = True

    def __post_init__(self):
        in_interval("[0, 1)", decay=self.decay, of="an average")

    def weight(self, count: Count, batch_size: int) -> Float[Array, ""]:
        """Return 1 - decay, or 9 / (10 + t) while that is larger."""
        t = _number(count)
        least = jnp.full_like(t, 1 - self.decay)
        return jnp.maximum(least, 9 / (10 + t)) if self.warmup else least


@dataclass(frozen=True, kw_only=True)
class HalfLife(Average):
    """An average with a half-life of `images` images, shorter at first (Karras et al., 2022).

    Attributes:
        images: the half-life.
        ramp_up: upper bound of the half-life, as a fraction of the images seen so far; 0 for no bound.
    """

    images: Scalar = 500_000
    ramp_up: Scalar = 0.05

    def __post_init__(self):
        positive(images=self.images, of="a half-life")
        at_least(0, ramp_up=self.ramp_up)

    def weight(self, count: Count, batch_size: int) -> Float[Array, ""]:
        """Return 1 - 2^(-batch_size / half-life)."""
        t = _number(count)
        half_life = jnp.full_like(t, self.images)
        if self.ramp_up:
            half_life = jnp.minimum(half_life, self.ramp_up * t * batch_size)
        # at t = 0 the half-life is 0 and the average becomes the parameters
        periods = batch_size / jnp.maximum(half_life, jnp.finfo(t.dtype).eps)
        return -jnp.expm1(-math.log(2) * periods)


@dataclass(frozen=True, kw_only=True)
class Power(Average):
    """The power-function average of EDM2, given by the relative width of its window.

    Attributes:
        std: standard deviation of the averaging window, as a fraction of the length of training.
    """

    std: Scalar = 0.10

    def __post_init__(self):
        # the exponent -> 0 limit, a uniform window: sqrt(1 / 12)
        in_interval(f"(0, {1 / math.sqrt(12)})", std=self.std, of="a power average")

    @property
    def exponent(self) -> float:
        """The gamma for which (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = std^2."""
        s = float(self.std) ** -2
        return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())

    def weight(self, count: Count, batch_size: int) -> Float[Array, ""]:
        """Return 1 - (1 - 1 / (t + 1))^(exponent + 1), computed by log1p for accuracy."""
        t = _number(count) + 1
        return -jnp.expm1((self.exponent + 1) * jnp.log1p(-1 / t))


KINDS: dict[str, type[Average]] = {
    "constant": ConstantDecay,
    "half_life": HalfLife,
    "power": Power,
}
_MAIN_FIELD = {"constant": "decay", "half_life": "images", "power": "std"}


def _parse(spec: Any) -> tuple[str, Average]:
    """Parse one entry of the config: "0.999", "half_life_500000", "power_0.1", or a mapping."""
    if isinstance(spec, Mapping):
        fields = dict(spec)
        kind = fields.pop("name", "constant")
        label = fields.pop("label", None)
    else:
        kind, _, number = str(spec).rpartition("_")
        kind, label = kind or "constant", str(spec)
        try:
            fields = {_MAIN_FIELD.get(kind, ""): float(number)}
        except ValueError:
            raise ValueError(
                f"`ema` entry {spec!r} must end in a number, as '0.999' or 'power_0.1', or be a mapping with 'name'."
            ) from None
    one_of(KINDS, ema=kind)
    try:
        average = KINDS[kind](**fields)
    except TypeError as error:
        accepted = ", ".join(KINDS[kind].__dataclass_fields__)
        raise TypeError(f"`ema` entry {kind!r}: {error}. It accepts: {accepted}, label.") from None
    main = getattr(average, _MAIN_FIELD[kind])
    return label or (f"{main:g}" if kind == "constant" else f"{kind}_{main:g}"), average


def make_ema(specs: Any) -> dict[str, Average]:
    """Build the averages of a config, keyed by name.

    Args:
        specs: one entry or several. An entry is a decay ("0.999" or 0.999), a kind and its number
            ("half_life_500000", "power_0.1"), or a mapping with "name" (constant, half_life, power),
            the fields of that kind, and optionally "label", the key to use.

    Raises:
        ValueError: an unknown kind, a number out of range, or two entries of the same name.
    """
    several = isinstance(specs, Iterable) and not isinstance(specs, str | Mapping)
    averages: dict[str, Average] = {}
    for spec in list(specs) if several else [specs]:
        name, average = _parse(spec)
        if name in averages:
            raise ValueError(f"`ema` has two averages named {name!r}; give one a 'label'.")
        averages[name] = average
    return averages


def update_ema(average: Params, params: Params, weight: Scalar) -> Params:
    """Move an average toward the parameters by this weight, in the precision of the average."""
    return jax.tree.map(lambda a, p: a + jnp.asarray(weight, a.dtype) * (p - a), average, params)
