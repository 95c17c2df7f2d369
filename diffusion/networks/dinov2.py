"""DINOv2: a vision transformer over patches of 14 x 14 pixels, whose class token is the feature.

Blocks are h + gamma_1 attention(norm(h)), then h + gamma_2 mlp(norm(h)), with a learned gamma per
channel. Positions are stored for 37 x 37 patches (518 pixels) and interpolated for other sizes as in the
authors' code, so that 224 pixels are 16 x 16 patches. For evaluation only. Parameters have the names
of the published files, `blocks.0.attn.qkv.weight`. Reference: Oquab et al. 2024. Images are (batch,
height, width, 3), standardized by `dinov2_input`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.networks.base import precision
from diffusion.numerics import multiple_of

SIZE = 224  # image size for published distances
MEAN = (0.485, 0.456, 0.406)  # of ImageNet per channel, for levels from 0 to 1
DEVIATION = (0.229, 0.224, 0.225)
OFFSET = 0.1  # the published code adds this to the new size, in patches, before dividing
CUBIC = -0.75  # the free parameter of cubic convolution (Keys, 1981) in PyTorch; PIL has -0.5

# width, depth, heads
SIZES = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}

EXACT = jax.lax.Precision.HIGHEST  # as for Inception: rounding of features would change the metric

Tokens = Float[Array, "batch tokens features"]


class DINOv2Outputs(NamedTuple):
    """Outputs of the network, after the last normalization.

    Attributes:
        class_token: the feature of FD-DINOv2.
        patch_tokens: one token per patch, in row-major order.
    """

    class_token: Float[Array, "batch features"]
    patch_tokens: Float[Array, "batch patches features"]


def dinov2_input(
    levels: Float[Array, "batch height width 3"],
) -> Float[Array, "batch height width 3"]:
    """Standardize images with levels of 0 to 255 by the mean and standard deviation of ImageNet."""
    mean, deviation = (jnp.asarray(v, levels.dtype) for v in (MEAN, DEVIATION))
    return (levels / 255 - mean) / deviation


def _kernel(distance: np.ndarray) -> np.ndarray:
    """Return the weight of cubic convolution for a point at this distance."""
    s, a = np.abs(distance), CUBIC
    near = ((a + 2) * s - (a + 3)) * s * s + 1
    far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return np.where(s <= 1, near, np.where(s < 2, far, 0.0))


def interpolation(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that interpolates positions along one axis.

    Point i is at (i + 1/2) old / (new + 0.1) - 1/2: the published code divides by a size that is a tenth of
    a patch too large. The border is repeated beyond itself.
    """
    at = (np.arange(new) + 0.5) * old / (new + OFFSET) - 0.5
    first = np.floor(at).astype(int)
    matrix = np.zeros((new, old))
    for step in range(-1, 3):
        point = first + step
        np.add.at(matrix, (np.arange(new), np.clip(point, 0, old - 1)), _kernel(at - point))
    return matrix


def positions(
    stored: Float[Array, "1 tokens features"], rows: int, columns: int
) -> Float[Array, "1 new_tokens features"]:
    """Interpolate stored position embeddings, with the class token first, to rows x columns patches."""
    side = round((stored.shape[1] - 1) ** 0.5)
    if rows == columns == side:
        return stored
    grid = stored[0, 1:].reshape(side, side, -1)
    down, across = (jnp.asarray(interpolation(side, n), stored.dtype) for n in (rows, columns))
    grid = jnp.einsum("ij,jkc,lk->ilc", down, grid, across, precision=EXACT)
    return jnp.concatenate([stored[:, :1], grid.reshape(1, rows * columns, -1)], axis=1)


class DINOv2Block(nn.Module):
    """Attention and a two-layer perceptron with GELU, each scaled and added."""

    heads: int
    dtype: str = "float32"

    def attention(self, x: Tokens) -> Array:
        """Softmax attention of all tokens to all tokens."""
        batch, tokens, features = x.shape
        qkv = self.linear("attn.qkv", 3 * features)(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, features // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        logits = jnp.einsum("bihd,bjhd->bhij", q * q.shape[-1] ** -0.5, k, precision=EXACT)
        mixed = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(logits), v, precision=EXACT)
        return self.linear("attn.proj", features)(mixed.reshape(batch, tokens, features))

    def linear(self, name: str, features: int) -> nn.Dense:
        """Return a linear layer of this block."""
        return nn.Dense(features, precision=EXACT, **precision(self.dtype), name=name)

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Apply the block."""
        features, policy = x.shape[-1], precision(self.dtype)
        norm = lambda name: nn.LayerNorm(epsilon=1e-6, **policy, name=name)
        gamma = lambda name: self.param(
            name, nn.initializers.ones, (features,), policy["param_dtype"]
        )
        x = x + gamma("ls1.gamma") * self.attention(norm("norm1")(x))
        h = self.linear("mlp.fc1", 4 * features)(norm("norm2")(x))
        h = self.linear("mlp.fc2", features)(jax.nn.gelu(h, approximate=False))
        return x + gamma("ls2.gamma") * h


class DINOv2(nn.Module):
    """From standardized images, whose height and width are multiples of `patch`, to tokens.

    The defaults are ViT-L/14; `SIZES` has the others. ViT-g, with 40 blocks and gated perceptrons, is another
    architecture and is not included.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    grid: int = 37  # stored positions per axis
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> DINOv2Outputs:
        """Apply the network."""
        height, width = x.shape[1:3]
        multiple_of(self.patch, height=height, width=width)
        policy = precision(self.dtype)
        small, param_dtype = nn.initializers.normal(0.02), policy["param_dtype"]
        patches = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            precision=EXACT,
            **policy,
            name="patch_embed.proj",
        )(x)
        first = self.param("cls_token", small, (1, 1, self.width), param_dtype)
        stored = self.param("pos_embed", small, (1, 1 + self.grid**2, self.width), param_dtype)
        h = patches.reshape(len(x), -1, self.width)
        h = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), h], axis=1)
        h = h + positions(stored, height // self.patch, width // self.patch)
        for i in range(self.depth):
            h = DINOv2Block(self.heads, self.dtype, name=f"blocks.{i}")(h)
        h = nn.LayerNorm(epsilon=1e-6, **policy, name="norm")(h)
        return DINOv2Outputs(h[:, 0], h[:, 1:])
