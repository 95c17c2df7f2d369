"""Definition of valid arrays of examples, for training and for evaluation.

    (n, d)                        points
    (n, length, channels)         signals, much longer than they have channels
    (n, height, width)            gray images: uint8, or square floats
    (n, height, width, channels)  images, channels last; latents if `kind` says so

uint8 arrays are images, from black at 0 to white at 255. Float images are black at -1 and white at 1. An ambiguous
array is refused, with a message that says how to resolve the ambiguity.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS = {"points": (1,), "signal": (2,), "image": (2, 3), "latent": (3,)}  # axes of one example
# largest number of channels in front; least ratio of the length of a signal to its channels
_MANY = 4


class ArrayError(ValueError):
    """An array is not a valid array of examples; the message gives the reason and a remedy."""


def kind_of(where: str, shape: Sequence[int], dtype: Any, kind: str | None = None) -> str:
    """Return the kind of the examples of an array.

    Args:
        where: name of the array in messages.
        shape: shape of one example.
        dtype: dtype of the array.
        kind: one of `KINDS`, if it is known.

    Raises:
        ArrayError: the array is not valid, or ambiguous.
    """
    shape = tuple(shape)
    kind = require_kind(where, shape, dtype, kind or _kind_by_shape(where, shape, dtype))
    if len(shape) == 3 and shape[0] <= _MANY < min(shape[1:]):
        raise ArrayError(
            f"{where} seems to have its channels first, {shape}. Put them last: np.moveaxis(data, 1, -1)."
        )
    return kind


def kind_by_axes(where: str, shape: Sequence[int], dtype: Any) -> str:
    """Return the kind by the rules of older runs: the number of axes decides, and uint8 arrays are images."""
    shape = tuple(shape)
    return require_kind(where, shape, dtype, _by_axes(shape, dtype))


def _by_axes(shape: tuple[int, ...], dtype: Any) -> str:
    if np.dtype(dtype) == np.uint8:
        return "image"
    return {1: "points", 2: "signal"}.get(len(shape), "image")


def require_kind(where: str, shape: tuple[int, ...], dtype: Any, kind: str) -> str:
    """Return the kind if it is possible for an array; see `kind_of`."""
    levels = np.dtype(dtype) == np.uint8
    if not levels and not np.issubdtype(dtype, np.floating):
        raise ArrayError(f"{where} is made of {dtype}; uint8 or floats are needed.")
    if kind not in KINDS:
        raise ArrayError(f"`kind` must be one of {', '.join(KINDS)}; got {kind!r}.")
    if levels and (kind != "image" or len(shape) not in KINDS[kind] or 0 in shape):
        raise ArrayError(
            f"{where} is uint8: images of 2 axes, or 3 with the channels last; got kind {kind}, shape {shape}."
        )
    if len(shape) not in KINDS[kind] or 0 in shape:
        axes = " or ".join(map(str, KINDS[kind]))
        raise ArrayError(f"{where} must have {axes} axes for kind {kind}; got examples of {shape}.")
    return kind


def _kind_by_shape(where: str, shape: tuple[int, ...], dtype: Any) -> str:
    """Return the kind inferred from the shape; only floats with two axes are ambiguous."""
    if len(shape) != 2 or np.dtype(dtype) == np.uint8 or not np.issubdtype(dtype, np.floating):
        return _by_axes(shape, dtype)
    if shape[0] == shape[1] > 1:
        return "image"
    if shape[0] >= _MANY * shape[1]:
        return "signal"
    raise ArrayError(
        f"{where} has float examples of shape {shape}: give kind='signal', (length, channels), or kind='image', gray."
    )


def with_channel(shape: Sequence[int], kind: str) -> tuple[int, ...]:
    """Return the shape of one example, with a channel axis added for a gray image."""
    return (*shape, 1) if kind == "image" and len(shape) == 2 else tuple(shape)


def looks_like_unit(low: float, high: float) -> bool:
    """Return whether values from `low` to `high` look like images in [0, 1], with none darker than middle gray."""
    return high > low >= 0


def check_range(where: str, low: float, high: float, farthest: float = 1.0, hint: str = "") -> None:
    """Raise ArrayError unless floats from `low` to `high` are images in [-1, 1].

    Args:
        where: name of the array in messages.
        low: smallest value.
        high: largest value.
        farthest: largest allowed absolute value.
        hint: further remedy for the message.
    """
    if max(-low, high) <= farthest and not looks_like_unit(low, high):
        return
    unit = ", and none is darker than middle gray" if looks_like_unit(low, high) else ""
    raise ArrayError(
        f"float images must lie in [-1, 1], with black at -1; {where} reaches from {low:.3g} to {high:.3g}{unit}. "
        f"Scale [0, 1] by 2 x - 1, or store 8-bit levels as uint8{hint}."
    )


def scaled(where: str, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return floats from `low` ... `high` as float32 in [-1, 1].

    Raises:
        ArrayError: there are values outside this range.
    """
    if not low < high:
        raise ArrayError(f"`range` goes from black to white, as (0, 1); got ({low:g}, {high:g}).")
    least, most = float(values.min()), float(values.max())
    if least < low or most > high:
        raise ArrayError(f"range=({low:g}, {high:g}), but {where} spans {least:.3g} to {most:.3g}.")
    x = values.astype(np.float32)
    x -= low
    x *= 2 / (high - low)
    x -= 1
    return np.clip(x, -1, 1, out=x)
