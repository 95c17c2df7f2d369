"""The energy distance against closed forms and repetitions."""

import math

import numpy as np
import pytest

from diffusion import build
from diffusion.evaluation.energy import energy_distance
from diffusion.evaluation.metrics import EvalInputs


def mean_distance(shift, variance):
    """E|N(shift, variance)|."""
    s = math.sqrt(variance)
    far = shift * math.erf(shift / (s * math.sqrt(2)))
    return s * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * variance)) + far


def repeated(shift, n=64, m=96, times=600):
    rng = np.random.default_rng(0)
    found = [
        energy_distance(rng.normal(size=(n, 1)), shift + rng.normal(size=(m, 1)))
        for _ in range(times)
    ]
    return np.array([f.value for f in found]), np.array([f.standard_error for f in found])


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.5])
def test_unbiased_with_the_right_standard_error(shift):
    """Two normals on a line: D in closed form; the spread over repetitions is the standard error.

    Means of 600 values lie within 4 standard errors. A variance of 600 values is known to
    sqrt((k - 1) / 600), kurtosis k about 15 (that of chi-squared with one degree of freedom): to 15 percent, of
    which the standard deviation takes half. Three times that is 0.23; at equality the error may be 1.4 times
    too large besides.
    """
    value, error = repeated(shift)
    exact = 2 * mean_distance(shift, 2.0) - 2 * mean_distance(0.0, 2.0)
    assert abs(value.mean() - exact) < 4 * value.std() / math.sqrt(len(value))
    ratio = np.sqrt(np.mean(error**2)) / value.std()
    assert 0.77 < ratio < (1.4 if shift == 0 else 1.0) + 0.23


def test_against_the_plain_double_sum():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 2, 3)), rng.normal(size=(5, 2, 3))
    a, b = x.reshape(7, 6), y.reshape(5, 6)
    distance = lambda p, q: np.linalg.norm(p[:, None] - q, axis=-1)
    expected = 2 * distance(a, b).mean() - distance(a, a).sum() / 42 - distance(b, b).sum() / 20
    found = energy_distance(x, y)
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    assert found[2:] == (7, 5)


def test_is_symmetric_and_scales_like_a_length():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 2)), 1 + rng.normal(size=(60, 2))
    there, back = energy_distance(x, y), energy_distance(y, x)
    np.testing.assert_allclose(there[:2], back[:2], rtol=1e-10)
    np.testing.assert_allclose(energy_distance(3 * x, 3 * y)[:2], 3 * np.array(there[:2]))


def test_wrong_input_is_refused():
    good = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"at least 2 examples of one shape.*\(4, 2\)"):
        energy_distance(good, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        energy_distance(good, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="finite"):
        energy_distance(good, np.full((4, 2), np.nan))


def test_metric_tells_good_from_bad():
    """Fresh points are within 4 standard errors of 0, shifted ones are not."""
    held_out = build("dataset", dict(name="points2d", kind="8gaussians", split="test"))
    train = build("dataset", dict(name="points2d", kind="8gaussians", size=2000))

    def subject(shift):
        fresh = train.batch(3, 1000, seed=1)["data"] + np.float32(shift)
        return EvalInputs(
            process=build("process", "vp"),
            model_of=lambda cond: None,
            generate=lambda count: iter([fresh[:400], fresh[400:count]]),
            train=train,
            held_out=held_out,
        )

    metric = build("metric", "energy_distance")
    good, bad = metric(subject(0.0)), metric(subject(0.5))
    assert list(good) == list(bad)
    name, of_training = good
    assert name == "energy_distance@1000_against_1000"
    assert of_training == "energy_distance_of_training_data@1000_against_1000"
    for found in (good[name], good[of_training]):
        assert abs(found["value"]) < 4 * found["standard_error"]
    assert bad[name]["value"] > 5 * bad[name]["standard_error"]
