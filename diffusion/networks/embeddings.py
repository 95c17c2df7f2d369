"""Embeddings of the noise level, of conditions and of positions.

The noise level enters as c = log_snr / 4, where log_snr = log(alpha^2 / sigma^2) is clipped to
[-30, 30], so that the ends of a process (sigma = 0, alpha = 0) stay finite. For alpha = 1 it is
c = -log(sigma) / 2, the c_noise of Karras et al. (2022) up to a factor.

Conditions are None or a dictionary with any of these entries; each has a null value, which means
unconditional and is equivalent to omitting the entry.

    label      int (batch,) or (batch, attributes);   null: -1, per attribute
    multi_hot  int (batch, k) of 0 and 1;             null: -1, per entry
    vector     float (batch, k);                      null: a row with NaN
    image      float (batch, *space, channels);       null: an image with NaN

So a row of zeros is a valid condition: no attribute holds, or the vector is 0. Only for images does the null
enter the network as zeros, since scaled 8-bit images never are zero everywhere.

References: Vaswani et al. 2017 (sinusoids), Tancik et al. 2020 (Fourier features), Karras et al. 2024
(their scale), Su et al. 2021 (rotary), Ho and Salimans 2022 (null token).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffusion.networks.base import LogSNR, precision, wide
from diffusion.networks.initializers import normal
from diffusion.networks.layers import dense
from diffusion.numerics import integers, multiple_of, one_of, require, shaped
from diffusion.types import Cond, DataLike

LOG_SNR_LIMIT = 30.0
CONDITIONS = ("label", "multi_hot", "vector", "image")


def noise_conditioning(
    log_snr: LogSNR, batch: int, dtype: Any = jnp.float32
) -> Float[Array, " batch"]:
    """Return c = log_snr / 4 of shape (batch,), with log_snr clipped to [-30, 30].

    Raises:
        ValueError: log_snr has neither shape () nor (batch,).
    """
    log_snr = jnp.asarray(log_snr, dtype)
    require(
        log_snr.shape in ((), (1,), (batch,)),
        f"`log_snr` must have shape () or ({batch},), as x has batch {batch}; got {log_snr.shape}.",
    )
    return jnp.broadcast_to(jnp.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT) / 4, (batch,))


def sinusoidal(c: Float[Array, " batch"], features: int) -> Float[Array, "batch features"]:
    """Return sqrt(2) (cos w c, sin w c) with geometric frequencies w.

    The lowest frequency changes the phase by three radians over the whole range of c, the highest resolves
    differences of log_snr of about 0.1.
    """
    w = np.geomspace(0.2, 32.0, features // 2)
    angles = c[:, None] * jnp.asarray(w, c.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1) * math.sqrt(2)


def fourier(c: Float[Array, " batch"], features: int) -> Float[Array, "batch features"]:
    """Return sqrt(2) cos(w c + phase) with normal frequencies and uniform phases.

    Both are drawn from a fixed seed and are not parameters. The standard deviation is pi: two pi per unit of
    log(sigma) / 4, the scale of Karras et al. (2024).
    """
    rng = np.random.default_rng(0)
    w, phase = math.pi * rng.standard_normal(features), 2 * math.pi * rng.random(features)
    angles = c[:, None] * jnp.asarray(w, c.dtype) + jnp.asarray(phase, c.dtype)
    return jnp.cos(angles) * math.sqrt(2)


NOISE_FEATURES: dict[str, Callable[[Array, int], Array]] = {
    "sinusoidal": sinusoidal,
    "fourier": fourier,
}


def noise_features(name: str, c: Float[Array, " batch"], features: int) -> Float[Array, "batch n"]:
    """Return the noise-level features of a name in `NOISE_FEATURES`.

    Raises:
        ValueError: the name is unknown, or the number of features odd.
    """
    one_of(NOISE_FEATURES, embedding=name)
    multiple_of(2, width=features, of="the embedding")
    return NOISE_FEATURES[name](c, features)


def check_cond(cond: Cond) -> dict[str, Array]:
    """Return the condition as a dictionary, which is empty for None.

    Raises:
        TypeError: `cond` is neither None nor a dictionary.
        ValueError: an entry is unknown to the networks of this package.
    """
    if cond is None:
        return {}
    if not isinstance(cond, dict):
        raise TypeError(
            f"`cond` must be None or a dictionary of {CONDITIONS}, as dict(label=labels); got {type(cond).__name__}."
        )
    for name in cond:
        one_of(CONDITIONS, entry=name, of="`cond`")
    return {k: jnp.asarray(v) for k, v in cond.items() if v is not None}


class ConditionEmbedder(nn.Module):
    """The sum of one embedding per label, multi-hot entry and vector, of shape (batch, features).

    A label with n classes has a table of n + 1 rows; the last is the null. A multi-hot entry has one
    row for 1 and one for the null. Entries for which a network was not built are ignored. A label of n or more
    is an error, or gives NaN if labels are traced; so does a multi-hot entry that is not 0, 1 or -1.
    """

    features: int
    num_classes: int | tuple[int, ...] = 0
    vector_dim: int = 0
    dtype: str = "float32"
    multi_hot_dim: int = 0

    @nn.compact
    def __call__(self, cond: Cond, batch: int) -> Float[Array, "batch features"]:
        """Embed the condition of a batch; None means that all entries are null."""
        entries = check_cond(cond)
        sizes = class_sizes(self.num_classes)
        total = jnp.zeros((batch, self.features), precision(self.dtype)["param_dtype"])
        labels = _labels(entries.get("label"), batch, sizes)
        for i, size in enumerate(sizes):
            table = nn.Embed(
                size + 1,
                self.features,
                embedding_init=normal(1.0),  # the scale of the noise-level features
                **precision(self.dtype),
                name=f"label_{i}",
            )
            total += table(jnp.where(labels[:, i] < 0, size, _beyond_is_nan(labels[:, i], size)))
        if self.multi_hot_dim:
            total += self._multi_hot(entries.get("multi_hot"), batch)
        if self.vector_dim:
            total += self._vector(entries.get("vector"), batch)
        return total

    def _multi_hot(self, values: Array | None, batch: int) -> Array:
        k, policy = self.multi_hot_dim, precision(self.dtype)
        values = check_multi_hot(values, batch, k)
        shape, dtype = (2 * k, self.features), policy["param_dtype"]
        # a sum of k rows has unit scale
        table = self.param("multi_hot", normal(1 / math.sqrt(k)), shape, dtype)
        rows = jnp.concatenate([values == 1, values < 0], axis=-1).astype(dtype)
        wrong = jnp.any((values < -1) | (values > 1), axis=-1, keepdims=True)
        return jnp.where(wrong, jnp.nan, rows @ table)

    def _vector(self, vector: Array | None, batch: int) -> Array:
        policy = precision(self.dtype)
        if vector is None:
            vector = jnp.full((batch, self.vector_dim), jnp.nan, policy["dtype"])
        shaped("cond['vector']", vector, (batch, self.vector_dim), "for `vector_dim`")
        shape, dtype = (self.features,), policy["param_dtype"]
        null = self.param("null_vector", normal(1.0), shape, dtype)
        given = ~jnp.any(jnp.isnan(vector), axis=-1, keepdims=True)
        embedded = dense(self.features, self.dtype, name="vector")(jnp.where(given, vector, 0))
        return jnp.where(given, embedded, null)


def class_sizes(num_classes: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return a tuple with one number of classes per attribute; empty for 0."""
    sizes = num_classes if isinstance(num_classes, tuple) else (num_classes,) * bool(num_classes)
    require(all(n > 0 for n in sizes), f"`num_classes` must be positive, or 0; got {num_classes}.")
    return sizes


def check_multi_hot(values: Array | None, batch: int, width: int) -> Int[Array, "batch k"]:
    """Return a checked multi-hot condition of this width; None means that all entries are null.

    Raises:
        ValueError: the shape is wrong, the dtype is not an integer, or an entry is not 0, 1 or -1.
    """
    if values is None:
        return jnp.full((batch, width), -1)
    shaped("cond['multi_hot']", values, (batch, width), "one entry per attribute")
    integers("cond['multi_hot']", values, "Real numbers are a 'vector'.")
    valid = jnp.all((values >= -1) & (values <= 1))
    require(valid, "cond['multi_hot'] must be 1 (holds), 0 (does not) or -1 (unknown).")
    return values


def _labels(label: Array | None, batch: int, sizes: tuple[int, ...]) -> Int[Array, "batch n"]:
    if label is None or not sizes:
        return jnp.full((batch, len(sizes)), -1)
    integers("cond['label']", label, "One-hot rows are a 'vector'.")
    label = label[:, None] if label.ndim == 1 else label
    shaped("cond['label']", label, (batch, len(sizes)), f"for `num_classes` = {sizes}")
    require(
        jnp.all(label < jnp.array(sizes)),
        f"cond['label'] must lie below `num_classes` = {sizes}, with -1 for unconditional.",
    )
    return label


def _beyond_is_nan(label: Array, size: int) -> Array:
    """Move labels that are too large beyond the table, where a look-up returns NaN.

    Row `size` is the null; without this, a label equal to `size` would silently train it.
    """
    return jnp.where(label >= size, label + 1, label)


class Embedder(nn.Module):
    """Joint embedding of noise level and condition, after the last nonlinearity: (batch, features)."""

    features: int
    kind: str = "sinusoidal"
    num_classes: int | tuple[int, ...] = 0
    vector_dim: int = 0
    dtype: str = "float32"
    multi_hot_dim: int = 0

    @nn.compact
    def __call__(self, log_snr: LogSNR, cond: Cond, batch: int) -> Float[Array, "batch features"]:
        """Embed in at least float32, which is cheap and keeps the precision of the noise level."""
        dtype = wide(self.dtype)
        c = noise_conditioning(log_snr, batch, precision(dtype)["dtype"])
        h = noise_features(self.kind, c, self.features)
        h = nn.silu(dense(self.features, dtype, name="noise_in")(h))
        h = dense(self.features, dtype, name="noise_out")(h)
        embed = ConditionEmbedder(
            self.features,
            self.num_classes,
            self.vector_dim,
            dtype,
            self.multi_hot_dim,
            name="condition",
        )
        return nn.silu(h + embed(cond, batch))


def concat_image(
    x: DataLike, cond: Cond, image_channels: int
) -> Float[Array, "batch *space channels"]:
    """Append the conditioning image to the channels of x; zeros where it is null.

    Raises:
        ValueError: the spatial shape of the image differs from that of x.
    """
    x = jnp.asarray(x)
    image = check_cond(cond).get("image")
    if not image_channels:
        return x
    shape = (*x.shape[:-1], image_channels)
    image = jnp.zeros(shape, x.dtype) if image is None else image
    shaped("cond['image']", image, shape, f"for `image_channels` = {image_channels}")
    absent = jnp.isnan(image).any(axis=range(1, image.ndim), keepdims=True)
    return jnp.concatenate([x, jnp.where(absent, 0, image).astype(x.dtype)], axis=-1)
