"""Guidance by a gradient: any log p(y | x_t), or any similarity in its place, tilts the distribution.

    score of p(x_t | y) = score of p(x_t) + grad log p(y | x_t)
    E[x_0 | x_t, y]     = E[x_0 | x_t] + sigma^2 / alpha grad log p(y | x_t)

The second line is Tweedie's formula, so the noise must be Gaussian. As a shift of the posterior mean it serves
every sampler, ODEs included; the discrete form, a shift of x_{t-1} by the variance of the step, vanishes without
noise (Su, kexue.fm 9257).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidable, Guidance, given
from diffusion.guidance.scales import Scale, as_scale, check_scale, is_number, scale_at, scale_of
from diffusion.numerics import as_pytree, require
from diffusion.processes import GaussianProcess, Process
from diffusion.processes.base import require_rung
from diffusion.registry import load, nearest, register
from diffusion.types import Denoiser, Time

LogProb: TypeAlias = Callable[
    [Array, Any], Array
]  # (x, t) -> log p(y | x), (batch,), maybe unnormalised
Measure: TypeAlias = Callable[[Array, Array], Array]  # (x, target) -> similarity, (batch,)

THROUGH = ("x_t", "x_0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tilted:
    """x_0 + scale sigma^2 / alpha grad log p(y | x_t), or the gradient of log p(y | x_0(x_t))."""

    denoise: Denoiser
    log_prob: LogProb
    scale: Any  # a number, (batch,), or a callable of t
    process: GaussianProcess = dataclasses.field(metadata={"static": True})
    through: str = dataclasses.field(default="x_t", metadata={"static": True})

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the shifted posterior mean."""
        c = self.process.coefficients(t, x_t)
        x_0, gradient = self._mean_and_gradient(x_t, t)
        return x_0 + scale_at(self.scale, t, x_t) * c.sigma**2 / c.alpha * gradient

    def _mean_and_gradient(self, x_t: Array, t: Time) -> tuple[Array, Array]:
        if self.through == "x_t":
            return self.denoise(x_t, t), jax.grad(lambda x: self.log_prob(x, t).sum())(x_t)
        clean = jnp.full_like(jnp.asarray(t, x_t.dtype), self.process.t_min)

        def objective(x: Array) -> tuple[Array, Array]:
            x_0 = self.denoise(x, t)
            return self.log_prob(x_0, clean).sum(), x_0

        (_, x_0), gradient = jax.value_and_grad(objective, has_aux=True)(x_t)
        return x_0, gradient


def classifier(
    process: GaussianProcess,
    denoise: Denoiser,
    log_prob: LogProb,
    scale: Scale = 1.0,
    through: str = "x_t",
) -> Denoiser:
    """Shift the posterior mean by scale sigma^2 / alpha grad log p(y | x_t) (Dhariwal and Nichol, 2021).

    Args:
        process: a process with Gaussian noise.
        denoise: E[x_0 | x_t].
        log_prob: (x, t) -> log p(y | x) of shape (batch,); `OfLabel` makes one of a classifier.
        scale: 0 unconditional, 1 Bayes' rule, above 1 sharper: a number, one per example, or t -> scale.
        through: "x_t" asks the classifier about the noisy state; "x_0" asks one of clean data about the
            posterior mean, called with t = t_min, and differentiates through the denoiser.

    Raises:
        TypeError: the noise is not Gaussian.
    """
    require_rung(process, GaussianProcess, "classifier guidance")
    check_through(through)
    return Tilted(as_pytree(denoise), as_pytree(log_prob), as_scale(scale), process, through)


def check_through(through: str) -> None:
    """Raise ValueError unless this is x_t or x_0."""
    require(
        through in THROUGH,
        f"`through` must be x_t (the noisy state) or x_0 (the posterior mean); got {through!r}."
        f"{nearest(through, THROUGH)}",
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfLabel:
    """log p(label | x) from a classifier; where the label is -1 there is nothing to say, 0."""

    log_probs: Callable[[Array, Any], Array]  # (x, t) -> (batch, classes)
    label: Any  # integers, (batch,) or ()

    def __call__(self, x: Array, t: Time) -> Array:
        """Return log p(label | x), (batch,); NaN for a label that the classifier does not know."""
        log_p = self.log_probs(x, t)
        label = jnp.broadcast_to(jnp.asarray(self.label), log_p.shape[:1])
        picked = jnp.take_along_axis(log_p, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        return jnp.where(label >= 0, picked, 0)


@dataclass(frozen=True, kw_only=True)
class _Tilt(Guidance):
    """Fields of entries with a gradient."""

    rung: ClassVar[type[Process]] = GaussianProcess
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 0.0}

    scale: Any = dataclasses.field(default=1.0, metadata={"kind": "scale"})
    through: str = "x_t"

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_through(self.through)

    def guide(self, model: Guidable) -> Denoiser:
        log_prob = self.log_prob(model)
        if is_number(self.scale) and self.scale == 0:
            return model.conditional
        scale = scale_of(self.scale, model.process)
        process: Any = model.process
        return classifier(process, model.conditional, log_prob, scale, self.through)

    def log_prob(self, model: Guidable) -> LogProb:
        """Return log p(y | x), maybe unnormalised, as a callable pytree."""
        raise TypeError(f"{type(self).__name__} states no log-probability.")


@register("guidance", "classifier")
@final
@dataclass(frozen=True, kw_only=True)
class Classifier(_Tilt):
    """x_0 + scale sigma^2 / alpha grad log p(label | x_t), with given["classifier"].

    Dhariwal and Nichol, 2021. The label is that of the condition, or `label` for all examples. It tilts what stands
    before it in the list: put classifier_free with scale 0 there for the unconditional model. `through` = x_0
    asks a classifier of clean data about the posterior mean.
    """

    label: int | None = None

    def log_prob(self, model: Guidable) -> LogProb:
        classify = as_pytree(given(model, "classifier", self))
        return OfLabel(classify, self._labels(model) if self.label is None else self.label)

    def _labels(self, model: Guidable) -> Array:
        known = isinstance(model.cond, Mapping) and "label" in model.cond
        label = jnp.asarray(model.cond["label"]) if known else None
        if label is None or label.ndim != 1:
            raise ValueError(
                "guidance 'classifier' needs one label per example: the condition 'label' of shape (batch,), "
                f"sample.py --labels, or its field `label`; got "
                f"{'no label' if label is None else f'labels of shape {label.shape}'}."
            )
        return label


# ---- similarities -------------------------------------------------------------------------------


def cosine(x: Array, target: Array) -> Array:
    """Return x . y / (|x| |y|), (batch,)."""
    x, y = (a.reshape(a.shape[0], -1) for a in (x, target))
    tiny = jnp.finfo(x.dtype).tiny
    norm = jax.lax.rsqrt(jnp.maximum((x**2).sum(1) * (y**2).sum(1), tiny))
    return (x * y).sum(1) * norm


def negative_distance(x: Array, target: Array) -> Array:
    """Return -|x - y|^2 / 2, (batch,): log N(y; x, I), so a scale is one over a variance."""
    return -0.5 * ((x - target) ** 2).reshape(x.shape[0], -1).sum(1)


def gram(x: Array, target: Array) -> Array:
    """Return -|G(x) - G(y)|^2 / 2, (batch,), G the second moments of the channels over all places: style."""
    moments = lambda a: jnp.einsum("bic,bid->bcd", a, a) / a.shape[1]
    x, y = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (x, target))
    return -0.5 * ((moments(x) - moments(y)) ** 2).sum((1, 2))


SIMILARITIES: dict[str, Measure] = {
    "cosine": cosine,
    "negative_distance": negative_distance,
    "gram": gram,
}


def similarity_named(name: str | Measure) -> Measure:
    """Return a similarity by name or "module:attribute"; a callable is returned as it is.

    Raises:
        ValueError: there is none of this name.
    """
    if callable(name):
        return name
    if ":" in name:
        return load(name)
    require(
        name in SIMILARITIES,
        f"`measure` must be one of {', '.join(SIMILARITIES)}, or 'module:attribute' for a function "
        f"(x, target) -> (batch,); got {name!r}.{nearest(name, SIMILARITIES)}",
    )
    return SIMILARITIES[name]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Similar:
    """(x, t) -> similarity of the features of x and of a target; of alpha(t) target for noisy x."""

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
                f"`target` must be shaped like one example, {x.shape[1:]}, or like the batch, {x.shape}; got "
                f"{target.shape}."
            )
        target = jnp.broadcast_to(target, x.shape)
        if self.noisy:
            target = self.process.coefficients(t, x).alpha * target
        if self.features is not None:
            x, target = self.features(x), self.features(target)
        return self.measure(x, target)


def similarity(
    process: GaussianProcess,
    denoise: Denoiser,
    measure: str | Measure,
    target: Any,
    scale: Scale = 1.0,
    through: str = "x_0",
    features: Callable[[Array], Array] | None = None,
) -> Denoiser:
    """Tilt what a model generates towards a target, by exp(scale similarity) (Su, kexue.fm 9257).

    Args:
        process: a process with Gaussian noise.
        denoise: E[x_0 | x_t].
        measure: cosine, negative_distance, gram, or any differentiable (x, target) -> (batch,).
        target: shaped like one example or like the batch.
        scale: 0 changes nothing: a number, one per example, or t -> scale.
        through: "x_0" compares the posterior mean with the target, at the cost of the denoiser's gradient;
            "x_t" compares x_t with alpha(t) target.
        features: an encoder applied to both first; for x_t one that was trained on noisy inputs.
    """
    measure, encode = as_pytree(similarity_named(measure)), None
    if features is not None:
        encode = as_pytree(features)
    similar = Similar(measure, encode, target, process, noisy=through == "x_t")
    return classifier(process, denoise, similar, scale, through)


@register("guidance", "similarity")
@final
@dataclass(frozen=True, kw_only=True)
class Similarity(_Tilt):
    """x_0 + scale sigma^2 / alpha grad similarity(x_0(x_t), target), with given["target"].

    p(x | target) proportional to p(x) exp(scale similarity), Su, kexue.fm 9257. `measure` is cosine,
    negative_distance, gram, or "module:attribute"; `through` = x_t compares x_t with alpha(t) target instead of the
    posterior mean with the target; given["features"], if it is there, encodes both first.
    """

    measure: str | Measure = "cosine"
    through: str = "x_0"

    def __post_init__(self) -> None:
        super().__post_init__()
        similarity_named(self.measure)

    def log_prob(self, model: Guidable) -> LogProb:
        target, features = given(model, "target", self), model.given.get("features")
        process: Any = model.process
        return Similar(
            as_pytree(similarity_named(self.measure)),
            None if features is None else as_pytree(features),
            target,
            process,
            noisy=self.through == "x_t",
        )
