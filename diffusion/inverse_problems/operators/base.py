"""Base class of operators, linear maps A on examples with the batch axis first.

    y = forward(x) + std n              a measurement, n ~ N(0, I)
    <forward(x), y> = <x, adjoint(y)>   per example
    x = pinv(y)                         the least-norm least-squares solution, A^+ y

Operators are frozen records and callable pytrees: arrays (a mask, a kernel, a matrix) are leaves, so that
another array of the same shape needs no compilation; numbers that determine shapes are static. An operator does
not store the shape of the data, so `adjoint` and `pinv` take the shape of one example.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import draw
from diffusion.types import Data, KeyLike, Scalar

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operator(abc.ABC):
    """A linear map A of examples.

    A subclass writes `forward`; the adjoint follows by transposition. If the rows of A are orthogonal and of
    equal length, `gram` returns their squared length, from which the pseudo-inverse follows.
    """

    has_pinv: ClassVar[bool] = False

    @abc.abstractmethod
    def forward(self, x: Data) -> Array:
        """Return A x for x of shape (batch, ...)."""

    def adjoint(self, y: Data, shape: Shape) -> Array:
        """Return A^T y for examples of this shape, (batch, ...)."""
        like = jax.ShapeDtypeStruct((len(y), *shape), y.dtype)
        # the arrays of the operator may have another dtype
        forward = lambda x: self.forward(x).astype(y.dtype)
        return jax.linear_transpose(forward, like)(y)[0]

    def pinv(self, y: Data, shape: Shape) -> Array:
        """Return A^+ y for examples of this shape, (batch, ...).

        Raises:
            TypeError: no closed form is known.
        """
        gram = self.gram(shape)
        if gram is None:
            raise TypeError(
                f"{type(self).__name__} states no pseudo-inverse; dps, pigdm and moment_matching need none."
            )
        return self.adjoint(y, shape) / jnp.asarray(gram, y.dtype)

    def gram(self, shape: Shape) -> float | None:
        """Return c if A A^T = c I on the range of A, else None."""
        del shape
        return None

    def restrict(self, y: Data) -> Array:
        """Set to zero the entries of y that A never produces, such as those hidden by a mask."""
        return y

    def check(self, shape: Shape) -> None:
        """Raise ValueError if this operator cannot act on examples of this shape."""
        del shape

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one measurement of an example of this shape, without computing it."""
        self.check(shape)
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.eval_shape(self.forward, x).shape[1:]

    def measure(self, key: KeyLike, x: Data, std: Scalar = 0.0) -> Array:
        """Draw y = A x + std n.

        Args:
            key: one key, or one per example.
            x: examples, (batch, ...).
            std: standard deviation of the noise, in the units of y.
        """
        self.check(x.shape[1:])
        y = self.forward(x)
        noise = draw(lambda k, shape: jax.random.normal(k, shape, y.dtype), key, y.shape)
        return y + jnp.asarray(std, y.dtype) * self.restrict(noise)

    @classmethod
    def example(cls) -> tuple["Operator", Shape]:
        """Return an operator of this class and a shape that it accepts, for the laws in `diffusion.testing`."""
        return cls(), (8, 8, 3)


def as_array(values: Any) -> Any:
    """Return lists and tuples from a config as an array, and anything else unchanged."""
    return np.asarray(values, np.float64) if isinstance(values, list | tuple) else values


def require_image(operator: Operator, shape: Shape) -> None:
    """Raise ValueError unless examples of this shape are images, (height, width, channels)."""
    if len(shape) != 3:
        raise ValueError(
            f"{type(operator).__name__} acts on images, (height, width, channels); got examples of shape {shape}."
        )
