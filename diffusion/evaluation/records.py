"""What other files and numbers were made of: digests, differences."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion.files import write_atomically as write_atomically


def digest_of(tree: Any) -> str:
    """Return the SHA-256 of the arrays of a pytree, with their places, shapes and types."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape};".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def digest_of_json(content: Any) -> str:
    """Return the SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(old: Mapping, new: Mapping) -> list[str]:
    """Return lines "path: old -> new" for what differs between two manifests."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not value:
            return {path: value}
        inner = {f"{path}.{k}" if path else str(k): v for k, v in value.items()}
        return {k: v for key, item in inner.items() for k, v in flat(item, key).items()}

    a, b = flat(old, ""), flat(new, "")
    return [
        f"{k}: {a.get(k, 'absent')} -> {b.get(k, 'absent')}"
        for k in sorted(a | b)
        if a.get(k, "absent") != b.get(k, "absent")
    ]
