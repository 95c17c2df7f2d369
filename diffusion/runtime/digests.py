"""Digests of trees of arrays, of JSON, and of data in files; and differences between two manifests.

A digest of data identifies its content, independent of its location. It reads at most `BUDGET` bytes: from more data
than that, evenly spaced rows or files are read; shapes and the sizes of all files are always included.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

BUDGET = 256 * 2**20  # bytes: about a second
_PIECE = 2**20  # bytes that are hashed at once


def digest_of(tree: Any) -> str:
    """Return the SHA-256 of the arrays of a pytree, with their paths, shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape};".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def digest_of_file(file: Any) -> str:
    """Return the SHA-256 of a file that is open for reading bytes."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(content: Any) -> Any:
    """Return data after a round trip through JSON; values of types that JSON does not have become text."""
    return json.loads(json.dumps(content, default=str))


def digest_of_json(content: Any) -> str:
    """Return the SHA-256 of JSON data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(old: Mapping, new: Mapping) -> list[str]:
    """Return a line "path: old -> new" for every difference between two manifests."""

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


# ---- data in files -----------------------------------------------------------------------------


def of_arrays(arrays: Mapping[str, np.ndarray], budget: int = BUDGET) -> str:
    """Return the number of examples and the SHA-256 of arrays with one row per example, as text.

    Args:
        arrays: by name, numbers of shape (n, ...).
        budget: largest number of bytes to read; at least one row is read.
    """
    found = hashlib.sha256()
    count = len(next(iter(arrays.values())))
    size = sum(x.nbytes for x in arrays.values())
    chosen = np.unique(np.linspace(0, count - 1, _part(count, size, budget)).astype(np.int64))
    for name in sorted(arrays):
        x = arrays[name]
        found.update(f"{name} {x.dtype.name} {x.shape};".encode())
        rows = max(1, _PIECE * count // max(x.nbytes, 1))
        for start in range(0, len(chosen), rows):
            found.update(np.ascontiguousarray(x[chosen[start : start + rows]]).tobytes())
    return _words(count, found.hexdigest())


def of_files(files: Iterable[tuple[str, Path]], budget: int = BUDGET) -> str:
    """Return the number of files and the SHA-256 of their contents in order, independent of their names, as text.

    Args:
        files: pairs (description, path); the description, such as the class, enters the digest.
        budget: largest number of bytes to read; at least one piece of a file is read.

    Raises:
        OSError: a file cannot be read.
    """
    sized = [(word, path, path.stat().st_size) for word, path in files]
    chosen = _part(len(sized), sum(size for _, _, size in sized), budget)
    rows = set(np.linspace(0, len(sized) - 1, chosen).astype(np.int64).tolist())
    found, left = hashlib.sha256(), budget
    for number, (word, path, size) in enumerate(sized):
        found.update(f"{word} {size};".encode())
        if number in rows and left > 0:
            left -= _update(found, path, left)
    return _words(len(sized), found.hexdigest())


def _part(count: int, size: int, budget: int) -> int:
    """Return how many of `count` items, together of `size` bytes, are read."""
    return count if size <= budget else max(1, count * budget // size)


def _update(found: "hashlib._Hash", path: os.PathLike[str], limit: int) -> int:
    """Hash the first `limit` bytes of a file; return the number of bytes hashed."""
    done = 0
    with open(path, "rb") as file:
        while done < limit and (piece := file.read(min(_PIECE, limit - done))):
            found.update(piece)
            done += len(piece)
    return done


def _words(count: int, digest: str) -> str:
    return f"{count} example{'s' * (count != 1)}, SHA-256 {digest}"


def shortened(words: str) -> str:
    """Return the text of a digest with only its first digits, for messages."""
    head, _, digest = words.rpartition(" ")
    return f"{head} {digest[:12]}"
