"""FLOPs by hand: those of matrix products and convolutions, a multiplication with its addition being two.

The same definition as PyTorch's `FlopCounterMode`, so that both sides are counted alike. XLA's own count,
which has everything else as well, stands beside it.
"""

import math
from collections.abc import Iterable
from typing import Any


def _inner(value: Any) -> Iterable[Any]:
    values = value if isinstance(value, tuple | list) else (value,)
    for item in values:
        if hasattr(item, "eqns"):
            yield item
        elif hasattr(item, "jaxpr"):
            yield item.jaxpr


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(lhs[i] for i in contracted)


def _convolution(eqn: Any) -> float:
    p = eqn.params
    kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    each = math.prod(kernel) / kernel[p["dimension_numbers"].rhs_spec[0]]
    # of a strided convolution's gradient: nothing is multiplied
    zeros = math.prod(p["lhs_dilation"])
    return 2.0 * math.prod(out) * each / zeros


def product_flops(jaxpr: Any) -> float:
    """Count the FLOPs of a jaxpr's products, borders of zeros included, loops as often as they run."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = sum(product_flops(j) for v in eqn.params.values() for j in _inner(v))
        total += inner * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        if eqn.primitive.name == "dot_general":
            total += _dot(eqn)
        elif eqn.primitive.name == "conv_general_dilated":
            total += _convolution(eqn)
    return total
