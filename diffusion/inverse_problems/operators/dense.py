"""Operators defined by a matrix over all numbers of an example: any matrix, or a random one with few rows."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.inverse_problems.operators.base import Operator, Shape, as_array
from diffusion.numerics import at_least, in_interval, require
from diffusion.registry import register
from diffusion.types import Data

LARGEST = 2**26  # largest number of entries of a random matrix: half a gigabyte in float64


def _apply(matrix: Array, x: Data) -> Array:
    """Return the matrix times every flattened example, (batch, rows)."""
    flat = x.reshape(len(x), -1)
    return jnp.matmul(flat, matrix.T, precision=jax.lax.Precision.HIGHEST)


def _row_length(matrix: np.ndarray) -> float | None:
    """Return c if A A^T = c I, else None."""
    gram = matrix @ matrix.T
    c = float(gram.trace() / len(gram))
    return c if c > 0 and np.allclose(gram, c * np.eye(len(gram)), atol=1e-12 * c) else None


@register("operator", "matrix")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class Matrix(Operator):
    """A x = values x, for x flattened to a vector.

    Args:
        values: (rows, numbers of an example), an array, or nested tuples from a config.
        length: squared length of the rows, if they are orthogonal and of equal length; computed.
    """

    has_pinv: ClassVar[bool] = True

    values: Any
    length: float | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_array(self.values))
        if isinstance(self.values, np.ndarray):
            require(
                self.values.ndim == 2,
                f"`values` of matrix must be (rows, columns); got shape {self.values.shape}.",
            )
            # computed here, on the host: inside a compiled function the values are not known
            object.__setattr__(self, "length", _row_length(self.values))

    def forward(self, x: Data) -> Array:
        self.check(x.shape[1:])
        return _apply(jnp.asarray(self.values, x.dtype), x)

    def gram(self, shape: Shape) -> float | None:
        del shape
        return self.length

    def pinv(self, y: Data, shape: Shape) -> Array:
        inverse = jnp.linalg.pinv(jnp.asarray(self.values, y.dtype))
        return _apply(inverse, y).reshape(len(y), *shape)

    def check(self, shape: Shape) -> None:
        columns, size = np.shape(self.values)[-1], int(np.prod(shape))
        require(columns == size, f"the matrix has {columns} columns; examples {shape} have {size}.")

    @classmethod
    def example(cls) -> tuple["Matrix", Shape]:
        return cls(values=np.random.default_rng(0).standard_normal((5, 12))), (2, 6)


@functools.lru_cache(maxsize=8)
def _orthonormal_rows(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return random orthonormal rows, uniformly distributed, (rows, columns)."""
    draws = np.random.default_rng(seed).standard_normal((columns, rows))
    frame, upper = np.linalg.qr(draws)
    return (frame * np.sign(np.diag(upper))).T


@register("operator", "compressed_sensing")
@jax.tree_util.register_dataclass
@final
@dataclass(frozen=True, kw_only=True)
class CompressedSensing(Operator):
    """A x = Q x with fewer rows than numbers: Q has random orthonormal rows, drawn from a seed.

    Every entry of y depends on the whole example. The rows are those of a normal matrix made orthonormal, so that
    A A^T = I, and all entries of y are equally noisy.

    Args:
        fraction: number of rows divided by the numbers of an example; at least one row is drawn.
        seed: seed of the matrix.
    """

    has_pinv: ClassVar[bool] = True

    fraction: float = dataclasses.field(
        default=0.25, metadata={"static": True, "renamed_from": "share"}
    )
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    def __post_init__(self) -> None:
        in_interval("(0, 1]", fraction=self.fraction, of="compressed_sensing")
        at_least(0, seed=self.seed)

    def forward(self, x: Data) -> Array:
        self.check(x.shape[1:])
        columns = x[0].size
        rows = max(1, round(self.fraction * columns))
        return _apply(jnp.asarray(_orthonormal_rows(rows, columns, self.seed), x.dtype), x)

    def gram(self, shape: Shape) -> float:
        del shape
        return 1.0

    def check(self, shape: Shape) -> None:
        size = int(np.prod(shape))
        require(
            self.fraction * size**2 <= LARGEST,
            f"compressed_sensing of {size} numbers with fraction={self.fraction} holds more than {LARGEST} entries.",
        )
