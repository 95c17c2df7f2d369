"""The exact field of finite data: sums, sampling, likelihood, and the closed values of the articles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.models.exact_field import exact_field, squared_distances
from diffusion.objectives.coupling import reflow_pairs, sinkhorn
from diffusion.testing import FinitePoints

KEY = jax.random.key(0)
POINTS = np.array([[-1.0, 0.5], [0.8, 0.1], [0.2, -0.7], [0.3, 0.9], [-0.4, -0.2]])
WEIGHTS = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
UNIFORM_LINE = dict(name="straight_line", prior=dict(name="uniform", low=0.0, high=2.0))


# ---- sums ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ["vp", "poisson_flow", "radial", UNIFORM_LINE, "parabola", "blur"], ids=str
)
def test_chunks_change_nothing_and_the_sums_are_those_of_the_definition(spec):
    """Against one dense sum over log-densities and conditional velocities, for chunks of 2 and 99."""
    process = build("process", spec)
    t = float(process.default_times(8)[2])
    z = process.sample_noise(KEY, (4, 2))
    x = process.interpolate(jnp.asarray(POINTS[:4]), z, t)
    at = lambda p: jnp.broadcast_to(p, x.shape)
    over_points = lambda fn: jnp.stack([fn(x, at(p), t) for p in POINTS], axis=1)
    parts = lambda: (over_points(process.log_density), over_points(process.conditional_velocity))
    log_p, velocity = jax.jit(parts)()
    log_p = log_p + np.log(WEIGHTS)
    posterior = jax.nn.softmax(log_p, axis=1)
    expected = (
        jax.nn.logsumexp(log_p, axis=1),
        posterior @ POINTS,
        (posterior[..., None] * velocity).sum(axis=1),
        posterior,
    )
    for chunk in (2, 99):
        field = exact_field(process, POINTS, 10 * WEIGHTS, chunk=chunk)

        @jax.jit
        def found(field=field):
            gradient = jax.grad(lambda y: field.log_density(y, t).sum())(x)
            sums = (field.log_density(x, t), field.posterior_mean(x, t), field.velocity(x, t))
            return (*sums, jnp.exp(field.log_posterior(x, t))), gradient, field.score(x, t)

        sums, gradient, score = found()
        for a, b in zip(sums, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(score, gradient, rtol=1e-9, atol=1e-12)


def test_it_is_the_denoiser_of_an_affine_process():
    process = build("process", "poisson_flow")
    x = 3 * jax.random.normal(KEY, (6, 2))
    field = exact_field(process, POINTS, WEIGHTS)
    np.testing.assert_allclose(
        field(x, 0.7), FinitePoints(POINTS, WEIGHTS).denoiser(process)(x, 0.7), rtol=1e-10
    )


@pytest.mark.slow
def test_nothing_under_or_overflows_in_float32():
    """5,000 points, 784 dimensions, noise 0.002 and 80: the nearest point, and the density to 1e-3 nats."""
    with jax.enable_x64(False):
        key_p, key_z = jax.random.split(KEY)
        points = 0.5 * jax.random.normal(key_p, (5000, 784))
        z = jax.random.normal(key_z, (16, 784))
        field = exact_field(build("process", "edm"), points)
        near = field(points[:16] + 0.002 * z, 0.002)
        np.testing.assert_allclose(near, points[:16], atol=1e-6)
        far = field(80 * z, 80.0)
        assert jnp.all(jnp.isfinite(far))
        found = field.log_density(points[:16] + 0.002 * z, 0.002)
    exact = (
        -np.log(5000)
        - 784 * np.log(0.002 * np.sqrt(2 * np.pi))
        - 0.5 * np.sum(np.asarray(z, np.float64) ** 2, axis=1)
    )
    # |x|^2 of 200 is rounded to 1e-5, a position to 3e-8, over 0.002, times |z| = 28
    np.testing.assert_allclose(found, exact, atol=2e-2)


@pytest.mark.slow
def test_distances_by_product_and_directly():
    x, p = jax.random.normal(KEY, (5, 40)), jax.random.normal(jax.random.key(1), (9, 40))
    alpha = jnp.linspace(0.1, 1.0, 5)[:, None]
    direct = ((x[:, None] - alpha[..., None] * p) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(x, p, alpha), direct, rtol=1e-12)
    np.testing.assert_allclose(squared_distances(x[:, :3], p[:, :3], alpha).shape, (5, 9))


def test_outside_of_every_support():
    """No point can have come here: density 0, and the nearest point as the answer."""
    field = exact_field(build("process", UNIFORM_LINE), jnp.array([[0.5], [1.5]]))
    x = jnp.array([[40.0]])
    assert field.log_density(x, 0.5)[0] == -np.inf
    np.testing.assert_allclose(field(x, 0.5), 1.5)
    assert jnp.isfinite(field.velocity(x, 0.5)).all()


@pytest.mark.parametrize(
    ("points", "weights", "word"),
    [
        (np.zeros(3), None, "shape"),
        (np.zeros((0, 2)), None, "shape"),
        (np.zeros((3, 2)), np.ones(2), "weights"),
        (np.zeros((3, 2)), np.array([1.0, -1, 1]), "weights"),
    ],
)
def test_bad_points_are_refused(points, weights, word):
    with pytest.raises(ValueError, match=word):
        exact_field(build("process", "vp"), points, weights)


def test_what_has_no_density_says_so():
    with pytest.raises(TypeError, match="DataPrior"):
        exact_field(build("process", "bridge"), POINTS)
    with pytest.raises(TypeError, match="cannot be inverted"):
        exact_field(build("process", "nonlinear_sde"), POINTS)


# ---- sampling and likelihood --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "poisson_flow",
        dict(name="radial", law="tanh_power"),
        dict(name="straight_line", prior="logistic"),
        dict(name="linear_path", prior="laplace"),
        "parabola",
        "asinh_path",
        "radial_flow",
        dict(name="heat", schedule="exponential"),
    ],
    ids=str,
)
def test_samples_are_the_points_in_their_proportions(spec):
    """From the prior through the ODE to three points: frequencies within four standard errors.

    Approximate priors, |x_0| / t_max, and 96 steps add one percent.
    """
    process, n = build("process", spec), 3000
    points, weights = jnp.array([[-1.0, 0], [1, 0], [0, 1.5]]), np.array([0.5, 0.3, 0.2])
    field = exact_field(process, points, weights)
    x = process.sample_prior(KEY, (n, 2))
    end = diffusion.sample(
        build("sampler", "heun"), process, field, None, x, process.default_times(96)
    )
    distance = np.linalg.norm(np.asarray(end)[:, None] - np.asarray(points), axis=-1)
    assert np.quantile(distance.min(axis=1), 0.98) < 0.1
    frequency = np.bincount(distance.argmin(axis=1), minlength=3) / n
    assert np.all(np.abs(frequency - weights) < 4 * np.sqrt(weights * (1 - weights) / n) + 0.015)


@pytest.mark.parametrize(
    "spec", [dict(name="straight_line", prior="logistic"), "parabola", "linear_path"], ids=str
)
def test_likelihood_through_the_flow_is_the_sum(spec):
    """The ODE's log-density at t_min against the direct sum, two ways to the same number."""
    process = build("process", spec)
    field = exact_field(process, POINTS, WEIGHTS)
    process_late = 0.05  # as data: the marginal there, smooth on the scale of the steps
    x = process.interpolate(jnp.asarray(POINTS), process.sample_noise(KEY, (5, 2)), process_late)
    times = np.geomspace(process_late, process.t_max, 257)
    found = diffusion.log_prob(process, field, x, times)
    np.testing.assert_allclose(found, field.log_density(x, process_late), atol=2e-4)


# ---- the numbers of the articles ----------------------------------------------------------------


@pytest.mark.slow
def test_uniform_prior_on_a_line_is_ordered_transport():
    """Data 0.5 (twice), 1.2, 1.7, prior uniform on [0, 2]: thresholds 1.0 and 1.5, shares .5 .25 .25."""
    process = build("process", UNIFORM_LINE)
    field = exact_field(process, jnp.array([[0.5], [0.5], [1.2], [1.7]]))
    start = (jnp.arange(400)[:, None] + 0.5) / 200
    times = np.geomspace(1.0, 1e-3, 129)
    end = diffusion.sample(build("sampler", "rk4"), process, field, None, start, times)[:, 0]
    expected = np.where(start[:, 0] < 1.0, 0.5, np.where(start[:, 0] < 1.5, 1.2, 1.7))
    # the field jumps at the edges of supports, so a start within a step's error of a threshold may cross
    clear = np.min(np.abs(np.asarray(start) - np.array([1.0, 1.5])), axis=1) > 0.005
    np.testing.assert_allclose(end[clear], expected[clear], atol=1e-3)
    shares = [float(jnp.mean(jnp.abs(end - p) < 0.01)) for p in (0.5, 1.2, 1.7)]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.005)


def test_gravity_keeps_the_cumulative_probability():
    """F_t(x) = mean of 1/2 + arctan((x - x_i)/t)/pi is 0.551231 at t = 40 and at t = 1e-3."""
    points = np.array([0.5, 0.5, 1.2, 1.7])
    cumulative = lambda x, t: np.mean(0.5 + np.arctan((x - points) / t) / np.pi)
    low, high = -100.0, 100.0
    for _ in range(80):
        x = (low + high) / 2
        low, high = (x, high) if cumulative(x, 40.0) < 0.551231 else (low, x)
    process = build("process", dict(name="poisson_flow", t_min=1e-3))
    field = exact_field(process, jnp.asarray(points)[:, None])
    end = diffusion.integrate_flow(process, field, jnp.array([[x]]), np.geomspace(40.0, 1e-3, 2001))
    assert abs(cumulative(float(end[0, 0]), 1e-3) - 0.551231) < 1e-6  # RK4, 2,000 steps in log t


def test_one_point_is_reached_on_straight_rays():
    process = build("process", "poisson_flow")
    field = exact_field(process, jnp.array([[0.3, -0.2]]))
    x = jnp.array([[30.0, 7.0]])
    path = diffusion.trajectory(
        build("sampler", "heun"), process, field, None, x, np.geomspace(40.0, 0.01, 33)
    )[:, 0] - jnp.array([0.3, -0.2])
    cross = path[:, 0] * path[0, 1] - path[:, 1] * path[0, 0]
    np.testing.assert_allclose(cross, 0.0, atol=1e-10)


def test_far_away_the_field_is_that_of_the_center_of_mass():
    """E[x_0 | x] tends to the mean of the data as t grows, with an error of order 1 / t."""
    process = build("process", "poisson_flow")
    field = exact_field(process, POINTS, WEIGHTS)
    mean = WEIGHTS @ np.asarray(POINTS)
    errors = [float(jnp.abs(field(jnp.array([[t, -t]]), t) - mean).max()) for t in (1e2, 1e3, 1e4)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 10, rtol=0.05)


# ---- couplings ----------------------------------------------------------------------------------


def batch_of(n=32, d=2):
    return dict(data=jax.random.normal(jax.random.key(5), (n, d)), row=jnp.arange(n))


def cost(process, batch, z):
    x_T = process.interpolate(jnp.zeros_like(z), z, process.t_max)
    return float(((batch["data"] - x_T) ** 2).sum())


def test_exact_transport_is_the_cheapest_rearrangement():
    """On a line the optimum is the sorted pairing; the noises are those that each row would draw."""
    process, batch = build("process", "straight_line"), batch_of(d=1)
    paired = build("coupling", dict(name="minibatch_ot", group=32))(process, KEY, batch)
    own = process.sample_noise(diffusion.numerics.row_keys(KEY, batch["row"]), (32, 1))
    np.testing.assert_allclose(np.sort(paired["noise"][:, 0]), np.sort(own[:, 0]))
    order = np.argsort(np.asarray(batch["data"][:, 0]))
    assert np.all(np.diff(np.asarray(paired["noise"])[order, 0]) >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_transport_pairs_by_row_and_costs_less(method):
    process, batch = build("process", "straight_line"), batch_of()
    coupling = build("coupling", dict(name="minibatch_ot", method=method, group=8))
    z = coupling(process, KEY, batch)["noise"]
    own = process.sample_noise(diffusion.numerics.row_keys(KEY, batch["row"]), (32, 2))
    assert cost(process, batch, z) < 0.8 * cost(process, batch, own)
    part = jax.tree.map(lambda a: a[16:24], batch)  # a shard of whole groups
    np.testing.assert_allclose(coupling(process, KEY, part)["noise"], z[16:24], rtol=1e-12)


@pytest.mark.slow
def test_sinkhorn_plan_has_its_marginals_and_compiles():
    plan = jnp.exp(sinkhorn(jax.random.uniform(KEY, (12, 12)), 0.05, 500))
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 12, rtol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 12, rtol=1e-4)
    coupling = build("coupling", dict(name="minibatch_ot", method="sinkhorn"))
    process = build("process", "straight_line")
    pair = jax.jit(lambda batch: coupling(process, KEY, batch)["noise"])
    np.testing.assert_allclose(pair(batch_of()), coupling(process, KEY, batch_of())["noise"])
    exact = build("coupling", "minibatch_ot")
    with pytest.raises(TypeError, match="sinkhorn"):
        jax.jit(lambda batch: exact(process, KEY, batch)["noise"])(batch_of())


def test_independent_leaves_the_batch_alone():
    assert "noise" not in build("coupling", "independent")(build("process", "vp"), KEY, batch_of())


def test_bad_couplings_are_refused(tmp_path):
    process = build("process", "vp")
    with pytest.raises(ValueError, match="sinkhorn"):
        build("coupling", dict(name="minibatch_ot", method="sinkhron"))
    with pytest.raises(ValueError, match="whole groups"):
        build("coupling", dict(name="minibatch_ot", group=5))(process, KEY, batch_of())
    stored = build("coupling", dict(name="stored", path=str(tmp_path / "pairs.npz")))
    with pytest.raises(FileNotFoundError, match="pairs"):
        stored(process, KEY, {**batch_of(), "index": np.arange(32)})


def linear_gaussian(process, mean=0.5, std=0.4):
    """E[x_0 | x_t] of N(mean, std^2) data under a standard normal prior."""

    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def test_reflow_straightens_gaussian_pairs(tmp_path):
    """x_0 = m + s z along the flow, so the new field is exactly straight: one Euler step is exact."""
    process = build("process", "straight_line")
    pairs = reflow_pairs(
        process, linear_gaussian(process), KEY, 10, build("sampler", "rk4"), shape=(2,), num_steps=256,
        batch_size=4,
    )  # fmt: skip
    assert pairs["data"].shape == pairs["noise"].shape == (10, 2)
    x_0, z = pairs["data"], pairs["noise"]
    # the flow stops at t_min = 1e-3, where the path's standard deviation is (1 - t) s to 3e-6
    np.testing.assert_allclose(x_0, 0.999 * 0.5 + np.sqrt(0.999**2 * 0.16 + 1e-6) * z, atol=1e-6)
    velocity = process.velocity(jnp.asarray(x_0), jnp.asarray(z), 1.0)
    slope = (z[0] - z[1]) / (velocity[0] - velocity[1])  # the field is linear in x_1 = z
    field = velocity[0] + (z - z[0]) / slope
    np.testing.assert_allclose(z - field, x_0, atol=1e-6)
    again = reflow_pairs(
        process, linear_gaussian(process), KEY, 3, build("sampler", "rk4"), shape=(2,), num_steps=256,
        batch_size=2,
    )  # fmt: skip
    np.testing.assert_allclose(again["data"], x_0[:3], atol=1e-12)  # pair i depends on i alone
    path = tmp_path / "pairs.npz"
    np.savez(path, **pairs)
    stored = build("coupling", dict(name="stored", path=str(path)))
    batch = dict(data=x_0[[7, 2]], row=np.arange(2), index=np.array([7, 2]))
    np.testing.assert_array_equal(stored(process, KEY, batch)["noise"], z[[7, 2]])
    with pytest.raises(ValueError, match="10 examples"):
        stored(process, KEY, {**batch, "index": np.array([3, 10])})
    with pytest.raises(ValueError, match="stochastic"):
        reflow_pairs(process, lambda x, t: x, KEY, 1, build("sampler", "reverse_sde"), shape=(2,))


def test_coupled_losses_take_the_given_noise():
    """The hook of the losses: with noise equal to what the row draws anyway, nothing changes."""
    from diffusion.objectives.losses import demolish

    process, time = build("process", "parabola"), build("time", "uniform")
    batch = batch_of()
    alone = demolish(process, time, KEY, batch, 32)
    given = demolish(process, time, KEY, {**batch, "noise": alone.z}, 32)
    np.testing.assert_array_equal(alone.x_t, given.x_t)
