"""The denoisers of one network under several conditions: what an entry of guidance gets to work with."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_pytree
from diffusion.processes import Process
from diffusion.types import Cond, Data, Denoiser, Time

Both = Callable[[Array, Any], tuple[Array, Array]]  # (x_t, t) -> two posterior means


def null_cond(cond: Cond) -> Cond:
    """Return the condition that means "unconditional": -1 for integers, NaN for real numbers."""
    return jax.tree.map(_null, cond)


def _null(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    integer = jnp.issubdtype(leaf.dtype, jnp.integer)
    return jnp.full_like(leaf, -1 if integer else jnp.nan)  # a row of zeros may well be a condition


@dataclass(frozen=True)
class CallablePytree:
    """A callable made of callables and numbers; plain functions among its fields become pytrees themselves."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if callable(value):
                object.__setattr__(self, name, as_pytree(value))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair(CallablePytree):
    """Two denoisers called one after the other."""

    conditional: Denoiser
    unconditional: Denoiser

    def __call__(self, x_t: Array, t: Time) -> tuple[Array, Array]:
        """Return both posterior means."""
        return self.conditional(x_t, t), self.unconditional(x_t, t)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchedBoth:
    """A network's outputs under its condition and under another, in one call on a doubled batch."""

    conditional: Any  # a NetworkDenoiser or NetworkVelocity
    reference: Cond  # like the condition of the first, such as null

    def __call__(self, x_t: Data, t: Time) -> tuple[Data, Data]:
        """Return (under its condition, under the reference)."""
        stack = lambda a, b: jnp.concatenate([a, b])
        cond = jax.tree.map(stack, self.conditional.cond, self.reference)
        t = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        both = self.conditional.with_cond(cond)(jnp.concatenate([x_t, x_t]), t)
        guided, reference = jnp.split(both, 2)
        return guided, reference


@dataclass(frozen=True)
class ConditionalModel:
    """The denoisers of one network: what a guidance entry of a config gets to work with.

    Args:
        base: a NetworkDenoiser or NetworkVelocity with its condition.
        guided: what earlier guidance has made of it, if anything.
        given: what a program hands in besides the config: "classifier", "guide", "target", ...
        asked: the condition that was asked for, where the network was trained without; a classifier
            may know it.
    """

    base: Any
    guided: Any = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    asked: Cond = None

    @property
    def conditional(self) -> Denoiser:
        """E[x_0 | x_t, cond], under earlier guidance."""
        return self.base if self.guided is None else self.guided

    @property
    def unconditional(self) -> Denoiser:
        """E[x_0 | x_t]: the network under the null condition."""
        return self.base.with_cond(null_cond(self.base.cond))

    @property
    def plain(self) -> Denoiser:
        """The network under its condition, without earlier guidance."""
        return self.base

    @property
    def process(self) -> Process:
        """The process of the network."""
        return self.base.process

    @property
    def cond(self) -> Cond:
        """What was asked for: the condition of the network, if it has one."""
        return self.asked if self.base.cond is None else self.base.cond

    def both(self) -> Both:
        """Return both at once: one call of the network, unless earlier guidance has changed one of them."""
        return self.against(null_cond(self.base.cond))

    def with_cond(self, cond: Cond) -> Denoiser:
        """Return the network under another condition, without earlier guidance."""
        return self.base.with_cond(cond)

    def against(self, cond: Cond) -> Both:
        """Return the conditional denoiser and that of another condition, in one call where possible.

        Raises:
            ValueError: the network has no condition.
        """
        if self.base.cond is None:
            raise ValueError(
                "guidance compares conditions, and this model has none: train it on data with labels, or give labels."
            )
        if self.guided is None or self.guided is self.base:
            return BatchedBoth(self.base, cond)
        return Pair(self.guided, self.with_cond(cond))
