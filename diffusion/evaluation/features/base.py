"""What features are: a frozen description (`Features`) that opens to a function of examples (`Extractor`).

Examples come as generators and data sets give them: float32 (n, ...), images in [-1, 1]. Images pass the rule of
8 bits first, round(127.5 (x + 1)) clipped to 0 ... 255 and back (`diffusion.evaluation.images.to_uint8`), so that
a generated image is judged as the file that it would be stored in. What is compared are rows of float64.
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
    """Features that are ready: examples in, rows out.

    A subclass sets the attributes and writes `rows`; `__call__` checks what comes in and what goes out.

    Attributes:
        name: as it stands in the names of numbers, such as "pixels" or "classifier[digits]".
        dim: features per example.
        sha256: of the weights and the definition.
        version: of the definition, counted from 1.
        spec: what the examples are.
    """

    name: str
    dim: int
    sha256: str
    version: int = 1
    spec: DataSpec

    @abc.abstractmethod
    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the features (n, dim) of examples that were checked and, if images, put on 8-bit levels."""

    def log_probs(self, x: Shaped[np.ndarray, " n *data"]) -> Float[np.ndarray, "n classes"] | None:
        """Return log-probabilities of classes in nats, or None where the features know no classes."""
        del x
        return None

    @property
    def card(self) -> dict[str, Any]:
        """What a number should say about its features."""
        return {"name": self.name, "dim": self.dim, "sha256": self.sha256, "version": self.version}

    def __call__(self, x: Shaped[np.ndarray, " n *data"]) -> Float[np.ndarray, "n dim"]:
        """Return the features of examples.

        Raises:
            ValueError: the examples have another shape or range than the data, or they or their features are
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
        """Return examples as float32, images on 8-bit levels; refuse what is not data of this kind."""
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
    """A description of features; what it needs is loaded or made when it is opened."""

    @abc.abstractmethod
    def open(self, spec: DataSpec, data_dir: str | None = None) -> Extractor:
        """Return the features for data of this kind.

        Args:
            spec: what the examples are.
            data_dir: root of the data; see `diffusion.data.data_root`.

        Raises:
            ValueError: these features cannot be taken of such data; the message says why.
        """

    def open_for(self, train: Dataset, data_dir: str | None = None) -> Extractor:
        """Return the features for a data set, which may be read: features may be trained on it."""
        return self.open(train.spec, data_dir)


def features_of(batches: Iterable[np.ndarray], extractor: Extractor) -> Iterator[np.ndarray]:
    """Yield the features of batches of examples, batch by batch; empty batches are passed over."""
    for x in batches:
        if len(x):
            yield extractor(x)


def in_blocks(
    fn: Callable[[np.ndarray], np.ndarray], x: np.ndarray, block: int, dim: int
) -> np.ndarray:
    """Apply a function of blocks of one size, the last one filled up with zeros, and return rows of float64.

    It compiles once; and as compilers choose the order of a sum by the shapes that they see, the features of an
    example do not depend on how many are beside it.
    """
    found = np.zeros((len(x), dim))
    for start in range(0, len(x), block):
        part = x[start : start + block]
        full = np.concatenate([part, np.zeros((block - len(part), *x.shape[1:]), x.dtype)])
        found[start : start + len(part)] = np.asarray(fn(full))[: len(part)]
    return found
