"""Stored form of a train state: entries by name, with random keys as integers; and differences of two states."""

from typing import Any

import jax
import numpy as np

from diffusion.training.state import TrainState, is_key, keys_to_data


def _path(keys: tuple) -> tuple[str, ...]:
    """Return the path of a leaf, the same for a field of a named tuple and for a key of its stored dictionary."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def _leaves(tree: Any) -> dict[tuple[str, ...], tuple[tuple[int, ...], np.dtype]]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {_path(keys): (tuple(x.shape), np.dtype(x.dtype)) for keys, x in found}


def differences(stored: Any, wanted: Any) -> list[str]:
    """Return a line for every leaf that is missing, unexpected, or of another shape or dtype."""
    have, want = _leaves(stored), _leaves(wanted)
    name = lambda path: "/".join(path)
    show = lambda leaf: f"{leaf[1].name}{list(leaf[0])}"
    lines = [f"missing: {name(p)} {show(want[p])}" for p in want if p not in have]
    lines += [f"left over: {name(p)} {show(have[p])}" for p in have if p not in want]
    return lines + [
        f"differs: {name(p)} is {show(have[p])}, wanted {show(want[p])}"
        for p in want
        if p in have and have[p] != want[p]
    ]


def entries(state: TrainState) -> dict[str, Any]:
    """Return the entries of a state by name, without empty ones, which are not stored."""
    optional = ("statistics", "guard")
    held = lambda name, entry: name not in optional or bool(jax.tree.leaves(entry))
    return {k: v for k, v in state._asdict().items() if held(k, v)}


def storable(state: Any) -> Any:
    """Return a state with random keys as integers and, with several processes, local arrays on the host."""
    plain = keys_to_data(state)
    if jax.process_count() == 1:
        return plain
    local = lambda x: isinstance(x, jax.Array) and x.is_fully_addressable
    return jax.tree.map(lambda x: np.asarray(x) if local(x) else x, plain)


def storable_template(like: Any) -> Any:
    """Return shapes, dtypes and shardings of a state in its stored form."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None)
        if is_key(x):  # eval_shape gives the shape of the key's integers, which are never sharded
            data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)

    return jax.tree.map(shape, like)
