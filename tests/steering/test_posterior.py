"""Posterior guidance against closed forms: normal data, mixtures, and the formulas of the papers.

A guided mean that equals E[x_0 | x_t, y] pointwise needs no sampling to be judged; samples are then held to
the closed-form posterior within three standard errors.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairwise import pairwise

import diffusion
from diffusion import build
from diffusion.guidance import ConditionalModel
from diffusion.inverse_problems import (
    consistent,
    dps,
    measured,
    moment_matching,
    pigdm,
    replacement,
)
from diffusion.inverse_problems.base import conjugate_gradients
from diffusion.inverse_problems.operators import (
    Blur,
    CompressedSensing,
    Identity,
    Mask,
    Matrix,
    RandomMask,
    Superres,
)
from diffusion.inverse_problems.replacement import Replaced
from diffusion.samplers.base import StepSampler
from diffusion.testing import CorrelatedGaussian, GaussianMixture, linear_posterior

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
ROOT = RANDOM.standard_normal((6, 6)) * 0.4
DATA = CorrelatedGaussian(0.3 * RANDOM.standard_normal(6), ROOT @ ROOT.T + 0.05 * np.eye(6))
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
OPERATORS = {
    "matrix": Matrix(values=RANDOM.standard_normal((2, 6))),
    "mask": RandomMask(fraction=0.5, seed=1),
    "compressed": CompressedSensing(fraction=0.5),
    "identity": Identity(),
}
TIMES = build("process", "vp").default_times(10)
METHODS = {
    "dps": functools.partial(dps, times=TIMES, scale=1.0),
    "moment_matching": moment_matching,
    "pigdm": pigdm,
    "replacement": replacement,
}
EXACT = dict(num_iterations=20, tolerance=1e-13)


def problem(operator, std, data=DATA, seed=5):
    """Return a measurement of one draw and the posterior given it."""
    key_x, key_y = jax.random.split(jax.random.key(seed))
    y = operator.measure(key_y, data.sample(key_x, 1), std)
    return y, linear_posterior(data, operator, y, std)


def states(process, t, count=8, dim=6):
    """Return states about as large as those at time t."""
    scale = jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
    return scale * jax.random.normal(KEY, (count, dim))


def assert_moments(x, mean, covariance):
    """Sample mean and covariance lie within three standard errors of the given ones, entry by entry."""
    n, variance = len(x), np.diag(covariance)
    assert (np.abs(x.mean(0) - mean) < 3 * np.sqrt(variance / n)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / n)
    assert (np.abs(np.cov(x.T) - covariance) < 3 * error).all()


def marginal(process, posterior, t):
    mean, covariance = (
        posterior.moments(process, t)
        if isinstance(posterior, CorrelatedGaussian)
        else (
            process.alpha(t) * posterior.moments()[0],
            process.alpha(t) ** 2 * posterior.moments()[1] + process.sigma(t) ** 2 * np.eye(2),
        )
    )
    return np.asarray(mean), np.asarray(covariance)


# ---- moment matching is exact on normal data -----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "name", "std"),
    pairwise(
        process=["vp", "edm", "rectified_flow"],
        name=list(OPERATORS),
        std=[0.0, 0.2],
        allowed=lambda process, name, std: name != "identity" or std > 0,  # a point: tested below
    ),
)
def test_moment_matching_is_the_posterior_mean_on_normal_data(process, name, std):
    process, operator = build("process", process), OPERATORS[name]
    y, posterior = problem(operator, std)
    guided = moment_matching(process, DATA.denoiser(process), operator, y, std=std, **EXACT)
    exact = posterior.denoiser(process)
    for log_snr in (-4.0, 0.0, 5.0):
        t = process.time_of_log_snr(jnp.asarray(log_snr))
        x = states(process, t)
        np.testing.assert_allclose(guided(x, t), exact(x, t), rtol=1e-7, atol=1e-7)


def test_a_whole_measurement_without_noise_is_returned():
    process = build("process", "vp")
    y = DATA.sample(KEY, 1)
    x = states(process, 0.4)
    for method in (moment_matching, replacement):
        fields = EXACT if method is moment_matching else {}
        guided = method(process, DATA.denoiser(process), Identity(), y, **fields)
        np.testing.assert_allclose(guided(x, 0.4), jnp.broadcast_to(y, x.shape), atol=1e-8)


@pytest.mark.parametrize(
    "sampler",
    ["dpm_solver_pp_2m", pytest.param("sde_dpm_solver_pp_2m", marks=pytest.mark.slow)],
)
def test_samples_of_moment_matching_are_those_of_the_posterior(sampler):
    """Mean and covariance of 20,000 samples, by an ODE and by an SDE, within three standard errors."""
    process, operator, n = build("process", "vp"), OPERATORS["matrix"], 20_000
    y, posterior = problem(operator, 0.1)
    model = moment_matching(process, DATA.denoiser(process), operator, y, std=0.1, **EXACT)
    times = process.default_times(60 if sampler == "dpm_solver_pp_2m" else 200)
    mean, covariance = marginal(process, posterior, times[0])
    x_T = mean + jax.random.normal(KEY, (n, 6)) @ np.linalg.cholesky(covariance).T
    x = diffusion.sample(
        build("sampler", sampler), process, model, KEY, x_T, times, denoise_last=False
    )
    assert_moments(np.asarray(x), *marginal(process, posterior, times[-1]))


# ---- the others where they are exact ---------------------------------------------------------------


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_pseudo_inverse_guidance_is_exact_on_isotropic_normal_data(std):
    process = build("process", "vp")
    data = CorrelatedGaussian([0.3, -0.1, 0.2, 0.0], 0.49 * np.eye(4))
    for operator in (
        Matrix(values=RANDOM.standard_normal((2, 4))),
        CompressedSensing(fraction=0.5),
    ):
        y, posterior = problem(operator, std, data)
        guided = pigdm(process, data.denoiser(process), operator, y, std=std, data_std=0.7)
        x = states(process, 0.3, dim=4)
        np.testing.assert_allclose(guided(x, 0.3), posterior.denoiser(process)(x, 0.3), atol=1e-6)


@pytest.mark.slow
def test_replacement_is_exact_where_the_parts_are_independent():
    """Without noise; in the mean for any sampler, in the state as well with `repaint`."""
    process, n = build("process", "vp"), 8_000
    covariance = np.zeros((4, 4))
    covariance[:2, :2], covariance[2:, 2:] = DATA.covariance[:2, :2], DATA.covariance[2:4, 2:4]
    data = CorrelatedGaussian(DATA.mean[:4], covariance)
    operator = Mask(values=np.array([1, 1, 0, 0]))
    y, posterior = problem(operator, 0.0, data)
    model = replacement(process, data.denoiser(process), operator, y)
    exact = posterior.denoiser(process)
    x = states(process, 0.3, dim=4)
    np.testing.assert_allclose(model(x, 0.3), exact(x, 0.3), atol=1e-9)
    repaint = dict(name="repaint", repeats=2)
    # the law of samplers allows noisy methods 2 percent of spread at 1,000 steps, so 4 of variance, as 1 / steps
    for sampler, num_steps, bound in (("dpm_solver_pp_2m", 60, 0.05), (repaint, 300, 0.18)):
        times = process.default_times(num_steps)
        x_T = process.sample_prior(KEY, (n, 4))
        x = diffusion.sample(build("sampler", sampler), process, model, KEY, x_T, times)
        np.testing.assert_allclose(x[:, :2], jnp.broadcast_to(y[:, :2], (n, 2)), atol=1e-8)
        mean, covariance = posterior.mean[2:], posterior.covariance[2:, 2:]
        error = np.sqrt(np.diag(covariance) / n)
        assert (
            np.abs(x[:, 2:].mean(0) - mean) < 3 * error + 2e-3
        ).all()  # 2e-3: alpha(1) m forgotten
        assert (np.abs(x[:, 2:].var(0) / np.diag(covariance) - 1) < bound).all()


def test_repaint_puts_the_measurement_with_the_noise_of_the_state():
    """After a step the measured part is N(alpha y, sigma^2), whatever std the measurement has."""
    process, n = build("process", "vp"), 20_000
    operator = Superres(factor=2)
    model = replacement(
        process, lambda x, t: 0 * x, operator, jnp.full((1, 1, 1, 1), 0.7), std=0.05
    )
    x = jax.random.normal(KEY, (n, 2, 2, 1))
    z = jax.random.normal(jax.random.key(1), x.shape)
    new = model.impose(x, 0.8, 0.6, z)
    # y is 0.7 up to its own noise, which is a part of the state's: 0.6^2 / 4 = rest + 0.8^2 0.05^2
    seen = operator.forward(new)
    spread = np.sqrt(0.6**2 / 4 - 0.8**2 * 0.05**2)
    assert abs(seen.mean() - 0.56) < 4 * spread / n**0.5
    assert abs(seen.std() / spread - 1) < 4 / (2 * n) ** 0.5
    np.testing.assert_allclose(  # what A does not see stays
        new - operator.pinv(seen, (2, 2, 1)), x - operator.pinv(operator.forward(x), (2, 2, 1)), atol=1e-12
    )  # fmt: skip
    clean = model.impose(x, 1.0, 0.05, z)  # the state is less noisy than the measurement
    np.testing.assert_array_equal(clean, x)


def test_repaint_without_a_measurement_keeps_the_marginals():
    """Only repeats steps; test_samplers.py holds it to all laws of samplers."""
    sampler = build("sampler", dict(name="repaint", repeats=3, jump=4))
    process = build("process", "vp")
    times = process.default_times(10)
    assert len(sampler.marks(process, times)) == 10
    t, u, s = sampler.plan(process, times)
    assert len(t) == 30
    assert (u >= t).all()
    assert (s < u).all()
    np.testing.assert_array_equal(s[np.asarray(sampler.marks(process, times))], times[1:])


@pytest.mark.slow
def test_repaint_agrees_better_than_replacement_with_correlated_data():
    """What repeating is for: the error of the mean falls with the number of repeats."""
    process, operator, n = build("process", "vp"), Mask(values=np.array([1, 1, 1, 0, 0, 0])), 4000
    y, posterior = problem(operator, 0.0)
    model = replacement(process, DATA.denoiser(process), operator, y)
    errors = []
    for repeats in (1, 8):
        sampler = build("sampler", dict(name="repaint", repeats=repeats))
        x_T, times = process.sample_prior(KEY, (n, 6)), process.default_times(60)
        x = diffusion.sample(sampler, process, model, KEY, x_T, times)
        errors.append(np.abs(x.mean(0) - posterior.mean).max())
    assert errors[1] < 0.5 * errors[0]


# ---- mixtures ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_posterior_of_a_mixture_is_that_of_bayes():
    """Its score at t is that of the prior plus grad log p(y | x_t); its samples have the right moments."""
    process, operator, std = build("process", "vp"), Matrix(values=((1.0, -0.5),)), 0.3
    y, posterior = problem(operator, std, MIXTURE)
    t, A = 0.3, np.asarray(operator.values)
    x = states(process, t, dim=2)
    alpha, sigma = process.alpha(t), process.sigma(t)

    def log_likelihood(x):  # log p(y | x_t), component by component
        v = MIXTURE.stds**2 * sigma**2 / (alpha**2 * MIXTURE.stds**2 + sigma**2)
        gain = alpha * MIXTURE.stds**2 / (alpha**2 * MIXTURE.stds**2 + sigma**2)
        means = MIXTURE.means + gain[:, None] * (x[:, None] - alpha * MIXTURE.means)
        total = v * (A @ A.T)[0, 0] + std**2
        off = y[0, 0] - means @ A[0]
        log_p = -0.5 * (off**2 / total + jnp.log(total))
        return jax.nn.logsumexp(log_p + MIXTURE.log_posterior(process, x, t), axis=-1)

    shift = sigma**2 / alpha * jax.grad(lambda x: log_likelihood(x).sum())(x)
    exact = MIXTURE.denoiser(process)(x, t) + shift
    np.testing.assert_allclose(posterior.denoiser(process)(x, t), exact, atol=1e-10)
    assert_moments(np.asarray(posterior.sample(KEY, 20_000)), *posterior.moments())


def test_samples_from_the_exact_guided_mean_of_a_mixture():
    process, operator, n = build("process", "vp"), Matrix(values=((1.0, -0.5),)), 20_000
    _, posterior = problem(operator, 0.3, MIXTURE)
    times = process.default_times(100)
    x_0 = posterior.sample(jax.random.key(3), n)
    x_T = process.interpolate(x_0, jax.random.normal(KEY, (n, 2)), times[0])
    x = diffusion.sample(
        build("sampler", "dpm_solver_pp_2m"), process, posterior.denoiser(process), None, x_T, times,
        denoise_last=False,
    )  # fmt: skip
    assert_moments(np.asarray(x), *marginal(process, posterior, times[-1]))


# ---- the formulas -----------------------------------------------------------------------------------


def test_the_likelihood_of_dps():
    process, operator, std, t = build("process", "vp"), OPERATORS["matrix"], 0.2, 0.4
    y, _ = problem(operator, std)
    denoise, x = DATA.denoiser(process), states(process, t)
    square = lambda x: ((y - operator.forward(denoise(x, t))) ** 2).sum()
    factor = process.sigma(t) ** 2 / process.alpha(t) / (2 * std**2)
    guided = dps(process, denoise, operator, y, std=std, scale=0.7)
    wanted = denoise(x, t) - 0.7 * factor * jax.grad(square)(x)
    np.testing.assert_allclose(guided(x, t), wanted, rtol=1e-9)


@pytest.mark.parametrize("process", ["vp", "rectified_flow"])
def test_a_ddim_step_of_dps_is_that_of_the_paper(process):
    """The step of the model itself, then the gradient over the size of the residual."""
    process, operator = build("process", process), OPERATORS["matrix"]
    y, _ = problem(operator, 0.1)
    times, denoise = process.default_times(5), DATA.denoiser(process)
    x = states(process, times[0])
    model = dps(process, denoise, operator, y, times=times, scale=0.7)
    ddim = lambda model, x, i: diffusion.sample(
        build("sampler", "ddim"), process, model, None, x, times[i : i + 2], denoise_last=False
    )
    for i in range(5):
        square = lambda x, i=i: ((y - operator.forward(denoise(x, times[i]))) ** 2).sum(axis=-1)
        gradient = jax.grad(lambda x, f=square: f(x).sum())(x)
        wanted = ddim(denoise, x, i) - 0.7 * gradient / jnp.sqrt(square(x))[:, None]
        x = ddim(model, x, i)
        np.testing.assert_allclose(x, wanted, rtol=1e-9)


def test_pseudo_inverse_guidance_solves_for_every_operator():
    """With and without the closed form of A A^T, r_t^2 A A^T + std^2 I is inverted."""
    process, t, shape = build("process", "edm"), 0.5, (6, 6, 1)
    denoise = lambda x, t: 0.5 * x
    x = jax.random.normal(KEY, (2, *shape))
    variance = 0.5**2 * 0.64 / (0.5**2 + 0.64)  # alpha = 1, sigma = t, data_std = 0.8
    for operator in (Superres(factor=2), Blur(width=0.8, border="zero")):
        y = operator.measure(KEY, x, 0.1)
        guided = pigdm(process, denoise, operator, y, std=0.1, data_std=0.8)
        A = diffusion.testing.matrix_of(operator, shape)
        r = np.asarray(y - operator.forward(denoise(x, t))).reshape(2, -1)
        v = np.linalg.solve(variance * A @ A.T + 0.01 * np.eye(len(A)), r.T).T
        wanted = 0.5 * x + (0.5**2 * 0.5 * v @ A).reshape(x.shape)
        np.testing.assert_allclose(guided(x, t), wanted, atol=1e-5)


def test_conjugate_gradients_solve_each_example_by_itself():
    A = RANDOM.standard_normal((3, 5, 5))
    M = np.einsum("bij,bkj->bik", A, A) + 0.1 * np.eye(5)
    b = RANDOM.standard_normal((3, 5))
    b[1] = 0
    matrix = lambda v: jnp.einsum("bij,bj->bi", jnp.asarray(M), v)
    found = conjugate_gradients(matrix, jnp.asarray(b), 30, 1e-13)
    np.testing.assert_allclose(found, np.linalg.solve(M, b[..., None])[..., 0], atol=1e-8)
    negative = conjugate_gradients(lambda v: -v, jnp.asarray(b), 30, 1e-13)
    np.testing.assert_array_equal(negative, 0 * b)  # no positive curvature: nothing is done


# ---- as entries of a config -------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A denoiser that knows its process and has no condition."""

    denoise: object
    process: object
    cond: object = None

    def __call__(self, x_t, t):
        return self.denoise(x_t, t)

    def with_cond(self, cond):
        return self


def model_of(process, y):
    given = {"measurement": y, "times": process.default_times(10)}
    return ConditionalModel(Base(DATA.denoiser(process), process), given=given)


@pytest.mark.parametrize("name", METHODS)
def test_entries_are_the_functions(name):
    process = build("process", "vp")
    y, _ = problem(OPERATORS["mask"], 0.1)
    spec = dict(
        name=name, operator=dict(name="random_mask", fraction=0.5, seed=1), std=0.1, scale=1.0
    )
    guided = build("guidance", spec)(model_of(process, y))
    wanted = METHODS[name](process, DATA.denoiser(process), OPERATORS["mask"], y, std=0.1)
    x = states(process, 0.3)
    np.testing.assert_allclose(guided(x, 0.3), wanted(x, 0.3), rtol=1e-12)
    plain = build("guidance", spec | dict(scale=0.0))(model_of(process, y))
    np.testing.assert_array_equal(plain(x, 0.3), DATA.denoiser(process)(x, 0.3))


@pytest.mark.parametrize("name", METHODS)
def test_another_measurement_std_or_mask_needs_no_compilation(name):
    process = build("process", "vp")
    traced = []

    def denoise(x, t):
        traced.append(1)
        return 0.5 * x

    x = states(process, 0.3)
    sampler, times = build("sampler", "ddim"), process.default_times(3)
    for i in range(3):
        mask = Mask(values=np.eye(6)[i])
        model = METHODS[name](process, denoise, mask, jnp.full((1, 6), float(i)), std=0.1 * (i + 1))
        diffusion.sample(sampler, process, model, None, x, times)
        if not i:
            before = len(traced)
    assert len(traced) == before


@pytest.mark.parametrize("name", METHODS)
def test_examples_do_not_see_each_other(name):
    process = build("process", "vp")
    y, _ = problem(OPERATORS["matrix"], 0.1)
    many = jnp.concatenate([y, 2 * y, -y])
    x = states(process, 0.5, 3)
    full = METHODS[name](process, DATA.denoiser(process), OPERATORS["matrix"], many, std=0.1)
    for i in range(3):
        alone = METHODS[name](
            process, DATA.denoiser(process), OPERATORS["matrix"], many[i : i + 1], std=0.1
        )
        np.testing.assert_allclose(full(x, 0.5)[i], alone(x[i : i + 1], 0.5)[0], rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_float32(name):
    process = build("process", "vp")
    y, _ = problem(OPERATORS["mask"], 0.1)
    guided = METHODS[name](process, DATA.denoiser(process), OPERATORS["mask"], y, std=0.1)
    single = guided(states(process, 0.5).astype(jnp.float32), jnp.float32(0.5))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, guided(states(process, 0.5), 0.5), atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_is_refused(name):
    process = build("process", "vp")
    y, denoise, x = jnp.zeros((1, 6)), DATA.denoiser(process), states(process, 0.5)
    with pytest.raises(ValueError, match="measurement"):
        METHODS[name](process, denoise, OPERATORS["mask"], jnp.zeros((1, 5)))(x, 0.5)
    with pytest.raises(ValueError, match="std"):
        build("guidance", dict(name=name, std=-1.0))
    with pytest.raises(ValueError, match="measurement"):
        build("guidance", name)(ConditionalModel(Base(denoise, process)))
    other = build("process", "bridge" if name == "replacement" else "poisson_flow")
    with pytest.raises(TypeError, match=name):
        build("guidance", name)(ConditionalModel(Base(denoise, other), given={"measurement": y}))
    with pytest.raises(TypeError, match=name):
        METHODS[name](other, denoise, OPERATORS["mask"], y)


def test_replacement_needs_a_pseudo_inverse():
    process = build("process", "vp")
    with pytest.raises(ValueError, match="moment_matching"):
        replacement(process, lambda x, t: x, Blur(border="zero"), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize("name", OPERATORS)
def test_consistent_examples_have_the_measurement_and_are_the_nearest(name):
    """A x = y exactly, the rest of x untouched: x moves along the rows of A alone."""
    operator, x = OPERATORS[name], DATA.sample(KEY, 4)
    y = operator.forward(DATA.sample(jax.random.key(1), 4))
    found = consistent(operator, y, x)
    np.testing.assert_allclose(operator.forward(found), y, atol=1e-10)
    again = consistent(operator, y, found)
    np.testing.assert_allclose(again, found, atol=1e-10)
    free = found - x
    np.testing.assert_allclose(operator.pinv(operator.forward(free), (6,)), free, atol=1e-10)
    with pytest.raises(ValueError, match="pseudo-inverse"):
        consistent(Blur(border="zero"), jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 8, 8, 1)))


def test_dps_without_noise_needs_the_normalized_step():
    with pytest.raises(ValueError, match="normalized"):
        build("guidance", dict(name="dps", normalized=False))


def test_repaint_finds_the_measurement_under_other_guidance():
    process = build("process", "vp")
    known = replacement(process, DATA.denoiser(process), OPERATORS["mask"], jnp.zeros((1, 6)))
    assert measured(diffusion.clipped(known), Replaced) is known
    assert measured(DATA.denoiser(process), Replaced) is None
    assert isinstance(build("sampler", "repaint"), StepSampler)
    for wrong in (dict(repeats=0), dict(jump=0)):
        with pytest.raises(ValueError, match="at least 1"):
            build("sampler", dict(name="repaint", **wrong))
