"""Times of events are summed as they should be, by kind, by name and as a union."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.profile import by_name, kinds_of, summarize, told, told_of_start, union

ROOT = Path(__file__).resolve().parents[2]


def test_a_union_counts_no_second_twice():
    assert union([(2.0, 3.0), (0.0, 1.0), (0.5, 1.5), (0.6, 0.7)]) == 2.5
    assert union([]) == 0.0


def test_calls_within_calls_count_once_and_threads_add_up():
    events = [
        ("a", "f", 0.0, 4.0),
        ("a", "f", 1.0, 1.0),
        ("b", "f", 0.0, 2.0),
        ("b", "g", 0.0, 1.0),
    ]
    assert by_name(events) == {"f": (6.0, 3), "g": (1.0, 1)}


def test_operations_are_summed_by_kind():
    kinds = {"dot.1": "matrix products", "add.2": "elementwise"}
    events = [("t1", "dot.1", 0.0, 2.0), ("t2", "dot.1", 1.0, 2.0), ("t1", "add.2", 4.0, 1.0),
              ("t1", "unknown", 0.0, 9.0)]  # fmt: skip
    found = summarize(events, kinds, wall=8.0)
    assert found == {
        "seconds": {"matrix products": 4.0, "elementwise": 1.0},
        "busy": 0.5,
        "wall": 8.0,
    }
    text = told(found, 2)
    assert "4000.00 ms a call; operations ran in 50.0% of the time" in text
    assert "80.0%  matrix products" in text


def test_convolutions_and_their_gradients_are_told_apart_in_a_compiled_program():
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)  # fmt: skip
    loss = lambda w, x: jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, w)), w)) @ jnp.ones((4, 3)))
    arguments = jnp.ones((3, 3, 4, 4)), jnp.ones((2, 8, 8, 4))
    kinds = set(kinds_of(jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text()).values())
    assert {"convolutions", "gradient of convolutions", "elementwise"} <= kinds


def test_a_start_tells_phases_and_what_took_long():
    inside = {"Codegen": (2.0, 7), "short": (0.01, 1)}
    found = {"phases": {"trace": 1.0, "compile": 3.0}, "inside": inside, "wall": 4.0}
    text = told_of_start(found)
    assert "75.0%  compile" in text
    assert "50.0%  Codegen (7)" in text
    assert "short" not in text


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [("train", "convolutions"), ("sample", "convolutions"), ("start", "backend_compile")],
)
def test_the_program(what, said):
    words = [sys.executable, "-m", "benchmarks.profile", what, "--size", "tiny", "--steps", "2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
