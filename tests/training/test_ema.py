"""Averages against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.training.ema import ConstantDecay, HalfLife, Power, make_ema, update_ema


def absorb(average, num_steps, batch_size, value):
    """Average value(t), t = 1 ... num_steps, beginning from zero."""

    def body(mean, count):
        return update_ema(mean, value(count + 1.0), average.weight(count, batch_size)), None

    return float(jax.lax.scan(body, jnp.zeros(()), jnp.arange(num_steps))[0])


def test_half_a_step_is_absorbed_in_a_half_life(x64):
    average = HalfLife(images=6400, ramp_up=0)
    # 100 factors of 2^-0.01, each rounded once
    assert absorb(average, 100, 64, lambda t: jnp.ones(())) == pytest.approx(0.5, abs=1e-14)
    assert absorb(average, 200, 64, lambda t: jnp.ones(())) == pytest.approx(0.75, abs=1e-14)


def test_half_life_ramps_up_with_the_images_seen(x64):
    average = HalfLife(images=1000, ramp_up=0.05)
    assert float(average.weight(0, 64)) == 1  # the first average is the parameters
    seen = 100 * 64  # the half-life is 5 % of them
    expected = 1 - 0.5 ** (64 / (0.05 * seen))
    assert float(average.weight(100, 64)) == pytest.approx(expected, rel=1e-12)
    assert float(average.weight(10_000, 64)) == pytest.approx(1 - 0.5 ** (64 / 1000), rel=1e-12)


@pytest.mark.parametrize(
    ("std", "exponent"),
    [
        (0.05, 16.972199),
        (0.10, 6.9372039),
        (0.13, 4.6035968),
        (0.20, 1.8262138),
        (0.25, 0.71982396),
    ],
)
def test_power_exponent(std, exponent):
    """Roots of a cubic, computed independently to eight digits."""
    assert Power(std=std).exponent == pytest.approx(exponent, rel=1e-7)


def test_power_decay(x64):
    assert 1 - float(Power(std=0.10).weight(999, 1)) == pytest.approx(0.99209027, abs=5e-9)
    assert float(Power(std=0.10).weight(0, 1)) == 1


@pytest.mark.parametrize("std", [0.05, 0.10, 0.20])
def test_power_average_of_t(x64, std):
    """The weights are proportional to t^exponent, so the average of t is t (g + 1) / (g + 2)."""
    average, num_steps = Power(std=std), 2000
    g = average.exponent
    mean = absorb(average, num_steps, 1, lambda t: t)
    # the sum that approximates the integral is off by less than its last term, (g + 1) / t
    assert mean / num_steps == pytest.approx((g + 1) / (g + 2), abs=(g + 1) / num_steps)


def test_power_window_has_the_width_it_is_named_after(x64):
    average, num_steps = Power(std=0.10), 2000
    mean = absorb(average, num_steps, 1, lambda t: t / num_steps)
    square = absorb(average, num_steps, 1, lambda t: (t / num_steps) ** 2)
    assert np.sqrt(square - mean**2) == pytest.approx(0.10, abs=10 / num_steps)


def test_constant_decay_warms_up(x64):
    average = ConstantDecay(decay=0.99)
    assert float(average.weight(0, 8)) == pytest.approx(0.9)
    assert float(average.weight(90, 8)) == pytest.approx(1 - 91 / 100)
    assert float(average.weight(10_000, 8)) == pytest.approx(0.01)
    plain = ConstantDecay(decay=0.99, warmup=False)
    # a step function is absorbed as 1 - decay^n
    assert absorb(plain, 50, 8, lambda t: jnp.ones(())) == pytest.approx(1 - 0.99**50, rel=1e-13)


def test_entries_of_a_config():
    found = make_ema(
        (
            "0.999",
            0.99,
            "power_0.1",
            "half_life_500000",
            {"name": "power", "std": 0.05, "label": "p"},
        )
    )
    assert list(found) == ["0.999", "0.99", "power_0.1", "half_life_500000", "p"]
    assert found["0.999"] == ConstantDecay(decay=0.999)
    assert found["power_0.1"] == Power(std=0.1)
    assert found["half_life_500000"] == HalfLife(images=500_000)
    assert found["p"] == Power(std=0.05)
    assert make_ema("0.9") == {"0.9": ConstantDecay(decay=0.9)}
    assert make_ema(0.9) == {"0.9": ConstantDecay(decay=0.9)}
    assert make_ema({"decay": 0.9}) == {"0.9": ConstantDecay(decay=0.9)}
    assert make_ema(()) == {}


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("powr_0.1", ValueError, "power"),
        ("fast", ValueError, "number"),
        ("1.5", ValueError, r"\[0, 1\)"),
        ("power_0.4", ValueError, "std"),
        ("half_life_-1", ValueError, "positive"),
        (("0.9", "0.9"), ValueError, "label"),
        ({"name": "power", "sdt": 0.1}, TypeError, "std"),
    ],
)
def test_wrong_entries_are_explained(spec, error, message):
    with pytest.raises(error, match=message):
        make_ema(spec)


def test_averages_keep_float32():
    average = {"w": jnp.ones((2,), jnp.float32)}
    moved = update_ema(average, {"w": jnp.zeros((2,), jnp.bfloat16)}, jnp.float32(1e-3))
    assert moved["w"].dtype == jnp.float32
    np.testing.assert_allclose(moved["w"], 0.999, rtol=1e-6)
