"""Laws of what is regressed, how it counts, and at which times."""

import dataclasses

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest

import diffusion
from diffusion import build, registered
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.processes import AffineProcess, GaussianProcess

KEY = jax.random.key(0)
PROCESSES = [known_processes.default(n) for n in registered("process")]
AFFINE = [p for p in PROCESSES if isinstance(p, AffineProcess)]
GAUSSIAN = [p for p in PROCESSES if isinstance(p, GaussianProcess)]
ids = lambda p: type(p).__name__


@dataclasses.dataclass(frozen=True)
class Slope:
    """y = params x: a network whose gradient is easily followed."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.asarray(0.3)

    def apply(self, params, x, log_snr, cond=None, key=None):
        return params * x


def out(prediction, c):
    return jnp.asarray(build("prediction", prediction).recover(c)[1])


def one():
    return jnp.ones((1, 1))  # float64, which it would not be at import


def number(x):
    return float(np.ravel(x)[0])


# ---- the mean of the previous state -------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 10, 100, 500, 1000])
def test_previous_mean_has_the_coefficients_of_the_chain(k):
    """Coefficients of x_0 and x_t of the DDPM posterior, from its table."""
    pull, keep = {
        1: (1.0, 0.0),
        2: (0.5452914995, 0.454708499),
        10: (0.1472737174, 0.8527262261),
        100: (0.01907634532, 0.9808960213),
        500: (0.003070071114, 0.9941066702),
        1000: (1.283514872e-4, 0.9899486783),
    }[k]
    process, prediction = build("process", "ddpm"), build("prediction", "previous_mean")
    skip, factor = prediction.recover(process.coefficients(k / 1000, one()))
    np.testing.assert_allclose(1 / number(factor), pull, rtol=1e-8)
    np.testing.assert_allclose(-number(skip) / number(factor), keep, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("process", AFFINE, ids=ids)
@pytest.mark.parametrize("share", [1e-3, 0.1, 2.0])
def test_previous_mean_can_be_solved_for_the_data(process, share):
    """recover(target) = x_0 for short steps and for steps that reach beyond the beginning."""
    span = float(process.t_max) - float(process.t_min)
    prediction = build("prediction", dict(name="previous_mean", step=share * span))
    x_0, z = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.linspace(0.7, -0.4, 8).reshape(4, 2)
    for t in process.default_times(8)[1:-1]:
        c = process.coefficients(t, x_0)
        (a, b), (skip, factor) = prediction.target(c), prediction.recover(c)
        x_t = process.interpolate(x_0, z, t)
        # rounding of y is multiplied by out
        bound = 1e-14 * (1 + number(factor)) * (1 + float(jnp.abs(x_t).max()))
        np.testing.assert_allclose(skip * x_t + factor * (a * x_0 + b * z), x_0, atol=bound)


def test_previous_mean_of_a_gaussian_is_the_conditional_mean():
    """y regressed on x_t is E[x_s | x_t], by the covariance of a joint Gaussian."""
    process, s2, t, step = build("process", "vp"), 0.25, 0.4, 0.05
    prediction = build("prediction", dict(name="previous_mean", step=step))
    c = process.coefficients(t, one())
    a, b = (number(v) for v in prediction.target(c))
    alpha, sigma = number(c.alpha), number(c.sigma)
    slope = (a * alpha * s2 + b * sigma) / (alpha**2 * s2 + sigma**2)
    alpha_s, sigma_s = float(process.alpha(t - step)), float(process.sigma(t - step))
    transition = alpha / alpha_s  # x_t = transition x_s + fresh noise
    covariance = transition * (alpha_s**2 * s2 + sigma_s**2)
    np.testing.assert_allclose(slope, covariance / (alpha**2 * s2 + sigma**2), rtol=1e-12)


def test_a_step_must_be_positive():
    for kind, name in (("prediction", "previous_mean"), ("weight", "elbo")):
        with pytest.raises(ValueError, match="step"):
            build(kind, dict(name=name, step=0.0))


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 10, 500, 1000])
def test_elbo_weight_is_that_of_the_chain(k):
    """beta^4 / (2 sigma^2 alpha^2 bbar^2) on the noise, sigma^2 the posterior variance."""
    process = build("process", "ddpm")
    c = process.coefficients(k / 1000, one())
    beta = process.betas()[k - 1]
    bbar2, before2 = (1 - np.prod(1 - process.betas()[:n]) for n in (k, k - 1))
    posterior = beta * before2 / bbar2
    expected = beta**2 / (2 * posterior * (1 - beta) * bbar2)
    found = build("weight", "elbo")(c, out("noise", c))
    np.testing.assert_allclose(number(found), expected, rtol=1e-8)  # bbar2 loses digits at small k


@pytest.mark.parametrize("process", GAUSSIAN, ids=ids)
def test_elbo_weight_tends_to_the_likelihood_weight(process):
    """A term over its step, extrapolated to step 0 from two steps: the error is of second order."""
    t = float(process.default_times(6)[2])
    c = process.coefficients(t, one())
    h = 1e-3 * (t - float(process.t_min))
    per_step = lambda h: number(build("weight", dict(name="elbo", step=h))(c, out("score", c))) / h
    limit = 2 * per_step(h / 2) - per_step(h)
    expected = number(build("weight", "likelihood")(c, out("score", c)))
    np.testing.assert_allclose(limit, expected, rtol=1e-4)  # (h / t)^2, and curvature of order 10


@pytest.mark.parametrize("prediction", registered("prediction"))
def test_weights_on_the_data(prediction):
    """w |y - y_hat|^2 in units of the data, against the formula, at high and low SNR."""
    process = build("process", "vp")
    for t in (0.05, 0.3, 0.8):
        c = process.coefficients(t, one())
        snr, factor = number(c.alpha / c.sigma) ** 2, out(prediction, c)
        expected = {
            "snr": snr,
            "snr_plus_one": snr + 1,
            "truncated_snr": max(snr, 1),
            "min_snr": min(snr, 5),
            "soft_min_snr": 1 / (1 / snr + 1 / 4),
            "sigmoid": snr / (1 + snr * np.exp(1)),
            "edm": snr + 1 / 0.25,
            "learned_uncertainty": snr + 1 / 0.25,
        }
        for name, value in expected.items():
            weight = number(build("weight", name)(c, factor)) / number(factor) ** 2
            np.testing.assert_allclose(weight, value, rtol=1e-9, err_msg=name)


def test_soft_min_snr_lies_below_min_snr_and_touches_it_at_both_ends():
    process = build("process", "vp")
    c = process.coefficients(jnp.linspace(1e-3, 1.0, 50), jnp.ones((50, 1)))
    one = jnp.ones_like(c.alpha)
    hard = build("weight", dict(name="min_snr", gamma=4.0))(c, one)
    soft = build("weight", "soft_min_snr")(c, one)
    assert jnp.all((soft < hard) & (soft >= hard / 2))
    np.testing.assert_allclose(soft[0] / hard[0], 1, rtol=1e-3)
    np.testing.assert_allclose(soft[-1] / hard[-1], 1, rtol=1e-3)


# ---- learned uncertainty ------------------------------------------------------------------------


def uncertain_loss(reduction="mean", n=64, weight=None):
    weight = weight or build("weight", dict(name="learned_uncertainty", weight="simple"))
    network = weight.wrap(Slope())
    arguments = (build("process", "vp"), build("prediction", "v"))
    loss = lambda net, w: diffusion.regression_loss(
        net, *arguments, w, build("time", "uniform"), batch_size=n, reduction=reduction
    )
    batch = dict(data=jax.random.normal(KEY, (n, 3)), row=jnp.arange(n))
    params = network.init(KEY, batch["data"], jnp.zeros(n))
    return loss(network, weight), loss(Slope(), build("weight", "simple")), params, batch


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_uncertainty_starts_as_the_plain_loss(reduction):
    learned, plain, params, batch = uncertain_loss(reduction)
    found = learned(params, KEY, batch)[0]
    np.testing.assert_allclose(found, plain(params["network"], KEY, batch)[0], rtol=1e-12)


@pytest.mark.parametrize("reduction", ["sum"])
def test_uncertainty_learns_the_logarithm_of_the_loss(reduction):
    """With u = log L the gradient by u vanishes; Newton on the constant feature finds log E[L]."""
    learned, plain, params, batch = uncertain_loss(reduction)
    mean = float(plain(params["network"], KEY, batch)[0].mean()) / (3 if reduction == "sum" else 1)
    weight = build("weight", "learned_uncertainty")
    unit = params["uncertainty"].at[0].set(1.0)
    scale = number(weight.uncertainty({"uncertainty": unit}, jnp.zeros(1)))

    def total(u):
        moved = params["uncertainty"].at[0].set(u / scale)
        return learned(params | {"uncertainty": moved}, KEY, batch)[0].mean()

    u = jnp.asarray(0.0)
    newton = jax.jit(lambda u: u - jax.grad(total)(u) / jax.hessian(total)(u))
    for _ in range(12):  # convex in u
        u = newton(u)
    np.testing.assert_allclose(u, np.log(mean), rtol=1e-7)  # the parameters are float32


def test_uncertainty_follows_the_noise_level():
    """Fitted to a loss that varies 400-fold with the log-SNR, exp(-u) L comes near 1 everywhere."""
    weight = build("weight", "learned_uncertainty")
    log_snr = jnp.linspace(-8.0, 8.0, 60)
    loss = jnp.exp(3 * jnp.sin(log_snr / 4))
    features = jax.vmap(lambda w: weight.uncertainty({"uncertainty": w}, log_snr), out_axes=1)(
        jnp.eye(64)
    )
    w, *_ = np.linalg.lstsq(np.asarray(features), np.log(loss), rcond=1e-6)
    assert np.abs(features @ w - np.log(loss)).max() < 0.01
    assert np.abs(w).max() < 1e3


def test_uncertainty_is_out_of_sight_of_sampling():
    weight = build("weight", "learned_uncertainty")
    network = weight.wrap(Slope())
    params = network.init(KEY, one(), jnp.zeros(1))
    moved = params | {"uncertainty": params["uncertainty"] + 1.0}
    process, prediction = build("process", "vp"), build("prediction", "v")
    a, b = (diffusion.make_denoiser(network, p, process, prediction) for p in (params, moved))
    bare = diffusion.make_denoiser(Slope(), params["network"], process, prediction)
    np.testing.assert_array_equal(a(one(), 0.5), b(one(), 0.5))
    np.testing.assert_array_equal(a(one(), 0.5), bare(one(), 0.5))


def test_uncertainty_without_its_parameters_says_what_to_do():
    _, _, params, _ = uncertain_loss()
    with pytest.raises(ValueError, match="wrap"):
        build("weight", "learned_uncertainty").uncertainty(params["network"], jnp.zeros(1))


# ---- the target of the loss ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_network", "of_loss"),
    [
        (network, loss)  # both go by way of x_0 and noise: each meets v from either side
        for network in registered("prediction")
        for loss in registered("prediction")
        if "v" in (network, loss)
    ],
)
def test_the_loss_may_be_taken_of_another_target(of_network, of_loss):
    """Against the loss computed directly: turn the output into x_0, then into the loss's target."""
    process, n = build("process", "vp"), 16
    network_target, loss_target = build("prediction", of_network), build("prediction", of_loss)
    time, weight = build("time", "uniform"), build("weight", "simple")
    loss = diffusion.regression_loss(
        Slope(), process, network_target, weight, time, batch_size=n, loss_target=loss_target
    )
    batch = dict(data=jax.random.normal(KEY, (n, 3)), row=jnp.arange(n))
    d = diffusion.objectives.losses.demolish(process, time, jax.random.split(KEY)[0], batch, n)
    c = process.coefficients(d.t, d.x_0)

    def directly(params):
        skip, factor = network_target.recover(c)
        y = params * network_target.input_scale(c) * d.x_t
        x_0 = skip * d.x_t + factor * y
        z = (d.x_t - c.alpha * x_0) / c.sigma
        a, b = loss_target.target(c)
        return ((a * x_0 + b * z - (a * d.x_0 + b * d.z)) ** 2).mean(axis=-1)

    params = jnp.asarray(0.3)
    found = loss(params, KEY, batch)[0]
    np.testing.assert_allclose(found, directly(params), rtol=1e-7)
    gradient = jax.grad(lambda p: loss(p, KEY, batch)[0].mean())(params)
    expected = jax.grad(lambda p: directly(p).mean())(params)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7)


@pytest.mark.parametrize("name", [n for n in registered("weight") if n != "simple"])
def test_other_weights_do_not_depend_on_the_target_of_the_loss(name):
    process, n = build("process", "vp"), 8
    batch = dict(data=jax.random.normal(KEY, (n, 3)), row=jnp.arange(n))
    weight = build("weight", name)
    network = weight.wrap(Slope())
    params = network.init(KEY, batch["data"], jnp.zeros(n))
    of = lambda target: diffusion.regression_loss(
        network, process, build("prediction", "data"), weight, build("time", "uniform"),
        batch_size=n, loss_target=target,
    )(params, KEY, batch)[0]  # fmt: skip
    np.testing.assert_allclose(of(None), of(build("prediction", "velocity")), rtol=1e-9)


# ---- times --------------------------------------------------------------------------------------


def learned_statistics(time, moment):
    return {"moment": jnp.asarray(moment), "seen": jnp.full(len(moment), 1e3)}


@pytest.mark.slow
@pytest.mark.parametrize("base", ["uniform", "log_normal", "logit_normal"])
def test_corrected_losses_keep_their_expectation(base):
    """Mean of L / (B p) over drawn times equals the mean of L over times of the base.

    The quantile function is averaged over a fine even set of u, so that nothing is random.
    """
    process, num = build("process", "vp"), 200_000
    time = build("time", dict(name="importance", base=base, num_bins=17, stratified=True))
    statistics = learned_statistics(time, np.linspace(0.1, 3.0, 17) ** 3)
    drawn = time.draw_tracked(process, KEY, jnp.arange(num), num, statistics)
    even = build("time", base).quantile(process, (jnp.arange(num) + 0.5) / num)
    loss = lambda t: jnp.exp(-3 * t) + jnp.sin(7 * t) ** 2
    found, expected = (drawn.correction * loss(drawn.t)).mean(), loss(even).mean()
    np.testing.assert_allclose(found, expected, rtol=2e-4)  # a step of the even set at 17 edges


def test_the_histogram_follows_the_root_of_the_second_moment():
    process, num = build("process", "vp"), 20_000
    time = build("time", dict(name="importance", num_bins=10))
    moment = np.linspace(1.0, 5.0, 10) ** 2
    drawn = time.draw_tracked(process, KEY, jnp.arange(num), num, learned_statistics(time, moment))
    share = np.bincount(drawn.bin, minlength=10) / num
    expected = 0.999 * np.sqrt(moment) / np.sqrt(moment).sum() + 0.001 / 10
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected / num))  # five standard errors
    edges = process.t_min + (process.t_max - process.t_min) * np.arange(11) / 10
    np.testing.assert_array_equal(np.searchsorted(edges, drawn.t, side="right") - 1, drawn.bin)


def test_importance_lowers_the_variance_of_the_loss():
    """The second moment of L / (B p) is (mean of sqrt(E[L^2]))^2 at best, not E[L^2]."""
    process, num, bins = build("process", "vp"), 50_000, 50
    loss = lambda t: jnp.exp(6 * (1 - t))
    time = build("time", dict(name="importance", num_bins=bins, floor=1e-6))
    even = UNIFORM.draw(process, KEY, jnp.arange(num), num)
    index = jnp.clip(((even - 1e-3) / 0.999 * bins).astype(int), 0, bins - 1)
    total = jnp.zeros(bins).at[index].add(loss(even) ** 2)
    count = jnp.zeros(bins).at[index].add(1.0)
    statistics = time.update(time.statistics(), total, count)
    drawn = time.draw_tracked(process, KEY, jnp.arange(num), num, statistics)
    second = ((drawn.correction * loss(drawn.t)) ** 2).mean()
    best = jnp.sqrt(total / count).mean() ** 2
    np.testing.assert_allclose(second, best, rtol=0.02)
    assert second < 0.4 * (loss(even) ** 2).mean()


UNIFORM = build("time", "uniform")


def test_times_are_even_until_every_bin_was_seen():
    process, time = build("process", "vp"), build("time", dict(name="importance", num_bins=8))
    row = jnp.arange(64)
    for statistics in ((), time.statistics()):
        drawn = time.draw_tracked(process, KEY, row, 64, statistics)
        np.testing.assert_allclose(drawn.t, UNIFORM.draw(process, KEY, row, 64), rtol=1e-6)
        np.testing.assert_allclose(drawn.correction, 1.0, rtol=1e-6)
    count = jnp.full(8, 10.0).at[3].set(9.0)
    partly = time.update(time.statistics(), 4.0 * jnp.arange(8) * count, count)
    np.testing.assert_allclose(time.shares(partly), 1 / 8, rtol=1e-6)
    wholly = time.update(partly, jnp.zeros(8).at[3].set(12.0), jnp.zeros(8).at[3].set(1.0))
    assert float(time.shares(wholly).max()) > 0.19  # sqrt(28) of sqrt(4 k)
    np.testing.assert_allclose(time.shares(wholly).sum(), 1, rtol=1e-6)


def test_running_means_forget():
    """A plain mean while few were seen; later a weight of decay per example; untouched bins stay."""
    time = build("time", dict(name="importance", num_bins=2, decay=0.9))
    one = time.update(time.statistics(), jnp.array([6.0, 0.0]), jnp.array([3.0, 0.0]))
    np.testing.assert_allclose(one["moment"], [2.0, 0.0])
    two = time.update(one, jnp.array([4.0, 0.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(two["moment"][0], 10 / 4, rtol=1e-6)
    late = {"moment": jnp.array([1.0, 1.0]), "seen": jnp.array([1e4, 1e4])}
    late = time.update(late, jnp.array([10.0, 0.0]), jnp.array([2.0, 0.0]))
    np.testing.assert_allclose(late["moment"], [5 - 4 * 0.81, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", registered("time"))
def test_tracked_draws_depend_on_the_row_alone(name):
    process, time = build("process", "vp"), build("time", name)
    assert isinstance(time, TimeDistribution)
    statistics, row = time.statistics(), jnp.arange(32)
    if statistics:
        statistics = learned_statistics(time, jnp.linspace(1.0, 4.0, 100))
    whole = time.draw_tracked(process, KEY, row, 32, statistics)
    part = time.draw_tracked(process, KEY, row[8:16], 32, statistics)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(a[8:16], b)


def test_fields_of_importance_are_checked():
    for field, value in dict(num_bins=0, decay=1.0, warmup=0, floor=0.0).items():
        with pytest.raises(ValueError, match=field):
            build("time", dict(name="importance") | {field: value})
