"""Initializers of parameters, which are all drawn at once.

A network draws dozens of arrays, and each draw compiles its own random number generator: for a small U-Net
on a CPU this takes longer than compiling its training step. So an initializer puts a `Draw` into the tree of
parameters, a box with the standard deviation, and `draw_all` fills all boxes from slices of one random array.
Linen unboxes on use, so that a module also works without `draw_all`.

Numbers are normal, truncated at two standard deviations and scaled to the stated standard deviation.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from diffusion.types import Key, Params

TRUNCATED_STD = 0.87962566103423978  # standard deviation of a standard normal truncated to [-2, 2]

Initializer = Callable[..., Any]  # (key, shape, dtype) -> an array or a box of one


@struct.dataclass
class Draw(nn.meta.AxisMetadata[Array]):
    """An array of random numbers in a Linen box, with their standard deviation."""

    value: Any  # an array; JAX also rebuilds boxes with shapes and tracers
    std: float = struct.field(pytree_node=False)

    def unbox(self) -> Array:
        """Return the array."""
        return self.value

    def replace_boxed(self, val: Any) -> Any:
        """Return a box with the same standard deviation and another array."""
        return self.replace(value=val)  # pyright: ignore[reportAttributeAccessIssue]

    def add_axis(self, index: int, params: Any) -> "Draw":
        """Return the box itself: stacked layers have the standard deviation of single ones."""
        return self

    def remove_axis(self, index: int, params: Any) -> "Draw":
        """Return the box itself: single layers have the standard deviation of stacked ones."""
        return self


def unit_draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw truncated normal numbers of standard deviation one."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / TRUNCATED_STD


def normal(std: float) -> Initializer:
    """Return an initializer of this standard deviation."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Draw:
        return Draw(value=std * unit_draw(key, shape, dtype), std=std)

    return init


def fan_in(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Draw:
    """Draw a kernel that preserves the variance: std = 1 / sqrt(inputs) (LeCun et al., 1998)."""
    return normal(1 / math.sqrt(math.prod(shape[:-1])))(key, shape, dtype)


def smaller(gain: float, last: float = 1.0) -> Initializer:
    """Return the initializer `fan_in`, with the last fraction `last` of the outputs multiplied by `gain`."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        box = fan_in(key, shape, dtype)
        begins = shape[-1] - round(last * shape[-1])
        return box.value * jnp.where(jnp.arange(shape[-1]) < begins, 1.0, gain).astype(dtype)

    return init


def zeros(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Return zeros."""
    return jnp.zeros(shape, dtype)


def kernel(zero: bool = False, gain: float = 1.0, last: float = 1.0) -> Initializer:
    """Return the initializer of a kernel.

    Args:
        zero: initialize the layer as the constant 0.
        gain: factor on the standard deviation.
        last: the fraction of the outputs, from the last one back, to which the gain applies.
    """
    if zero or gain == 1.0:
        return zeros if zero else fan_in
    return smaller(gain, last)


def draw_all(key: Key, params: Params) -> Params:
    """Fill all boxes in a tree from one random array, and unbox them."""
    is_box = lambda leaf: isinstance(leaf, Draw)
    leaves, tree = jax.tree.flatten(params, is_leaf=is_box)
    boxes = [leaf for leaf in leaves if is_box(leaf)]
    if not boxes:
        return params
    dtype = jnp.result_type(*(box.value.dtype for box in boxes))
    pool = unit_draw(key, (sum(box.value.size for box in boxes),), dtype)
    start = 0
    for i, leaf in enumerate(leaves):
        if is_box(leaf):
            numbers = jax.lax.slice_in_dim(pool, start, start + leaf.value.size)
            start += leaf.value.size
            leaves[i] = (leaf.std * numbers).reshape(leaf.value.shape).astype(leaf.value.dtype)
    return jax.tree.unflatten(tree, leaves)
