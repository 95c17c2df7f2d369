"""Features of Inception v3, for FID, KID and the Inception score, from weights provided by the user.

Images are rounded to 8 bits, gray is repeated to three channels, and the network's own resizing scales them to
299 x 299. Class probabilities are those of the published Inception score: from the logits without bias.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffusion.data import DataSpec
from diffusion.evaluation.features.base import Extractor, Features, in_blocks
from diffusion.evaluation.features.published import (
    Architecture,
    Published,
    check_images,
    color_levels,
    find_weights,
    read_published,
)
from diffusion.networks.inception import CLASSES, SIZE, InceptionV3, inception_input
from diffusion.numerics import at_least, one_of
from diffusion.registry import register

ARCHITECTURE = Architecture(
    title="Inception v3 (2015-12-05)",
    module=InceptionV3(),
    size=SIZE,
    passed=".num_batches_tracked",
)
# SHA-256 of the .pth file for FID, which pytorch-fid and torch-fidelity share.
PUBLISHED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
OUTPUTS = {"pool": ("inception", 2048), "spatial": ("inception_spatial", 17 * 17 * 7)}


@partial(jax.jit, static_argnames="output")
def _features(params: Any, levels: Any, output: str) -> Any:
    x = inception_input(levels.astype(jnp.float32))
    found = getattr(ARCHITECTURE.module.apply({"params": params}, x), output)
    return found.reshape(len(levels), -1)


@final
class InceptionExtractor(Extractor):
    """Inception features of images, with log-probabilities of the classes.

    Attributes:
        published: whether the file was converted from the published file for FID, by the recorded SHA-256. Other
            weights of the same shapes give other numbers, under another name.
    """

    version = 1

    def __init__(self, spec: DataSpec, weights: Published, output: str = "pool", block: int = 16):
        check_images(spec, "inception")
        self.spec, self.block, self.output = spec, block, output
        name, self.dim = OUTPUTS[output]
        self.source = weights.source
        self.published = weights.source.get("source_sha256") == PUBLISHED
        self.name = name if self.published else f"{name}_of_other_weights"
        definition = f"{self.name} version {self.version} {weights.digest}"
        self.sha256 = hashlib.sha256(definition.encode()).hexdigest()
        self._params = jax.tree.map(jnp.asarray, weights.params)

    @property
    def card(self) -> dict[str, Any]:
        """Return the card entry, with the origin of the weights."""
        return super().card | {"published_weights": self.published} | self.source

    def _run(self, x: np.ndarray, output: str, dim: int) -> np.ndarray:
        run = lambda levels: _features(self._params, levels, output)
        return in_blocks(run, color_levels(x), self.block, dim)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Apply the network, a block of images at a time."""
        return self._run(x, self.output, self.dim)

    def log_probs(self, x: Float[np.ndarray, " n *data"]) -> Float[np.ndarray, "n classes"]:
        """Return log-probabilities of the 1008 classes, in nats."""
        logits = self._run(self.checked(x), "logits_unbiased", CLASSES)
        top = logits.max(axis=1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


@register("features", "inception")
@final
@dataclass(frozen=True, kw_only=True)
class Inception(Features):
    """Features of the network that defines FID.

    Args:
        weights: a .safetensors file from `demolish convert_features`; a bare name is also looked for in
            the subfolder `features` of the data folder.
        output: "pool", the 2048 features of FID and KID, or "spatial", the 2023 of sFID.
        block: number of images computed at once.
    """

    weights: str = "inception.safetensors"
    output: str = "pool"
    block: int = 16

    def __post_init__(self):
        one_of(OUTPUTS, output=self.output)
        at_least(1, block=self.block)

    def open(self, spec: DataSpec, data_dir: str | None = None) -> InceptionExtractor:
        """Read the weights.

        Raises:
            ValueError: the data are not images, or the file does not exist or holds other weights.
        """
        check_images(spec, "inception")
        path = find_weights(self.weights, data_dir, ARCHITECTURE.title)
        found = read_published(path, ARCHITECTURE)
        return InceptionExtractor(spec, found, self.output, self.block)
