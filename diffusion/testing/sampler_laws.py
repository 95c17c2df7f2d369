"""Laws of samplers: exactness on a point, order on a Gaussian, moments, purity, correct counts of evaluations.

All are measured on data whose ODE has a known solution: for a deterministic method the order of convergence as
steps are halved, for a stochastic one the moments of its samples, for an adaptive one the end of the exact path.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.numerics import of_type, on_host
from diffusion.processes import GaussianProcess
from diffusion.registry import build
from diffusion.samplers import Sampler, StepSampler, sample, solve
from diffusion.testing.report import Finding, Report, findings_of, in_order, largest
from diffusion.testing.targets import gaussian, gaussian_flow

SEED = 0
MEAN, STD = 0.3, 0.5
Case = tuple[Any, GaussianProcess]


def _scales(process: GaussianProcess, t: Any) -> tuple[float, float]:
    alpha, sigma = (float(on_host(f, float(t))) for f in (process.alpha, process.sigma))
    return alpha, sigma


def _start(process: GaussianProcess, shape: tuple[int, ...]) -> jax.Array:
    """Draw from the exact marginal at t_max, so that the prior's mismatch has no effect."""
    alpha, sigma = _scales(process, process.t_max)
    z = jax.random.normal(jax.random.fold_in(jax.random.key(SEED), 1), shape)
    return alpha * MEAN + np.hypot(alpha * STD, sigma) * z


def _end(case: Case, model: Any, x: Any, num_steps: int, **settings: Any) -> Any:
    sampler, process = case
    times = process.default_times(num_steps)
    key = jax.random.key(SEED) if sampler.stochastic else None
    return sample(sampler, process, model, key, x, times, denoise_last=False, **settings)


def _slope(errors: list[float]) -> float:
    """Return the order measured between the two finest grids; infinite if both are exact."""
    coarse, fine = errors[-2:]
    return float("inf") if coarse < 1e-11 else float(np.log2(coarse / max(fine, 1e-16)))


def _knows(point: Any) -> Callable:
    return lambda x, t: jnp.broadcast_to(point, x.shape)


def point_mass(case: Case) -> Finding | list[Finding]:
    """S1: a denoiser that always returns the point c ends at alpha c + sigma z."""
    sampler, process = case
    if not isinstance(sampler, StepSampler):
        return []
    (a_T, s_T), (a_0, s_0) = _scales(process, process.t_max), _scales(process, process.t_min)
    point, n = jnp.array([1.5, -2.0]), 4096
    advice = "the weights of `prepare`: keep sigma_t + ... = sigma_s, keep alpha_t + pull = alpha_s"
    if not sampler.stochastic:
        z = jnp.array([[0.3, -1.1], [1.7, 0.4]])
        exact, knows = a_0 * point + s_0 * z, _knows(point)
        errors = [largest(_end(case, knows, a_T * point + s_T * z, n) - exact) for n in (80, 160)]
        short = 0.0 if max(errors) < 1e-9 else sampler.order - _slope(errors)
        return Finding(
            "S1", "a point is reached exactly, or to the declared order (order less slope)", short, 0.15,
            advice,
        )  # fmt: skip
    noise = jax.random.normal(jax.random.key(SEED), (n, 2))
    end = _end(case, _knows(point), a_T * point + s_T * noise, 1000)
    center = largest((end.mean(axis=0) - a_0 * point) / s_0)
    spread = largest(end.std(axis=0) / s_0 - 1)
    return [
        Finding(
            "S1", "samples of a point are centered on it (in units of sigma)", center,
            5 / np.sqrt(n) + 0.02, advice,
        ),
        Finding(
            "S1", "samples of a point spread by sigma (relative)", spread, 5 / np.sqrt(2 * n) + 0.05,
            "the noise that a step adds: its variance must replace what the step removes",
        ),
    ]  # fmt: skip


def order(case: Case) -> Finding | list[Finding]:
    """S2: the error on a Gaussian decreases with the declared order."""
    sampler, process = case
    if sampler.stochastic:
        return []
    x = _start(process, (4, 1))
    exact = gaussian_flow(process, x, process.t_max, process.t_min, MEAN, STD)
    denoise = gaussian(MEAN, STD).denoiser(process)
    if not isinstance(sampler, StepSampler):
        return Finding(
            "S2", "an adaptive method reaches the end of the path of a Gaussian",
            largest(_end(case, denoise, x, 8) - exact), 0.02,
            "tolerances, and the error estimate that they are compared with",
        )  # fmt: skip
    errors = [largest(_end(case, denoise, x, n) - exact) for n in (160, 320)]
    return Finding(
        "S2", f"order {sampler.order} on a Gaussian (order less slope)",
        sampler.order - _slope(errors), 0.15,
        "coefficients and starting steps: one wrong weight costs an order",
    )  # fmt: skip


def moments(case: Case) -> list[Finding]:
    """S3: samples of a Gaussian have its mean and standard deviation.

    The bound is five standard errors plus 2 percent, which is above the weak error of first-order methods at
    1,000 steps.
    """
    sampler, process = case
    if not sampler.stochastic:
        return []
    fixed = isinstance(sampler, StepSampler)
    n, num_steps = (20_000, 1000) if fixed else (1000, 200)  # diffrax is slow for many rows
    denoise = gaussian(MEAN, STD).denoiser(process)
    end = _end(case, denoise, _start(process, (n, 1)), num_steps)
    alpha, sigma = _scales(process, process.t_min)
    std = np.hypot(alpha * STD, sigma)
    advice = "the amount of fresh noise against the drift; the score's factor (1 + lam^2) / 2"
    return [
        Finding(
            "S3", "mean on a Gaussian (in standard deviations)",
            largest((end.mean() - alpha * MEAN) / std), 5 / np.sqrt(n) + 0.02, advice,
        ),
        Finding(
            "S3", "standard deviation on a Gaussian (relative)",
            largest(end.std() / std - 1), 5 / np.sqrt(2 * n) + 0.02, advice,
        ),
    ]  # fmt: skip


def pure(case: Case) -> list[Finding]:
    """S4: the same key gives the same sample, jit or not, in the dtype of the state."""
    process = case[1]
    denoise, x = gaussian(MEAN, STD, dim=3).denoiser(process), _start(process, (4, 3))
    run = lambda x: _end(case, denoise, x, 6)
    first = run(x)
    single = run(x.astype(jnp.float32))
    # a stochastic method draws different numbers in float32
    distance = largest(single) * 0 if case[0].stochastic else largest(single - first)
    advice = "state kept between calls, or a number that promotes the dtype"
    return [
        Finding("S4", "same key, same sample", largest(run(x) - first), 0.0, advice),
        Finding(
            "S4", "inside jit nothing changes (relative)",
            largest((jax.jit(run)(x) - first) / (1 + jnp.abs(first))), 1e-8, advice,
        ),
        Finding(
            "S4", "float32 in, float32 out (distance from float64)",
            distance if single.dtype == jnp.float32 else float("nan"), 0.02, advice,
        ),
    ]  # fmt: skip


def zero_step(case: Case) -> Finding | list[Finding]:
    """S4: a step of length near 0 has an effect near 0."""
    sampler, process = case
    if not isinstance(sampler, StepSampler):
        return []
    n, t = 20_000, float(process.default_times(4)[1])
    alpha, sigma = _scales(process, t)
    std = float(np.hypot(alpha * STD, sigma))
    x = alpha * MEAN + std * jax.random.normal(jax.random.fold_in(jax.random.key(SEED), 1), (n, 1))
    times, denoise = np.array([t, t * (1 - 1e-10)]), gaussian(MEAN, STD).denoiser(process)
    key = jax.random.key(SEED) if sampler.stochastic else None
    moved = sample(sampler, process, denoise, key, x, times, denoise_last=False)
    if not sampler.stochastic:
        return Finding(
            "S4", "a step of length 1e-10 t leaves the state (relative)", largest(moved - x) / std, 1e-6,
            "weights that do not tend to 1 and 0 with the step",
        )  # fmt: skip
    change = largest(jnp.stack([(moved - x).mean() / std, moved.std() / x.std() - 1]))
    # a method may replace noise in such a step, but not change its distribution
    return Finding(
        "S4", "a step of length 1e-10 t leaves mean and standard deviation (relative)", change,
        5 / np.sqrt(n) + 0.02,
        "noise that is added without being removed again",
    )  # fmt: skip


def cost(case: Case) -> Finding:
    """S5: the reported number of evaluations is correct."""
    sampler, process = case
    calls: list[int] = []

    def stub(x: Any, t: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return gaussian(MEAN, STD).mean(process, x, t)

    times, key = process.default_times(4), jax.random.key(SEED) if sampler.stochastic else None
    found = solve(sampler, process, stub, key, jnp.ones((2, 1)), times)
    jax.block_until_ready(found.x)
    jax.effects_barrier()
    return Finding(
        "S5", "reported minus actual evaluations of the model",
        abs(len(calls) - float(np.max(found.nfe))), 0.0 if isinstance(sampler, StepSampler) else 3.0,
        "`evaluations` or `nfe` of the class; adaptive solvers may repeat 3 first stages unreported",
    )  # fmt: skip


LAWS = (point_mass, order, moments, pure, zero_step, cost)


def check_sampler(sampler: Sampler, process: GaussianProcess | None = None) -> Report:
    """Check a sampler against its laws and return a readable report.

    Args:
        sampler: an object of kind `sampler`, registered or not.
        process: the `GaussianProcess` on which it runs; `vp` by default.

    Returns:
        A report; `bool(report)` is whether all laws hold, `print(report)` shows the numbers.

    Raises:
        TypeError: `sampler` is not a sampler, but for example a class or a name; or the process is not a
            `GaussianProcess`.
    """
    of_type(Sampler, 'build("sampler", "ddim")', sampler=sampler)
    process = build("process", "vp") if process is None else process
    of_type(GaussianProcess, 'build("process", "vp")', process=process)
    findings: list[Finding] = []
    with jax.enable_x64(True):
        for law in LAWS:
            findings += findings_of(law, (sampler, process))
    return Report(f"{sampler!r} on {process!r}", in_order(findings))
