"""Operators that keep some numbers and hide the others: A = diag(mask), zero where hidden.

A measurement has the shape of the data; its values at hidden positions are never used.
"""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.inverse_problems.operators.base import Operator, Shape, as_array, require_image
from diffusion.numerics import at_least, in_interval, require
from diffusion.registry import register
from diffusion.types import Data


@register("operator", "identity")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Identity(Operator):
    """A x = x, for denoising: nothing is hidden."""

    has_pinv: ClassVar[bool] = True

    def forward(self, x: Data) -> Array:
        return x

    def adjoint(self, y: Data, shape: Shape) -> Array:
        del shape
        return y

    def gram(self, shape: Shape) -> float:
        del shape
        return 1.0


class _Diagonal(Operator):
    """A x = x at known positions, 0 elsewhere."""

    has_pinv: ClassVar[bool] = True

    @abc.abstractmethod
    def known(self, shape: Shape) -> Any:
        """Return the mask of known positions for examples of this shape: bool, broadcastable to the shape."""

    def forward(self, x: Data) -> Array:
        # `where` instead of a product, so that a hidden NaN stays hidden
        return jnp.where(self.known(x.shape[1:]), x, jnp.zeros((), x.dtype))

    def adjoint(self, y: Data, shape: Shape) -> Array:
        del shape
        return self.forward(y)

    def gram(self, shape: Shape) -> float:
        del shape
        return 1.0

    def restrict(self, y: Data) -> Array:
        return self.forward(y)


@register("operator", "mask")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Mask(_Diagonal):
    """A x = values x, with values of 1 (known) and 0 (hidden), broadcastable to the data.

    Args:
        values: numbers or booleans of a shape such as (height, width, 1), or nested tuples from a config.
    """

    values: Any = 1.0

    def __post_init__(self) -> None:
        values = as_array(self.values)
        object.__setattr__(self, "values", values)
        if isinstance(values, np.ndarray | float | int):
            require(
                np.isin(np.asarray(values), (0, 1)).all(),
                "`values` of mask must be 0 (hidden) or 1 (known); got numbers between or beyond.",
            )

    def known(self, shape: Shape) -> Array:
        self.check(shape)
        return jnp.asarray(self.values) > 0

    def check(self, shape: Shape) -> None:
        given = np.shape(self.values)
        try:
            fits = np.broadcast_shapes(given, shape) == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            wanted = f"{shape} or {(*shape[:-1], 1)}" if len(shape) == 3 else f"{shape}"
            raise ValueError(f"the mask has shape {given}; examples of this data need {wanted}.")

    @classmethod
    def example(cls) -> tuple["Mask", Shape]:
        rows = np.arange(8)
        return cls(values=((rows[:, None] + rows) % 3 > 0)[..., None]), (8, 8, 3)


@register("operator", "box_mask")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class BoxMask(_Diagonal):
    """Hide the rows top ... bottom - 1 of the columns left ... right - 1, or all but these.

    Args:
        box: (top, left, bottom, right) in pixels.
        keep: whether to show the box and hide everything outside it.
    """

    box: tuple[int, ...] = dataclasses.field(default=(2, 2, 6, 6), metadata={"static": True})
    keep: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        whole = len(self.box) == 4 and all(float(c).is_integer() for c in self.box)
        require(
            whole and 0 <= self.box[0] < self.box[2] and 0 <= self.box[1] < self.box[3],
            f"`box` is (top, left, bottom, right) in whole pixels, top < bottom and left < right; got {self.box}.",
        )

    def known(self, shape: Shape) -> np.ndarray:
        self.check(shape)
        top, left, bottom, right = (int(c) for c in self.box)
        inside = np.zeros((*shape[:2], 1), bool)
        inside[top:bottom, left:right] = True
        return inside if self.keep else ~inside

    def check(self, shape: Shape) -> None:
        require_image(self, shape)
        require(
            self.box[2] <= shape[0] and self.box[3] <= shape[1],
            f"`box` {self.box} reaches beyond images of {shape[0]} x {shape[1]} pixels.",
        )


@register("operator", "random_mask")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class RandomMask(_Diagonal):
    """Hide a fraction of the pixels, drawn from a seed; all channels of a pixel are hidden together.

    For data without channels, the last axis is masked like the others. round(fraction * count) pixels are hidden.
    """

    fraction: float = dataclasses.field(
        default=0.5, metadata={"static": True, "renamed_from": "share"}
    )
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    def __post_init__(self) -> None:
        in_interval("[0, 1)", fraction=self.fraction, of="random_mask")
        at_least(0, seed=self.seed)

    def known(self, shape: Shape) -> np.ndarray:
        places = (*shape[:-1], 1) if len(shape) == 3 else shape
        count = int(np.prod(places))
        known = np.ones(count, bool)
        order = np.random.default_rng(self.seed).permutation(count)
        known[order[: round(self.fraction * count)]] = False
        return known.reshape(places)
