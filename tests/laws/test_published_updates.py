"""Samplers against the published updates, written out step by step in plain NumPy.

Same grid, same start, same noise: agreement to 1e-9 in float64. Coefficients here come from the formulas of the
papers, with h, r and phi as they are printed, on a mixture whose denoiser is far from linear.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.numerics import fold_in, on_host, split
from diffusion.testing import GaussianMixture

KEY = jax.random.key(3)
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
NUM_STEPS = 7


class Problem:
    """A process with scales at the grid's points, a denoiser and a start."""

    def __init__(self, name, grid):
        self.process = build("process", name)
        self.times = build("grid", grid)(self.process, NUM_STEPS)
        self.alpha = on_host(self.process.alpha, self.times)
        self.sigma = on_host(self.process.sigma, self.times)
        self.lam = np.log(self.alpha / self.sigma)
        self.denoiser = MIXTURE.denoiser(self.process)
        noise = np.asarray(jax.random.normal(KEY, (4, 2)))
        self.x = self.sigma[0] * noise

    def x_0(self, x, i):
        return np.asarray(self.denoiser(jnp.asarray(x), self.times[i]))

    def noise(self, x, i):
        return (x - self.alpha[i] * self.x_0(x, i)) / self.sigma[i]

    def run(self, spec, key=None):
        sampler = build("sampler", spec)
        x = jnp.asarray(self.x)
        return diffusion.sample(
            sampler, self.process, self.denoiser, key, x, self.times, denoise_last=False
        )


@pytest.fixture(params=[("vp", "uniform_log_snr"), ("vp", "uniform"), ("edm", "karras"),
                        ("rectified_flow", "uniform")], ids=lambda p: "-".join(p))  # fmt: skip
def problem(request):
    return Problem(*request.param)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_dpm_solver_pp_3m(problem):
    """phi_1 = e^-h - 1, phi_2 = phi_1/h + 1, phi_3 = phi_2/h - 1/2, with twice the printed phi_3 term."""
    p, x, m = problem, problem.x, []
    for i in range(NUM_STEPS):
        m.append(p.x_0(x, i))
        h = p.lam[i + 1] - p.lam[i]
        phi_1 = np.expm1(-h)
        new = p.sigma[i + 1] / p.sigma[i] * x - p.alpha[i + 1] * phi_1 * m[-1]
        if i == 1:
            r = (p.lam[1] - p.lam[0]) / h
            new += -p.alpha[2] * phi_1 * 0.5 * (m[-1] - m[-2]) / r
        if i >= 2:
            r_0, r_1 = (p.lam[i] - p.lam[i - 1]) / h, (p.lam[i - 1] - p.lam[i - 2]) / h
            d_0, d_1 = (m[-1] - m[-2]) / r_0, (m[-2] - m[-3]) / r_1
            one, two = d_0 + r_0 / (r_0 + r_1) * (d_0 - d_1), (d_0 - d_1) / (r_0 + r_1)
            phi_2 = phi_1 / h + 1
            phi_3 = phi_2 / h - 0.5
            new += p.alpha[i + 1] * (phi_2 * one - 2 * phi_3 * two)
        x = new
    close(p.run("dpm_solver_pp_3m"), x)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc(problem, order, variant):
    """Predictor and corrector as in Zhao et al. (2023), algorithms 1 and 2, data prediction."""
    p, x, before, m = problem, problem.x, None, []

    def parts(i, known, differences):
        """Base point, scale and solution for the step i -> i + 1, from `known` evaluations up to i."""
        h = p.lam[i + 1] - p.lam[i]
        r = [(p.lam[i - k] - p.lam[i]) / h for k in range(1, known)] + [1.0]
        hh = -h
        b_h = hh if variant == "bh1" else np.expm1(hh)
        phi, factorial, right = np.expm1(hh) / hh - 1, 1, []
        for k in range(1, known + 1):
            right.append(phi * factorial / b_h)
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        matrix = np.array([[rk ** (k - 1) for rk in r] for k in range(1, known + 1)])
        if differences == 1 and len(r) >= 1 and known == differences + (differences == known - 1):
            rho = np.array([0.5])
        elif differences < known:
            rho = np.linalg.solve(matrix[:-1, :-1], np.array(right[:-1])) if known > 2 else [0.5]
        else:
            rho = np.linalg.solve(matrix, np.array(right))
        return h, r, b_h, rho

    def base(x, i, m_0, h):
        return p.sigma[i + 1] / p.sigma[i] * x - p.alpha[i + 1] * np.expm1(-h) * m_0

    for i in range(NUM_STEPS):
        new_m = p.x_0(x, i)
        if i > 0:  # correct the state at i, which the step i - 1 -> i predicted
            known = min(order, i)
            h, r, b_h, rho = parts(i - 1, known, known)
            d = [(m[-1 - k] - m[-1]) / r[k - 1] for k in range(1, known)] + [new_m - m[-1]]
            push = sum(a * b for a, b in zip(rho, d, strict=True))
            x = base(before, i - 1, m[-1], h) - p.alpha[i] * b_h * push
        m.append(new_m)
        before, known = x, min(order, i + 1)
        h, r, b_h, rho = parts(i, known, known - 1)
        d = [(m[-1 - k] - m[-1]) / r[k - 1] for k in range(1, known)]
        push = sum(a * b for a, b in zip(rho, d, strict=True)) if d else 0.0
        x = base(x, i, m[-1], h) - p.alpha[i + 1] * b_h * push
    close(p.run(dict(name="unipc", order=order, variant=variant)), x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(problem, order):
    """x_s = alpha_s (x_t/alpha_t + sum e_j C_j), C_j the integral of L_j(log rho) d rho, in closed form."""
    p, x, e = problem, problem.x, []
    rho = p.sigma / p.alpha

    def primitive(coefficients, r):
        """The antiderivative at r of a polynomial in log r: of 1, log r, log^2 r."""
        u = np.log(r)
        terms = [r, r * (u - 1), r * (u**2 - 2 * u + 2)]
        return sum(c * t for c, t in zip(coefficients, terms, strict=False))

    for i in range(NUM_STEPS):
        e.append(p.noise(x, i))
        known = min(order, i + 1)
        nodes = np.log(rho[[i - k for k in range(known)]])
        new = x / p.alpha[i]
        for j in range(known):
            others = [n for k, n in enumerate(nodes) if k != j]
            poly = np.polynomial.polynomial.polyfromroots(others) if others else np.ones(1)
            poly = poly / np.prod([nodes[j] - n for n in others])
            new = new + e[-1 - j] * (primitive(poly, rho[i + 1]) - primitive(poly, rho[i]))
        x = p.alpha[i + 1] * new
    close(p.run(dict(name="deis", order=order)), x)


def drawn(key, i, shape, parts=1):
    """The noise of step i; a wrapper splits its key first."""
    step_key = fold_in(key, i)
    return np.asarray(jax.random.normal(split(step_key)[0] if parts == 2 else step_key, shape))


def test_sde_dpm_solver_pp_2m(problem):
    """x_s = sigma_s/sigma_t e^-h x + alpha_s (1 - e^-2h) (m_0 + D/2) + sigma_s sqrt(1 - e^-2h) z."""
    p, x, m = problem, problem.x, []
    for i in range(NUM_STEPS):
        m.append(p.x_0(x, i))
        h = p.lam[i + 1] - p.lam[i]
        new = p.sigma[i + 1] / p.sigma[i] * np.exp(-h) * x
        new = new - p.alpha[i + 1] * np.expm1(-2 * h) * m[-1]
        if i > 0:
            r = (p.lam[i] - p.lam[i - 1]) / h
            new = new - 0.5 * p.alpha[i + 1] * np.expm1(-2 * h) * (m[-1] - m[-2]) / r
        x = new + p.sigma[i + 1] * np.sqrt(-np.expm1(-2 * h)) * drawn(KEY, i, x.shape)
    close(p.run("sde_dpm_solver_pp_2m", KEY), x)


def test_churn_is_edm():
    """Karras et al. (2022), algorithm 2, on EDM: gamma, t_hat, Euler's step, Heun's correction."""
    p = Problem("edm", "karras")
    s_churn, s_min, s_max, s_noise = 2.0, 0.05, 50.0, 1.003
    denoise = lambda x, t: np.asarray(p.denoiser(jnp.asarray(x), t))
    x, times = p.x, p.times
    for i in range(NUM_STEPS):
        t, s = times[i], times[i + 1]
        gamma = min(s_churn / NUM_STEPS, np.sqrt(2) - 1) if s_min <= t <= s_max else 0.0
        t_hat = t + gamma * t
        x_hat = x + np.sqrt(t_hat**2 - t**2) * s_noise * drawn(KEY, i, x.shape, parts=2)
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (s - t_hat) * d
        d_prime = (x - denoise(x, s)) / s
        x = x_hat + (s - t_hat) * (d + d_prime) / 2
    close(p.run(dict(name="churn", s_churn=s_churn), KEY), x)


def test_langevin_is_a_step_along_the_score(problem):
    """After each DDIM step: x + epsilon score + sqrt(2 epsilon) z, epsilon = 2 (snr sigma)^2."""
    p, x = problem, problem.x
    for i in range(NUM_STEPS):
        x_0 = p.x_0(x, i)
        x = p.alpha[i + 1] * x_0 + p.sigma[i + 1] * (x - p.alpha[i] * x_0) / p.sigma[i]
        epsilon = 2 * (0.16 * p.sigma[i + 1]) ** 2
        score = (p.alpha[i + 1] * p.x_0(x, i + 1) - x) / p.sigma[i + 1] ** 2
        z = np.asarray(jax.random.normal(fold_in(split(fold_in(KEY, i))[1], 0), x.shape))
        x = x + epsilon * score + np.sqrt(2 * epsilon) * z
    close(p.run(dict(name="langevin", inner="ddim"), KEY), x)


@pytest.mark.parametrize(("epsilon", "stationary"), [(0.1, 1.0526316), (0.5, 1.3333333)])
def test_langevin_on_a_gaussian_settles_at_the_known_variance(epsilon, stationary):
    """x <- (1 - e/v) x + sqrt(2 e) z on N(0, v): stationary variance v / (1 - e / (2 v)), v = 1."""
    v = 1.0
    for _ in range(2000):
        v = (1 - epsilon) ** 2 * v + 2 * epsilon
    np.testing.assert_allclose(v, stationary, rtol=1e-7)


def test_restart_repeats_its_interval():
    """One interval, two repeats: the jump adds variance high^2 - low^2 and the sub-grid is EDM's, rho = 7."""
    process = build("process", "edm")
    sampler = build("sampler", dict(name="restart", inner="ddim", intervals=((3, 2, 1.0, 10.0),)))
    times = np.array([80.0, 20.0, 1.0, 0.1])
    row = sampler.prepare(process, times)
    ladder = np.linspace(10 ** (1 / 7), 1.0, 4) ** 7
    starts = [80.0, 20.0, *ladder[:3], *ladder[:3], 1.0]
    np.testing.assert_allclose(row.inner.t, starts, rtol=1e-12)
    jumps = np.zeros(9)
    jumps[[2, 5]] = np.sqrt(10.0**2 - 1.0)
    np.testing.assert_allclose(row.spread, jumps, rtol=1e-12)
    assert sampler.nfe(row) == 9
    states = diffusion.trajectory(
        sampler, process, MIXTURE.denoiser(process), KEY, jnp.ones((2, 2)), times
    )
    assert states.shape == (4, 2, 2)  # the grid's own times


def test_dpm_solver_12_first_attempt():
    """Orders 1 and 2 over one step that is taken whole: DPM-Solver-2's result, two evaluations."""
    p = Problem("vp", "uniform_log_snr")
    sampler = build("sampler", dict(name="dpm_solver_12", rtol=1e3, atol=1e3, h_init=100.0))
    run = lambda s: diffusion.solve(
        build("sampler", s), p.process, p.denoiser, None, jnp.asarray(p.x), p.times[[0, -1]],
        denoise_last=False,
    )  # fmt: skip
    adaptive, fixed = run(sampler), run("dpm_solver_2")
    assert adaptive.nfe == fixed.nfe == 2
    close(adaptive.x, fixed.x)


def test_dpm_solver_12_reaches_its_tolerance():
    """A hundred times smaller tolerance, second-order steps: ten times more of them, error 100 times less."""
    p = Problem("vp", "uniform_log_snr")
    x = jnp.asarray(p.x)
    exact = diffusion.integrate_flow(p.process, p.denoiser, x, p.process.default_times(2048))
    found = []
    for tol in (1e-4, 1e-6):
        sampler = build("sampler", dict(name="dpm_solver_12", rtol=tol, atol=tol))
        s = diffusion.solve(sampler, p.process, p.denoiser, None, x, p.times, denoise_last=False)
        found.append((int(s.nfe), float(jnp.abs(s.x - exact).max())))
    (few, large), (many, small) = found
    assert 5 < many / few < 20
    assert 30 < large / small < 300


def test_what_wrappers_cannot_take():
    with pytest.raises(TypeError, match="single-step"):
        build("sampler", dict(name="churn", inner="dpm_solver_pp_2m"))
    with pytest.raises(TypeError, match="must be a StepSampler"):
        build("sampler", dict(name="langevin", inner="diffrax"))
    with pytest.raises(ValueError, match="intervals"):
        build("sampler", dict(name="restart", intervals=((1, 1, 2.0, 1.0),)))
    with pytest.raises(KeyError, match="heun"):
        build("sampler", dict(name="churn", inner="hean"))


@pytest.mark.parametrize(
    "name", ["ddim", "dpm_solver_pp_2m", "dpm_solver_pp_3m", "unipc", "ancestral"]
)
def test_starts_where_no_signal_is_left(name):
    """alpha(times[0]) = 0 exactly: methods that expand the data stay finite, the first step of order 1."""
    process = build("process", "rectified_flow")
    times = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    points = GaussianMixture([1.0], [[0.5, 0.5]], [0.3])
    end = diffusion.sample(
        build("sampler", name), process, points.denoiser(process), KEY,
        jax.random.normal(KEY, (8, 2)), times,
    )  # fmt: skip
    assert jnp.all(jnp.isfinite(end))
    with pytest.raises(ValueError, match="no signal"):
        build("sampler", "deis").prepare(process, times)


@pytest.mark.parametrize(
    "name", ["ddim", "ancestral", "dpm_solver_pp_3m", "restart", "dpm_solver_12"]
)
def test_a_callback_sees_every_state(name):
    """The states of the trajectory, one by one, and the same end."""
    p, seen = Problem("edm", "karras"), []
    sampler, x = build("sampler", name), jnp.asarray(p.x)
    path = diffusion.trajectory(sampler, p.process, p.denoiser, KEY, x, p.times)
    found = diffusion.solve(
        sampler, p.process, p.denoiser, KEY, x, p.times, denoise_last=False,
        callback=lambda done, t, x: seen.append((done, t, x)),
    )  # fmt: skip
    assert [done for done, _, _ in seen] == list(range(1, NUM_STEPS + 1))
    np.testing.assert_allclose([t for _, t, _ in seen], p.times[1:])
    np.testing.assert_allclose(np.stack([x for _, _, x in seen]), path[1:], rtol=1e-9)
    np.testing.assert_allclose(found.x, path[-1], rtol=1e-9)


def test_a_preview_is_the_posterior_mean_of_every_state():
    p = Problem("edm", "karras")
    times = np.append(p.times, 0.0)
    path = diffusion.trajectory(
        build("sampler", "ddim"), p.process, p.denoiser, None, jnp.asarray(p.x), times
    )
    seen = diffusion.preview(p.process, p.denoiser, path, times)
    expected = [p.denoiser(x, t) for x, t in zip(path[:-1], times[:-1], strict=True)] + [path[-1]]
    np.testing.assert_allclose(seen, np.stack(expected), rtol=1e-12)
    with pytest.raises(ValueError, match="times"):
        diffusion.preview(p.process, p.denoiser, path, times[1:])


def test_bad_keys_and_models_are_refused_before_compilation():
    p = Problem("vp", "uniform")
    x = jnp.asarray(p.x)
    keys = jax.random.split(KEY, 3)
    run = lambda model, key: diffusion.sample(
        build("sampler", "ancestral"), p.process, model, key, x, p.times
    )
    with pytest.raises(ValueError, match="one per example"):
        run(p.denoiser, keys)
    with pytest.raises(ValueError, match="shaped like"):
        run(lambda x, t: jnp.ones((4, 2, 2)), KEY)
    with pytest.raises(ValueError, match="floating"):
        diffusion.sample(
            build("sampler", "ddim"), p.process, p.denoiser, None, jnp.ones((2, 2), int), p.times
        )
