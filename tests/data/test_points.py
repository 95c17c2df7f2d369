import numpy as np
import pytest

from diffusion.data import Points1D, Points2D
from diffusion.data.shapes2d import SHAPES, moments

N = 20_000


@pytest.mark.parametrize("kind", SHAPES)
def test_zero_mean_and_unit_variance(kind):
    x = Points2D(kind=kind).batch(0, N, seed=1)["data"].astype(np.float64)
    fourth = (x**4).mean(0)
    np.testing.assert_array_less(np.abs(x.mean(0)), 4 / np.sqrt(N))  # four standard errors
    np.testing.assert_array_less(np.abs((x**2).mean(0) - 1), 4 * np.sqrt((fourth - 1) / N))


@pytest.mark.parametrize("kind", SHAPES)
def test_moments_do_not_depend_on_the_quadrature(kind):
    for a, b in zip(moments(kind, 0.1), moments(kind, 0.1, num_nodes=70), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_moments_in_closed_form():
    mean, std = moments("moons", 0.1)
    np.testing.assert_allclose(mean, [0.5, 0.25], rtol=1e-13)
    variance_y = (1.25 - 2 / np.pi) / 2 - 1 / 16
    np.testing.assert_allclose(std**2, [0.75 + 0.01, variance_y + 0.01], rtol=1e-13)
    np.testing.assert_allclose(moments("8gaussians", 0.2)[1] ** 2, 2 + 0.04, rtol=1e-13)
    np.testing.assert_allclose(moments("checkerboard", 0.0)[1] ** 2, 4 / 3, rtol=1e-13)
    length = 9 * np.pi**2 / 2  # E |x|^2 of the spirals is E[(3 pi)^2 u]
    np.testing.assert_allclose((moments("spirals", 0.0)[1] ** 2).sum(), length, rtol=1e-13)


def test_checkerboard_fills_exactly_the_even_squares():
    x = Points2D(kind="checkerboard").batch(0, N)["data"] * np.sqrt(4 / 3)
    cells = np.floor(x + 2).astype(int)
    assert ((cells >= 0) & (cells < 4)).all()
    assert (cells.sum(1) % 2 == 0).all()
    assert len(np.unique(cells, axis=0)) == 8


def test_labels_of_the_eight_gaussians_name_the_nearest_center():
    batch = Points2D(kind="8gaussians", noise=0.1, label=True).batch(0, 500)
    angle = np.arctan2(batch["data"][:, 1], batch["data"][:, 0])
    # Neighbors are 8 standard deviations from the bisector: 2 sin(pi / 8) / 0.1.
    np.testing.assert_array_equal(np.round(angle / (np.pi / 4)) % 8, batch["cond"]["label"])


def test_points_on_the_line():
    data = Points1D(points=(-2.0, 0.5, 4.0), weights=(1, 2, 1), label=True)
    batch = data.batch(0, N)
    values, counts = np.unique(batch["data"], return_counts=True)
    np.testing.assert_array_equal(values, [-2.0, 0.5, 4.0])
    np.testing.assert_allclose(counts / N, [0.25, 0.5, 0.25], atol=4 * 0.5 / np.sqrt(N))
    np.testing.assert_array_equal(values[batch["cond"]["label"]], batch["data"][:, 0])
    noisy = Points1D(points=(3.0,), std=0.5).batch(0, N)["data"]
    assert abs(noisy.mean() - 3) < 4 * 0.5 / np.sqrt(N)
    assert abs(noisy.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * N)


def test_splits_and_seeds_are_independent():
    first = Points2D(kind="spirals").batch(0, N)["data"]
    for other in (
        Points2D(kind="spirals", split="test").batch(0, N)["data"],
        Points2D(kind="spirals").batch(0, N, seed=1)["data"],
    ):
        assert np.abs((first * other).mean(0)).max() < 4 / np.sqrt(N)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (dict(kind="moon"), "Did you mean 'moons'"),
        (dict(noise=-1), "noise"),
        (dict(kind="swiss_roll", label=True), "label"),
        (dict(size=0), "size"),
        (dict(split="tset"), "split"),
    ],
)
def test_bad_fields(fields, word):
    with pytest.raises(ValueError, match=word):
        Points2D(**fields)


@pytest.mark.parametrize(
    "fields", [dict(weights=(1,)), dict(weights=(1, -1)), dict(points=()), dict(std=-1)]
)
def test_bad_fields_on_the_line(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Points1D(**fields)
