"""Schedules by their log-SNR, tables, learned schedules, wrappers; accuracy in float32 of all processes."""

import pickle

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest
from schedule_bound import terms

import diffusion
from diffusion import AffineProcess, GaussianProcess, build
from diffusion.numerics import on_host
from diffusion.processes import LearnedSchedule, Shifted, init_schedule, shift
from diffusion.registry import resolve, spec_of
from diffusion.testing import gaussian, gaussian_flow

KEY = jax.random.key(0)
AFFINE = known_processes.names(AffineProcess)


# ---- accuracy -----------------------------------------------------------------------------------


def amplification(process, times):
    """By how much a definition must amplify round-off: where it subtracts two near numbers."""
    if spec_of("process", process)["name"] != "zero_terminal_snr":
        return 1.0
    alpha = on_host(process.process.alpha, times)
    return alpha / (alpha - on_host(process.process.alpha, process.t_domain[1]))


@pytest.mark.parametrize("name", AFFINE)
def test_all_coefficients_are_accurate_in_float32(name):
    """From t = 1e-5 on, 1e-5 relative: exponents up to 20 are rounded by 1e-6, in several steps.

    The log-SNR may pass through 0; its error counts absolutely there.
    """
    process = build("process", name)
    low, high = (float(end) for end in process.t_domain)
    times = np.concatenate([[1e-5, 1e-4, 1e-3, 1e-2], process.default_times(32)])
    times = np.unique(times.astype(np.float32))
    last = min(high, float(process.t_max) * (1 - 1e-7))  # rounding to float32 may cross the end
    times = times[(times > max(low, 0)) & (times <= last)]
    bound = 1e-5 * amplification(process, times)
    names = ["alpha", "sigma", "log_snr"] + ["f", "g"] * isinstance(process, GaussianProcess)
    evaluate = jax.jit(lambda t: jnp.stack([getattr(process, c)(t) for c in names]))
    single, exact = (np.asarray(evaluate(jnp.asarray(times, d)), np.float64) for d in ("f4", "f8"))
    for k, coefficient in enumerate(names):
        scale = np.abs(exact[k]) + (1.0 if coefficient == "log_snr" else 1e-30)
        error = np.abs(single[k] - exact[k]) / scale
        i = np.argmax(error / bound)
        assert np.all(error <= bound), (coefficient, times[i], single[k, i], exact[k, i])


# ---- log-SNR schedules --------------------------------------------------------------------------


def test_linear_log_snr_reference_values():
    """sigma^2 of gamma from -13.3 to 5 (Kingma et al., 2021)."""
    sigma = on_host(build("process", "linear_log_snr").sigma, [0, 0.25, 0.5, 0.75, 1])
    expected = [1.674490406e-6, 1.624463995e-4, 0.01551975658, 0.6046790847, 0.9933071491]
    np.testing.assert_allclose(sigma**2, expected, rtol=1e-9)


def test_laplace_is_the_quantile_of_a_laplace_variable():
    from scipy.stats import laplace

    process = build("process", dict(name="laplace", mu=0.4, b=0.7))
    t = np.array([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
    np.testing.assert_allclose(on_host(process.log_snr, t), laplace(0.4, 0.7).isf(t), rtol=1e-12)
    assert 0.5 in process.default_times(37)  # the kink is a grid point


@pytest.mark.parametrize(("start", "end", "tau"), [(-3, 3, 1.0), (0, 3, 0.3), (-3, 3, 0.05)])
def test_sigmoid_is_its_definition(start, end, tau):
    """alpha^2 written as the difference quotient of sigmoids, in float64."""
    fields = dict(start=float(start), end=float(end), tau=tau)
    process = build("process", dict(name="sigmoid", **fields))
    t = np.linspace(0.05, 0.95, 10)
    s = lambda x: 1 / (1 + np.exp(-x / tau))
    u = start + t * (end - start)
    alpha, sigma = on_host(process.alpha, t), on_host(process.sigma, t)
    rounding = dict(rtol=1e-12, atol=4e-16)  # of the differences here, which ours does not have
    np.testing.assert_allclose(alpha**2, (s(end) - s(u)) / (s(end) - s(start)), **rounding)
    np.testing.assert_allclose(sigma**2, (s(u) - s(start)) / (s(end) - s(start)), **rounding)
    np.testing.assert_allclose(on_host(process.time_of_log_snr, on_host(process.log_snr, t)), t)


@pytest.mark.parametrize("name", ["laplace", "sigmoid", "cosine", "zero_terminal_snr"])
def test_ends_where_the_log_snr_is_infinite(name):
    """alpha = 1, sigma = 0 at time 0 and the reverse at the other end of the domain, without NaN."""
    process = build("process", name)
    first, last = process.t_domain
    np.testing.assert_allclose([process.alpha(first), process.sigma(first)], [1, 0], atol=1e-12)
    np.testing.assert_allclose([process.alpha(last), process.sigma(last)], [0, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (dict(name="laplace", b=0.0), "`b`"),
        (dict(name="sigmoid", tau=-1.0), "`tau`"),
        (dict(name="sigmoid", start=3.0), "`end`"),
        (dict(name="linear_log_snr", log_snr_min=14.0), "log_snr_max"),
        (dict(name="learned", log_snr_min=14.0), "log_snr_max"),
        (dict(name="learned", params=((1.0,), (2.0,))), "init_schedule"),
        (dict(name="table", log_snrs=(5.0, 1.0, 1.0, -3.0)), "entries 1 and 2"),
        (dict(name="table", log_snrs=(5.0, 1.0)), "at least 3"),
        (dict(name="table", log_snrs=(5.0, float("nan"), -3.0)), "decrease"),
        (dict(name="table", log_snrs=(5.0, 1.0, -3.0), times=(0.0, 1.0)), "`times`"),
        (dict(name="table", log_snrs=(5.0, 1.0, -3.0), times=(0.0, 0.7, 0.5)), "increase"),
        (dict(name="table", log_snrs=(5.0, 1.0, -3.0), times=(0.1, 0.7, 1.0)), "`t_min`"),
        (dict(name="shifted", scale=0.0), "`scale`"),
        (dict(name="shifted", t_min=2.0), "t_min"),
        (dict(name="zero_terminal_snr", process="edm"), "variance preserving"),
        (dict(name="zero_terminal_snr", process="sub_vp"), "variance preserving"),
        (dict(name="zero_terminal_snr", t_max=1.5), "t_max"),
    ],
)
def test_impossible_schedules_are_refused(spec, word):
    with pytest.raises(ValueError, match=word):
        build("process", spec)


@pytest.mark.parametrize("name", ["shifted", "zero_terminal_snr"])
def test_wrappers_say_which_rung_they_need(name):
    with pytest.raises(TypeError, match="Gaussian"):
        build("process", dict(name=name, process="poisson_flow"))


# ---- tables -------------------------------------------------------------------------------------

ROUGH = dict(
    name="table", log_snrs=(10.0, 9.8, 3.0, 2.9, -1.0, -6.0), times=(0.0, 0.1, 0.3, 0.6, 0.7, 1.0)
)


@pytest.mark.slow
def test_a_table_passes_through_its_points_and_decreases_between_them():
    process = build("process", ROUGH)
    np.testing.assert_allclose(
        on_host(process.log_snr, ROUGH["times"]), ROUGH["log_snrs"], rtol=1e-13
    )
    t = np.linspace(0, 1, 4001)
    log_snr, rate = on_host(process.log_snr, t), on_host(process.g, t) ** 2
    assert np.all(np.diff(log_snr) < 0)
    assert np.all(rate > 0)
    inside = np.array(ROUGH["times"][1:-1])  # the slope is the same on both sides of a point
    low, high = on_host(process.f, inside - 1e-9), on_host(process.f, inside + 1e-9)
    np.testing.assert_allclose(low, high, rtol=1e-4)  # 1e-9 times a second derivative below 1e4


def test_a_table_of_vp_is_vp_to_the_spline_error():
    """Twice the points, an eighth of the error in the limit: the ends have third order."""
    vp = build("process", dict(name="vp", t_min=0.1))
    t, errors = np.linspace(0.1, 1, 501), []
    for num in (33, 65, 129):
        times = np.linspace(0.1, 1, num)
        log_snrs = on_host(vp.log_snr, times)
        fitted = build("process", dict(name="table", log_snrs=log_snrs, times=times, t_min=0.1))
        errors.append(np.abs(on_host(fitted.log_snr, t) - on_host(vp.log_snr, t)).max())
    assert errors[2] < errors[1] / 6.5
    assert errors[1] < errors[0] / 6
    assert hash(fitted) == hash(pickle.loads(pickle.dumps(fitted)))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["table", ROUGH])
def test_continuous_solvers_keep_their_order_on_a_table(spec):
    process = build("process", spec)
    x = jnp.array([[1.2], [-0.4]])
    exact = gaussian_flow(process, x, process.t_max, process.t_min)
    denoise, heun = gaussian().denoiser(process), build("sampler", "heun")
    errors = []
    for num_steps in (320, 640, 1280):
        times = build("grid", "uniform")(process, num_steps)
        end = diffusion.sample(heun, process, denoise, None, x, times, denoise_last=False)
        errors.append(float(jnp.abs(end - exact).max()))
    # the position of the points within the steps modulates the error; two halvings average it
    assert np.log2(errors[0] / errors[2]) / 2 > 1.85, errors


def test_a_table_may_be_traced():
    value = jax.jit(lambda y: build("process", dict(name="table", log_snrs=y)).sigma(0.4))
    y, e = jnp.array([8.0, 3.0, 0.0, -2.0, -5.0]), 1e-6 * jnp.eye(5)
    difference = [(value(y + e[k]) - value(y - e[k])) / 2e-6 for k in range(5)]
    np.testing.assert_allclose(jax.grad(value)(y), difference, atol=1e-9)
    np.testing.assert_allclose(
        value(y), build("process", dict(name="table", log_snrs=y)).sigma(0.4), rtol=1e-12
    )


# ---- learned schedules --------------------------------------------------------------------------


def diffusion_loss(process, std):
    mean, dt = terms(process, std)
    return jnp.sum(dt * mean)


def schedules():
    """Schedules between the same ends, as different as they come."""
    sharp = init_schedule(jax.random.key(3), num_hidden=4)
    sharp = sharp._replace(w_3=jnp.array([3.0, -2.0, 1.0, 0.5]))
    bent = tuple(13.3 - 18.3 * np.linspace(0, 1, 9) ** 0.5 * np.linspace(1, 1, 9))
    return {
        "linear": build("process", "linear_log_snr"),
        "default": build("process", "learned"),
        "narrow": LearnedSchedule(params=init_schedule(jax.random.key(7), num_hidden=3)),
        "sharp": LearnedSchedule(params=sharp),
        "ends": LearnedSchedule(params=init_schedule(KEY, 16, ends=(13.3, -5.0)), log_snr_max=99.0),
        "table": build("process", dict(name="table", log_snrs=bent)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(schedules()))
def test_the_likelihood_bound_does_not_depend_on_the_schedule(name):
    """5.95601463 nats for N(0, 1/4), 6.64664316 for N(0, 1), whatever lies between the ends."""
    process = schedules()[name]
    np.testing.assert_allclose(diffusion_loss(process, 0.5), 5.95601463, rtol=1e-7)
    np.testing.assert_allclose(diffusion_loss(process, 1.0), 6.64664316, rtol=1e-7)


def test_a_learned_schedule_is_a_value():
    params = init_schedule(KEY, num_hidden=8)
    process = LearnedSchedule(params=params)
    assert process == LearnedSchedule(params=jax.tree.map(np.asarray, params))
    assert hash(process) == hash(pickle.loads(pickle.dumps(process)))
    assert build("process", spec_of("process", process)) == process
    again = build(
        "process", dict(name="learned", params=[np.asarray(p).tolist() for p in params[:4]])
    )
    assert again == process  # as a config or a JSON file holds it
    t = jnp.linspace(0, 1, 7)
    inside = jax.jit(lambda p, t: LearnedSchedule(params=p).log_snr(t))(params, t)
    np.testing.assert_allclose(inside, process.log_snr(t), rtol=1e-12)
    assert resolve("process", "learned")["params"] is None
    other = build("process", dict(name="learned", seed=1))
    assert not np.allclose(other.log_snr(0.5), build("process", "learned").log_snr(0.5), atol=1e-3)


# ---- wrappers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "cosine", "edm", "sub_vp", "ddpm", "laplace"])
def test_shift_moves_the_log_snr_and_keeps_the_variance(name):
    inner = build("process", name)
    process = inner.shift(4.0)
    assert process == shift(inner, 4.0) == Shifted(process=inner, scale=4.0)
    assert (process.t_min, process.t_max) == (inner.t_min, inner.t_max)
    t = inner.default_times(20)
    before, after = on_host(inner.log_snr, t), on_host(process.log_snr, t)
    np.testing.assert_allclose(after, before - 2 * np.log(4), rtol=1e-12, atol=1e-12)
    alpha, sigma = on_host(process.alpha, t), on_host(process.sigma, t)
    total = on_host(inner.alpha, t) ** 2 + on_host(inner.sigma, t) ** 2
    np.testing.assert_allclose(alpha**2 + sigma**2, total, rtol=1e-12)
    np.testing.assert_allclose(2 * np.log(alpha / sigma), after, rtol=1e-10, atol=1e-10)
    back = on_host(process.time_of_log_snr, after)
    np.testing.assert_allclose(back, t, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_shifts_compose_and_shift_by_one_changes_nothing():
    inner, t = build("process", "vp"), np.linspace(1e-3, 1, 9)
    for process, same in (
        (inner.shift(2.0).shift(3.0), inner.shift(6.0)),
        (inner.shift(1.0), inner),
        (inner.shift(4.0).shift(0.25), inner),
    ):
        for coefficient in ("alpha", "sigma", "log_snr", "f", "g"):
            found, expected = (on_host(getattr(p, coefficient), t) for p in (process, same))
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_shift_is_what_pooling_undoes():
    """Means over 2 x 2 pixels halve the noise and keep a smooth image: the SNR of the inner process."""
    inner = build("process", "vp")
    process, t = inner.shift(2.0), 0.4
    x_0, z = jnp.ones((1, 256, 256, 1)), jax.random.normal(KEY, (1, 256, 256, 1))
    pooled = process.interpolate(x_0, z, t).reshape(1, 128, 2, 128, 2, 1).mean((2, 4))
    ratio = (pooled.mean() / pooled.std()) ** 2
    snr = (inner.alpha(t) / inner.sigma(t)) ** 2
    noise = (
        2 * (np.sqrt(0.5) + 1 / np.sqrt(snr)) / 128
    )  # of the deviation and of the mean, relative
    assert abs(ratio / snr - 1) < 4 * noise


@pytest.mark.slow
def test_zero_terminal_snr_is_the_published_rescaling():
    """sqrt(alpha-bar) of the DDPM chain, shifted so that it ends at 0 and scaled so that it starts as it did."""
    chain = build("process", "ddpm")
    process = build("process", dict(name="zero_terminal_snr", process=dict(name="ddpm", t_min=0.0)))
    k = np.arange(0, 1001)
    root = np.sqrt(np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))]))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha, sigma = on_host(process.alpha, k / 1000), on_host(process.sigma, k / 1000)
    np.testing.assert_allclose(alpha, expected, atol=1e-12)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
    assert alpha[-1] == 0
    assert sigma[-1] == 1
    assert sigma[0] == 0
    assert on_host(chain.alpha, 1.0) > 6e-3  # what was left before
    for dtype in ("f4", "f8"):
        end = jax.jit(process.alpha)(jnp.ones((), dtype))
        assert end == 0
        slope = jax.grad(process.alpha)(jnp.ones((), dtype))
        np.testing.assert_allclose(slope, jax.grad(chain.alpha)(1.0) / (1 - root[-1]), rtol=1e-4)
    assert np.isfinite(process.noise_conditioning(1.0))


@pytest.mark.parametrize("name", ["linear_log_snr", "sigmoid", "cosine", "learned"])
def test_zero_terminal_snr_of_any_preserving_process(name):
    process = build("process", dict(name="zero_terminal_snr", process=name))
    inner = build("process", name)
    end = process.t_domain[1]
    assert end == inner.t_max
    assert float(process.alpha(end)) == 0
    np.testing.assert_allclose(process.alpha(0.0), inner.alpha(0.0), rtol=1e-12)
    np.testing.assert_allclose(process.sigma(0.0), inner.sigma(0.0), rtol=1e-8, atol=1e-12)
    t = process.default_times(16)
    back = on_host(process.time_of_log_snr, on_host(process.log_snr, t))
    np.testing.assert_allclose(back, t, rtol=1e-7, atol=1e-10)


def test_sampling_starts_where_the_signal_is_zero():
    """DDIM from T itself: the first step knows only the mean of the data, and the end is exact."""
    process = build("process", "zero_terminal_snr")
    times = np.concatenate([[1.0], process.default_times(400)])
    x_T = jax.random.normal(KEY, (4000, 1))
    denoise = gaussian(mean=0.3).denoiser(process)
    x = diffusion.sample(build("sampler", "ddim"), process, denoise, None, x_T, times)
    # four standard errors, and the first-order error of 400 steps
    assert abs(x.mean() - 0.3) < 4 * 0.5 / np.sqrt(4000) + 0.005
    assert abs(x.std() / 0.5 - 1) < 4 / np.sqrt(8000) + 0.02


def test_wrappers_nest_by_name_and_take_over_times():
    spec = dict(name="shifted", scale=2.0, t_max=0.9, process=dict(name="cosine", s=0.01))
    process = build("process", spec)
    assert (process.t_max, process.t_min) == (0.9, 1e-3)
    assert process.process.t_max == 0.9  # where its inverse looks for times
    assert build("process", spec_of("process", process)) == process
    assert build("process", resolve("process", spec)) == process
    nested = build("process", dict(name="zero_terminal_snr", process=spec))
    assert nested.t_domain == (0.0, 0.9)
    assert float(nested.alpha(0.9)) == 0
    t = jnp.array([0.2, 0.7])
    np.testing.assert_allclose(nested.g(t), GaussianProcess.g(nested, t), rtol=1e-10)
    np.testing.assert_allclose(nested.f(t), GaussianProcess.f(nested, t), rtol=1e-10)


def test_wrappers_pass_gradients():
    value = lambda s, b: Shifted(
        process=build("process", dict(name="vp", beta_max=b)), scale=s
    ).alpha(0.3)
    found = jax.grad(value, (0, 1))(2.0, 20.0)
    expected = (
        (value(2.0 + 1e-5, 20.0) - value(2.0 - 1e-5, 20.0)) / 2e-5,
        (value(2.0, 20.0 + 1e-4) - value(2.0, 20.0 - 1e-4)) / 2e-4,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-7)
