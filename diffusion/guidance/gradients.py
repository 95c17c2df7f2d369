"""Guidance by the gradient of any log p(y | x_t), or of a similarity in its place.

    score of p(x_t | y) = score of p(x_t) + grad log p(y | x_t)
    E[x_0 | x_t, y]     = E[x_0 | x_t] + sigma^2 / alpha grad log p(y | x_t)

The second line is Tweedie's formula, so the noise must be Gaussian. Written as a shift of the posterior mean,
guidance works with every sampler, including ODEs; the discrete form, a shift of x_{t-1} by the variance of the
step, vanishes for deterministic steps (Su, kexue.fm 9257).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, final, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidance, given
from diffusion.guidance.model import CallablePytree, ConditionalModel
from diffusion.guidance.scales import Scale, as_scale, check_scale, is_number, scale_at, scale_of
from diffusion.numerics import one_of, require
from diffusion.processes import GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Denoiser, Time

# (x, t) -> log p(y | x), (batch,), maybe unnormalized
LogProb: TypeAlias = Callable[[Array, Any], Array]

THROUGH = ("x_t", "x_0")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tilted(CallablePytree):
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


@takes_names
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
        log_prob: (x, t) -> log p(y | x) of shape (batch,); `OfLabel` makes one from a classifier.
        scale: 0 unconditional, 1 Bayes' rule, above 1 sharper: a number, one per example, or t -> scale.
        through: "x_t" evaluates the classifier on the noisy state; "x_0" evaluates a classifier of clean data
            on the posterior mean, with t = t_min, and differentiates through the denoiser.

    Raises:
        TypeError: the noise is not Gaussian.
    """
    require_process(process, GaussianProcess, "classifier guidance")
    check_through(through)
    return Tilted(denoise, log_prob, as_scale(scale), process, through)


def check_through(through: str) -> None:
    """Raise ValueError unless `through` is x_t or x_0."""
    one_of(THROUGH, through=through, hint="x_t is the noisy state, x_0 the posterior mean.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfLabel(CallablePytree):
    """log p(label | x) from a classifier; 0 where the label is -1, which means no label."""

    log_probs: Callable[[Array, Any], Array]  # (x, t) -> (batch, classes)
    label: Any  # integers, (batch,) or ()

    def __call__(self, x: Array, t: Time) -> Array:
        """Return log p(label | x), (batch,); NaN for a label that is not among the classifier's classes."""
        log_p = self.log_probs(x, t)
        label = jnp.broadcast_to(jnp.asarray(self.label), log_p.shape[:1])
        classes = log_p.shape[1]
        picked = jnp.take_along_axis(log_p, jnp.clip(label, 0, classes - 1)[:, None], axis=1)[:, 0]
        # a factor, so that the gradient is also NaN
        weight = jnp.where(label < 0, 0.0, jnp.where(label < classes, 1.0, jnp.nan))
        return weight.astype(log_p.dtype) * picked


@runtime_checkable
class JudgesConditions(Protocol):
    """A classifier of whole conditions, such as several labels or attributes."""

    def log_prob(self, x_t: Array, t: Any, cond: Any) -> Array:
        """Return log p(cond | x_t), (batch,)."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfCondition:
    """log p(cond | x) from a classifier of conditions; a condition without a batch axis holds for all examples."""

    classify: JudgesConditions
    cond: Any

    def __call__(self, x: Array, t: Time) -> Array:
        """Return log p(cond | x), (batch,)."""
        fit = lambda c: jnp.broadcast_to(c, (len(x),)) if jnp.ndim(c) == 0 else c
        return self.classify.log_prob(x, t, jax.tree.map(fit, self.cond))


@dataclass(frozen=True, kw_only=True)
class Tilt(Guidance):
    """Base class of entries that shift the posterior mean by a gradient."""

    requires: ClassVar[type[Process]] = GaussianProcess
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 0.0}

    scale: Any = dataclasses.field(default=1.0, metadata={"kind": "scale"})
    through: str = "x_t"

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_through(self.through)

    def guide(self, model: ConditionalModel) -> Denoiser:
        log_prob = self.log_prob(model)
        if is_number(self.scale) and self.scale == 0:
            return model.conditional
        scale = scale_of(self.scale, model.process)
        process: Any = model.process
        return classifier(process, model.conditional, log_prob, scale, self.through)

    def log_prob(self, model: ConditionalModel) -> LogProb:
        """Return log p(y | x), maybe unnormalized, as a callable pytree."""
        raise TypeError(f"{type(self).__name__} states no log-probability.")


@register("guidance", "classifier")
@final
@dataclass(frozen=True, kw_only=True)
class Classifier(Tilt):
    """x_0 + scale sigma^2 / alpha grad log p(label | x_t), with given["classifier"].

    Dhariwal and Nichol, 2021. The label is that of the condition, or `label` for all examples. The gradient is added
    to the result of the preceding entries: for the unconditional model put classifier_free with scale 0 before it.
    `through` = x_0 evaluates a classifier of clean data on the posterior mean.
    """

    label: int | None = None

    def log_prob(self, model: ConditionalModel) -> LogProb:
        classify = given(model, "classifier", self)
        cond = model.cond if self.label is None else {"label": jnp.asarray(self.label)}
        if isinstance(classify, JudgesConditions):
            self._require(isinstance(cond, Mapping), "no condition")
            return OfCondition(classify, cond)
        known = isinstance(cond, Mapping) and "label" in cond
        label = jnp.asarray(cond["label"]) if known else None
        self._require(label is not None, "no label")
        self._require(label is None or label.ndim < 2, "several labels")
        return OfLabel(classify, label)

    def _require(self, condition: bool, found: str) -> None:
        require(
            condition,
            f"'classifier' needs one label per example: condition 'label', --labels or field `label`; got {found}.",
        )
