"""Base classes of the methods for linear inverse problems.

    y = A x_0 + std n,  n ~ N(0, I)         the measurement; A is an object of kind `operator`
    D = E[x_0 | x_t]                        the denoiser, trained without knowledge of A or y
    r = y - A D                             the residual of the denoiser
    J = dD / dx_t                           Cov[x_0 | x_t] = sigma^2 / alpha J for normal noise

Each method turns D into an approximation of E[x_0 | x_t, y], which every sampler, SDE and ODE can use. By
Tweedie's formula, this is D + sigma^2 / alpha grad_x_t log p(y | x_t); the methods differ in their
approximation of p(y | x_t). All have a scale: 1 is the method, 0 the model without the measurement.

The results are callable pytrees; the measurement, std, scale and the arrays of A are leaves, so that a
compiled sampler is reused for another measurement. The measurement has a batch axis, of length 1 if all
examples share it.
"""

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.guidance.base import Guidance, given
from diffusion.guidance.model import ConditionalModel
from diffusion.guidance.scales import check_scale
from diffusion.inverse_problems.operators import Identity, Operator
from diffusion.numerics import as_pytree, at_least, finite, sum_features
from diffusion.numerics.shapes import bare, shaped_like
from diffusion.processes import AffineProcess
from diffusion.types import Data, Denoiser, Scalar, Time


@dataclass(frozen=True, kw_only=True)
class Measured(abc.ABC):
    """A denoiser conditioned on a measurement; `process` is static, all other fields are leaves."""

    denoise: Any
    operator: Any
    measurement: Any
    std: Scalar = 0.0
    scale: Scalar = 1.0
    process: AffineProcess = dataclasses.field(metadata={"static": True})

    @abc.abstractmethod
    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the approximation of E[x_0 | x_t, y], shaped like x_t."""

    def seen(self, x: Data) -> Array:
        """Return A x in the dtype of x, whatever the dtype of the arrays of A."""
        return self.operator.forward(x).astype(x.dtype)

    def residual(self, x_0: Data) -> Array:
        """Return r = y - A x_0, with 0 at entries of y that A never produces; see `unexplained`."""
        return unexplained(self.operator, self.measurement, x_0)

    def variance(self, like: Array) -> Array:
        """Return std^2 in the dtype of `like`."""
        return jnp.asarray(self.std, like.dtype) ** 2

    def blend(self, x_0: Data, correction: Data) -> Data:
        """Return x_0 + scale correction."""
        return x_0 + jnp.asarray(self.scale, x_0.dtype) * correction.astype(x_0.dtype)


def unexplained(operator: Any, measurement: Any, x_0: Data) -> Array:
    """Return the residual r = y - A x_0 in the dtype of x_0, with 0 at entries of y that A never produces.

    Raises:
        ValueError: the shapes of the operator and the data, or of the measurement and A x_0, do not match.
    """
    wanted = operator.output_shape(x_0.shape[1:])
    y = jnp.asarray(measurement, x_0.dtype)
    if y.shape[1:] != wanted or y.shape[0] not in (1, len(x_0)):
        raise ValueError(
            f"the measurement must have shape {(len(x_0), *wanted)}, or 1 in place of {len(x_0)}, for examples "
            f"of shape {x_0.shape[1:]} under {type(operator).__name__}; got {y.shape}."
        )
    y = jnp.broadcast_to(y, (len(x_0), *wanted))
    return operator.restrict(y - operator.forward(x_0).astype(x_0.dtype))


def measured(model: Any, kind: type[Measured]) -> Any:
    """Return the model, or the denoiser inside it, that is an instance of `kind`, or None."""
    model = bare(model)
    while model is not None and not isinstance(model, kind):
        model = getattr(model, "denoise", None)
    return model


def bound(
    kind: Callable[..., Any],
    process: AffineProcess,
    denoise: Denoiser,
    operator: Operator,
    measurement: Any,
    **fields: Any,
) -> Any:
    """Return a `Measured` denoiser, with the denoiser as a callable pytree and the measurement as an array."""
    measurement = jnp.asarray(measurement)
    finite(std=fields["std"], scale=fields["scale"])
    return kind(
        process=process, denoise=as_pytree(denoise), operator=operator, measurement=measurement, **fields
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LinearInverse(Guidance):
    """Base class of the guidance entries for linear inverse problems.

    Args:
        operator: operator of the measurement; the measurement itself is given["measurement"].
        std: standard deviation of the measurement's noise.
        scale: 1 is the method, 0 the model without the measurement.
    """

    neutral = {"scale": 0.0}  # noqa: RUF012 read-only, and annotated by the base class

    operator: Any = dataclasses.field(default=Identity(), metadata={"kind": "operator"})
    std: Scalar = 0.0
    scale: Scalar = 1.0

    def __post_init__(self) -> None:
        finite(std=self.std, of="the measurement")
        at_least(0, std=self.std, of="the measurement")
        check_scale(self.scale)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the operator cannot act on examples of this shape."""
        self.operator.check(shape)

    def arguments(self, model: ConditionalModel) -> tuple[Any, ...]:
        """Return (process, denoiser, operator, measurement), the first arguments of the functions."""
        y = given(model, "measurement", self)
        return model.process, model.conditional, self.operator, y


def pullback(denoise: Denoiser, x_t: Data, t: Time) -> tuple[Data, Callable[[Data], Data]]:
    """Return D(x_t) and v -> J^T v."""
    x_0, transposed = jax.vjp(lambda x: shaped_like(denoise(x, t), x), x_t)
    return x_0, lambda v: transposed(v.astype(x_0.dtype))[0]


def conjugate_gradients(
    matrix: Callable[[Array], Array],
    b: Float[Array, " batch *data"],
    num_iterations: int,
    tolerance: float,
) -> Float[Array, " batch *data"]:
    """Solve M v = b for a symmetric M >= 0, separately for each example, starting from 0.

    An example stops if |M v - b| <= tolerance |b|, or if the next direction has no positive curvature, which
    happens if M contains a network and is only nearly symmetric. The loop ends when all examples have
    stopped.
    """
    dot = lambda a, b: sum_features(a * b).reshape(-1, *(1,) * (b.ndim - 1))
    divided = lambda a, b, where: jnp.where(where, a / jnp.where(where, b, 1), 0)
    square = dot(b, b)
    limit = tolerance**2 * square

    def open_ended(state: tuple[Any, ...]) -> Array:
        count, *_, going = state
        return (count < num_iterations) & jnp.any(going)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, v, r, p, square, going = state
        curved = matrix(p).astype(p.dtype)
        curvature = dot(p, curved)
        going = going & (curvature > 0)
        length = divided(square, curvature, going)
        v, r = v + length * p, r - length * curved
        after = dot(r, r)
        p = r + divided(after, square, going) * p
        return count + 1, v, r, p, after, going & (after > limit)

    start = (0, jnp.zeros_like(b), b, b, square, square > 0)
    return jax.lax.while_loop(open_ended, step, start)[1]
