"""Editing: what stays as it is, to the last bit; where the model's law must be kept, its moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build, editing, evaluation
from diffusion.testing import CorrelatedGaussian, gaussian

KEY = jax.random.key(0)
DATA = CorrelatedGaussian([0.3, -0.2, 0.1], [[0.5, 0.2, 0.1], [0.2, 0.3, 0.0], [0.1, 0.0, 0.2]])


def pair(count=5, dim=(4, 3)):
    a, b = jax.random.normal(KEY, (2, count, *dim))
    return a, b


def norms(x):
    return jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)


def test_slerp_has_exact_ends_also_one_per_example():
    a, b = pair()
    np.testing.assert_array_equal(editing.slerp(a, b, 0.0), a)
    np.testing.assert_array_equal(editing.slerp(a, b, 1.0), b)
    mixed = editing.slerp(a, b, jnp.array([0.0, 1.0, 0.0, 1.0, 0.5]))
    np.testing.assert_array_equal(mixed[:4], jnp.stack([a[0], b[1], a[2], b[3]]))


def test_the_quarter_turn_keeps_the_variance_of_noise():
    a, b = jax.random.normal(jax.random.key(0), (2, 20_000))
    for share in (0.0, 0.3, 1.0):
        turned = editing.quarter_turn(a, b, share)
        assert abs(jnp.var(turned) - 1) < 4 * np.sqrt(2 / 20_000)
    np.testing.assert_allclose(editing.quarter_turn(a, b, 0.0), a)


@pytest.mark.parametrize("name", ["vp", "edm", "rectified_flow", "parabola"])
def test_levels_and_times_are_inverse(name):
    process = build("process", name)
    for level in (0.1, 0.5, 0.9):
        t = editing.time_of_level(process, level)
        assert abs(editing.level_of_time(process, t) - level) < 1e-6


def test_there_is_one_slerp():
    """On the circle both ways are one; elsewhere the great circle keeps lengths, and the quarter turn does not."""
    a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(editing.slerp(a, b, 0.3), editing.quarter_turn(a, b, 0.3), atol=1e-7)
    near = jnp.array([[0.8, 0.6]])
    assert abs(jnp.linalg.norm(editing.slerp(a, near, 0.5)) - 1) < 1e-6
    assert jnp.linalg.norm(editing.quarter_turn(a, near, 0.5)) > 1.3
    assert not hasattr(evaluation, "slerp")


def test_slerp_keeps_norms_and_turns_evenly():
    a, b = pair()
    b = b * (norms(a) / norms(b))[:, None, None]
    angle = lambda x, y: jnp.arccos((x * y).sum(axis=(1, 2)) / norms(x) / norms(y))
    for share in (0.1, 0.5, 0.8):
        x = editing.slerp(a, b, share)
        np.testing.assert_allclose(norms(x), norms(a), rtol=1e-12)
        np.testing.assert_allclose(angle(a, x), share * angle(a, b), rtol=1e-9)
    np.testing.assert_allclose(norms(editing.slerp(a, 3 * a, 0.5)), 2 * norms(a), rtol=1e-12)
    assert jnp.isfinite(editing.slerp(a, -a, 0.5)).all()
    assert (editing.slerp(0 * a, 0 * a, 0.5) == 0).all()


@pytest.mark.parametrize("process", ["vp", "edm", "rectified_flow", "poisson_flow"])
def test_a_level_is_a_share_of_noise(process):
    process = build("process", process)
    for level in (0.1, 0.5, 0.9):
        t = editing.time_of_level(process, level)
        alpha, sigma = process.alpha(t), process.sigma(t)
        assert abs(sigma / jnp.sqrt(alpha**2 + sigma**2) - level) < 1e-9
    assert editing.time_of_level(process, 0.0) == process.t_min
    assert editing.time_of_level(process, 1.0) == process.t_max


def test_times_below_begin_at_the_level():
    times = np.array([1.0, 0.8, 0.5, 0.2, 0.1])
    np.testing.assert_array_equal(editing.times_below(times, 0.6), [0.6, 0.5, 0.2, 0.1])
    np.testing.assert_array_equal(editing.times_below(times, 0.51), [0.51, 0.2, 0.1])
    np.testing.assert_array_equal(editing.times_below(times, 1.0), times)
    np.testing.assert_array_equal(editing.times_below(times, 0.1), [0.1])


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_variation_at_the_data_end_is_the_image(sampler):
    process = build("process", "vp")
    x = DATA.sample(KEY, 4)
    times = editing.times_below(process.default_times(20), editing.time_of_level(process, 0.0))
    same = editing.vary(build("sampler", sampler), process, DATA.denoiser(process), KEY, x, times)
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize(
    ("name", "sampler", "num_steps"), [("vp", "dpm_solver_pp_2m", 40), ("edm", "heun", 40)]
)
def test_variations_of_data_are_data(name, sampler, num_steps):
    """Noising and denoising keeps the law of the data, at every level; more noise, less likeness."""
    process, n = build("process", name), 20_000
    x = DATA.sample(KEY, n)
    likeness = []
    for level in (0.3, 0.7, 0.95):
        times = editing.times_below(
            process.default_times(num_steps), editing.time_of_level(process, level)
        )
        model, key = DATA.denoiser(process), jax.random.key(1)
        new = editing.vary(build("sampler", sampler), process, model, key, x, times)
        error = np.sqrt(np.diag(DATA.covariance) / n)
        # the end is a posterior mean at t_min, whose variance is smaller by sigma(t_min)^2
        assert (np.abs(new.mean(0) - DATA.mean) < 4 * error).all()
        assert np.abs(new.var(0) / np.diag(DATA.covariance) - 1).max() < 4 * np.sqrt(2 / n) + 2e-3
        likeness.append(np.corrcoef(new[:, 0], x[:, 0])[0, 1])
    assert likeness[0] > likeness[1] > likeness[2]


def test_mixtures_of_noised_images_share_their_noise():
    """At the level they have signal (1 - u) a + u b, and the noise of one image, not less."""
    process = build("process", "vp")
    a, b = jnp.ones((20_000, 1)), -jnp.ones((20_000, 1))
    knows_nothing = lambda x, t: x  # the end is what went in, up to scales of the sampler
    t = editing.time_of_level(process, 0.6)
    times = np.array([t, t * (1 - 1e-9)])
    sampler = build("sampler", "ddim")
    x = editing.interpolate(sampler, process, knows_nothing, KEY, a, b, 0.25, times)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert abs(x.mean() - alpha * 0.5) < 4 * sigma / 20_000**0.5
    assert abs(x.std() / sigma - 1) < 4 / 40_000**0.5


def test_the_ends_of_an_interpolation_are_variations_with_the_same_noise():
    process, sampler = build("process", "vp"), build("sampler", "ddim")
    a, b = DATA.sample(KEY, 3), DATA.sample(jax.random.key(1), 3)
    times = editing.times_below(process.default_times(20), editing.time_of_level(process, 0.5))
    model = DATA.denoiser(process)
    for share, end in ((0.0, a), (1.0, b)):
        found = editing.interpolate(sampler, process, model, KEY, a, b, share, times)
        wanted = editing.vary(sampler, process, model, KEY, end, times)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    one = editing.interpolate(sampler, process, model, KEY, a, b, 0.5, times[-1:])
    np.testing.assert_allclose(one, (a + b) / 2)


@pytest.mark.parametrize("name", ["vp", "edm", "poisson_flow"])
def test_decoding_inverts_encoding(name):
    """To the error of 100 fourth-order steps; a latent of normal data is its exact flow."""
    process = build("process", name)
    model = (
        (lambda x, t: 0.5 * x / (1 + 0 * t)) if name == "poisson_flow" else DATA.denoiser(process)
    )
    x = DATA.sample(KEY, 4)
    latent = editing.encode(process, model, x)
    np.testing.assert_allclose(editing.decode(process, model, latent), x, atol=2e-4)
    if name != "poisson_flow":
        exact = DATA.flow(process, x, process.t_min, process.t_max)[0]
        np.testing.assert_allclose(latent, exact, rtol=1e-4, atol=1e-4)


def test_example_i_does_not_depend_on_the_batch():
    process, sampler = build("process", "vp"), build("sampler", "ancestral")
    model, x = gaussian(dim=3).denoiser(process), DATA.sample(KEY, 4)
    keys = jax.random.split(KEY, 4)
    times = editing.times_below(process.default_times(10), editing.time_of_level(process, 0.5))
    together = editing.vary(sampler, process, model, keys, x, times)
    alone = editing.vary(sampler, process, model, keys[2:3], x[2:3], times)
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-12)


def test_what_does_not_fit_is_refused():
    process = build("process", "vp")
    with pytest.raises(ValueError, match="must lie in"):
        editing.time_of_level(process, 1.5)
    with pytest.raises(ValueError, match="one shape"):
        editing.slerp(jnp.ones((2, 3)), jnp.ones((2, 4)), 0.5)
    with pytest.raises(ValueError, match="one shape"):
        editing.interpolate(
            build("sampler", "ddim"), process, DATA.denoiser(process), KEY, jnp.ones((2, 3)), jnp.ones((1, 3)), 0.5,
            np.array([0.5, 0.1]),
        )  # fmt: skip
