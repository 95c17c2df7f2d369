"""Checks of arguments. Every message names the argument, the accepted values, the value passed, and a fix.

Arguments are passed by name, several at once, and traced values are not checked, as in `require`:

    at_least(1, keep=keep)                 `keep` must be at least 1; got 0.
    in_interval("[0, 1)", decay=decay)     `decay` must lie in [0, 1); got 1.5.
    positive(step=step, none="no limit")   `step` must be positive, or None for no limit; got -1.

Every check takes `of`, the owner of the arguments if their names alone are unclear, and `hint`, a sentence that
ends the message; `none` states the meaning of None, and accepts it.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from diffusion.numerics.basics import is_traced, require
from diffusion.registry import nearest


def _fail_unless(ok: Any, name: str, accepted: str, got: Any, of: str, hint: str) -> None:
    # the value is formatted only on failure: it may be on a device
    if not is_traced(ok) and not bool(ok):
        owner, fix = of and f" of {of}", hint and f" {hint}"
        raise ValueError(f"`{name}`{owner} must {accepted}; got {got}.{fix}")


def _check(
    values: dict[str, Any],
    holds: Callable[[Any], Any],
    accepted: str,
    of: str,
    hint: str,
    none: str = "",
) -> None:
    accepted += none and f", or None for {none}"
    for name, value in values.items():
        got = repr(value) if isinstance(value, str) else value
        _fail_unless((none and value is None) or holds(value), name, accepted, got, of, hint)


def positive(*, of: str = "", hint: str = "", none: str = "", **values: Any) -> None:
    """Raise ValueError for a value that is not above 0."""
    _check(values, lambda v: v > 0, "be positive", of, hint, none)


def at_least(low: Any, /, *, of: str = "", hint: str = "", none: str = "", **values: Any) -> None:
    """Raise ValueError for a value below `low`."""
    zero = isinstance(low, int | float) and low == 0
    accepted = "not be negative" if zero else f"be at least {low}"
    _check(values, lambda v: v >= low, accepted, of, hint, none)


def at_most(high: Any, /, *, of: str = "", hint: str = "", none: str = "", **values: Any) -> None:
    """Raise ValueError for a value above `high`."""
    _check(values, lambda v: v <= high, f"be at most {high}", of, hint, none)


def in_interval(interval: str, /, *, of: str = "", hint: str = "", **values: Any) -> None:
    """Raise ValueError for a value outside an interval, written as in mathematics: "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    above = (lambda v: v >= low) if interval[0] == "[" else (lambda v: v > low)
    below = (lambda v: v <= high) if interval[-1] == "]" else (lambda v: v < high)
    _check(values, lambda v: above(v) & below(v), f"lie in {interval}", of, hint)


def whole(low: int, /, *, of: str = "", hint: str = "", none: str = "", **values: Any) -> None:
    """Raise ValueError for a value that is not an integer (truth values are not), or is below `low`."""
    integer = lambda v: isinstance(v, int | np.integer) and not isinstance(v, bool)
    accepted = "be a positive integer" if low == 1 else f"be an integer of at least {low}"
    _check(values, lambda v: integer(v) and v >= low, accepted, of, hint, none)


def multiple_of(divisor: int, /, *, of: str = "", hint: str = "", **values: Any) -> None:
    """Raise ValueError for a number that is not a positive multiple of another, itself positive."""
    holds = lambda v: divisor > 0 and v > 0 and v % divisor == 0
    _check(values, holds, f"be a positive multiple of {divisor}", of, hint)


def finite(*, of: str = "", hint: str = "", **values: Any) -> None:
    """Raise ValueError for numbers or arrays with infinite or NaN entries; the message shows the first few."""
    for name, value in values.items():
        if not is_traced(value):
            flat = np.ravel(np.asarray(value))
            wrong = flat[~np.isfinite(flat)]
            got = ", ".join(map(str, wrong[:3]))
            _fail_unless(not len(wrong), name, "be finite", got, of, hint)


def one_of(known: Iterable[Any], /, *, of: str = "", hint: str = "", **values: Any) -> None:
    """Raise ValueError for a value that is not among the known ones; the message suggests similar names."""
    known = tuple(known)
    accepted = f"be one of {', '.join(map(str, known))}"
    for name, value in values.items():
        near = nearest(value, known) if isinstance(value, str) else ""
        fix = f"{near} {hint}".strip()
        _check({name: value}, lambda v: v in known, accepted, of, fix)


def one_of_or_function(known: Iterable[Any], /, *, hint: str = "", **values: Any) -> None:
    """Raise ValueError for a name that is not among the known ones; functions and "module:function" pass."""
    names = {k: v for k, v in values.items() if isinstance(v, str) and ":" not in v}
    one_of(known, hint=hint or "A function, or 'module:function', does as well.", **names)


def ordered(*, of: str = "", hint: str = "", **values: Any) -> None:
    """Raise ValueError unless each of these values is less than the next."""
    got = ", ".join(f"{name}={value}" for name, value in values.items())
    for (name, low), (above, high) in itertools.pairwise(values.items()):
        _fail_unless(low < high, name, f"lie below `{above}`", got, of, hint)


def of_type(kind: type, such_as: str, /, *, of: str = "", **values: Any) -> None:
    """Raise TypeError for a value of another type, such as the class itself."""
    for name, value in values.items():
        if not isinstance(value, kind):
            got = "the class itself: call it" if isinstance(value, type) else repr(value)
            owner = of and f" of {of}"
            raise TypeError(
                f"`{name}`{owner} must be a {kind.__name__}, such as {such_as}; got {got}."
            )


def integers(who: str, x: Any, hint: str = "") -> None:
    """Raise ValueError for an array of other numbers than integers."""
    require(np.issubdtype(x.dtype, np.integer), f"{who} must be integers; got {x.dtype}. {hint}")


def host_only(who: str, *values: Any) -> None:
    """Raise TypeError for traced values where steps are planned on the host."""
    if is_traced(*values):
        raise TypeError(f"{who} plans its steps on the host; times and process must not be traced.")


def converged(ok: Any, solver: str, settings: Any) -> None:
    """Raise RuntimeError unless an adaptive solver reached its end with its `max_steps`, `rtol` and `atol`."""
    if not is_traced(ok) and not np.all(ok):
        raise RuntimeError(
            f"{solver} did not reach the end within {settings.max_steps} steps at rtol={settings.rtol:g}, "
            f"atol={settings.atol:g}. Loosen the tolerances (float32 meets none below 1e-6), raise `max_steps`, or "
            "take a larger t_min."
        )


def shaped(who: str, x: Any, shape: tuple[int, ...], why: str = "") -> None:
    """Raise ValueError unless an array has this shape; `why` gives the reason, such as "for `patch` = 2"."""
    wanted = f"{shape} {why}".rstrip()
    require(tuple(x.shape) == shape, f"{who} must have shape {wanted}; got {tuple(x.shape)}.")


def alike(what: str = "shape", **values: Any) -> None:
    """Raise ValueError unless all values are equal, such as the shapes of two arrays."""
    names = " and ".join(f"`{name}`" for name in values)
    got = " and ".join(map(str, values.values()))
    require(len(set(values.values())) == 1, f"{names} must have one {what}; got {got}.")


def row(who: str, values: Any, shape: str = "(n,)", least: int = 2) -> np.ndarray:
    """Return a 1-D array as float64; raise ValueError unless it has at least `least` entries, all finite."""
    values = np.asarray(values, np.float64)
    require(
        values.ndim == 1 and len(values) >= least,
        f"{who} must have the shape {shape}, with at least {least} entries; got shape {values.shape}.",
    )
    finite(**{who.strip("`"): values})
    return values


def monotone(who: str, values: Any, direction: str, hint: str = "") -> None:
    """Raise ValueError unless a 1-D array strictly increases, or decreases; NaN fails both.

    `direction` is the verb: "increase" or "decrease".
    """
    steps = np.diff(values) if direction == "increase" else -np.diff(values)
    wrong = np.flatnonzero(~(steps > 0))
    if len(wrong):
        k = int(wrong[0])
        raise ValueError(
            f"{who} must {direction} from entry to entry; entries {k} and {k + 1} are {values[k]:.6g} and "
            f"{values[k + 1]:.6g}.{hint and ' ' + hint}"
        )
