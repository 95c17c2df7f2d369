"""What a train state looks like in a file: by name, with keys as integers, and how two of them differ."""

from typing import Any

import jax
import numpy as np

from diffusion.training.state import TrainState, is_key, keys_to_data


def _path(keys: tuple) -> tuple[str, ...]:
    """Name a leaf: a field of a named tuple and a key of the dictionary it is stored as agree."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def _leaves(tree: Any) -> dict[tuple[str, ...], tuple[tuple[int, ...], np.dtype]]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {_path(keys): (tuple(x.shape), np.dtype(x.dtype)) for keys, x in found}


def differences(stored: Any, wanted: Any) -> list[str]:
    """List every leaf that is missing, left over, or of another shape or type."""
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
    """Return the state by name, without entries that hold nothing: files do not know of them then."""
    optional = ("statistics", "guard")
    held = lambda name, entry: name not in optional or bool(jax.tree.leaves(entry))
    return {k: v for k, v in state._asdict().items() if held(k, v)}


def storable(state: Any) -> Any:
    """Return keys as integers and, with several processes, what each of them holds as host arrays."""
    plain = keys_to_data(state)
    if jax.process_count() == 1:
        return plain
    local = lambda x: isinstance(x, jax.Array) and x.is_fully_addressable
    return jax.tree.map(lambda x: np.asarray(x) if local(x) else x, plain)


def storable_template(like: Any) -> Any:
    """Return shapes, types and placement of a state as it is stored: keys as integers."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None)
        if is_key(x):  # eval_shape shows which integers hold the key; they are never divided
            data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)

    return jax.tree.map(shape, like)
