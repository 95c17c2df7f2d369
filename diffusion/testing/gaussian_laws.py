"""Laws of a `GaussianProcess`: the SDE, the family of SDEs with equal marginals, the prior, the likelihood.

The family (Su, kexue.fm 9228) adds noise lam g for any lam >= 0 and keeps every marginal p_t:

    dx = (f x - (1 + lam^2)/2 g^2 score) dt + lam g dW    with decreasing time
    dx = (f x - (1 - lam^2)/2 g^2 score) dt + lam g dW    with increasing time
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.likelihood import exact_divergence, hutchinson_divergence, integrate_flow, log_prob
from diffusion.numerics import on_host, runge_kutta
from diffusion.processes import GaussianProcess
from diffusion.processes.dynamics import forward_family, reverse_sde
from diffusion.testing.correlated import CorrelatedGaussian
from diffusion.testing.process_laws import SEED, grid, inner_times
from diffusion.testing.report import Finding, largest
from diffusion.testing.targets import GaussianMixture

LAMBDAS = np.array([0.0, 0.5, 1.0, 1.5])
FAMILIES = ((forward_family, 1), (reverse_sde, -1))  # with the sign of dt
MIXTURE = GaussianMixture([0.4, 0.6], [-1.0, 0.7], [0.3, 0.2])
GAUSSIAN = CorrelatedGaussian([0.3, -0.2], [[0.25, 0.1], [0.1, 0.16]])


def consistent_sde(process: GaussianProcess) -> list[Finding]:
    """P4: f and g are consistent with alpha and sigma."""
    t = jnp.asarray(inner_times(process))
    ddt = lambda fn: jax.jvp(lambda u: jnp.broadcast_to(fn(u), u.shape), (t,), (jnp.ones_like(t),))

    @jax.jit
    def errors() -> Any:
        alpha, d_alpha = ddt(process.alpha)
        variance, d_variance = ddt(lambda u: process.sigma(u) ** 2)
        f, g = process.f(t), process.g(t)
        scale = 1e-12 + jnp.abs(d_variance) + jnp.abs(2 * f * variance) + g**2
        drift = (d_alpha - f * alpha) / (1 + jnp.abs(d_alpha))
        return drift, (d_variance - 2 * f * variance - g**2) / scale

    drift, growth = map(largest, errors())
    advice = "an overridden `f` or `g`: f = alpha'/alpha, g^2 = d sigma^2/dt - 2 f sigma^2"
    return [
        Finding("P4", "d alpha/dt = f alpha (relative)", drift, 1e-8, advice),
        Finding("P4", "d sigma^2/dt = 2 f sigma^2 + g^2 (relative)", growth, 1e-8, advice),
    ]


def _carried(rate: Callable, state: Any, times: Any) -> Any:
    """Integrate a rate over the times by classical Runge-Kutta steps, and return the final state."""
    body = lambda state, ends: (runge_kutta(rate, state, *ends), None)
    return jax.lax.scan(body, state, (times[:-1], times[1:]))[0]


def forward_moments(process: GaussianProcess) -> Finding:
    """P5: the forward SDE has the mean and variance of alpha and sigma."""
    times = jnp.asarray(grid(process)[::-1].copy())
    moments = lambda t: (process.alpha(t), process.alpha(t) ** 2 * 0.25 + process.sigma(t) ** 2)

    def rate(state: tuple, t: Any) -> tuple:
        return process.f(t) * state[0], 2 * process.f(t) * state[1] + process.g(t) ** 2

    @jax.jit
    def errors() -> Any:
        found = jnp.asarray(_carried(rate, moments(times[0]), times))
        return found / jnp.asarray(moments(times[-1])) - 1

    return Finding(
        "P5", "the forward SDE has the stated mean and variance (relative)", largest(errors()), 1e-3,
        "the signs and factors of `f` and `g`",
    )  # fmt: skip


def prior_std(process: GaussianProcess) -> list[Finding]:
    """P8: generation starts with the standard deviation of the noise."""
    n = 4096
    alpha, sigma = (float(on_host(f, float(process.t_max))) for f in (process.alpha, process.sigma))

    x = process.sample_prior(jax.random.key(SEED), (n, 4))
    found = float(np.sqrt(np.mean(np.square(x))))
    stated = jax.scipy.stats.norm.logpdf(x[:8], 0.0, sigma).sum(axis=-1)
    difference = jax.jit(process.prior_log_prob)(x[:8]) - stated
    advice = (
        "an overridden `sample_prior`, `sample_noise` or `prior_log_prob`: N(0, sigma(t_max)^2)"
    )
    return [
        Finding(
            "P8", "sample_prior has the standard deviation sigma(t_max) (relative)",
            abs(found / sigma - 1), 5 / np.sqrt(8 * n), advice,
        ),
        Finding(
            "P8", "prior_log_prob is the density of what sample_prior draws", largest(difference),
            1e-8, advice,
        ),
        Finding(
            "P8", "p_T equals the prior for data of unit variance (ratio of the standard deviations minus 1)",
            np.hypot(alpha, sigma) / found - 1, 0.1,
            "`t_max`, or a stronger schedule: alpha(t_max) must be small against sigma(t_max)",
        ),
    ]  # fmt: skip


def fokker_planck(process: GaussianProcess) -> Finding:
    """F1: every member of the family of SDEs keeps the marginals of a mixture, pointwise."""
    denoise = MIXTURE.denoiser(process)
    times = inner_times(process, 16)[1::2]
    log_p = lambda x, t: MIXTURE.log_density(process, x[None, None], t)[0]

    def residual(x: Any, t: Any, lam: Any) -> Any:
        rate, score = jax.grad(log_p, 1)(x, t), jax.grad(log_p)(x, t)
        curvature = jax.grad(jax.grad(log_p))(x, t)
        found = []
        for family, sign in FAMILIES:
            sde = family(process, denoise, lam)
            drift, slope = jax.value_and_grad(lambda y, s=sde: s.drift(y[None, None], t)[0, 0])(x)
            spread = sign * sde.diffusion(t) ** 2 / 2 * (curvature + score**2)
            terms = jnp.stack([rate, slope, drift * score, -spread])
            found.append(terms.sum() / jnp.abs(terms).sum())
        return jnp.stack(found)

    @jax.jit
    def worst() -> Any:
        t, lam, x = jnp.meshgrid(jnp.asarray(times), LAMBDAS, jnp.array([-1.2, 0.1, 0.8]))
        x = x * (process.alpha(t) + process.sigma(t))
        return jax.vmap(residual)(x.ravel(), t.ravel(), lam.ravel())

    return Finding(
        "F1", "Fokker-Planck of the SDE family for a mixture, lam = 0 to 1.5 (relative)",
        largest(worst()), 1e-7,
        "`f`, `g` (see P4), and whether alpha and sigma are smooth in t",
    )  # fmt: skip


def family_moments(process: GaussianProcess) -> Finding:
    """F2: every member of the family transports mean and covariance from end to end."""
    denoise, times = GAUSSIAN.denoiser(process), jnp.asarray(grid(process))
    unit = jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2)])

    def carried(family: Any, sign: int, times: Any, lam: Any) -> Any:
        sde = family(process, denoise, lam)

        # the drift is affine in x, so its values give its matrix
        def rate(state: tuple, t: Any) -> tuple:
            drift = sde.drift(unit, t)
            matrix, (mean, cov) = (drift[1:] - drift[0]).T, state
            noise = sign * sde.diffusion(t) ** 2 * jnp.eye(2)
            return matrix @ mean + drift[0], matrix @ cov + cov @ matrix.T + noise

        mean, cov = _carried(rate, GAUSSIAN.moments(process, times[0]), times)
        true_mean, true_cov = GAUSSIAN.moments(process, times[-1])
        size = jnp.trace(true_cov)
        return jnp.append((cov - true_cov) / size, (mean - true_mean) / jnp.sqrt(size))

    @jax.jit
    def errors() -> Any:
        up = jax.vmap(lambda lam: carried(forward_family, 1, times[::-1], lam))(LAMBDAS[:3])
        down = jax.vmap(lambda lam: carried(reverse_sde, -1, times, lam))(LAMBDAS)
        return jnp.concatenate([up, down])

    return Finding(
        "F2", "the SDE family carries mean and covariance of a Gaussian end to end (relative)",
        largest(errors()), 1e-3,
        "`f` and `g`, and the range [t_min, t_max]: 128 steps uniform in log-SNR do not resolve it",
    )  # fmt: skip


def likelihood(process: GaussianProcess) -> list[Finding]:
    """K1: the likelihood of a Gaussian is exact, the ODE invertible, Hutchinson's estimate unbiased."""
    denoise = GAUSSIAN.denoiser(process)
    spread = float(on_host(process.sigma, float(process.t_min)))
    x = float(on_host(process.alpha, float(process.t_min))) * jnp.array([[0.3, 0.9], [-0.4, 0.1]])
    x, up = x + spread, grid(process)[::-1]
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0]])[:, None] * jnp.ones((2, 2, 2))

    @jax.jit
    def errors() -> Any:
        x_T, volume = GAUSSIAN.flow(process, x, process.t_min, process.t_max)
        density = log_prob(process, denoise, x, up) - process.prior_log_prob(x_T) - volume
        back = integrate_flow(process, denoise, integrate_flow(process, denoise, x, up), up[::-1])
        velocity, t = process.flow(denoise).velocity, float(up[64])
        trace = exact_divergence(velocity, x, t)[1]
        mean = hutchinson_divergence(velocity, x, t, signs)[1]
        return density, back - x, (mean - trace) / (1 + jnp.abs(trace))

    density, back, trace = map(largest, errors())
    resolve = "; 128 Runge-Kutta steps must resolve [t_min, t_max]"
    advice = f"`alpha`, `sigma` and `prior_log_prob`{resolve}"
    return [
        Finding("K1", "log-likelihood of a Gaussian through the ODE", density, 1e-3, advice),
        Finding("K1", "encoding and decoding invert each other", back, 1e-3, advice),
        Finding(
            "K1", "Hutchinson's estimate over all signs is the trace (relative)", trace, 1e-9,
            "a velocity that is not differentiable",
        ),
    ]  # fmt: skip


LAWS = (
    (GaussianProcess, consistent_sde),
    (GaussianProcess, forward_moments),
    (GaussianProcess, prior_std),
    (GaussianProcess, fokker_planck),
    (GaussianProcess, family_moments),
    (GaussianProcess, likelihood),
)
