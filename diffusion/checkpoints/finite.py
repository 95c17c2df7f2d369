"""Check that every number of a train state is finite, before the state is copied or written."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHECKED = ("params", "opt_state", "ema")


@jax.jit
def _flags(leaves: list[Any]) -> Any:
    return jnp.stack([jnp.isfinite(x).all() for x in leaves])


def not_finite(entries: Mapping[str, Any]) -> list[str]:
    """Return the names of leaves with a number that is not finite, by one reduction on the device.

    Args:
        entries: entries of a state by name; the parameters, the optimizer state and the averages are checked.

    Returns:
        Names such as "params/out/bias".
    """
    found = jax.tree_util.tree_leaves_with_path({k: entries[k] for k in CHECKED if k in entries})
    inexact = [(p, x) for p, x in found if jnp.issubdtype(x.dtype, jnp.inexact)]
    kinds: dict[str, list] = {"host": [], "local": [], "global": []}
    for path, x in inexact:  # local and global arrays cannot go into one compiled program
        whole = isinstance(x, jax.Array) and x.is_fully_addressable
        kinds["local" if whole else "global" if isinstance(x, jax.Array) else "host"] += [(path, x)]
    wrong = [p for p, x in kinds["host"] if not np.isfinite(x).all()]
    for group in filter(None, (kinds["local"], kinds["global"])):
        finite = np.asarray(_flags([x for _, x in group]))
        wrong += [p for (p, _), good in zip(group, finite, strict=True) if not good]
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p in wrong]
