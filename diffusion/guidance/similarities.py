"""Guidance by a similarity: p(x | target) proportional to p(x) exp(scale similarity(x, target)).

Any differentiable similarity can replace a classifier's log-probability: the cosine of two encodings for text or
images, the distance of Gram matrices for style (Su, kexue.fm 9257).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import given
from diffusion.guidance.gradients import LogProb, Tilt, classifier
from diffusion.guidance.model import CallablePytree, ConditionalModel
from diffusion.guidance.scales import Scale
from diffusion.numerics import one_of
from diffusion.processes import GaussianProcess
from diffusion.registry import load, register, takes_names
from diffusion.types import Denoiser, Time

Measure: TypeAlias = Callable[[Array, Array], Array]  # (x, target) -> similarity, (batch,)


def cosine(x: Array, target: Array) -> Array:
    """Return x . y / (|x| |y|), (batch,)."""
    x, y = (a.reshape(a.shape[0], -1) for a in (x, target))
    length = lambda a: jnp.sqrt(jnp.maximum((a**2).sum(1), jnp.finfo(a.dtype).eps))
    return (x * y).sum(1) / (length(x) * length(y))


def negative_distance(x: Array, target: Array) -> Array:
    """Return -|x - y|^2 / 2, (batch,): log N(y; x, I) up to a constant, so the scale is an inverse variance."""
    return -0.5 * ((x - target) ** 2).reshape(x.shape[0], -1).sum(1)


def gram(x: Array, target: Array) -> Array:
    """Return -|G(x) - G(y)|^2 / 2, (batch,), with G the second moments of the channels over all pixels: style."""
    moments = lambda a: jnp.einsum("bic,bid->bcd", a, a) / a.shape[1]
    x, y = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (x, target))
    return -0.5 * ((moments(x) - moments(y)) ** 2).sum((1, 2))


SIMILARITIES: dict[str, Measure] = {
    "cosine": cosine,
    "negative_distance": negative_distance,
    "gram": gram,
}


def similarity_named(name: str | Measure) -> Measure:
    """Return a similarity by name or "module:attribute"; a callable is returned unchanged.

    Raises:
        ValueError: the name is unknown.
    """
    if callable(name):
        return name
    if ":" in name:
        return load(name)
    one_of(SIMILARITIES, measure=name, hint="Or 'module:attribute', (x, target) -> (batch,).")
    return SIMILARITIES[name]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Similar(CallablePytree):
    """(x, t) -> similarity of the features of x and of a target, which is scaled by alpha(t) for noisy x."""

    measure: Measure
    features: Callable[[Array], Array] | None
    target: Any
    process: GaussianProcess = dataclasses.field(metadata={"static": True})
    noisy: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, x: Array, t: Time) -> Array:
        """Return the similarity, (batch,)."""
        target = jnp.asarray(self.target, x.dtype)
        if target.shape not in (x.shape[1:], x.shape, (1, *x.shape[1:])):
            raise ValueError(
                f"`target` must have shape {x.shape[1:]} of one example, or {x.shape} of all; got {target.shape}."
            )
        target = jnp.broadcast_to(target, x.shape)
        if self.noisy:
            target = self.process.coefficients(t, x).alpha * target
        if self.features is not None:
            x, target = self.features(x), self.features(target)
        return self.measure(x, target)


@takes_names
def similarity(
    process: GaussianProcess,
    denoise: Denoiser,
    measure: str | Measure,
    target: Any,
    scale: Scale = 1.0,
    through: str = "x_0",
    features: Callable[[Array], Array] | None = None,
) -> Denoiser:
    """Guide a denoiser toward a target, with samples reweighted by exp(scale similarity) (Su, kexue.fm 9257).

    Args:
        process: a process with Gaussian noise.
        denoise: E[x_0 | x_t].
        measure: cosine, negative_distance, gram, or any differentiable (x, target) -> (batch,).
        target: shaped like one example or like the batch.
        scale: a number, one per example, or t -> scale; 0 changes nothing.
        through: "x_0" compares the posterior mean with the target, at the cost of the denoiser's gradient;
            "x_t" compares x_t with alpha(t) target.
        features: an encoder applied to both before the comparison; with "x_t" it should be trained on noisy inputs.
    """
    similar = similar_to(process, measure, target, through, features)
    return classifier(process, denoise, similar, scale, through)


def similar_to(
    process: GaussianProcess,
    measure: str | Measure,
    target: Any,
    through: str = "x_0",
    features: Callable[[Array], Array] | None = None,
) -> Similar:
    """Return (x, t) -> similarity as a callable pytree; the arguments are those of `similarity`."""
    return Similar(similarity_named(measure), features, target, process, noisy=through == "x_t")


@register("guidance", "similarity")
@final
@dataclass(frozen=True, kw_only=True)
class Similarity(Tilt):
    """x_0 + scale sigma^2 / alpha grad similarity(x_0(x_t), target), with given["target"].

    p(x | target) proportional to p(x) exp(scale similarity), Su, kexue.fm 9257. `measure` is cosine,
    negative_distance, gram, or "module:attribute". `through` = x_t compares x_t with alpha(t) target instead of the
    posterior mean with the target. given["features"], if present, encodes both before the comparison.
    """

    measure: str | Measure = "cosine"
    through: str = "x_0"

    def __post_init__(self) -> None:
        super().__post_init__()
        similarity_named(self.measure)

    def log_prob(self, model: ConditionalModel) -> LogProb:
        target, features = given(model, "target", self), model.given.get("features")
        process: Any = model.process
        return similar_to(process, self.measure, target, self.through, features)
