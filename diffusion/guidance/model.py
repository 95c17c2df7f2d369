"""The denoisers of one network under several conditions, the input of guidance entries."""

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
    """Return the condition of the same structure that means "unconditional": -1 for integers, NaN for real numbers."""
    return jax.tree.map(_null, cond)


def _null(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    integer = jnp.issubdtype(leaf.dtype, jnp.integer)
    return jnp.full_like(leaf, -1 if integer else jnp.nan)  # not 0, which may be a valid condition


@dataclass(frozen=True)
class CallablePytree:
    """Base class of callables built from callables and numbers; plain functions among the fields become pytrees."""

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
    """A network's outputs with its own condition and with another, in one call on a doubled batch."""

    conditional: Any  # a NetworkDenoiser or NetworkVelocity
    reference: Cond  # of the same structure as the model's condition, such as the null condition

    def __call__(self, x_t: Data, t: Time) -> tuple[Data, Data]:
        """Return the outputs (with its own condition, with the reference condition)."""
        stack = lambda a, b: jnp.concatenate([a, b])
        cond = jax.tree.map(stack, self.conditional.cond, self.reference)
        t = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        both = self.conditional.with_cond(cond)(jnp.concatenate([x_t, x_t]), t)
        guided, reference = jnp.split(both, 2)
        return guided, reference


@dataclass(frozen=True)
class ConditionalModel:
    """The denoisers of one network under several conditions, the input of guidance entries.

    Args:
        base: a NetworkDenoiser or NetworkVelocity with its condition.
        guided: the result of earlier guidance, or None.
        given: extra inputs that are not part of the config: "classifier", "guide", "target", ...
        asked: the requested condition, for a network that was trained without conditions; a classifier
            may use it.
    """

    base: Any
    guided: Any = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    asked: Cond = None

    @property
    def conditional(self) -> Denoiser:
        """E[x_0 | x_t, cond], with earlier guidance."""
        return self.base if self.guided is None else self.guided

    @property
    def unconditional(self) -> Denoiser:
        """E[x_0 | x_t]: the network with the null condition."""
        return self.base.with_cond(null_cond(self.base.cond))

    @property
    def plain(self) -> Denoiser:
        """The network with its condition, without earlier guidance."""
        return self.base

    @property
    def process(self) -> Process:
        """The process of the network."""
        return self.base.process

    @property
    def cond(self) -> Cond:
        """The requested condition: that of the network, or `asked` if it has none."""
        return self.asked if self.base.cond is None else self.base.cond

    def both(self) -> Both:
        """Return (conditional, unconditional) as one function: one batched call, unless there was earlier guidance."""
        return self.against(null_cond(self.base.cond))

    def with_cond(self, cond: Cond) -> Denoiser:
        """Return the network with another condition, without earlier guidance."""
        return self.base.with_cond(cond)

    def against(self, cond: Cond) -> Both:
        """Return the conditional denoiser and that of another condition as one function, batched if possible.

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
