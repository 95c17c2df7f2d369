"""Files that say what other files and numbers were made of: digests, whole writes, differences."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.training.manifest import sync


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


def write_atomically(path: Path, content: bytes, at: Callable[[], None] = lambda: None) -> None:
    """Put a file in its place whole or not at all, and have it on disk when this returns.

    Args:
        path: of the file, whose folder exists.
        content: all of it.
        at: called when the temporary file is complete and not yet renamed.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        at()
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some systems cannot open folders
        sync(path.parent)


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
