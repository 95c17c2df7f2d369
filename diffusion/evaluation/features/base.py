"""Interface of features: a frozen description (`Features`), which opens to a function of examples (`Extractor`).

Examples have the format of samplers and data sets: float32 (n, ...), images in [-1, 1]. Images are first rounded to
8 bits, round(127.5 (x + 1)) clipped to 0 ... 255 and back (`diffusion.evaluation.images.to_uint8`), so that
a generated image is measured as it would be stored in a file. Features are rows of float64.
"""

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from diffusion.data import Dataset, DataSpec, to_float
from diffusion.evaluation import images
from diffusion.numerics import require, shaped


class Extractor(abc.ABC):
    """A function from examples to features.

    A subclass sets the attributes and defines `rows`; `__call__` checks inputs and outputs.

    Attributes:
        name: name in the names of numbers, such as "pixels" or "classifier[digits]".
        dim: number of features per example.
        sha256: SHA-256 of the weights and the definition.
        version: version of the definition, from 1.
        spec: description of the examples.
    """

    name: str
    dim: int
    sha256: str
    version: int = 1
    spec: DataSpec

    @abc.abstractmethod
    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the features (n, dim) of checked examples; images are already rounded to 8-bit levels."""

    def log_probs(self, x: Shaped[np.ndarray, " n *data"]) -> Float[np.ndarray, "n classes"] | None:
        """Return log-probabilities of classes in nats, or None if the features do not predict classes."""
        del x
        return None

    @property
    def card(self) -> dict[str, Any]:
        """Return the entry about these features on the card of a number."""
        return {"name": self.name, "dim": self.dim, "sha256": self.sha256, "version": self.version}

    def __call__(self, x: Shaped[np.ndarray, " n *data"]) -> Float[np.ndarray, "n dim"]:
        """Return the features of examples.

        Raises:
            ValueError: the shape or range of the examples differs from the data, or they or their features are
                not finite.
        """
        x = self.checked(x)
        if not len(x):
            return np.zeros((0, self.dim))
        found = np.asarray(self.rows(x), np.float64).reshape(len(x), -1)
        shaped(f"the features {self.name}", found, (len(x), self.dim))
        bad = ~np.isfinite(found).all(axis=1)
        require(
            not bad.any(),
            f"features {self.name} of {int(bad.sum())} of {len(x)} are not finite: the weights are damaged.",
        )
        return found

    def checked(self, x: np.ndarray) -> np.ndarray:
        """Return examples as float32, images rounded to 8-bit levels; raise ValueError for other data."""
        x = np.asarray(x)
        require(
            x.dtype.kind == "f",
            f"features take floats, images in [-1, 1]; got {x.dtype}. Scale 8-bit levels by `diffusion.data.to_float`.",
        )
        wanted = (*x.shape[:1], *self.spec.shape)
        shaped("examples", x, wanted, f"for the features {self.name}")
        bad = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        if bad.any():
            raise ValueError(
                f"examples must be finite; {int(bad.sum())} of {len(x)} are not, first {int(np.argmax(bad))}."
            )
        if self.spec.kind != "image":
            return x.astype(np.float32, copy=False)
        if len(x) and np.abs(x).max() > 10 and (x == np.floor(x)).all():
            raise ValueError(
                f"images must lie in [-1, 1]; these look like 8-bit levels, to {x.max():.0f}: take u / 127.5 - 1."
            )
        return to_float(images.to_uint8(x.astype(np.float32, copy=False)))


@dataclass(frozen=True, kw_only=True)
class Features(abc.ABC):
    """A description of features; weights are loaded or trained when it is opened."""

    @abc.abstractmethod
    def open(self, spec: DataSpec, data_dir: str | None = None) -> Extractor:
        """Return the extractor for data of this kind.

        Args:
            spec: description of the examples.
            data_dir: data folder; see `diffusion.data.data_root`.

        Raises:
            ValueError: these features are not defined for such data; the message gives the reason.
        """

    def open_for(self, train: Dataset, data_dir: str | None = None) -> Extractor:
        """Return the extractor for a data set, on which features may be trained."""
        return self.open(train.spec, data_dir)


def features_of(batches: Iterable[np.ndarray], extractor: Extractor) -> Iterator[np.ndarray]:
    """Yield the features of batches of examples, batch by batch; empty batches are skipped."""
    for x in batches:
        if len(x):
            yield extractor(x)


def in_blocks(
    fn: Callable[[np.ndarray], np.ndarray], x: np.ndarray, block: int, dim: int
) -> np.ndarray:
    """Apply a function to blocks of equal size, the last one padded with zeros, and return rows of float64.

    The function is compiled once. Since compilers choose the order of a sum by the shapes, the features of an
    example then do not depend on the number of other examples.
    """
    found = np.zeros((len(x), dim))
    for start in range(0, len(x), block):
        part = x[start : start + block]
        full = np.concatenate([part, np.zeros((block - len(part), *x.shape[1:]), x.dtype)])
        found[start : start + len(part)] = np.asarray(fn(full))[: len(part)]
    return found
