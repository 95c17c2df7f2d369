"""The variance of x_0 given x_t and of reverse steps: estimated, learned, regressed, against Gaussians."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest
from pairwise import pairwise

import diffusion
from diffusion import build
from diffusion.models.denoiser import RegressedVariance
from diffusion.models.variance import (
    LearnedVariance,
    MeanWithVarianceOutput,
    estimate_variance,
    with_variance,
)
from diffusion.numerics import normal_like, on_host
from diffusion.objectives.losses import SQUARES, variance_loss
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.processes import GaussianProcess
from diffusion.samplers.base import State
from diffusion.testing import gaussian

KEY = jax.random.key(0)
GAUSSIAN = known_processes.names(GaussianProcess)


def left(process, t, s2):
    """The variance of x_0 given x_t for N(0, s2), in float64 on the host."""
    alpha, sigma = on_host(process.alpha, t), on_host(process.sigma, t)
    return s2 * sigma**2 / (alpha**2 * s2 + sigma**2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exact:
    """The denoiser of N(0, s2) with all that is known of its variance; v is that of a given step."""

    s2: Any
    share: Any = 0.0
    bias: Any = 0.0
    process: GaussianProcess = dataclasses.field(
        default=build("process", "ddpm"), metadata={"static": True}
    )

    def __call__(self, x_t, t):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.s2 / (alpha**2 * self.s2 + sigma**2)
        return (
            jnp.reshape(gain, jnp.shape(gain) + (1,) * (x_t.ndim - jnp.ndim(gain))) * x_t
            + self.bias
        )

    def posterior_variance(self, x_t, t):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return self.s2 * sigma**2 / (alpha**2 * self.s2 + sigma**2)

    def mean_and_variance_output(self, x_t, t):
        return self(x_t, t), jnp.broadcast_to(self.share, x_t.shape)


def steps(sampler, process, model, times):
    """Return (multiplier of x_t, variance of the noise) of every step of a grid, measured on the sampler."""
    sampler = build("sampler", dict(name="ancestral") | sampler)
    row = jax.tree.map(jnp.asarray, sampler.prepare(process, np.asarray(times)))
    x = jnp.ones(len(times) - 1)  # all steps at once, as if they were examples
    quiet = lambda x: row.keep * x + row.pull * model(x, row.t)
    z = normal_like(KEY, x)
    noise = sampler.step(process, model, KEY, State(x), row).x - quiet(x)
    return np.asarray(quiet(x)), np.asarray((noise / z) ** 2)


# ---- the analytic variance ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "variance"), [(2, 1.198768103e-4), (100, 2.063226795e-3), (500, 0.01003366255)]
)
def test_analytic_variance_is_the_exact_reverse_variance_of_the_chain(k, variance):
    """beta_t V_(t-1) / V_t for data of variance 0.25."""
    process = build("process", "ddpm")
    _, found = steps(dict(variance="analytic"), process, Exact(0.25), [k / 1000, (k - 1) / 1000])
    np.testing.assert_allclose(found, variance, rtol=2e-9)  # ten digits are given


@pytest.mark.parametrize(
    ("name", "eta"),
    pairwise(name=GAUSSIAN, eta=[0.0, 0.5, 1.0], kinds=dict(name=known_processes.family)),
)
def test_analytic_steps_preserve_the_marginal_of_a_gaussian(name, eta):
    """(keep + pull gain)^2 V_t + variance = V_s for s2 in {0, 0.25, 1, 4}: every eta, few steps."""
    process = build("process", name)
    times = process.default_times(10)[1:-1]  # ends where a scale may vanish are another matter
    for s2 in (0.0, 0.25, 1.0, 4.0):
        model = Exact(s2, process=process)
        multiply, variance = steps(dict(variance="analytic", eta=eta), process, model, times)
        alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
        marginal = alpha**2 * s2 + sigma**2
        found = multiply**2 * marginal[:-1] + variance
        # keep and pull cancel where sigma_s << sigma_t: some ten roundings of the larger variance
        bound = 1e-12 * marginal[1:] + 1e-14 * sigma[1:] ** 2
        assert np.all(np.abs(found - marginal[1:]) <= bound), (s2, found / marginal[1:] - 1)


def test_for_unit_variance_the_analytic_variance_is_beta():
    """The two classical choices are linked: posterior + pull^2 sbar^2 = beta for N(0, I)."""
    process, times = build("process", "ddpm"), np.arange(1000, 0, -37) / 1000
    _, analytic = steps(dict(variance="analytic"), process, Exact(1.0), times)
    _, beta = steps(dict(variance="beta"), process, Exact(1.0), times)
    _, posterior = steps(dict(variance="posterior"), process, Exact(1.0), times)
    np.testing.assert_allclose(analytic, beta, rtol=1e-12)
    _, known = steps(dict(variance="analytic"), process, Exact(0.0), times)
    np.testing.assert_allclose(known, posterior, rtol=1e-12)


@pytest.mark.parametrize("num_steps", [10, 50, 250])
def test_few_analytic_steps_give_the_variance_of_the_data(num_steps):
    """0.249900 for the DDPM chain, data variance 0.25, no noise at the last step, whatever the steps."""
    process = build("process", "ddpm")
    times = np.append(np.round(np.linspace(1000, 1, num_steps)) / 1000, 0.0)
    multiply, variance = steps(dict(variance="analytic"), process, Exact(0.25), times)
    assert variance[-1] == 0
    # start from the marginal that an infinite chain would have, variance 1
    v = 1.0
    for m, noise in zip(multiply, variance, strict=True):
        v = m**2 * v + noise
    np.testing.assert_allclose(v, 0.249900, atol=1e-6)


@pytest.mark.slow
def test_a_table_gives_the_same_steps():
    """At its own times to rounding; between 100 times log sbar^2 is linear in the log-SNR to 1e-3."""
    process, model = build("process", "ddpm"), Exact(0.25)
    times = process.default_times(99)
    table = with_variance(model, process, times, left(process, times, 0.25))
    for grid, rtol in ((times, 1e-12), (process.default_times(31), 2e-3)):
        t = jnp.asarray(grid)
        found = table.posterior_variance(jnp.ones(len(t)), t)
        np.testing.assert_allclose(found, left(process, grid, 0.25), rtol=rtol)
    outside = table.posterior_variance(jnp.ones((2, 3)), 0.0)
    np.testing.assert_allclose(outside, left(process, times[-1], 0.25), rtol=1e-12)
    single = with_variance(model, process, times[:1], [0.2])
    np.testing.assert_allclose(single.posterior_variance(jnp.ones((2, 3)), 0.3), 0.2)


@pytest.mark.slow
def test_a_table_of_dimensions_is_shaped_like_the_data():
    process, times = build("process", "vp"), np.array([0.2, 0.5, 0.9])
    values = np.arange(1.0, 19.0).reshape(3, 2, 3)
    table = with_variance(Exact(0.25, process=process), process, times, values)
    x = jnp.ones((4, 2, 3))
    np.testing.assert_allclose(table.posterior_variance(x, 0.5), values[1], rtol=1e-12)
    many = table.posterior_variance(x, jnp.array([0.2, 0.5, 0.9, 0.95]))
    np.testing.assert_allclose(many, values[[0, 1, 2, 2]], rtol=1e-12)
    sampler = build("sampler", dict(name="ancestral", variance="analytic"))
    end = diffusion.sample(sampler, process, table, KEY, x, process.default_times(3))
    assert end.shape == x.shape
    assert jnp.all(jnp.isfinite(end))


@pytest.mark.parametrize("kind", ["noise", "data", "residual"])
def test_estimates_agree_with_the_closed_form(kind):
    """Within five standard errors, which are closed forms as well, for N(0.3, 0.25)."""
    process, n = build("process", "vp"), 20_000
    model, s2 = gaussian(dim=2).denoiser(process), 0.25
    x = gaussian(dim=2).sample(KEY, n)
    times = process.default_times(8)
    table = estimate_variance(process, model, [x[: n // 2], x[n // 2 :]], times, KEY, kind=kind)
    assert table.dtype == np.float64
    expected = left(process, times, s2)
    alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
    ratio = (sigma / alpha) ** 2
    q = expected / ratio  # the fraction of the noise that the model cannot see
    spread = {  # of e^2, of e^2 + 2 e (x_0_hat - mean), and the same for the noise, e and the rest independent
        "residual": np.sqrt(2) * expected,
        "data": np.sqrt(2 * expected**2 + 4 * expected * (s2 - expected)),
        "noise": ratio * np.sqrt(2 * q**2 + 4 * q * (1 - q)),
    }[kind]
    assert np.all(np.abs(table - expected) < 5 * spread / np.sqrt(2 * n))


@pytest.mark.slow
def test_estimates_do_not_depend_on_the_batches():
    process, x = build("process", "vp"), gaussian(dim=2).sample(KEY, 60)
    model, times = gaussian(dim=2).denoiser(process), [0.1, 0.6]
    whole = estimate_variance(process, model, [x], times, KEY)
    parts = [dict(data=x[:17]), dict(data=x[17:])]
    np.testing.assert_allclose(estimate_variance(process, model, parts, times, KEY), whole)


def test_diagonal_estimates_see_each_dimension():
    """Data of two standard deviations: the table has both; its mean is the isotropic one."""
    process, s2, n = build("process", "vp"), np.array([0.01, 1.0]), 20_000
    x = jnp.sqrt(jnp.asarray(s2)) * jax.random.normal(KEY, (n, 2))
    times = np.array([0.15, 0.4])
    model = Exact(jnp.asarray(s2), process=process)

    def wide(x_t, t):
        return model(x_t, t[:, None])

    table = estimate_variance(process, wide, [x], times, KEY, kind="data", diagonal=True)
    expected = left(process, times[:, None], s2)
    bound = 5 * np.sqrt((2 * expected**2 + 4 * expected * (s2 - expected)) / n)
    assert np.all(np.abs(table - expected) < bound)
    plain = estimate_variance(process, wide, [x], times, KEY, kind="data")
    np.testing.assert_allclose(plain, table.mean(axis=1), rtol=1e-12)


def test_only_the_residual_estimate_survives_a_biased_mean():
    """It returns the second moment about the model's mean, sbar^2 + bias^2."""
    process, x = build("process", "vp"), jnp.sqrt(0.25) * jax.random.normal(KEY, (40_000, 1))
    model, t = Exact(0.25, bias=0.3, process=process), np.array([0.5])
    found = {
        k: estimate_variance(process, model, [x], t, KEY, kind=k)[0] for k in ("noise", "residual")
    }
    truth = left(process, t, 0.25)[0] + 0.09
    assert abs(found["residual"] - truth) < 5 * np.sqrt(2) * truth / np.sqrt(len(x))
    assert abs(found["noise"] - truth) > 0.1


def test_bad_estimates_are_refused():
    process, model, x = build("process", "vp"), Exact(0.25), jnp.ones((2, 1))
    estimate = lambda *a, **k: estimate_variance(*a, KEY, **k)
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        estimate(process, model, [x], [0.5], kind="nose")
    with pytest.raises(ValueError, match="empty"):
        estimate(process, model, [], [0.5])
    with pytest.raises(ValueError, match="positive"):
        estimate(process, model, [x], [0.0])
    with pytest.raises(TypeError, match="GaussianProcess"):
        estimate(build("process", "poisson_flow"), model, [x], [0.5])
    with pytest.raises(ValueError, match="one row per time"):
        with_variance(model, process, [0.1, 0.2], [1.0])
    with pytest.raises(ValueError, match="not be negative"):
        with_variance(model, process, [0.1], [-1.0])
    with pytest.raises(ValueError, match="log-SNR"):
        with_variance(model, process, [0.0], [1.0])


@pytest.mark.parametrize("variance", ["analytic", "learned"])
def test_a_model_without_a_variance_is_refused(variance):
    process = build("process", "vp")
    sampler = build("sampler", dict(name="ancestral", variance=variance))
    for model in (gaussian().denoiser(process), lambda x, t: x):
        with pytest.raises(TypeError, match=f"variance='{variance}' needs a model with"):
            diffusion.sample(
                sampler, process, model, KEY, jnp.ones((2, 1)), process.default_times(3)
            )


def test_variances_are_named():
    with pytest.raises(ValueError, match="Did you mean 'analytic'"):
        build("sampler", dict(name="ancestral", variance="analytical"))


@pytest.mark.parametrize("variance", ["posterior", "beta", "analytic", "learned"])
def test_no_noise_is_added_to_clean_data(variance):
    process = build("process", "edm")
    _, noise = steps(
        dict(variance=variance), process, Exact(0.25, 0.5, process=process), [80.0, 1.0, 0.0]
    )
    assert noise[-1] == 0
    assert noise[0] > 0


# ---- the learned variance -----------------------------------------------------------------------


def test_learned_variance_lies_between_posterior_and_beta():
    process, times = build("process", "ddpm"), np.array([1.0, 0.7, 0.2, 0.01])
    variance = lambda v, **fields: steps(
        dict(variance="learned"), process, Exact(0.25, v), times
    )[1]  # fmt: skip
    posterior, beta = (
        steps(dict(variance=name), process, Exact(0.25), times)[1] for name in ("posterior", "beta")
    )
    np.testing.assert_allclose(variance(0.0), posterior, rtol=1e-12)
    np.testing.assert_allclose(variance(1.0), beta, rtol=1e-12)
    np.testing.assert_allclose(variance(0.3), posterior**0.7 * beta**0.3, rtol=1e-12)


@dataclass(frozen=True)
class At(TimeDistribution):
    """Always the same time."""

    t: float = 0.5

    def quantile(self, process, u):
        return jnp.full_like(u, self.t)


@dataclass(frozen=True)
class ExactNoise:
    """The exact noise of N(0, s2) on the DDPM chain as a network; params are the raw second output."""

    s2: float
    t: float

    def init(self, key, x, log_snr, cond=None):
        return jnp.zeros(())

    def apply(self, params, x, log_snr, cond=None, key=None):
        process = build("process", "ddpm")
        alpha, sigma = process.alpha(self.t), process.sigma(self.t)  # x has unit scale there
        noise = sigma / (alpha**2 * self.s2 + sigma**2) * x
        return jnp.concatenate([noise, jnp.broadcast_to(params, x.shape)], axis=-1)


# Data and noise of two values each have the second moments of the Gaussian, on which alone a linear denoiser's
# error depends: four rows are an exact expectation.
SIGNS = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


def four_rows(s2=0.25):
    signs = SIGNS.astype(jnp.float64)
    return dict(data=np.sqrt(s2) * signs[:, :1], noise=signs[:, 1:], row=jnp.arange(4))


@pytest.mark.parametrize(
    ("k", "variance"), [(2, 1.198768103e-4), (100, 2.063226795e-3), (500, 0.01003366255)]
)
def test_the_hybrid_loss_is_least_at_the_exact_reverse_variance(k, variance):
    """Newton on v with the exact mean finds beta_t V_(t-1) / V_t."""
    process, network = build("process", "ddpm"), ExactNoise(0.25, k / 1000)
    loss = diffusion.regression_loss(
        network, process, build("prediction", "noise"), build("weight", "simple"), At(t=k / 1000),
        batch_size=4, variance=LearnedVariance(),
    )  # fmt: skip
    batch = four_rows()
    total = lambda raw: loss(raw, KEY, batch)[0].mean()
    newton = jax.jit(lambda raw: raw - jax.grad(total)(raw) / jax.hessian(total)(raw))
    raw = jnp.zeros(())
    for _ in range(20):
        raw = newton(raw)
    share = 0.5 * (1 + raw)
    times = [k / 1000, (k - 1) / 1000]
    _, found = steps(dict(variance="learned"), process, Exact(0.25, share), times)
    np.testing.assert_allclose(found, variance, rtol=1e-8)


def test_the_divergence_is_that_of_two_gaussians():
    """KL of normals in the textbook form; with the posterior's variance it is the elbo weight."""
    process, step, t = build("process", "vp"), 0.05, 0.4
    c = process.coefficients(t, jnp.ones((1, 1)))
    learned = LearnedVariance(step=step)
    row = build("sampler", "ancestral").prepare(process, np.array([t, t - step]))
    posterior, widen = row.spread[0] ** 2, row.widen[0]
    for share, error2 in ((0.0, 0.3), (0.4, 0.0), (1.2, 0.1), (-0.2, 0.2)):
        variance = posterior * np.exp(2 * share * widen)
        expected = 0.5 * (
            np.log(variance / posterior) - 1 + (posterior + row.pull[0] ** 2 * error2) / variance
        )
        found = learned.divergence(c, jnp.asarray(share), jnp.asarray(error2))
        np.testing.assert_allclose(np.ravel(found)[0], expected, rtol=1e-9)
    weight = build("weight", dict(name="elbo", step=step))(c, jnp.ones((1, 1)))
    at_posterior = learned.divergence(c, jnp.asarray(0.0), jnp.asarray(0.3))
    np.testing.assert_allclose(at_posterior, 0.3 * weight, rtol=1e-12)


@dataclass(frozen=True)
class TwoNumbers:
    """Outputs params[0] x and params[1]: a mean and a variance that are trained apart."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.array([0.2, 0.4])

    def apply(self, params, x, log_snr, cond=None, key=None):
        return jnp.concatenate([params[0] * x, jnp.broadcast_to(params[1], x.shape)], axis=-1)


@dataclass(frozen=True)
class OneNumber(TwoNumbers):
    """Its first half."""

    def apply(self, params, x, log_snr, cond=None, key=None):
        return params[0] * x


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "edm", "rectified_flow"])
def test_the_bound_moves_the_variance_alone(name):
    """The gradient of the mean is that of the simple loss; the loss is larger by the bound."""
    process, params = build("process", name), jnp.array([0.2, 0.4])
    arguments = (
        process,
        build("prediction", "v"),
        build("weight", "simple"),
        build("time", "uniform"),
    )
    batch = dict(data=jax.random.normal(KEY, (8, 3)), row=jnp.arange(8))
    plain = diffusion.regression_loss(OneNumber(), *arguments, batch_size=8)
    hybrid = diffusion.regression_loss(
        TwoNumbers(), *arguments, batch_size=8, variance=LearnedVariance(weight=0.1)
    )
    of = lambda loss: lambda p: loss(p, KEY, batch)[0].mean()
    a, b = jax.grad(of(plain))(params), jax.grad(of(hybrid))(params)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-12)
    assert b[1] != 0
    assert jnp.all(hybrid(params, KEY, batch)[0] > plain(params, KEY, batch)[0])


def test_a_denoiser_with_a_learned_variance_has_the_mean_of_its_first_half():
    process, prediction, x = build("process", "vp"), build("prediction", "v"), jnp.ones((4, 3))
    params = jnp.array([0.2, 0.4])
    plain = diffusion.make_denoiser(OneNumber(), params, process, prediction)
    learned = diffusion.make_denoiser(
        TwoNumbers(), params, process, prediction, learned_variance=True
    )
    np.testing.assert_array_equal(plain(x, 0.3), learned(x, 0.3))
    np.testing.assert_allclose(learned.mean_and_variance_output(x, 0.3)[1], 0.7)
    guided = MeanWithVarianceOutput(diffusion.clipped(learned, -0.1, 0.1), learned)
    np.testing.assert_allclose(
        guided.mean_and_variance_output(x, 0.3)[0], jnp.clip(plain(x, 0.3), -0.1, 0.1)
    )
    times = process.default_times(3)
    sampler = build("sampler", dict(name="ancestral", variance="learned"))
    for model in (learned, guided, learned.with_cond(None)):
        assert jnp.all(jnp.isfinite(diffusion.sample(sampler, process, model, KEY, x, times)))


def test_learned_variances_are_checked():
    with pytest.raises(ValueError, match="outputs=2"):
        diffusion.make_denoiser(
            OneNumber(), jnp.ones(2), build("process", "vp"), build("prediction", "v"),
            learned_variance=True,
        )(jnp.ones((2, 3)), 0.5)  # fmt: skip
    for field in ("step", "weight"):
        with pytest.raises(ValueError, match=field):
            LearnedVariance(**{field: 0.0})
    with pytest.raises(TypeError, match="Gaussian"):
        diffusion.regression_loss(
            TwoNumbers(), build("process", "poisson_flow"), build("prediction", "data"),
            build("weight", "simple"), build("time", "uniform"), batch_size=1,
            variance=LearnedVariance(),
        )  # fmt: skip


# ---- the regressed variance ---------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """The same number for every input: its best value is the mean of the target."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.zeros(())

    def apply(self, params, x, log_snr, cond=None, key=None):
        return jnp.broadcast_to(params, x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_regressed_variances_agree_for_a_perfect_mean_only(bias):
    """npr gives the second moment about the model's mean in any case; sn needs the mean to be right."""
    process, t, batch = build("process", "ddpm"), 0.4, four_rows()
    model, best = Exact(0.25, bias=bias), {}
    for kind in SQUARES:
        loss = variance_loss(Constant(), process, model, At(t=t), batch_size=4, kind=kind)
        total = lambda y, loss=loss: loss(y, KEY, batch)[0].mean()
        best[kind] = jax.grad(total)(0.0) / -jax.hessian(total)(0.0)  # quadratic: one step
    alpha, sigma = (float(c(t)) for c in (process.alpha, process.sigma))
    x_t = alpha * batch["data"] + sigma * batch["noise"]
    seen = (((x_t - alpha * model(x_t, t)) / sigma) ** 2).mean()
    truth, ratio = float(left(process, t, 0.25)), (sigma / alpha) ** 2
    np.testing.assert_allclose(ratio * best["npr"], truth + bias**2, rtol=1e-10)
    np.testing.assert_allclose(ratio * (best["sn"] - seen), truth - bias**2, rtol=1e-10)


def test_a_regressed_variance_is_a_model_for_the_sampler():
    """Its formula at a point, for both kinds, and never below 0."""
    process, t, x = build("process", "vp"), 0.4, jnp.array([[0.2], [30.0]])
    model = Exact(0.25, process=process)
    alpha, sigma = (float(c(t)) for c in (process.alpha, process.sigma))
    noise = (x - alpha * model(x, t)) / sigma
    for kind, expected in (("npr", 0.7 + 0 * x), ("sn", jnp.maximum(0.7 - noise**2, 0))):
        regressed = RegressedVariance(
            denoise=model, params=0.7, network=Constant(), process=process, kind=kind
        )
        found = regressed.posterior_variance(x, t)
        np.testing.assert_allclose(found, (sigma / alpha) ** 2 * expected, rtol=1e-12)
        np.testing.assert_array_equal(regressed(x, t), model(x, t))
        sampler = build("sampler", dict(name="ancestral", variance="analytic"))
        end = diffusion.sample(sampler, process, regressed, KEY, x, process.default_times(3))
        assert jnp.all(jnp.isfinite(end))


def test_between_two_modes_a_variance_may_exceed_the_bound_that_holds_on_average():
    """Half way between data at -1 and 1 Var[x_0 | x_t] is 1, though sigma^2 / alpha^2 is a ninth there."""
    process = build("process", "vp")
    t = float(on_host(process.time_of_log_snr, 2 * np.log(3.0)))
    regressed = RegressedVariance(
        denoise=lambda x, t: 0 * x, params=9.0, network=Constant(), process=process
    )
    found = regressed.posterior_variance(jnp.zeros((2, 1)), t)
    np.testing.assert_allclose(found, 1.0, rtol=1e-9)


def test_kinds_of_squares_are_checked():
    with pytest.raises(ValueError, match="npr, sn"):
        variance_loss(
            Constant(), build("process", "vp"), Exact(1.0), At(), batch_size=1, kind="second"
        )
