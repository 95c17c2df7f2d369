"""Cost of a program, counted from its jaxpr without compiling it.

    operations   2 x multiplications of every matrix product and convolution, without multiplications by zeros of
                 padding and dilation. Elementwise operations are not counted, as usual for "model FLOPs".
    activations  arrays of the forward pass that reverse-mode differentiation keeps: each array once, arguments not.
                 For an elementwise function that is a call of its own (silu, gelu), two arrays count, its result and
                 one more, from which compilers recompute the rest of its derivative; only the result counts if its
                 input follows from another kept array by scales and shifts, as after a norm.

These numbers can be compared with the report of the compiler.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as core
import jax.numpy as jnp
import numpy as np

_LOOPS = ("scan", "while", "cond")
_NOT_ELEMENTWISE = ("dot_general", "conv_general_dilated", "reduce_sum", "reduce_max", *_LOOPS)


def trace(function: Callable[..., Any], *args: Any) -> Any:
    """Return the jaxpr of a function for arguments, or their shapes; nothing is computed."""
    return jax.make_jaxpr(function)(*args).jaxpr


def bytes_of(tree: Any) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a tree; a random key has eight."""
    return sum(_bytes(x) for x in jax.tree.leaves(tree))


def _bytes(x: Any) -> int:
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return math.prod(x.shape) * (8 if key else jnp.dtype(x.dtype).itemsize)


def _called(equation: Any) -> Iterator[Any]:
    """Yield the jaxprs inside an equation."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr | core.Jaxpr):
                yield getattr(one, "jaxpr", one)


# ---- operations ---------------------------------------------------------------------------------


def matrix_flops(jaxpr: Any) -> int:
    """Return the operations of all matrix products and convolutions of a program.

    The body of a loop counts once per iteration, or once if the number is unknown; of branches, the most costly counts.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        else:
            inside = [matrix_flops(program) for program in _called(equation)]
            times = equation.params["length"] if name == "scan" else 1
            total += times * (max(inside, default=0) if name == "cond" else sum(inside))
    return total


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    summed = math.prod(shape[d] for d in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _convolution(equation: Any) -> int:
    p = equation.params
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out, where = equation.outvars[0].aval.shape, p["dimension_numbers"]
    meetings = 1
    for d in range(len(out) - 2):
        meetings *= _meetings(
            size=lhs[where.lhs_spec[2 + d]], kernel=rhs[where.rhs_spec[2 + d]],
            out=out[where.out_spec[2 + d]], stride=p["window_strides"][d], low=p["padding"][d][0],
            gap=p["lhs_dilation"][d], dilation=p["rhs_dilation"][d],
        )  # fmt: skip
    batch, features = out[where.out_spec[0]], out[where.out_spec[1]]
    return 2 * batch * features * rhs[where.rhs_spec[1]] * meetings


def _meetings(
    *, size: int, kernel: int, out: int, stride: int, low: int, gap: int, dilation: int
) -> int:
    """Return the number of pairs (output, weight) along one axis whose input is not padding or dilation."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - low
    return int(((at >= 0) & (at <= (size - 1) * gap) & (at % gap == 0)).sum())


# ---- memory -------------------------------------------------------------------------------------


def activation_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Return the bytes of activations kept for the derivative of a function by its first argument.

    Args:
        function: function that returns a scalar.
        args: its arguments, or their shapes.
    """

    def kept(first: Any, *rest: Any) -> Any:
        return jax.vjp(lambda x: function(x, *rest), first)[1]

    jaxpr = trace(kept, *args)
    made = {v: e for e in jaxpr.eqns for v in e.outvars}
    left: dict[Any, int] = {}  # arrays of an elementwise call that still count
    total = 0
    kept_arrays = dict.fromkeys(_origin(v, made) for v in jaxpr.outvars if isinstance(v, core.Var))
    for v in (v for v in kept_arrays if v in made):
        call = made[v]
        if _is_elementwise_call(call):
            if id(call) not in left:
                left[id(call)] = 1 if _follows(call.invars[0], made, kept_arrays) else 2
            left[id(call)] -= 1
            if left[id(call)] < 0:
                continue
        total += _bytes(v.aval)
    return total


def _origin(v: Any, made: dict[Any, Any]) -> Any:
    """Return the variable whose memory this one shares: a reshaped array needs no memory of its own."""
    while v in made and made[v].primitive.name == "reshape":
        (v,) = made[v].invars
    return v


_SCALES_AND_SHIFTS = ("add", "sub", "mul", "convert_element_type", "reshape")


def _follows(v: Any, made: dict[Any, Any], kept: dict[Any, None]) -> bool:
    """Return whether an array is another kept array, scaled and shifted by broadcasts of smaller ones."""
    spread = lambda u: u in made and made[u].primitive.name == "broadcast_in_dim"
    size = lambda u: math.prod(u.aval.shape)
    while True:
        if v not in made or made[v].primitive.name not in _SCALES_AND_SHIFTS:
            return False
        whole = [
            u for u in made[v].invars
            if isinstance(u, core.Var) and size(u) == size(v) and not spread(u)
        ]  # fmt: skip
        if len(whole) != 1:
            return False
        (v,) = whole
        if v in kept:
            return True


def _is_elementwise_call(equation: Any) -> bool:
    if equation.primitive.name in _LOOPS:
        return False
    programs = list(_called(equation))
    shapes = {v.aval.shape for v in equation.outvars if v.aval.shape}
    return bool(programs) and len(shapes) == 1 and not any(map(_combines, programs))


def _combines(jaxpr: Any) -> bool:
    """Return whether a program contains operations that are not elementwise."""
    return any(
        e.primitive.name in _NOT_ELEMENTWISE or any(map(_combines, _called(e))) for e in jaxpr.eqns
    )
