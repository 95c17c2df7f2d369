"""What studies measure against is right: floors, closed forms and wrappers, on small cases; nothing is trained."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.testing import gaussian

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # studies are no part of the installed package
    sys.path.append(str(ROOT))

lengths = importlib.import_module("experiments.architectures.lengths")
toy = importlib.import_module("experiments.predictions.toy")
training = importlib.import_module("experiments.predictions.training")
family = importlib.import_module("experiments.sde_and_ode.family")
plane = importlib.import_module("experiments.sde_and_ode.plane")


@pytest.mark.parametrize("output", training.OUTPUTS)
def test_linear_floor_is_that_of_reduced_rank_regression(output):
    dim, width, t = 7, 3, 0.6
    basis = toy.isometry(dim)
    signal, alpha, sigma = basis @ basis.T, 1 - t, t
    a, b = {"data": (1, 0), "noise": (0, 1), "velocity": (-1, 1)}[output]
    out = {"data": 1.0, "noise": sigma / alpha, "velocity": sigma}[output]
    covariance = alpha**2 * signal + sigma**2 * np.eye(dim)
    gain = (a * alpha * signal + b * sigma * np.eye(dim)) @ np.linalg.inv(covariance)
    lost = np.linalg.svd(gain @ np.linalg.cholesky(covariance))[1][width:]  # Eckart and Young
    assert toy.linear_floor(output, dim, width, t) == pytest.approx(
        out**2 * (lost**2).sum(), abs=1e-9
    )


def test_a_chosen_prediction_is_the_named_one():
    c = training.PROCESS.coefficients(jnp.array([0.2, 0.7]), jnp.zeros((2, 3)))
    for which, name in enumerate(training.OUTPUTS):
        for method in ("target", "recover"):
            found = getattr(training.Chosen(jnp.asarray(which)), method)(c)
            for mine, own in zip(found, getattr(build("prediction", name), method)(c), strict=True):
                np.testing.assert_allclose(mine, own * jnp.ones_like(mine), rtol=1e-6)


def test_mean_distance_from_a_normal_point():
    y = np.random.default_rng(0).normal(size=(200_000, 2)) * 0.3 + [0.8, 0]
    lengths_of = np.linalg.norm(y, axis=1)
    error = lengths_of.std() / len(y) ** 0.5
    assert plane.mean_distance(np.array(0.64), 0.3) == pytest.approx(
        lengths_of.mean(), abs=4 * error
    )
    assert plane.mean_distance(np.array(0.0), 1.0) == pytest.approx(np.sqrt(np.pi / 2))  # Rayleigh


def test_without_noise_an_error_of_the_start_stretches_with_the_spread():
    process = family.process_of("vp")
    with jax.enable_x64(True):
        found = plane.predicted(process, "start", 0.0, nodes=200)
        spread = lambda t: np.sqrt(
            float(process.alpha(t)) ** 2 * plane.STD**2 + float(process.sigma(t)) ** 2
        )
        ends = spread(process.t_min) / spread(process.t_max)
    assert found == pytest.approx(plane.START * float(process.sigma(1.0)) * ends, rel=1e-6)


def test_noise_damps_what_was_off_at_the_start():
    process = family.process_of("vp")
    left = [abs(plane.predicted(process, "start", lam, nodes=500)) for lam in (0.0, 0.5, 1.0, 2.0)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 1e-4 * left[0]


def test_wrong_noise_is_off_by_what_it_says_and_only_there():
    process = family.process_of("vp")
    exact = gaussian(0.0, 0.5, 2).denoiser(process)
    wrong = family.WrongNoise(
        inner=exact, shift=np.array([0.1, 0.0]), low=-2.0, high=2.0, process=process
    )
    x = jax.random.normal(jax.random.key(0), (4, 2))
    for level, expected in ((-4.0, 0.0), (0.0, 0.1), (4.0, 0.0)):
        t = process.time_of_log_snr(level)
        c = process.coefficients(t, x)
        noise = lambda model, t=t, c=c: (x - c.alpha * model(x, t)) / c.sigma
        shift = noise(wrong) - noise(exact)
        np.testing.assert_allclose(shift, np.tile([expected, 0.0], (4, 1)), atol=2e-5)


@pytest.mark.parametrize("name", family.PROCESSES)
def test_a_recast_denoiser_is_that_of_the_other_process(name):
    own, other, target = family.process_of("vp"), family.process_of(name), gaussian(0.2, 0.5, 2)
    model = family.Recast(inner=target.denoiser(own), own=own, other=other)
    t = other.time_of_log_snr(jnp.array([-3.0, 0.0, 3.0]))
    x = other.sigma(t)[:, None] * jax.random.normal(jax.random.key(0), (3, 2))
    # time of log-SNR and back: some roundings, times the slope of the log-SNR
    np.testing.assert_allclose(model(x, t), target.denoiser(other)(x, t), atol=2e-4)


def test_a_draw_with_lambda_as_argument_is_the_sampler():
    process = family.process_of("vp")
    model = gaussian(0.0, 0.5, 2).denoiser(process)
    draw = family.Draw(process, (2000, 2))
    x = [draw(model, lam, 40) for lam in (0.0, 1.0)]
    assert (x[0] != x[1]).any()
    for found in x:  # 4,000 numbers: 1.1 % of the spread, and first-order steps
        assert found.std() == pytest.approx(0.5, rel=0.08)


def test_signals_have_unit_variance_and_a_positive_covariance():
    matrix = lengths.covariance(64)
    np.testing.assert_allclose(np.diag(matrix), 1)
    assert np.linalg.eigvalsh(matrix).min() > 0.01


def test_the_data_is_the_only_target_without_a_floor():
    floors = toy.floors(64, 32)
    assert set(floors["data"].values()) == {0.0}
    assert min(floors["noise"].values()) > 1
