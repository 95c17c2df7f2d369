"""Checks of arguments: what passes, and one form of sentence for what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import numerics

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "args", "values", "sentence"),
    [
        ("positive", (), dict(std=0.0), "`std` must be positive; got 0.0."),
        ("positive", (), dict(std=NAN), "`std` must be positive; got nan."),
        ("positive", (), dict(a=1, b=-1, of="c"), "`b` of c must be positive; got -1."),
        (
            "positive",
            (),
            dict(step=-1, none="all"),
            "`step` must be positive, or None for all; got -1.",
        ),
        ("at_least", (2,), dict(k=1, hint="Try 3."), "`k` must be at least 2; got 1. Try 3."),
        ("at_least", (0,), dict(seed=-1), "`seed` must not be negative; got -1."),
        ("at_most", (1.5,), dict(t=2), "`t` must be at most 1.5; got 2."),
        ("in_interval", ("[0, 1)",), dict(decay=1), "`decay` must lie in [0, 1); got 1."),
        ("in_interval", ("[0, inf)",), dict(eta=np.inf), "`eta` must lie in [0, inf); got inf."),
        ("whole", (1,), dict(n="3"), "`n` must be a positive integer; got '3'."),
        ("whole", (2,), dict(n=True), "`n` must be an integer of at least 2; got True."),
        ("multiple_of", (4,), dict(width=6), "`width` must be a positive multiple of 4; got 6."),
        ("finite", (), dict(x=np.array([1, NAN, np.inf])), "`x` must be finite; got nan, inf."),
        (
            "one_of",
            (("mean", "sum"),),
            dict(by="meen"),
            "`by` must be one of mean, sum; got 'meen'. Did you mean 'mean'?",
        ),
        ("one_of", ((1, 2),), dict(order=3), "`order` must be one of 1, 2; got 3."),
        ("ordered", (), dict(low=2, high=1), "`low` must lie below `high`; got low=2, high=1."),
        ("alike", (), dict(a=(2,), b=(3,)), "`a` and `b` must have one shape; got (2,) and (3,)."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(check, args, values, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
        getattr(numerics, check)(*args, **values)
    assert str(caught.value) == sentence


def test_right_values_pass():
    numerics.positive(a=1, b=None, none="all")
    numerics.at_least(1, a=1)
    numerics.in_interval("(0, 1]", a=1, b=0.5)
    numerics.whole(1, n=np.int64(3))
    numerics.multiple_of(2, width=8)
    numerics.finite(x=jnp.ones(3))
    numerics.one_of(("a", "b"), kind="a")
    numerics.one_of_or_function(("a",), fn=abs, other="module:fn")
    numerics.ordered(low=0, middle=1, high=2)
    numerics.shaped("`x`", np.zeros((2, 3)), (2, 3))
    numerics.monotone("`times`", [3, 2, 1], "decrease")


def test_traced_values_are_let_through():
    def build(x):
        numerics.positive(x=x)
        numerics.at_least(x, y=0.0)
        numerics.in_interval("[0, 1]", x=x)
        numerics.finite(x=x)
        numerics.ordered(low=x, high=0.0)
        return x

    assert jax.jit(build)(-1.0) == -1.0


def test_rows_name_the_entries_that_break_the_rule():
    with pytest.raises(ValueError, match="`t` must increase from entry to entry; entries 1 and 2"):
        numerics.monotone("`t`", [0, 2, 2], "increase")
    with pytest.raises(ValueError, match="entries 0 and 1"):
        numerics.monotone("`t`", [0, NAN], "decrease")
    with pytest.raises(
        ValueError, match=r"shape \(n,\), with at least 2 entries; got shape \(1,\)"
    ):
        numerics.row("`t`", [1.0])
    with pytest.raises(ValueError, match=r"`x` must have shape \(2,\) one each; got \(3,\)"):
        numerics.shaped("`x`", np.zeros(3), (2,), "one each")
