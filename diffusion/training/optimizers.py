"""Optimizers: dataclasses of hyperparameters around optax.

All are the chain   clip the gradient's global norm -> direction -> decoupled weight decay -> -rate,
where only the direction differs. An `Optimizer` has `init` and `update` like any optax transformation
and can be used as one; in addition, it can be compared and printed, and has a method `rate`.
"""

import abc
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffusion.numerics import at_least, positive
from diffusion.registry import build, register
from diffusion.training import schedules as _schedules  # noqa: F401  fills the registry
from diffusion.types import Params, Scalar


def decay_mask(params: Params) -> Any:
    """Return which parameters are decayed: matrices and kernels, not norms, biases and vectors."""

    def decayed(path: tuple, x: Array) -> bool:
        names = [str(getattr(k, "key", getattr(k, "name", k))).lower() for k in path]
        exempt = any("norm" in n for n in names) or names[-1:] in (["bias"], ["scale"])
        return jnp.ndim(x) > 1 and not exempt

    return jax.tree_util.tree_map_with_path(decayed, params)


def block_by_block(
    transformation: optax.GradientTransformation, stacked: tuple[str, ...]
) -> optax.GradientTransformation:
    """Apply a transformation to each block of arrays that hold several blocks, and unchanged to other arrays.

    Args:
        transformation: transformation of a tree of arrays.
        stacked: names in the paths of arrays whose first axis counts blocks; if empty, `transformation` is returned.
    """
    if not stacked:
        return transformation

    def init(params: Any) -> Any:
        found = jax.tree.leaves(params)
        return jax.vmap(transformation.init)(params) if found else transformation.init(params)

    def each(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if not jax.tree.leaves(updates):
            return updates, state
        return jax.vmap(transformation.update)(updates, state, params)

    def kind(path: tuple, _: Any) -> str:
        names = {str(getattr(k, "key", getattr(k, "name", k))) for k in path}
        return "stacked" if names & set(stacked) else "single"

    blocks = optax.GradientTransformation(init, each)
    kinds: dict[Hashable, optax.GradientTransformation] = {
        "stacked": blocks,
        "single": transformation,
    }
    return optax.multi_transform(kinds, lambda tree: jax.tree_util.tree_map_with_path(kind, tree))


@dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """Base class of the optimizers.

    Statistics of whole arrays, such as LAMB's trust ratios, are computed per block if an array holds several blocks
    (`stacked`), so that a network that scans over its blocks is trained like one with separate blocks.

    Attributes:
        learning_rate: peak learning rate.
        schedule: a name or mapping of the kind "schedule": factor of the peak.
        warmup: number of updates of the linear warm-up.
        clip: largest global norm of the gradient; None for no clipping.
        weight_decay: decoupled weight decay, multiplied by the learning rate; see `decay_mask`.
        total_steps: number of updates of the run, for schedules that end.
        stacked: names of parts of the parameters whose arrays hold one block per row of the first axis; in a config
            they come from the network (`scan_blocks`).
    """

    learning_rate: Scalar = 1e-3
    schedule: Any = "constant"
    warmup: int = 0
    clip: Scalar | None = None
    weight_decay: Scalar = 0.0
    total_steps: int | None = None
    stacked: tuple[str, ...] = ()

    def __post_init__(self):
        at_least(0, learning_rate=self.learning_rate)
        at_least(0, warmup=self.warmup)
        positive(clip=self.clip, none="no clipping")
        # built here, so that an unknown field raises now, and that the optimizer can be hashed
        known = {} if self.total_steps is None else {"total_steps": self.total_steps}
        schedule = build("schedule", self.schedule, warmup=self.warmup, **known)
        object.__setattr__(self, "schedule", schedule)

    def rate(self, count: Any) -> Float[Array, "..."]:
        """Return the learning rate of the update after `count` updates."""
        factor = self.schedule(count)
        if self.warmup:
            factor = factor * jnp.minimum((jnp.asarray(count) + 1) / self.warmup, 1)
        return self.learning_rate * factor

    @abc.abstractmethod
    def direction(self) -> optax.GradientTransformation:
        """Return the transformation of a gradient into an update with learning rate 1."""

    def finish(self) -> optax.GradientTransformation:
        """Return the transformation between weight decay and learning rate; by default the identity."""
        return optax.identity()

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The whole chain as an optax transformation."""
        clip = optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip)
        decay = (
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask)
            if self.weight_decay
            else optax.identity()
        )
        rate = optax.scale_by_learning_rate(self.rate)
        return optax.chain(clip, self.direction(), decay, self.finish(), rate)

    def init(self, params: Params) -> Any:
        """Return the optimizer's state for these parameters."""
        return self.transformation.init(params)

    def update(
        self, updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, Any]:
        """Return (updates to add to the parameters, new state)."""
        return self.transformation.update(updates, state, params)


@register("optimizer", "adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """m / (sqrt(v) + eps) with bias correction (Kingma, Ba 2015)."""

    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 1e-8

    def direction(self) -> optax.GradientTransformation:
        """Scale by the moments of the gradient."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@register("optimizer", "adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with weight decay by default (Loshchilov, Hutter 2019)."""

    weight_decay: Scalar = 0.01


@register("optimizer", "lamb")
@dataclass(frozen=True, kw_only=True)
class Lamb(Adam):
    """Adam with the update of each matrix scaled by |params| / |step| (You et al., 2020), but not of vectors and norms.

    Attributes:
        by_block: scale each block of an array that holds several blocks separately.
    """

    eps: Scalar = 1e-6
    by_block: bool = field(default=True, metadata={"formerly": False})

    def finish(self) -> optax.GradientTransformation:
        """Scale by the trust ratio."""
        scale = optax.masked(optax.scale_by_trust_ratio(), decay_mask)
        return block_by_block(scale, self.stacked) if self.by_block else scale


@register("optimizer", "lion")
@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """sign(b1 m + (1 - b1) g) (Chen et al., 2023). Use a third to a tenth of Adam's learning rate."""

    learning_rate: Scalar = 1e-4
    b1: Scalar = 0.9
    b2: Scalar = 0.99

    def direction(self) -> optax.GradientTransformation:
        """Take the sign of the interpolated momentum."""
        return optax.scale_by_lion(self.b1, self.b2)


@register("optimizer", "adafactor")
@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adam-like, with second moments of matrices from row and column means (Shazeer, Stern 2018).

    Attributes:
        decay: exponent of the second moment's decay, 1 - t^-decay.
        min_dim_to_factor: matrices with a smaller second-largest dimension keep full moments.
        clip_rms: largest root mean square of the step of one array.
        relative: multiply the step by the root mean square of the parameters.
        by_block: use separate moments and mean squares for each block of an array that holds several blocks.
    """

    decay: Scalar = 0.8
    min_dim_to_factor: int = 128
    clip_rms: Scalar = 1.0
    relative: bool = True
    by_block: bool = field(default=True, metadata={"formerly": False})

    def direction(self) -> optax.GradientTransformation:
        """Scale by the factored moments."""
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay, min_dim_size_to_factor=self.min_dim_to_factor
            ),
            optax.clip_by_block_rms(self.clip_rms),
        ]
        if self.relative:
            parts.append(optax.scale_by_param_block_rms())
        scale = optax.chain(*parts)
        return block_by_block(scale, self.stacked) if self.by_block else scale


@register("optimizer", "sgd")
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent with momentum: m <- momentum m + g."""

    learning_rate: Scalar = 1e-2
    momentum: Scalar = 0.9
    nesterov: bool = False

    def direction(self) -> optax.GradientTransformation:
        """Accumulate the gradient."""
        if not self.momentum:
            return optax.identity()
        return optax.trace(decay=self.momentum, nesterov=self.nesterov)
