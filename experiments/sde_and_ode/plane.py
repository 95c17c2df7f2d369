"""Eight Gaussians in the plane, whose denoiser and density are exact: only the solver errs, or what is made to.

An error delta of the mean, made by a process on N(0, s^2), obeys

    d delta / dt = (f + (1 + lam^2)/2 g^2 / V) delta + (1 + lam^2)/2 g^2 / sigma e,    V = alpha^2 s^2 + sigma^2

where e is the error of the noise estimate. Since V' = 2 f V + g^2, what is off by delta at time t is off by

    delta sqrt(V_s / V_t) exp(-lam^2/2 int_s^t g^2 / V)

at s < t: the ODE carries an error to the end, and lambda damps it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.likelihood import integrate_flow, log_prob
from diffusion.testing import GaussianMixture, gaussian
from experiments.sde_and_ode.family import Draw, WrongNoise, process_of, times_of

STD_EACH = 0.12  # of a component
ANGLES = 2 * np.pi * np.arange(8) / 8
TARGET = GaussianMixture(
    [3, 1, 2, 1, 3, 1, 2, 1], 1.4 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), STD_EACH
)
DRAWN = 4096
SHIFT = 0.1  # of the noise estimate, in units of the noise
BANDS = {"early": (-np.inf, -2.0), "middle": (-2.0, 2.0), "late": (2.0, np.inf)}
START = 0.5  # added to the prior, in units of its standard deviation
STD = 0.5  # of the Gaussian target


def real(seed: int = 1) -> np.ndarray:
    """Return exact draws of the mixture."""
    return np.asarray(TARGET.sample(jax.random.key(seed), DRAWN))


def mean_distance(square: np.ndarray, std: float) -> np.ndarray:
    """Return E|x - Y| in the plane for Y normal of this standard deviation, |x - E Y|^2 away (Rice's mean)."""
    from scipy.special import i0e, i1e

    y = square / (2 * std**2)
    return std * np.sqrt(np.pi / 2) * ((1 + y) * i0e(y / 2) + y * i1e(y / 2))


def distance(x: np.ndarray) -> float:
    """Return the energy distance of points from the mixture, whose part of it is taken exactly."""
    from scipy.spatial.distance import pdist

    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        return float("nan")
    means, weights = np.asarray(TARGET.means), np.asarray(TARGET.weights)
    squares = lambda a: ((a[:, None] - means) ** 2).sum(axis=-1)
    across = (mean_distance(squares(x), STD_EACH) @ weights).mean()
    within = weights @ mean_distance(squares(means), np.sqrt(2) * STD_EACH) @ weights
    return float(2 * across - pdist(x).mean() - within)


def noise_floor() -> dict[str, float]:
    """Return the mean and the root mean square of that of exact draws."""
    found = [distance(real(seed)) for seed in range(10, 26)]
    return dict(mean=float(np.mean(found)), rms=float(np.sqrt(np.mean(np.square(found)))))


def ends(name: str) -> dict[str, float]:
    """Return the log-SNR at which a process begins and ends."""
    noisy, clean = process_of(name).log_snr_ends()
    return dict(t_max=float(noisy), t_min=float(clean))


def cases(process: Any, target: Any) -> dict[str, tuple[Any, Any]]:
    """Return (model, what is added to the prior) by the name of what is wrong."""
    exact, shift = target.denoiser(process), np.array([SHIFT, 0.0])
    wrong = lambda low, high, by: WrongNoise(
        inner=exact, shift=by, low=low, high=high, process=process
    )
    found: dict[str, tuple[Any, Any]] = {"nothing": (wrong(0.0, 0.0, shift), np.zeros(2))}
    for name, (low, high) in BANDS.items():
        found[f"noise estimate, {name}"] = (wrong(low, high, shift), np.zeros(2))
    sigma = float(process.sigma(process.t_max))
    start = np.array([START * sigma, 0.0])
    return found | {"start": (wrong(0.0, 0.0, shift), start)}


def predicted(process: Any, case: str, lam: float, nodes: int = 20_000) -> float:
    """Return the shift of the mean at t_min on N(0, STD^2), in the units of x there, by quadrature."""
    times = times_of(process, nodes)
    middle = (times[1:] + times[:-1]) / 2
    h = times[:-1] - times[1:]
    of = lambda name, t: np.asarray(getattr(process, name)(jnp.asarray(t)), np.float64)
    variance = lambda t: of("alpha", t) ** 2 * STD**2 + of("sigma", t) ** 2
    rate = of("g", middle) ** 2 * h
    damping = np.concatenate([[0.0], np.cumsum((rate / variance(middle))[::-1])])[::-1]
    end = variance(times[-1:])[0]
    to_end = lambda t, damp: np.sqrt(end / variance(t)) * np.exp(-(lam**2) / 2 * damp)
    if case == "start":
        return float(START * of("sigma", times[:1])[0] * to_end(times[:1], damping[:1])[0])
    low, high = BANDS[case.removeprefix("noise estimate, ")] if case != "nothing" else (0.0, 0.0)
    level = 2 * np.log(of("alpha", middle) / of("sigma", middle))
    force = np.where(
        (level >= low) & (level < high), (1 + lam**2) / 2 * rate / of("sigma", middle), 0
    )
    reach = to_end(middle, (damping[1:] + damping[:-1]) / 2)
    return float(-SHIFT * (force * reach).sum())


class Errors:
    """What is wrong with the score or the start, against lambda."""

    def __init__(self, name: str, num_steps: int):
        self.process, self.num_steps = process_of(name), num_steps
        self.draw = Draw(self.process, (DRAWN, 2))
        self.few = Draw(self.process, (256, 2))

    def mixture(self, case: str, lam: float) -> float:
        """Return the energy distance on the mixture."""
        return distance(self.draw(*self._case(case, TARGET, lam)))

    def gaussian(self, case: str, lam: float) -> dict[str, float]:
        """Return the shift of the mean on N(0, STD^2): predicted, and between two runs from equal noise."""
        target = gaussian(0.0, STD, 2)
        right = self.few(*self._case("nothing", target, lam))
        wrong = self.few(*self._case(case, target, lam))
        shift = float((wrong - right).mean(axis=0)[0])
        # the last step replaces x by its posterior mean
        t = self.process.t_min
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        last = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        own = -SHIFT * sigma / alpha if case == "noise estimate, late" else 0.0
        return dict(measured=shift, predicted=last * predicted(self.process, case, lam) + own)

    def _case(self, case: str, target: Any, lam: float) -> tuple[Any, float, int, Any]:
        model, start = cases(self.process, target)[case]
        return model, lam, self.num_steps, start


def likelihood(name: str, num_steps: int, count: int = 512) -> dict[str, float]:
    """Return errors of log p through the ODE, in nats, against the exact density at t_min.

    `error` is with the prior of the process; `solver` with the exact density at t_max in its place, so
    that only the integration is left.
    """
    process = process_of(name)
    key_x, key_z = jax.random.split(jax.random.key(2))
    x_0 = TARGET.sample(key_x, count)
    x = process.interpolate(x_0, jax.random.normal(key_z, x_0.shape), process.t_min)
    model = TARGET.denoiser(process)
    exact = np.asarray(TARGET.log_density(process, x, process.t_min))
    times = times_of(process, num_steps)[::-1]
    found = np.asarray(log_prob(process, model, x, times))
    end = integrate_flow(process, model, x, times)
    t = process.t_max
    prior = np.asarray(process.prior_log_prob(end))
    corrected = found - prior + np.asarray(TARGET.log_density(process, end, t))
    rms = lambda e: float(np.sqrt((e**2).mean()))
    return dict(
        error=rms(found - exact), bias=float((found - exact).mean()), solver=rms(corrected - exact)
    )
