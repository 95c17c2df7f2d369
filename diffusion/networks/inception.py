"""Inception v3 of the Frechet inception distance: the graph "inception-2015-12-05".

It differs from the network of the paper and of torchvision in four points: averages over 3 x 3
windows exclude the padding, the last block takes a maximum instead of an average, there are 1008 classes (the
last 8 unused), and inputs are (u - 128) / 128 for levels u of 0 to 255, resized to 299 x 299 as in
TensorFlow 1. For evaluation only: normalizations use stored statistics, and there is no dropout.
Parameters have the names of the file published for PyTorch, `Mixed_5b.branch1x1.conv.weight`.
Reference: Szegedy et al. 2016; Heusel et al. 2017 (the distance). Images are (batch, height, width,
channels).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.networks.base import precision
from diffusion.networks.resize import resize_bilinear_tf1

SIZE = 299  # height and width of the images
CLASSES = 1008
EPSILON = 1e-3  # added to the variance in normalizations
SPATIAL_CHANNELS = 7  # 17 * 17 * 7 = 2023 numbers, about as many as there are pooled ones

# By default accelerators may round the factors of products to 8 or 11 bits, which would change a distance
# between features.
EXACT = jax.lax.Precision.HIGHEST

Maps = Float[Array, "batch height width channels"]
NewMaps = Float[Array, "batch new_height new_width new_channels"]


class InceptionOutputs(NamedTuple):
    """Outputs of the network.

    Attributes:
        pool: spatial means of the last block, "pool_3": the features of FID and KID.
        spatial: the first channels of `Mixed_6d.branch1x1`, "mixed_6/conv": the features of sFID.
        logits: logits of the 1008 classes.
        logits_unbiased: the logits without the bias; the published Inception score uses these.
    """

    pool: Float[Array, "batch 2048"]
    spatial: Float[Array, "batch rows columns 7"]
    logits: Float[Array, "batch 1008"]
    logits_unbiased: Float[Array, "batch 1008"]


def inception_input(
    levels: Float[Array, "batch height width 3"],
) -> Float[Array, "batch 299 299 3"]:
    """Resize images with levels of 0 to 255 to 299 x 299, and standardize them to (u - 128) / 128."""
    return (resize_bilinear_tf1(levels, SIZE) - 128) / 128


class StoredNorm(nn.Module):
    """y = weight (x - mean) / sqrt(var + 0.001) + bias, all four stored per channel."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Normalize x."""
        stored = {
            name: self.param(name, init, (x.shape[-1],), precision(self.dtype)["param_dtype"])
            for name, init in (
                ("scale", nn.initializers.ones),
                ("bias", nn.initializers.zeros),
                ("running_mean", nn.initializers.zeros),
                ("running_var", nn.initializers.ones),
            )
        }
        scale = stored["scale"] / jnp.sqrt(stored["running_var"] + EPSILON)
        return (x - stored["running_mean"]) * scale + stored["bias"]


class ConvNorm(nn.Module):
    """A convolution without bias, its normalization, and max(x, 0).

    With `same` and stride 1 the size is kept; otherwise there is no padding.
    """

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply convolution, normalization and max(x, 0)."""
        h = nn.Conv(
            self.features,
            self.size,
            strides=self.stride,
            padding="SAME" if self.same else "VALID",
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            precision=EXACT,
            **precision(self.dtype),
            name="conv",
        )(x)
        return nn.relu(StoredNorm(self.dtype, name="bn")(h))


def _mean_of_neighbors(x: Array) -> Array:
    """Average over 3 x 3 windows, at the border over the pixels inside the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _halve(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class Block(nn.Module):
    """Base class of blocks of parallel branches, whose channels are concatenated."""

    dtype: str = "float32"

    def conv(
        self, name: str, features: int, height: int = 1, width: int = 1, *, halve: bool = False
    ) -> ConvNorm:
        """Return a layer of this block; `halve` means stride 2 without padding."""
        return ConvNorm(
            features,
            (height, width),
            stride=2 if halve else 1,
            same=not halve,
            dtype=self.dtype,
            name=name,
        )


class BlockA(Block):
    """35 x 35: branches of 1 x 1, 5 x 5, two 3 x 3, and a mean."""

    pool_features: int = 64

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply the branches."""
        one = self.conv("branch1x1", 64)(x)
        five = self.conv("branch5x5_1", 48)(x)
        five = self.conv("branch5x5_2", 64, 5, 5)(five)
        three = self.conv("branch3x3dbl_1", 64)(x)
        three = self.conv("branch3x3dbl_2", 96, 3, 3)(three)
        three = self.conv("branch3x3dbl_3", 96, 3, 3)(three)
        mean = self.conv("branch_pool", self.pool_features)(_mean_of_neighbors(x))
        return jnp.concatenate([one, five, three, mean], axis=-1)


class BlockB(Block):
    """From 35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply the branches."""
        once = self.conv("branch3x3", 384, 3, 3, halve=True)(x)
        twice = self.conv("branch3x3dbl_1", 64)(x)
        twice = self.conv("branch3x3dbl_2", 96, 3, 3)(twice)
        twice = self.conv("branch3x3dbl_3", 96, 3, 3, halve=True)(twice)
        return jnp.concatenate([once, twice, _halve(x)], axis=-1)


class BlockC(Block):
    """17 x 17: branches with 7 x 7 factorized into 1 x 7 and 7 x 1, once and twice."""

    width: int = 128

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply the branches."""
        c = self.width
        one = self.conv("branch1x1", 192)(x)
        once = self.conv("branch7x7_1", c)(x)
        once = self.conv("branch7x7_2", c, 1, 7)(once)
        once = self.conv("branch7x7_3", 192, 7, 1)(once)
        twice = self.conv("branch7x7dbl_1", c)(x)
        twice = self.conv("branch7x7dbl_2", c, 7, 1)(twice)
        twice = self.conv("branch7x7dbl_3", c, 1, 7)(twice)
        twice = self.conv("branch7x7dbl_4", c, 7, 1)(twice)
        twice = self.conv("branch7x7dbl_5", 192, 1, 7)(twice)
        mean = self.conv("branch_pool", 192)(_mean_of_neighbors(x))
        return jnp.concatenate([one, once, twice, mean], axis=-1)


class BlockD(Block):
    """From 17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply the branches."""
        three = self.conv("branch3x3_1", 192)(x)
        three = self.conv("branch3x3_2", 320, 3, 3, halve=True)(three)
        seven = self.conv("branch7x7x3_1", 192)(x)
        seven = self.conv("branch7x7x3_2", 192, 1, 7)(seven)
        seven = self.conv("branch7x7x3_3", 192, 7, 1)(seven)
        seven = self.conv("branch7x7x3_4", 192, 3, 3, halve=True)(seven)
        return jnp.concatenate([three, seven, _halve(x)], axis=-1)


class BlockE(Block):
    """8 x 8: branches that end in parallel 1 x 3 and 3 x 1; `largest` replaces the mean by a maximum."""

    largest: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> NewMaps:
        """Apply the branches."""
        one = self.conv("branch1x1", 320)(x)
        h = self.conv("branch3x3_1", 384)(x)
        flat = self.conv("branch3x3_2a", 384, 1, 3)(h)
        tall = self.conv("branch3x3_2b", 384, 3, 1)(h)
        h = self.conv("branch3x3dbl_1", 448)(x)
        h = self.conv("branch3x3dbl_2", 384, 3, 3)(h)
        flat2 = self.conv("branch3x3dbl_3a", 384, 1, 3)(h)
        tall2 = self.conv("branch3x3dbl_3b", 384, 3, 1)(h)
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.largest else _mean_of_neighbors(x)
        pooled = self.conv("branch_pool", 192)(pooled)
        return jnp.concatenate([one, flat, tall, flat2, tall2, pooled], axis=-1)


class InceptionV3(nn.Module):
    """From images, scaled by `inception_input`, to features and logits."""

    dtype: str = "float32"

    def stem(self, x: Array) -> Array:
        """From 299 x 299 x 3 to 35 x 35 x 192."""
        conv = lambda name, features, size, same=False, stride=1: ConvNorm(
            features, (size, size), stride=stride, same=same, dtype=self.dtype, name=name
        )
        x = conv("Conv2d_1a_3x3", 32, 3, stride=2)(x)
        x = conv("Conv2d_2a_3x3", 32, 3)(x)
        x = _halve(conv("Conv2d_2b_3x3", 64, 3, same=True)(x))
        x = conv("Conv2d_3b_1x1", 80, 1)(x)
        return _halve(conv("Conv2d_4a_3x3", 192, 3)(x))

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> InceptionOutputs:
        """Apply the network to images of at least 75 x 75 pixels; the standard size is 299 x 299."""
        d = self.dtype
        x = self.stem(x)
        x = BlockA(d, pool_features=32, name="Mixed_5b")(x)
        x = BlockA(d, name="Mixed_5c")(x)
        x = BlockA(d, name="Mixed_5d")(x)
        x = BlockB(d, name="Mixed_6a")(x)
        x = BlockC(d, name="Mixed_6b")(x)
        x = BlockC(d, width=160, name="Mixed_6c")(x)
        x = BlockC(d, width=160, name="Mixed_6d")(x)
        spatial = x[..., :SPATIAL_CHANNELS]  # the first channels are those of the 1 x 1 branch
        x = BlockC(d, width=192, name="Mixed_6e")(x)
        x = BlockD(d, name="Mixed_7a")(x)
        x = BlockE(d, name="Mixed_7b")(x)
        x = BlockE(d, largest=True, name="Mixed_7c")(x)
        pool = x.mean(axis=(1, 2))
        unbiased, bias = Head(d, name="fc")(pool)
        return InceptionOutputs(pool, spatial, unbiased + bias, unbiased)


class Head(nn.Module):
    """The linear head: returns the logits without the bias, and the bias."""

    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch features"]
    ) -> tuple[Float[Array, "batch 1008"], Float[Array, "1008"]]:
        """Apply the linear layer."""
        dtype = precision(self.dtype)["param_dtype"]
        shape = (x.shape[-1], CLASSES)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, (CLASSES,), dtype)
        return jnp.dot(x, kernel, precision=EXACT), bias
