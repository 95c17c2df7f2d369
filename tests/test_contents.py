"""Digests of contents: the same wherever and however they are read, other where anything that is read is other."""

import hashlib

import numpy as np
import pytest

from diffusion.runtime import digests
from diffusion.runtime.digests import of_arrays, of_files, shortened

X = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
LABEL = np.arange(50, dtype=np.int32) % 3


def test_arrays_have_one_digest_whatever_the_pieces(monkeypatch):
    """That of the names, types and shapes, and of all numbers in order."""
    wanted = hashlib.sha256()
    for name, x in (("data", X), ("label", LABEL)):
        wanted.update(f"{name} {x.dtype.name} {x.shape};".encode() + x.tobytes())
    words = f"50 examples, SHA-256 {wanted.hexdigest()}"
    for piece in (1, 100, 2**20):
        monkeypatch.setattr(digests, "_PIECE", piece)
        assert of_arrays({"label": LABEL, "data": X}) == words
        assert of_arrays({"data": np.asfortranarray(X), "label": LABEL}) == words
    assert shortened(words) == f"50 examples, SHA-256 {wanted.hexdigest()[:12]}"


def test_every_number_and_every_name_counts():
    whole = of_arrays({"data": X})
    other = X.copy()
    other[31, 3] += 1
    changed = [{"data": other}, {"data": X[::-1]}, {"x": X}, {"data": X, "label": LABEL}]
    changed += [{"data": X.view(np.int32)}, {"data": X.reshape(50, 7, 1)}, {"data": X[:49]}]
    assert whole not in map(of_arrays, changed)


@pytest.mark.parametrize("budget", [1, 300, 1000])
def test_a_budget_is_kept_by_rows_that_are_spread(budget):
    """Of 1,400 bytes: as many whole rows as fit, the first and the last among them if there are two."""
    seen = [
        i
        for i in range(50)
        if of_arrays({"data": _poked(i)}, budget) != of_arrays({"data": X}, budget)
    ]
    assert len(seen) == max(1, 50 * budget // X.nbytes)
    assert len(seen) == 1 or (seen[0], seen[-1]) == (0, 49)
    assert len(seen) == 1 or max(np.diff(seen)) <= 2 * 50 // len(seen)
    assert of_arrays({"data": X[:49]}, budget) != of_arrays({"data": X}, budget)


def _poked(row):
    x = X.copy()
    x[row] = 0
    return x


def test_files_count_with_their_words_in_order(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 100)
    files = [("ab"[i % 2], tmp_path / f"{i}") for i in range(6)]
    whole = of_files(files)
    assert whole.startswith("6 examples")
    (tmp_path / "5").rename(tmp_path / "z")
    assert of_files([*files[:5], ("b", tmp_path / "z")]) == whole  # names are no content
    assert of_files([*files[:5], ("a", tmp_path / "z")]) != whole
    assert of_files(files[:5]) != whole
    (tmp_path / "z").write_bytes(b"\5" * 99 + b"\6")
    assert of_files([*files[:5], ("b", tmp_path / "z")]) != whole
    (tmp_path / "2").write_bytes(b"\2" * 101)
    few = of_files(files[:5], budget=200)
    (tmp_path / "2").write_bytes(b"\2" * 100)
    assert of_files(files[:5], budget=200) != few  # sizes of all files count
