"""The train state: one pytree, which a checkpoint stores completely.

It holds everything that a step needs besides the batch, and random numbers are a function of (key, step), so
that a resumed run gives the same results as an uninterrupted one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from diffusion.training.ema import Average
from diffusion.types import Key, Params


class TrainState(NamedTuple):
    """Everything that training carries from step to step.

    Attributes:
        step: number of completed steps, including skipped ones.
        params: the network's parameters.
        opt_state: the optimizer's state.
        ema: averaged parameters, one copy per name.
        key: root of all randomness; step k uses fold_in(key, k).
        bad_steps: number of skipped steps: loss or gradient was not finite, or a spike.
        bad_run: number of consecutive non-finite steps up to now; 0 after a finite step.
        statistics: statistics of the losses for the time distribution; () if it tracks none.
        guard: gradient norms for the spike rule; () if there is none.
    """

    step: Int[Array, "..."]
    params: Params
    opt_state: Any
    ema: dict[str, Params]
    key: Key
    bad_steps: Int[Array, "..."]
    bad_run: Int[Array, "..."]
    statistics: Any = ()
    guard: Any = ()


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation | Any,
    ema: Mapping[str, Average],
    key: Key,
    statistics: Any = (),
    guard: Any = (),
) -> TrainState:
    """Return the train state before the first step.

    Args:
        params: a pytree of arrays.
        optimizer: object with a method `init(params)`.
        ema: the averages to keep, from `make_ema`.
        key: root key of all random numbers of the run.
        statistics: `statistics()` of the time distribution.
        guard: `init()` of the spike rule.

    Returns:
        A state that shares no buffer with `params`, so that it may be donated. Averages have at least float32
        precision, for any dtype of the parameters.
    """
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    zero = lambda: jnp.zeros((), jnp.int32)  # three separate buffers: each can be donated
    return TrainState(
        step=zero(),
        params=params,
        opt_state=optimizer.init(params),
        ema={name: jax.tree.map(widened, params) for name in ema},
        key=jax.tree.map(lambda k: k.copy(), key),
        bad_steps=zero(),
        bad_run=zero(),
        statistics=jax.tree.map(lambda x: jnp.array(x, copy=True), statistics),
        guard=jax.tree.map(lambda x: jnp.array(x, copy=True), guard),
    )


def widened(x: Array) -> Array:
    """Copy an array; a float narrower than float32 becomes float32."""
    wide = (
        jnp.promote_types(x.dtype, jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else None
    )
    return jnp.array(x, dtype=wide, copy=True)


def is_key(x: Any) -> bool:
    """Return whether a leaf is a typed random key."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def keys_to_data(tree: Any) -> Any:
    """Replace typed keys by their integers: files and host copies hold plain arrays."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def data_to_keys(tree: Any, like: Any) -> Any:
    """Invert `keys_to_data` for the leaves that are typed keys in `like` (arrays or shapes)."""

    def restore(x: Any, target: Any) -> Any:
        if not is_key(target):
            return x
        return jax.random.wrap_key_data(x, impl=_key_impl(target))

    return jax.tree.map(restore, tree, like)


def _key_impl(key: Any) -> Any:
    """Return the implementation name of a typed key, or of the shape of one."""
    found = []
    jax.eval_shape(lambda k: found.append(jax.random.key_impl(k)), key)
    return found[0]
