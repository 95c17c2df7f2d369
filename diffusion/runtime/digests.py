"""Digests of trees of arrays, of JSON, and of data that lies in files, and differences of what they were made of.

A digest of data says what it is, wherever it lies. It reads at most `BUDGET` bytes: of more data, rows or files are
read that are spread evenly; shapes and the sizes of all files enter in any case.
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
    """Return the SHA-256 of the arrays of a pytree, with their places, shapes and types."""
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
    """Return data as JSON holds it, so that it equals what is read back; what JSON does not know becomes text."""
    return json.loads(json.dumps(content, default=str))


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


# ---- data in files -----------------------------------------------------------------------------


def of_arrays(arrays: Mapping[str, np.ndarray], budget: int = BUDGET) -> str:
    """Return the number of examples and the SHA-256 of arrays with one row for each.

    Args:
        arrays: by name, numbers of shape (n, ...).
        budget: bytes that are read at most, but for one row.
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
    """Return the number of files and the SHA-256 of their contents in order, whatever their names.

    Args:
        files: what is said of each, such as its class, and where it lies.
        budget: bytes that are read at most, but for a piece of a file.

    Raises:
        OSError: one cannot be read.
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
    """Return how many of `count` things, `size` bytes together, are read."""
    return count if size <= budget else max(1, count * budget // size)


def _update(found: "hashlib._Hash", path: os.PathLike[str], limit: int) -> int:
    """Hash the first `limit` bytes of a file; return how many there were."""
    done = 0
    with open(path, "rb") as file:
        while done < limit and (piece := file.read(min(_PIECE, limit - done))):
            found.update(piece)
            done += len(piece)
    return done


def _words(count: int, digest: str) -> str:
    return f"{count} example{'s' * (count != 1)}, SHA-256 {digest}"


def shortened(words: str) -> str:
    """Return such words with as much of the digest as people compare."""
    head, _, digest = words.rpartition(" ")
    return f"{head} {digest[:12]}"
