"""Digests that say what data is, wherever it lies.

A digest reads at most `BUDGET` bytes. Of more data, rows or files are read that are spread evenly; shapes and the
sizes of all files enter in any case.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

BUDGET = 256 * 2**20  # bytes: about a second
_PIECE = 2**20  # bytes that are hashed at once


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
