"""Laws of linear operators: linearity, the adjoint, the pseudo-inverse, independence of examples.

All are exact, so the bounds are round-off in float64. Errors are relative to the size of the compared values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.inverse_problems.operators import Operator
from diffusion.numerics import of_type
from diffusion.testing.report import Finding, Report, findings_of, in_order, largest

Case = tuple[Operator, tuple[int, ...]]
BATCH = 3
ROUND_OFF = 1e-10


def _draw(index: int, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), index), (BATCH, *shape))


def _off(a: Array, b: Array) -> float:
    """Return the largest difference, relative to the size of the compared values."""
    if a.shape != b.shape:
        return float("nan")
    return largest(a - b) / max(1.0, largest(b))


def _inner(a: Array, b: Array) -> Array:
    return (a * b).reshape(len(a), -1).sum(axis=-1)


def linear(case: Case) -> Finding:
    """O1: A (2 x - 3 z) = 2 A x - 3 A z."""
    operator, shape = case
    x, z = _draw(0, shape), _draw(1, shape)
    A = operator.forward
    return Finding(
        "O1", "A (2 x - 3 z) = 2 A x - 3 A z", _off(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z)), ROUND_OFF,
        "a constant that is added, or a clip: they belong to the measurement, not to A",
    )  # fmt: skip


def adjoint(case: Case) -> list[Finding]:
    """O2: <A x, y> = <x, A^T y>, and A^T y is shaped like an example."""
    operator, shape = case
    x, y = _draw(0, shape), _draw(1, operator.output_shape(shape))
    back = operator.adjoint(y, shape)
    fits = back.shape == x.shape
    off = _off(_inner(operator.forward(x), y), _inner(x, back)) if fits else float("nan")
    return [
        Finding(
            "O2", "<A x, y> = <x, A^T y>", off, ROUND_OFF,
            "an adjoint of one's own: leave it out, it follows by transposition",
        ),
        Finding(
            "O2", "A x keeps the batch axis, A^T y has the shape of examples (0 = yes)",
            0.0 if fits and len(operator.forward(x)) == BATCH else 1.0, 0.0,
            "axes: the first is the batch",
        ),
    ]  # fmt: skip


def single(case: Case) -> list[Finding]:
    """O3: examples are independent of each other, and float32 stays float32."""
    operator, shape = case
    x = _draw(0, shape)
    alone = jnp.concatenate([operator.forward(x[i : i + 1]) for i in range(BATCH)])
    narrow = operator.forward(x.astype(jnp.float32))
    back = operator.adjoint(narrow, shape)
    same = narrow.dtype == back.dtype == jnp.float32
    return [
        Finding(
            "O3", "one example at a time gives the same result", _off(operator.forward(x), alone), ROUND_OFF,
            "a mean or a shape that includes the batch axis",
        ),
        Finding(
            "O3", "float32 in, float32 out (0 = yes)", 0.0 if same else 1.0, 0.0,
            "arrays of float64: cast them to the dtype of x",
        ),
    ]  # fmt: skip


def rows(case: Case) -> list[Finding]:
    """O4: on the range of A, A A^T = c I if `gram` returns c, and `restrict` is the identity."""
    operator, shape = case
    y = operator.restrict(_draw(1, operator.output_shape(shape)))
    seen = operator.forward(_draw(0, shape))
    found = [
        Finding(
            "O4", "restrict leaves A x unchanged", _off(operator.restrict(seen), seen), 0.0,
            "restrict removes what A never produces, nothing else",
        )
    ]  # fmt: skip
    c = operator.gram(shape)
    if c is not None:
        there = operator.forward(operator.adjoint(y, shape))
        advice = "`gram`, the squared length of the rows of A"
        found.append(Finding("O4", "A A^T y = c y", _off(there, c * y), ROUND_OFF, advice))
    return found


def pseudo_inverse(case: Case) -> list[Finding]:
    """O5: A^+, if defined, obeys the four Moore-Penrose equations."""
    operator, shape = case
    if not operator.has_pinv:
        return []
    A, B = operator.forward, lambda y: operator.pinv(y, shape)
    out = operator.output_shape(shape)
    x, z, y, w = _draw(0, shape), _draw(1, shape), _draw(2, out), _draw(3, out)
    advice = "the closed form of `pinv`; the adjoint divided by `gram` where rows are orthogonal"
    bound = 1e-5  # a closed form may drop singular values below 1e-6 of the largest
    equal = {
        "A A^+ A x = A x": (A(B(A(x))), A(x)),
        "A^+ A A^+ y = A^+ y": (B(A(B(y))), B(y)),
        "A A^+ is symmetric": (_inner(A(B(y)), w), _inner(y, A(B(w)))),
        "A^+ A is symmetric": (_inner(B(A(x)), z), _inner(x, B(A(z)))),
    }
    return [Finding("O5", name, _off(*pair), bound, advice) for name, pair in equal.items()]


def is_a_pytree(case: Case) -> Finding:
    """O6: the operator is a pytree: flattened and unflattened it acts the same."""
    operator, shape = case
    x = _draw(0, shape)
    run = jax.jit(lambda operator, x: operator.forward(x))
    return Finding(
        "O6", "as an argument of a compiled function it does the same",
        _off(run(operator, x), operator.forward(x)), ROUND_OFF,
        "@jax.tree_util.register_dataclass; metadata={'static': True} on fields that decide shapes",
    )  # fmt: skip


LAWS = (linear, adjoint, single, rows, pseudo_inverse, is_a_pytree)


def check_operator(operator: Operator, shape: tuple[int, ...] | None = None) -> Report:
    """Check a linear operator against its laws and return a readable report.

    Args:
        operator: an object of kind `operator`, registered or not.
        shape: shape of one example; by default that of the class method `example`.

    Returns:
        A report; `bool(report)` is whether all laws hold, `print(report)` shows the numbers.

    Raises:
        TypeError: `operator` is not an operator, but for example a class or a name.
        ValueError: the operator does not accept examples of this shape.
    """
    of_type(Operator, 'build("operator", "superres")', operator=operator)
    shape = type(operator).example()[1] if shape is None else tuple(shape)
    operator.check(shape)
    findings: list[Finding] = []
    with jax.enable_x64(True):
        for law in LAWS:
            findings += findings_of(law, (operator, shape))
    return Report(f"{_short(operator)} on {shape}", in_order(findings))


def _short(operator: Any) -> str:
    text = " ".join(repr(operator).split())  # the repr of an array has many lines
    return text if len(text) <= 100 else f"{text[:97]}..."
