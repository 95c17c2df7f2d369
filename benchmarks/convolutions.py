"""Alternative implementations of layers of a U-Net: 3x3 convolutions, and three further layers.

    patches         nine shifted copies of x side by side, then one matrix product
    nine products   only the gradient: dW[i, j] = (x shifted by i, j)^T dy
    Winograd        F(4x4, 3x3): y = A^T ((G w G^T) * (B^T x B)) A for tiles of 4x4 outputs; the product in the
                    middle is one of matrices over channels at each of 36 places, a quarter of the multiplications
                    (Lavin and Gray 2016, section 4.3).

For three layers, the forward pass and all gradients, in the plain implementation and in that of the networks:

    repeated        x repeated twice along both axes, then a convolution: learned upsampling
    single points   a 1x1 convolution, which mixes channels
    group norm      that of Linen, and that of this package

All implementations are the same function up to roundoff. x is (batch, side, side, channels), stride 1, borders of
zeros, and sides are multiples of 4.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import called
from benchmarks.report import distribution, number, progress, table
from benchmarks.rounds import Plan
from benchmarks.worker import pieces, seconds_of
from diffusion.networks.convolutions import conv_of_repeated, pointwise
from diffusion.networks.layers import GroupNorm, num_groups

TILE, WINDOW = 4, 6
B_T = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])  # fmt: skip
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A_T = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

HEAD = ("layer", "what", "way", "ms", "quartiles", "GFLOP/s", "ratio")


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Return the compiler's convolution."""
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the compiler's gradient of the kernel."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: convolve(x, w), kernel)(dy)[0]


def _shifted(x: jax.Array) -> list[jax.Array]:
    side, padded = x.shape[1], jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]


def patches(x: jax.Array, w: jax.Array) -> jax.Array:
    """Return the convolution as one product of matrices."""
    return jnp.concatenate(_shifted(x), -1) @ w.reshape(-1, w.shape[-1])


def gradient_by_patches(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of the kernel as one product of matrices."""
    rows = jnp.concatenate(_shifted(x), -1).reshape(-1, 9 * x.shape[-1])
    return (rows.T @ dy.reshape(-1, dy.shape[-1])).reshape(3, 3, x.shape[-1], -1)


def gradient_by_nine(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of the kernel as nine products of matrices."""
    parts = [jnp.einsum("bhwc,bhwk->ck", part, dy) for part in _shifted(x)]
    return jnp.stack(parts).reshape(3, 3, x.shape[-1], -1)


def _combination(row: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
    terms = [float(a) * part for a, part in zip(row, parts, strict=True) if a]
    return sum(terms[1:], start=terms[0])


def _transformed(matrix: np.ndarray, parts: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """Return M P M^T for a square table P of arrays."""
    half = [[_combination(row, line) for row in matrix] for line in parts]
    # or the first sums would be computed once for every second one
    half = jax.lax.optimization_barrier(half)
    return [[_combination(row, column) for column in zip(*half, strict=True)] for row in matrix]


def _windows(x: jax.Array) -> list[jax.Array]:
    """Return B^T x B of all tiles, one matrix (tiles, channels) for each of 36 places."""
    side, padded = x.shape[1], jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    last = side - TILE + 1
    at = lambda i, j: padded[:, i : i + last : TILE, j : j + last : TILE]
    parts = [[at(i, j) for j in range(WINDOW)] for i in range(WINDOW)]
    return [part.reshape(-1, x.shape[-1]) for line in _transformed(B_T, parts) for part in line]


def winograd(x: jax.Array, w: jax.Array) -> jax.Array:
    """Return the convolution by Winograd's method."""
    b, side, _, _ = x.shape
    tiles, out = side // TILE, w.shape[-1]
    u = jnp.einsum("ai,bj,ijck->abck", G, G, w).astype(x.dtype).reshape(-1, *w.shape[2:])
    products = [(v @ u[i]).reshape(b, tiles, tiles, out) for i, v in enumerate(_windows(x))]
    square = [products[WINDOW * i : WINDOW * (i + 1)] for i in range(WINDOW)]
    parts = jnp.stack([jnp.stack(line, axis=3) for line in _transformed(A_T, square)], axis=2)
    return parts.reshape(b, side, side, out)


def gradient_by_winograd(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of the kernel by the transpose of Winograd's method."""
    at = lambda i, j: dy[:, i::TILE, j::TILE]
    parts = [[at(i, j) for j in range(TILE)] for i in range(TILE)]
    back = [p.reshape(-1, dy.shape[-1]) for line in _transformed(A_T.T, parts) for p in line]
    du = jnp.stack([v.T @ d for v, d in zip(_windows(x), back, strict=True)])
    du = du.reshape(WINDOW, WINDOW, *du.shape[1:])
    return jnp.einsum("ai,bj,abck->ijck", G, G, du).astype(x.dtype)


FORWARD = {"compiler": convolve, "patches": patches, "Winograd": winograd}
GRADIENT = {
    "compiler": kernel_gradient, "patches": gradient_by_patches, "nine products": gradient_by_nine,
    "Winograd": gradient_by_winograd,
}  # fmt: skip


def _repeated(x: jax.Array, w: jax.Array) -> jax.Array:
    return convolve(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), w)


def _layer(layer: Any, name: str | None = None) -> Callable[..., jax.Array]:
    """Return a function of x and the parameters of a layer, or of the one in it that has this name."""
    inside = lambda params: params if name is None else {name: params}
    return lambda x, params: layer.apply({"params": inside(params)}, x)


def of_networks(channels: int, dtype: str = "float32") -> dict[str, tuple[dict[str, Any], Any]]:
    """Return the implementations of three layers, and the shapes of their parameters."""
    kernel, bias = (lambda size: (size, size, channels, channels)), (channels,)
    linen = nn.GroupNorm(num_groups(channels), epsilon=1e-5, dtype=dtype)
    repeated = {"plain": _repeated, "ours": conv_of_repeated_image}
    return {
        "repeated": (repeated, kernel(3)),
        "single points": ({"plain": convolve, "ours": pointwise}, kernel(1)),
        "group norm": (
            {"plain": _layer(linen), "ours": _layer(GroupNorm(dtype), "GroupNorm_0")},
            {"scale": bias, "bias": bias},
        ),
    }


def conv_of_repeated_image(x: jax.Array, w: jax.Array) -> jax.Array:
    """Return `conv_of_repeated` for images."""
    return conv_of_repeated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def both_ways(way: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Return a function that computes a layer and its gradients by x and parameters, for a cotangent y."""

    def run(x: jax.Array, params: Any) -> Any:
        y, back = jax.vjp(way, x, params)
        return back(y)

    return run


def layers(case: Case) -> list[tuple[int, int]]:
    """Return (side, channels) of the levels of a case's U-Net."""
    return [(case.shape[0] // 2**i, case.channels * m) for i, m in enumerate(case.multipliers)]


def tasks_of(case: Case, side: int, channels: int) -> list[tuple[str, dict[str, Any], Any, Any]]:
    """Return the tasks of a level: name, implementations, their arguments, and FLOPs if they are known."""
    shape, keys = (case.batch, side, side, channels), jax.random.split(jax.random.key(0), 3)
    x, dy = (jax.random.normal(k, shape, case.dtype) for k in keys[:2])
    w = jax.random.normal(keys[2], (3, 3, channels, channels), case.dtype)
    flops = 2 * 9 * channels**2 * side**2 * case.batch
    tasks = [("forward", FORWARD, (x, w), flops), ("kernel", GRADIENT, (x, dy), flops)]
    for what, (ways, shapes) in of_networks(channels, case.dtype).items():
        is_shape = lambda s: isinstance(s, tuple)
        params = jax.tree.map(lambda s: jnp.ones(s, case.dtype), shapes, is_leaf=is_shape)
        trained = {name: both_ways(way) for name, way in ways.items()}
        tasks += [
            (what, ways, (x, params), None),
            (f"{what}, gradients", trained, (x, params), None),
        ]
    return tasks


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Measure every way on every level, the ways in turn."""
    rows = []
    for side, channels in layers(case):
        for what, ways, arguments, count in tasks_of(case, side, channels):
            progress(f"{side} x {side} x {channels}, {what}")
            calls = {name: called(jax.jit(way), *arguments) for name, way in ways.items()}
            for call in calls.values():
                call(1)
            least = plan.least_seconds / 3
            counts = {n: pieces(seconds_of(call, 1), least) for n, call in calls.items()}
            values: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(plan.rounds * plan.repeats):
                for name, call in calls.items():
                    values[name].append(seconds_of(call, counts[name]) / counts[name])
            rows += [
                {"side": side, "channels": channels, "what": what, "way": name, "flops": count,
                 "values": found, "seconds": distribution(found)}
                for name, found in values.items()
            ]  # fmt: skip
    return {"rows": rows}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table; ratios are to the first, plain way, and FLOPs are those of its multiplications."""
    rows, own = [], 1.0
    for r in found["rows"]:
        told = r["seconds"]
        own = told["median"] if r["way"] in ("compiler", "plain") else own
        low, high = (number(q * 1e3) for q in told["quartiles"])
        rate = r["flops"] and r["flops"] / told["median"] / 1e9
        rows.append((f"{r['side']} x {r['side']} x {r['channels']}", r["what"], r["way"], told["median"] * 1e3,
                     f"{low} .. {high}", rate, told["median"] / own))  # fmt: skip
    return [f"batch {case.batch}, {case.dtype}", "", *table(HEAD, rows)]
