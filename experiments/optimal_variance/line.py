"""A mixture on the line, where everything is an integral over one number: nothing is sampled but the estimates.

The posterior of x_0 given x_t is a mixture again, so its mean and variance are closed forms, and averages over x_t
are sums over a fine grid. A reverse chain carries a density on that grid by a matrix of normal kernels, so the
law that a variance of the reverse step leads to is known to round-off, and with it

    end     KL(law of x_t at t_min || what the chain makes), in nats; where the chain makes next to nothing
            (below 1e-30 in a cell) that is taken for its density, so the largest values are too small
    shift   Wasserstein-1 distance of the same two laws, which does not mind where a law has no mass
    path    sum over steps of KL(q(x_s | x_t, x_0) || p(x_s | x_t)): the part of the bound on -log p that
            the reverse steps are responsible for

The chain starts from the exact law at T: what the prior leaves out is not counted.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build, estimate_variance
from diffusion.numerics import on_host
from diffusion.testing import GaussianMixture

WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([-1.0, 0.8, 0.1])
STDS = np.array([0.10, 0.20, 0.05])
TARGET = GaussianMixture(WEIGHTS, MEANS, STDS)
MEAN = float(WEIGHTS @ MEANS)
VARIANCE = float(WEIGHTS @ (STDS**2 + MEANS**2) - MEAN**2)
GRID = np.linspace(-4.2, 4.2, 1401)
CELL = GRID[1] - GRID[0]
LEVELS = 60


class Posterior(NamedTuple):
    """What is known of x_0 at every x_t of the grid."""

    density: np.ndarray  # p_t(x), times the width of a cell
    mean: np.ndarray  # E[x_0 | x_t]
    variance: np.ndarray  # Var[x_0 | x_t]


def posterior(alpha: float, sigma: float) -> Posterior:
    """Return the density of x_t, and mean and variance of x_0 given x_t, on the grid."""
    total = alpha**2 * STDS**2 + sigma**2
    gap = GRID[:, None] - alpha * MEANS
    joint = WEIGHTS * np.exp(-0.5 * gap**2 / total) / np.sqrt(2 * np.pi * total)
    log_joint = np.log(WEIGHTS) - 0.5 * gap**2 / total - 0.5 * np.log(total)
    weight = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    means = MEANS + alpha * STDS**2 / total * gap
    mean = (weight * means).sum(axis=1)
    within = STDS**2 * sigma**2 / total
    variance = (weight * (within + (means - mean[:, None]) ** 2)).sum(axis=1)
    return Posterior(joint.sum(axis=1) * CELL, mean, variance)


def _same(mean: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    return mean


def _timid(mean: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Keep 70 % of what the noise allows to know beyond the mean of the data, as blurred networks do."""
    known = alpha**2 * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return mean - 0.3 * (1 - known) * (mean - MEAN)


def _bold(mean: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Go too far from the mean of the data, by as much."""
    known = alpha**2 * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return mean + 0.3 * (1 - known) * (mean - MEAN)


# from the exact E[x_0 | x_t] to that of a model
DENOISERS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "exact": _same,
    "timid": _timid,
    "bold": _bold,
}


def tables(alpha: float, sigma: float, denoiser: str = "exact") -> dict[str, Any]:
    """Return sbar^2 as each estimate has it with infinitely many examples, clipped as the library does.

    `npr` and `sn` depend on x_t: what the regressions of Bao et al. (2022b) have for their optimum. The bound
    sigma^2 / alpha^2 holds on average over x_t and not for each: between two modes Var[x_0 | x_t] is larger.
    `npr, clipped` keeps it everywhere all the same.
    """
    p = posterior(alpha, sigma)
    found = DENOISERS[denoiser](p.mean, alpha, sigma)
    average = lambda values: float(p.density @ values)
    ratio, error2 = (sigma / alpha) ** 2, (p.mean - found) ** 2
    z_hat = (GRID - alpha * found) / sigma
    z2 = (alpha / sigma) ** 2 * p.variance + ((GRID - alpha * p.mean) / sigma) ** 2  # E[z^2 | x_t]
    most = min(ratio, VARIANCE)
    return {
        "residual": average(p.variance + error2),
        "noise": float(np.clip(ratio * (1 - average(z_hat**2)), 0, most)),
        "data": float(np.clip(VARIANCE - average((found - MEAN) ** 2), 0, most)),
        "npr": p.variance + error2,
        "sn": np.maximum(ratio * (z2 - z_hat**2), 0),
        "npr, clipped": np.minimum(p.variance + error2, ratio),
    }


@dataclass(frozen=True)
class Reverse:
    """A reverse chain: which variance its steps have.

    Args:
        variance: "posterior", "beta", or an estimate of sbar^2, one of `tables`.
        eta: of the step.
        denoiser: one of `DENOISERS`.
    """

    variance: str
    eta: float = 1.0
    denoiser: str = "exact"

    def measure(self, process: Any, n: int) -> dict[str, float]:
        """Return `end`, `shift` and `path` of n steps of the chain's subsequence, from T to 1."""
        times = build("grid", "chain")(process, n)
        alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
        fixed = self.variance if self.variance == "beta" else "posterior"
        row = build("sampler", dict(name="ancestral", variance=fixed, eta=self.eta)).prepare(
            process, times
        )
        exact_row = build("sampler", dict(name="ancestral", eta=self.eta)).prepare(process, times)
        law, path = posterior(alpha[0], sigma[0]).density, 0.0
        for k in range(n):
            p = posterior(alpha[k], sigma[k])
            found = DENOISERS[self.denoiser](p.mean, alpha[k], sigma[k])
            variance = np.full(len(GRID), row.spread[k] ** 2)
            if self.variance not in ("posterior", "beta"):
                variance += (
                    row.pull[k] ** 2 * tables(alpha[k], sigma[k], self.denoiser)[self.variance]
                )
            variance = np.maximum(variance, (0.5 * CELL) ** 2)  # what the grid can show
            law = _carried(law, row.keep[k] * GRID + row.pull[k] * found, variance)
            true, miss = exact_row.spread[k] ** 2, p.variance + (p.mean - found) ** 2
            if true > 0:
                terms = np.log(variance / true) + (true + row.pull[k] ** 2 * miss) / variance - 1
                path += 0.5 * float(p.density @ terms)
        end = posterior(alpha[-1], sigma[-1]).density
        seen = end > 1e-300
        kl = float((end[seen] * np.log(end[seen] / np.maximum(law[seen], 1e-30))).sum())
        shift = float(np.abs(np.cumsum(end - law)).sum() * CELL)
        return {"end": kl, "shift": shift} | ({"path": path} if self.eta == 1 else {})


def _carried(law: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Carry a density on the grid one step: each cell to a normal law, normalized on the grid."""
    used = law > 1e-16
    scale = np.sqrt(0.5 / variance[used, None])
    gap = (GRID * scale - mean[used, None] * scale).astype(np.float32)
    kernel = np.exp(-(gap**2))  # in float32, which is twice as fast and exact enough
    weight = law[used] / np.maximum(kernel.sum(axis=1, dtype=np.float64), 1e-30)
    return (weight.astype(np.float32) @ kernel).astype(np.float64)


def limits(process: Any) -> dict[str, Any]:
    """Return sbar^2 and what bounds it, at levels evenly spaced in log-SNR.

    The last bound is the least error of a linear estimate of x_0, so it holds for every law of that variance; it
    lies below both of the articles' bounds.
    """
    times = process.default_times(LEVELS)
    alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
    ratio = (sigma / alpha) ** 2
    exact = [tables(a, s)["residual"] for a, s in zip(alpha, sigma, strict=True)]
    low, high = float(MEANS[0] - 3 * STDS[0]), float(MEANS[1] + 3 * STDS[1])
    return dict(
        log_snr=list(-np.log(ratio)), exact=exact, noise_bound=list(ratio), data_bound=VARIANCE,
        range_bound=((high - low) / 2) ** 2, linear_bound=list(VARIANCE * ratio / (VARIANCE + ratio)),
    )  # fmt: skip


def estimates(process: Any, num_examples: int, repetitions: int) -> dict[str, float]:
    """Return the root mean square relative error of sbar^2 from so many examples, over levels and repetitions.

    `noise, plain` is the formula as the paper has it; the library's takes differences of squares of the same draws,
    z_hat^2 - z^2 for z_hat^2 - 1, and clips.
    """
    times = process.default_times(LEVELS)
    alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
    exact = np.array([tables(a, s)["residual"] for a, s in zip(alpha, sigma, strict=True)])
    errors: dict[str, list[np.ndarray]] = {}
    with jax.enable_x64(True):
        model = TARGET.denoiser(process)
        for r in range(repetitions):
            key = jax.random.key(r)
            x_0 = TARGET.sample(jax.random.fold_in(key, 0), num_examples)
            for kind in ("residual", "noise", "data"):
                found = estimate_variance(
                    process, model, [x_0], times, jax.random.fold_in(key, 1), kind=kind
                )
                errors.setdefault(kind, []).append(found / exact - 1)
            plain = _plain(process, model, x_0, times, jax.random.fold_in(key, 1))
            clipped = np.clip(plain, 0, np.minimum((sigma / alpha) ** 2, VARIANCE))
            for name, found in (("noise, plain", plain), ("noise, plain and clipped", clipped)):
                errors.setdefault(name, []).append(np.asarray(found) / exact - 1)
    return {kind: float(np.sqrt(np.mean(np.square(e)))) for kind, e in errors.items()}


@functools.partial(jax.jit, static_argnums=0)
def _plain(process: Any, model: Any, x_0: Any, times: Any, key: Any) -> Any:
    """Return sigma^2 / alpha^2 (1 - mean of z_hat^2)."""

    def one(k: Any, t: Any) -> Any:
        z = jax.random.normal(jax.random.fold_in(key, k), x_0.shape)
        c = process.coefficients(jnp.full(len(x_0), t), x_0)
        x_t = c.alpha * x_0 + c.sigma * z
        z_hat = (x_t - c.alpha * model(x_t, jnp.full(len(x_0), t))) / c.sigma
        return ((c.sigma / c.alpha) ** 2).reshape(-1)[0] * (1 - (z_hat**2).mean())

    return jax.vmap(one)(jnp.arange(len(times)), jnp.asarray(times))


def chains() -> dict[str, Reverse]:
    """Return the reverse chains that are compared, by name."""
    found = {v: Reverse(v) for v in ("posterior", "beta", "residual", "npr", "npr, clipped")}
    found["posterior, eta=0"] = Reverse("posterior", eta=0.0)
    found["residual, eta=0"] = Reverse("residual", eta=0.0)
    for denoiser in ("timid", "bold"):
        for v in ("posterior", "beta", "residual", "noise", "data", "npr", "sn"):
            found[f"{v}, {denoiser}"] = Reverse(v, denoiser=denoiser)
    return found
