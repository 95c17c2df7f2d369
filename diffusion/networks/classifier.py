"""Classifiers of noisy data: logits of shape (batch, classes) from (x_t, log_snr).

They serve classifier guidance and metrics, and share the interface of networks; `cond` is ignored, so
that an example's label cannot leak into its prediction. The head is initially zero, so that all classes
are equally likely. Reference: Dhariwal and Nichol 2021 (the encoder half of a U-Net).
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from diffusion.networks.base import FlaxNetwork, LogSNR, Number, takes_fields_of
from diffusion.networks.embeddings import Embedder
from diffusion.networks.layers import GroupNorm
from diffusion.networks.mlp import MLPTrunk, check_mlp, head
from diffusion.networks.unet import Encoder, prepare
from diffusion.networks.unet_config import UNetConfig, unet_config
from diffusion.numerics import whole
from diffusion.registry import register
from diffusion.types import Cond, DataLike


def check_classes(num_classes: int | tuple[int, ...]) -> int:
    """Return the number of classes after checking it.

    Raises:
        ValueError: `num_classes` is not a single positive number.
    """
    whole(1, num_classes=num_classes, of="a classifier")
    assert isinstance(num_classes, int)
    return num_classes


class UNetClassifier(nn.Module):
    """The encoder of a U-Net, the mean over space, and a linear head."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> Float[Array, "batch classes"]:
        """Return logits."""
        c = self.config
        classes = check_classes(c.num_classes)
        embed = Embedder(4 * c.channels, c.embedding, dtype=c.dtype, name="embed")
        emb = embed(log_snr, None, len(x))
        h, _ = Encoder(c, name="encoder")(prepare(x, None, c.levels, c.dtype, patch=c.patch), emb)
        h = nn.silu(GroupNorm(c.dtype, name="norm")(h))
        return head(classes, c.dtype)(h.mean(axis=range(1, h.ndim - 1)))


class MLPClassifier(nn.Module):
    """The blocks of `MLP` and a linear head; the fields are those of `MLP`."""

    width: int = 256
    depth: int = 4
    dropout: Number = 0.0
    num_classes: int = 0
    embedding: str = "sinusoidal"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> Float[Array, "batch classes"]:
        """Return logits."""
        check_mlp(self.width, self.depth)
        classes = check_classes(self.num_classes)
        embed = Embedder(self.width, self.embedding, dtype=self.dtype, name="embed")
        emb = embed(log_snr, None, len(x))
        h = MLPTrunk(self.width, self.depth, self.dropout, self.dtype, name="trunk")(x, emb)
        return head(classes, self.dtype)(h)


@register("classifier", "unet_encoder")
@takes_fields_of(UNetConfig)
def unet_encoder(family: str = "plain", **fields: Any) -> FlaxNetwork:
    """Build a classifier of images or signals from the fields of `UNetConfig`."""
    return FlaxNetwork(UNetClassifier(unet_config(family, fields)))


@register("classifier", "mlp")
@takes_fields_of(MLPClassifier)
def mlp_classifier(**fields: Any) -> FlaxNetwork:
    """Build a classifier of points from the fields of `MLPClassifier`."""
    return FlaxNetwork(MLPClassifier(**fields))
