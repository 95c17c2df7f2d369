"""Shared functions of the feature networks: convolutions, and fixed random weights."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.data import DataSpec
from diffusion.numerics import require

BLOCK = 128  # number of images computed at once


def convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
    """Convolve images (n, h, w, c) with a kernel (k, k, c, d), k odd, with zeros around them.

    Computed as one matrix product over shifted copies, whose speed does not depend on compiler settings.
    """
    k, (h, w) = kernel.shape[0], x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    shifted = [x[:, i : i + h : stride, j : j + w : stride] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def halve(x: Any) -> Any:
    """Average over 2 x 2 pixels; a last odd row or column is dropped."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def fixed_normal(label: str, shape: Sequence[int]) -> np.ndarray:
    """Return standard normal numbers that are a function of a text: Box and Muller on SHA-256 of "label/counter".

    They do not depend on the random number generator of any library version.
    """
    count = int(np.prod(shape))
    blocks = -(-count // 4)
    digests = [hashlib.sha256(f"{label}/{i}".encode()).digest() for i in range(blocks)]
    words = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54  # inside (0, 1)
    radius, angle = np.sqrt(-2 * np.log(u[:, 0])), 2 * np.pi * u[:, 1]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return both.reshape(-1)[:count].reshape(shape).astype(np.float32)


def require_images(spec: DataSpec, name: str, smallest: int = 4) -> None:
    """Raise ValueError unless the data is images of at least `smallest` x `smallest` pixels."""
    shape = tuple(spec.shape)
    require(
        spec.kind == "image" and len(shape) == 3 and min(shape[:2]) >= smallest,
        f"the features {name} are of images of at least {smallest} x {smallest}; got {spec.kind} {shape}. Use pixels.",
    )
