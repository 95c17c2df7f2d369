"""Losses of the scores of a classifier, and the probabilities that correspond to their optima.

Scores s have shape (batch, columns): the classes of one label, or the entries of a multi-hot condition.
Targets are shaped like them:

    1 holds    0 does not hold    between: a soft label    -1 unknown, which adds no loss

References: Su, kexue.fm 9526 (interpolated cross-entropy), 7359 and 9064 (zlpr and its soft labels), 9039
(symmetric divergence of scores).
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import at_least, in_interval
from diffusion.registry import register
from diffusion.types import PerExample, Scalar

Scores = Float[Array, "batch columns"]


def held(target: Scores) -> Scores:
    """Return the target that each column holds; 0 if unknown."""
    return jnp.maximum(target, 0)


def not_held(target: Scores) -> Scores:
    """Return the target that each column does not hold; 0 if unknown."""
    return jnp.where(target < 0, 0, 1 - target)


@dataclass(frozen=True, kw_only=True)
class ClassifierLoss(abc.ABC):
    """A loss of scores against targets, and the probabilities that correspond to its optimum.

    Args:
        smoothing: label smoothing, the fraction of the target that is spread evenly over the classes of a label,
            or over "holds" and "does not hold" of a multi-hot entry.
        consistency: weight of the symmetric divergence between the scores of two noisy versions of an example. It
            reduces the variance over the noise. Large weights also reduce correct differences, since two noisy
            versions contain different information.
    """

    multi_label: ClassVar[bool] = False

    smoothing: Scalar = 0.0
    consistency: Scalar = 0.0

    def __post_init__(self) -> None:
        in_interval("[0, 1)", smoothing=self.smoothing)
        at_least(0, consistency=self.consistency)

    @abc.abstractmethod
    def __call__(self, scores: Scores, target: Scores) -> PerExample:
        """Return the loss of one label, or of all multi-hot entries, per example."""

    @abc.abstractmethod
    def log_probs(self, scores: Scores) -> Scores:
        """Return the log-probability that each column holds."""

    def smoothed(self, target: Scores) -> Scores:
        """Return the target with label smoothing; unknown entries stay unknown."""
        even = 0.5 if self.multi_label else 1 / target.shape[-1]
        return jnp.where(target < 0, target, target + self.smoothing * (even - target))


@dataclass(frozen=True, kw_only=True)
class OfOneLabel(ClassifierLoss):
    """Base class of losses for one label: exactly one class holds, and probabilities are a softmax."""

    def log_probs(self, scores: Scores) -> Scores:
        return jax.nn.log_softmax(scores)


@register("classifier_loss", "cross_entropy")
@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(OfOneLabel):
    """-sum target log p. Its optimum is the posterior p(class | x_t)."""

    def __call__(self, scores: Scores, target: Scores) -> PerExample:
        return -(held(target) * self.log_probs(scores)).sum(axis=-1)


@register("classifier_loss", "interpolated_cross_entropy")
@final
@dataclass(frozen=True, kw_only=True)
class InterpolatedCrossEntropy(OfOneLabel):
    """-log(gamma + (1 - gamma) p) / (1 - gamma), p the probability of the true class (Su, kexue.fm 9526).

    gamma = 0 is the cross-entropy, gamma = 1 the total variation 1 - p. The gradient is that of the
    cross-entropy times p / (gamma + (1 - gamma) p), so that examples too noisy to classify do not dominate. With
    gamma near 1, training from a random start makes little progress. The optimum is sharper than the posterior.
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        in_interval("[0, 1]", gamma=self.gamma)

    def __call__(self, scores: Scores, target: Scores) -> PerExample:
        return (held(target) * self._each(self.log_probs(scores))).sum(axis=-1)

    def _each(self, log_p: Scores) -> Scores:
        rest = 1 - self.gamma
        if self.gamma < 0.5:  # accurate where p is tiny
            small = jnp.log(jnp.asarray(self.gamma, log_p.dtype))
            return -jnp.logaddexp(small, jnp.log1p(-self.gamma) + log_p) / rest
        missing = -jnp.expm1(log_p)  # accurate where gamma is close to 1, including the limit
        return missing if rest == 0 else -jnp.log1p(-rest * missing) / rest


@register("classifier_loss", "zlpr")
@final
@dataclass(frozen=True, kw_only=True)
class ZLPR(ClassifierLoss):
    """log(1 + sum (1 - target) e^s) + log(1 + sum target e^-s): scores of entries that hold are above 0, others below.

    It accepts hard and soft targets (Su, kexue.fm 7359, 9064). The optimum for a soft target t is t = sigmoid(2 s),
    which `log_probs` returns. For hard targets that are random given x_t the optimum has no closed form; it is
    sigmoid(s) for a single entry. If calibration matters, use `binary_cross_entropy`.
    """

    multi_label: ClassVar[bool] = True

    def __call__(self, scores: Scores, target: Scores) -> PerExample:
        return _log_one_plus(scores, not_held(target)) + _log_one_plus(-scores, held(target))

    def log_probs(self, scores: Scores) -> Scores:
        return jax.nn.log_sigmoid(2 * scores)


def _log_one_plus(scores: Scores, weight: Scores) -> PerExample:
    """Return log(1 + sum weight e^scores), finite where e^scores overflows."""
    zero = jnp.zeros_like(scores[:, :1])
    terms = jnp.concatenate([zero, scores], axis=-1)
    return jax.nn.logsumexp(terms, axis=-1, b=jnp.concatenate([zero + 1, weight], axis=-1))


@register("classifier_loss", "binary_cross_entropy")
@final
@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(ClassifierLoss):
    """-sum target log sigmoid(s) + (1 - target) log sigmoid(-s). Its optimum is each entry's posterior."""

    multi_label: ClassVar[bool] = True

    def __call__(self, scores: Scores, target: Scores) -> PerExample:
        yes, no = jax.nn.log_sigmoid(scores), jax.nn.log_sigmoid(-scores)
        return -(held(target) * yes + not_held(target) * no).sum(axis=-1)

    def log_probs(self, scores: Scores) -> Scores:
        return jax.nn.log_sigmoid(scores)


def symmetric_divergence(scores: Scores, other: Scores, *, multi_label: bool = False) -> PerExample:
    """Return <f(s) - f(s'), s - s'> with f softmax, or sigmoid for multi-label scores (Su, kexue.fm 9039).

    It is KL(p, p') + KL(p', p) of the two distributions: categorical, or independent binary ones.
    """
    f = jax.nn.sigmoid if multi_label else jax.nn.softmax
    return ((f(scores) - f(other)) * (scores - other)).sum(axis=-1)
