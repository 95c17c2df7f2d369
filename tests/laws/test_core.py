"""Laws of grids, predictions, weights, times, dynamics, guidance and losses."""

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest
from pairwise import pairwise

import diffusion
from diffusion import build, registered
from diffusion.numerics import on_host
from diffusion.processes import AffineProcess, GaussianProcess
from diffusion.testing import FinitePoints, GaussianMixture, gaussian

KEY = jax.random.key(0)
PROCESSES = registered("process")
AFFINE = known_processes.names(AffineProcess)
GAUSSIAN = known_processes.names(GaussianProcess)
GRIDS = [n for n in registered("grid") if n != "given"]
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])


# ---- grids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "process"),
    pairwise(grid=GRIDS, process=PROCESSES, kinds=dict(process=known_processes.family)),
)
def test_grids_start_at_t_max_end_at_t_min_and_decrease(grid, process):
    process = build("process", process)
    if grid == "karras" and not isinstance(process, AffineProcess):
        with pytest.raises(TypeError, match="karras"):  # it places sigma / alpha
            build("grid", grid)(process, 4)
        return
    for num_steps in (1, 2, 7, 100):
        times = build("grid", grid)(process, num_steps)
        assert times.dtype == np.float64
        assert times.shape == (num_steps + 1,)
        assert times[0] == process.t_max
        assert times[-1] == process.t_min
        assert np.all(np.diff(times) < 0)


def test_karras_reference_values():
    times = build("grid", "karras")(build("process", "edm"), 4)
    np.testing.assert_allclose(
        times, [80, 17.527831965, 2.5152189761, 0.16975275627, 0.002], rtol=1e-9
    )
    times = build("grid", "karras")(build("process", "edm"), 17)
    np.testing.assert_allclose(
        times[[1, 8, 16]], [57.585984721, 3.2568215198, 0.0075280199628], rtol=1e-9
    )


def test_rho_one_is_uniform_in_sigma():
    times = build("grid", dict(name="karras", rho=1.0))(build("process", "edm"), 10)
    np.testing.assert_allclose(times, np.linspace(80, 0.002, 11), rtol=1e-12)


def test_chain_spacings():
    process = build("process", "ddpm")
    k = lambda spacing, n: np.round(
        build("grid", dict(name="chain", spacing=spacing))(process, n) * 1000
    )
    np.testing.assert_array_equal(k("leading", 4), [1000, 751, 501, 251, 1])
    np.testing.assert_array_equal(k("trailing", 4), [1000, 750, 500, 250, 1])
    np.testing.assert_array_equal(k("linspace", 999), np.arange(1000, 0, -1))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_chain_has_as_many_steps_as_it_promises(name):
    """One more than there are points between the ends; each of them, and no more; grids that were right stay so."""
    process, total = build("process", name), 1000
    low, high = float(process.t_min), float(process.t_max)
    inner = sum(low < k / total < high for k in range(1, total + 1))
    for spacing in ("leading", "trailing", "linspace"):
        grid = build("grid", dict(name="chain", spacing=spacing))
        for n in (1, 2, 3, 50, 99, 250, 500, 667, 750, inner - 1, inner, inner + 1):
            times = grid(process, n)
            assert (len(times), times[0], times[-1]) == (n + 1, high, low)
            chosen = np.round(times[1:-1] * total)
            np.testing.assert_array_equal(times[1:-1], chosen / total)  # points of the chain
            wanted = {
                "leading": (1 + total // n * np.arange(n))[:0:-1],
                "trailing": np.round(total * (1 - np.arange(1, n) / n)),
                "linspace": np.round(np.linspace(total, 1, n + 1))[1:-1],
            }[spacing]
            plain = np.concatenate([[high], wanted / total, [low]])
            if (np.diff(plain) < 0).all():
                np.testing.assert_array_equal(times, plain)
        with pytest.raises(ValueError, match=f"must be at most {inner + 1}; got {inner + 2}"):
            grid(process, inner + 2)


@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_grid_needs_a_positive_number_of_steps(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        build("grid", "uniform")(build("process", "vp"), num_steps)


def test_given_times_are_checked():
    process = build("process", "vp")
    assert build("grid", dict(name="given", times=[1.0, 0.2, 0.01]))(process, 2)[1] == 0.2
    with pytest.raises(ValueError, match="decrease"):
        build("grid", dict(name="given", times=[1.0, 0.2, 0.2]))(process, 2)
    with pytest.raises(ValueError, match="spacing"):
        build("grid", dict(name="chain", spacing="trailling"))


# ---- predictions --------------------------------------------------------------------------------


def test_edm_preconditioning_reference_values():
    process, prediction = build("process", "edm"), build("prediction", "edm")
    for sigma, skip, out, scale in [
        (0.5, 0.5, 0.3535533906, 1.414213562),
        (1.0, 0.2, 0.4472135955, 0.894427191),
        (80.0, 3.906097418e-5, 0.4999902347, 0.01249975587),
    ]:
        c = process.coefficients(sigma, jnp.ones((1, 1)))
        found = [*prediction.recover(c), prediction.input_scale(c)]
        np.testing.assert_allclose(np.ravel(found), [skip, out, scale], rtol=1e-9)
        a, b = prediction.target(c)
        np.testing.assert_allclose(a**2 * 0.25 + b**2, 1.0, rtol=1e-12)  # unit variance
        weight = build("weight", "edm")(c, prediction.recover(c)[1])
        np.testing.assert_allclose(weight, 1.0, rtol=1e-12)


def test_edm_with_unit_data_is_minus_v():
    c = build("process", "vp").coefficients(0.4, jnp.ones((1, 1)))
    edm, v = build("prediction", dict(name="edm", sigma_data=1.0)), build("prediction", "v")
    np.testing.assert_allclose(np.ravel(edm.target(c)), -np.ravel(v.target(c)), rtol=1e-12)


@pytest.mark.parametrize("name", registered("weight"))
def test_a_weight_counts_the_same_error_whatever_the_network_predicts(name):
    """w |y - y_hat|^2 is the same number for every prediction, except for `simple`, 1 on the target."""
    process, weight = build("process", "vp"), build("weight", name)
    c = process.coefficients(0.3, jnp.ones((1, 1)))
    counted = []
    for prediction in registered("prediction"):
        out = build("prediction", prediction).recover(c)[1]
        counted.append(float(np.ravel(weight(c, jnp.asarray(out)))[0] / np.ravel(out)[0] ** 2))
    if name == "simple":
        assert len({round(x, 9) for x in counted}) > 1
    else:
        np.testing.assert_allclose(counted, counted[0], rtol=1e-9)


def test_min_snr_for_noise_and_v():
    """gamma = 5: min(SNR, 5)/SNR on the noise, min(SNR, 5)/(SNR + 1) on v."""
    c = build("process", "vp").coefficients(0.1, jnp.ones((1, 1)))
    snr = float(c.alpha / c.sigma) ** 2
    out = lambda name: jnp.asarray(build("prediction", name).recover(c)[1])
    weight = build("weight", "min_snr")
    np.testing.assert_allclose(weight(c, out("noise")), min(snr, 5) / snr, rtol=1e-12)
    np.testing.assert_allclose(weight(c, out("v")), min(snr, 5) / (snr + 1), rtol=1e-12)


@pytest.mark.parametrize("process", GAUSSIAN)
def test_likelihood_weight_is_half_g_squared_on_the_score(process):
    process = build("process", process)
    t = process.default_times(6)[2]
    c = process.coefficients(t, jnp.ones((1, 1)))
    out = build("prediction", "score").recover(c)[1]
    weight = build("weight", "likelihood")(c, out)
    np.testing.assert_allclose(weight, process.g(t) ** 2 / 2, rtol=1e-8)


# ---- training times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "process"),
    pairwise(name=registered("time"), process=AFFINE, kinds=dict(process=known_processes.family)),
)
def test_times_lie_in_the_range_and_depend_on_the_row_alone(name, process):
    process, time = build("process", process), build("time", name)
    row = jnp.arange(64)
    t = time.draw(process, KEY, row, 64)
    assert jnp.all((t >= process.t_min) & (t <= process.t_max))
    np.testing.assert_array_equal(t[10:20], time.draw(process, KEY, row[10:20], 64))
    assert len(np.unique(t)) > 1


def test_stratified_times_are_evenly_spread():
    process = build("process", "vp")
    t = build("time", "low_discrepancy").draw(process, KEY, jnp.arange(100), 100)
    gaps = np.diff(np.sort(t))
    np.testing.assert_allclose(gaps, (process.t_max - process.t_min) / 100, rtol=1e-9)


def test_log_normal_quantiles():
    """Median and 5 and 95 percent quantiles of sigma for mean -1.2, deviation 1.2."""
    sigma = build("time", "log_normal").quantile(
        build("process", "edm"), jnp.array([0.5, 0.05, 0.95])
    )
    np.testing.assert_allclose(sigma, [0.301194, 0.0418433, 2.16804], rtol=2e-6)


# ---- targets, dynamics, guidance ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("process", GAUSSIAN)
def test_tweedie(process):
    """The score from the denoiser equals the gradient of the log-density."""
    process = build("process", process)
    for t in process.default_times(6)[1:-1]:
        x = process.alpha(t) * MIXTURE.sample(KEY, 5) + process.sigma(t)
        by_tweedie = diffusion.score(process, MIXTURE.denoiser(process))(x, t)
        np.testing.assert_allclose(by_tweedie, MIXTURE.score(process)(x, t), rtol=1e-6, atol=1e-7)


def test_points_and_mixture_agree():
    """Mixture components of width 0 are points."""
    process = build("process", "vp")
    points = np.array([[-1.0, 0.5], [0.8, 0.1]])
    mixture = GaussianMixture([0.3, 0.7], points, 0.0)
    finite = FinitePoints(points, np.array([0.3, 0.7]))
    x, t = jax.random.normal(KEY, (6, 2)), 0.4
    np.testing.assert_allclose(
        mixture.denoiser(process)(x, t), finite.denoiser(process)(x, t), rtol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("process", ["vp", "sub_vp", "edm", "rectified_flow"])
def test_every_member_of_the_family_has_the_marginals(process, lam):
    """Fokker-Planck for p_t: dp/dt = -d(drift p)/dx +- (lam g)^2/2 d2p/dx2, + for forward, - for reverse.

    The reverse SDE diffuses while its time runs down, hence its sign.
    """
    process = build("process", process)
    target = GaussianMixture([0.4, 0.6], [-1.0, 0.7], [0.3, 0.2])
    t = float(process.default_times(8)[4])
    for family, sign in (
        (diffusion.processes.dynamics.forward_family, 1),
        (diffusion.reverse_sde, -1),
    ):
        sde = family(process, target.denoiser(process), lam)
        for x in (-1.2, 0.1, 0.8):
            x = jnp.asarray(x) * (process.alpha(t) + process.sigma(t))
            rate, flux, spread = _fokker_planck_terms(process, target, sde, x, t)
            assert abs(rate + flux - sign * spread) < 1e-8 * (abs(rate) + abs(flux) + abs(spread))


def _fokker_planck_terms(process, target, sde, x, t):
    """dp/dt, d(drift p)/dx and diffusion^2/2 d2p/dx2 at a point."""
    p = lambda y, u: jnp.exp(target.log_density(process, y[None, None], u)[0])
    rate = jax.grad(lambda u: p(x, u))(t)
    flux = jax.grad(lambda y: sde.drift(y[None, None], t)[0, 0] * p(y, t))(x)
    spread = sde.diffusion(t) ** 2 / 2 * jax.grad(jax.grad(lambda y: p(y, t)))(x)
    return rate, flux, spread


def test_probability_flow_is_the_family_at_zero():
    process = build("process", "vp")
    x, t = jax.random.normal(KEY, (5, 2)), 0.6
    ode = diffusion.probability_flow(process, MIXTURE.denoiser(process)).velocity(x, t)
    family = diffusion.reverse_sde(process, MIXTURE.denoiser(process), 0.0).drift(x, t)
    np.testing.assert_allclose(ode, family, rtol=1e-10)


def test_guidance_at_zero_and_one_is_exact():
    """Scale 1 is the conditional denoiser to the last bit, 0 the unconditional one."""
    process = build("process", "vp")
    conditional, unconditional = MIXTURE.component(1).denoiser(process), MIXTURE.denoiser(process)
    x, t = jax.random.normal(KEY, (5, 2)), jnp.asarray(0.5)
    for scale, expected in ((1.0, conditional), (0.0, unconditional)):
        guided = diffusion.classifier_free(conditional, unconditional, scale)
        np.testing.assert_array_equal(guided(x, t), expected(x, t))


def test_guidance_at_scale_w_is_linear_in_the_scores():
    """For Gaussians the guided precision is w / V_c - (w - 1) / V_u."""
    process, w, t = build("process", "vp"), 1.7, 0.5
    narrow, wide = gaussian(0.5, 0.2), gaussian(0.0, 1.0)
    guided = diffusion.classifier_free(narrow.denoiser(process), wide.denoiser(process), w)
    slope = jax.grad(lambda x: diffusion.score(process, guided)(x[None, None], t)[0, 0])(0.3)
    alpha, sigma = process.alpha(t), process.sigma(t)
    v_c, v_u = alpha**2 * 0.04 + sigma**2, alpha**2 + sigma**2
    np.testing.assert_allclose(-slope, w / v_c - (w - 1) / v_u, rtol=1e-10)


# ---- losses -------------------------------------------------------------------------------------


class LinearNetwork:
    """y = 0: enough to check what the loss of an untrained network must be."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.zeros(())

    def apply(self, params, x, log_snr, cond=None, key=None):
        return params * x


@pytest.mark.slow
@pytest.mark.parametrize("prediction", registered("prediction"))
def test_loss_of_a_zero_network_is_the_power_of_its_target(prediction):
    process, n = build("process", "vp"), 20_000
    prediction = build("prediction", prediction)
    time = build("time", "uniform")
    loss = diffusion.regression_loss(
        LinearNetwork(), process, prediction, build("weight", "simple"), time, batch_size=n
    )
    x_0 = 0.5 * jax.random.normal(KEY, (n, 1))
    per_example, aux = loss(jnp.zeros(()), KEY, dict(data=x_0, row=jnp.arange(n)))
    t = process.t_min + (process.t_max - process.t_min) * (jnp.arange(20_000) + 0.5) / 20_000
    a, b = prediction.target(process.coefficients(t, x_0))
    expected = np.asarray(jnp.broadcast_to(a**2 * 0.25 + b**2, x_0.shape))
    error = np.asarray(per_example).std() / np.sqrt(n)
    assert abs(per_example.mean() - expected.mean()) < 4 * error + 1e-3 * expected.mean()
    assert aux["log_snr"].shape == (n,)


def test_flow_matching_agrees_with_velocity_prediction():
    process, n = build("process", "rectified_flow"), 16
    time, batch = (
        build("time", "uniform"),
        dict(data=jax.random.normal(KEY, (16, 3)), row=jnp.arange(16)),
    )
    flow = diffusion.flow_matching_loss(LinearNetwork(), process, time, batch_size=n)
    velocity = diffusion.regression_loss(
        LinearNetwork(),
        process,
        build("prediction", "velocity"),
        build("weight", "simple"),
        time,
        batch_size=n,
    )
    np.testing.assert_allclose(
        flow(jnp.zeros(()), KEY, batch)[0], velocity(jnp.zeros(()), KEY, batch)[0], rtol=1e-12
    )


@pytest.mark.slow
def test_a_row_draws_the_same_noise_wherever_it_lies():
    process, time = build("process", "vp"), build("time", "uniform")
    loss = diffusion.flow_matching_loss(LinearNetwork(), process, time, batch_size=8)
    batch = dict(data=jax.random.normal(KEY, (8, 3)), row=jnp.arange(8))
    part = jax.tree.map(lambda a: a[4:], batch)
    whole, half = loss(jnp.ones(()), KEY, batch)[0], loss(jnp.ones(()), KEY, part)[0]
    np.testing.assert_allclose(whole[4:], half, rtol=1e-12)


def test_reduction_is_checked():
    with pytest.raises(ValueError, match="reduction"):
        diffusion.flow_matching_loss(
            LinearNetwork(),
            build("process", "vp"),
            build("time", "uniform"),
            batch_size=1,
            reduction="avg",
        )


@pytest.mark.parametrize("name", AFFINE)
def test_on_host_is_float64_even_without_x64(name):
    with jax.enable_x64(False):
        assert on_host(build("process", name).alpha, [0.5]).dtype == np.float64


def test_on_host_computes_on_the_first_cpu_whatever_the_default_device():
    """TPUs imitate float64 by pairs of smaller numbers, and a table needs no accelerator."""

    class Schedule:
        def __init__(self):
            self.seen = []

        __hash__ = None  # so that the method is called as it is

        def at(self, t):
            self.seen.append((t.devices(), t.dtype))
            return 2 * t

    schedule, last = Schedule(), jax.devices()[-1]
    with jax.default_device(last):
        np.testing.assert_array_equal(on_host(schedule.at, [0.5, 1.0]), [1.0, 2.0])
        assert jnp.zeros(()).devices() == {last}  # and nothing else has moved
    assert schedule.seen == [({jax.local_devices(backend="cpu")[0]}, np.float64)]
