"""Whether every number of a state is finite: asked before anything is copied or written."""

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
        entries: a state by name; of it the parameters, the optimizer's state and the averages.

    Returns:
        Names such as "params/out/bias".
    """
    found = jax.tree_util.tree_leaves_with_path({k: entries[k] for k in CHECKED if k in entries})
    inexact = [(p, x) for p, x in found if jnp.issubdtype(x.dtype, jnp.inexact)]
    kinds: dict[str, list] = {"host": [], "local": [], "global": []}
    for path, x in inexact:  # one program takes arrays of one kind only
        whole = isinstance(x, jax.Array) and x.is_fully_addressable
        kinds["local" if whole else "global" if isinstance(x, jax.Array) else "host"] += [(path, x)]
    wrong = [p for p, x in kinds["host"] if not np.isfinite(x).all()]
    for group in filter(None, (kinds["local"], kinds["global"])):
        finite = np.asarray(_flags([x for _, x in group]))
        wrong += [p for (p, _), good in zip(group, finite, strict=True) if not good]
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p in wrong]
