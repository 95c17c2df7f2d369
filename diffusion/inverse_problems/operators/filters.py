"""Operators of images that lose detail or color: average pooling, blur, gray."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.inverse_problems.operators.base import Operator, Shape, as_array, require_image
from diffusion.numerics import at_least, multiple_of, one_of, positive, require
from diffusion.registry import register
from diffusion.types import Data

BORDERS = ("circular", "zero")
LOST = 1e-6  # frequencies whose factor is below this fraction of the largest count as lost


def _static(default: Any) -> Any:
    """Return a static field: it determines shapes, so it cannot be a leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


@register("operator", "superres")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Superres(Operator):
    """A x = means over blocks of factor x factor pixels; A^+ y repeats each pixel."""

    has_pinv: ClassVar[bool] = True

    factor: int = _static(2)

    def __post_init__(self) -> None:
        at_least(1, factor=self.factor)

    def forward(self, x: Data) -> Array:
        self.check(x.shape[1:])
        batch, height, width, channels = x.shape
        s = self.factor
        return x.reshape(batch, height // s, s, width // s, s, channels).mean(axis=(2, 4))

    def gram(self, shape: Shape) -> float:
        del shape
        return 1.0 / self.factor**2

    def check(self, shape: Shape) -> None:
        require_image(self, shape)
        multiple_of(self.factor, height=shape[0], width=shape[1], hint="`factor` divides both.")


@register("operator", "colorize")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Colorize(Operator):
    """A x = mean over the channels, to be colorized; A^+ y copies the gray values to all channels."""

    has_pinv: ClassVar[bool] = True

    def forward(self, x: Data) -> Array:
        return x.mean(axis=-1, keepdims=True)

    def gram(self, shape: Shape) -> float:
        return 1.0 / shape[-1]

    def check(self, shape: Shape) -> None:
        require_image(self, shape)


@register("operator", "blur")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Blur(Operator):
    """A x = kernel * x, a convolution of each channel with a Gaussian or a given kernel.

    Args:
        width: standard deviation of the Gaussian in pixels; it is truncated at three of them, and sums to 1.
        border: padding of the image: "circular" or "zero" (gray, for data in [-1, 1]). Only "circular" has a
            pseudo-inverse, computed in the frequency domain.
        kernel: (height, width) of odd sizes, instead of the Gaussian.
    """

    width: float = _static(1.0)
    border: str = _static("circular")
    kernel: Any = None

    def __post_init__(self) -> None:
        positive(width=self.width, of="blur")
        one_of(BORDERS, border=self.border, of="blur")
        object.__setattr__(self, "kernel", as_array(self.kernel))
        if isinstance(self.kernel, np.ndarray):
            require(
                self.kernel.ndim == 2 and all(n % 2 for n in self.kernel.shape),
                f"`kernel` of blur must be (height, width), both odd; got shape {self.kernel.shape}.",
            )

    @property
    def has_pinv(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether A^+ is known."""
        return self.border == "circular"

    def _kernel(self) -> Any:
        if self.kernel is not None:
            return self.kernel
        offsets = np.arange(-int(np.ceil(3 * self.width)), int(np.ceil(3 * self.width)) + 1)
        line = np.exp(-0.5 * (offsets / self.width) ** 2)
        line /= line.sum()
        return line[:, None] * line

    def forward(self, x: Data) -> Array:
        self.check(x.shape[1:])
        kernel = jnp.asarray(self._kernel(), x.dtype)
        (height, width), channels = kernel.shape, x.shape[-1]
        up, left = height // 2, width // 2
        mode = {"circular": "wrap", "zero": "constant"}[self.border]
        padded = jnp.pad(x, ((0, 0), (up, up), (left, left), (0, 0)), mode=mode)
        flipped = kernel[::-1, ::-1, None, None]  # XLA's convolution is a correlation
        return jax.lax.conv_general_dilated(
            padded, jnp.tile(flipped, (1, 1, 1, channels)), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels,
            precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip

    def pinv(self, y: Data, shape: Shape) -> Array:
        """Return A^+ y by division in the frequency domain, without the lost frequencies."""
        if not self.has_pinv:
            return super().pinv(y, shape)
        point = jnp.zeros((1, *shape[:2], 1), y.dtype).at[0, 0, 0, 0].set(1)
        response = jnp.fft.rfft2(self.forward(point), axes=(1, 2))
        size = jnp.abs(response)
        kept = size > LOST * size.max()
        inverse = jnp.where(kept, 1 / jnp.where(kept, response, 1), 0)
        found = jnp.fft.irfft2(jnp.fft.rfft2(y, axes=(1, 2)) * inverse, shape[:2], axes=(1, 2))
        return found.astype(y.dtype)

    def check(self, shape: Shape) -> None:
        require_image(self, shape)
        reach = max(n // 2 for n in np.shape(self._kernel()))
        require(
            reach <= min(shape[:2]),
            f"the kernel of blur reaches {reach}, beyond {shape[0]} x {shape[1]}; lower `width` or shrink `kernel`.",
        )
