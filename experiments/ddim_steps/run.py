"""DDIM on digits: how much noise at how many steps, paths between latents, and the way there and back.

    python -m experiments.ddim_steps --tier small|full

results.json is written after every item; a later call measures only what is missing. table.md, the pictures and
the table in README.md are made from what there is.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build, integrate_flow, sample
from diffusion.editing import quarter_turn, slerp
from diffusion.numerics import as_pytree, on_host
from diffusion.testing import GaussianMixture
from experiments import _common as common
from experiments.demolish_and_rebuild.chain import TIERS, Chain

HERE = Path(__file__).parent
METHODS = ("eta=0", "eta=0.5", "posterior", "beta")
EXACT = ("eta=0", "posterior", "beta")
SHARES = tuple(k / 10 for k in range(11))
DECODE = 20  # evaluations for what is between two latents
ROUND_TRIPS = (5, 10, 20, 50, 100)
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
WAYS: dict[str, Callable[[Any, Any, float], Any]] = {
    "cos, sin": quarter_turn,
    "great circle": slerp,
    "straight": lambda a, b, u: (1 - u) * a + u * b,
}


# ---- the same noise, more steps -----------------------------------------------------------------


def consistency(chain: Chain, n: int, most: int) -> dict[str, float]:
    """Return how far n evaluations end from the most, from the same noise, and whether they are nearer than others.

    Distances are in units of that between two examples of one class. `recognized` is the fraction of examples whose
    nearest among those of the finest grid came from the same noise, which by chance 1 in 500 would be.
    """
    few, many = (chain.draw("eta=0", k).reshape(chain.tier.num_samples, -1) for k in (n, most))
    classes = chain.experiment.spec.num_classes
    rms = lambda d: float(np.sqrt((d.astype(np.float64) ** 2).sum(axis=1).mean()))
    others = rms(many - np.roll(many, classes, axis=0))
    squares = (many**2).sum(axis=1) - 2 * few @ many.T
    nearest = squares.argmin(axis=1) == np.arange(len(few))
    return dict(distance=rms(few - many) / others, recognized=float(nearest.mean()))


# ---- between two latents ------------------------------------------------------------------------


def latents(chain: Chain, count: int) -> tuple[Any, Any, Any]:
    """Return pairs of latents and the condition that both share, the classes in turn."""
    shape = (count, *chain.experiment.spec.shape)
    a, b = (chain.process.sample_prior(jax.random.key(seed), shape) for seed in (1000, 2000))
    classes = chain.experiment.spec.num_classes
    return a, b, chain.experiment.conditions(np.arange(count) % classes, count)


def between(chain: Chain, way: str, share: float, count: int) -> np.ndarray:
    """Return what DDIM makes of latents at a fraction of the way."""
    a, b, cond = latents(chain, count)
    x_T, times = WAYS[way](a, b, share), chain.times(DECODE)
    return np.asarray(
        sample(build("sampler", "ddim"), chain.process, chain.model(cond), None, x_T, times)
    )


def measure_between(call: common.Call, chain: Chain) -> None:
    """Measure the size of latents on the way, and the images half way and at an end."""
    a, b, _ = latents(chain, chain.tier.num_samples)
    for way, go in WAYS.items():
        for share in SHARES:
            size = lambda go=go, u=share: float(jnp.sqrt(jnp.mean(go(a, b, u) ** 2)))
            call.item("between", way, f"{share:g}", make=size)
    for way, share in ((None, 0.0), *((way, 0.5) for way in WAYS)):
        make = lambda w=way, u=share: between(chain, w or "straight", u, chain.tier.num_pairs)
        chain.measure(call, ("half way", way or "an end"), make)


# ---- there and back -----------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _deterministic(process: Any, model: Any, x: Any, rows: Any) -> Any:
    def step(x: Any, row: Any) -> tuple[Any, None]:
        t, keep, pull = (r.astype(x.dtype) for r in row)
        return keep * x + pull * model(x, jnp.full(len(x), t)), None

    return jax.lax.scan(step, x, rows)[0]


def ddim(process: Any, model: Any, x: Any, times: np.ndarray) -> Any:
    """Carry x along times by the step of DDIM, upwards as well as downwards: Euler's method in sigma / alpha."""
    alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
    keep = sigma[1:] / sigma[:-1]
    rows = (times[:-1], keep, alpha[1:] - alpha[:-1] * keep)
    return _deterministic(process, as_pytree(model), x, tuple(jnp.asarray(r) for r in rows))


def round_trip(process: Any, model: Any, x: Any, n: int, latent: Any) -> dict[str, float]:
    """Return the root mean square error of n steps there and n back, and that of the latent in between."""
    times = build("grid", "chain")(process, n)
    z = ddim(process, model, x, times[::-1])
    back = ddim(process, model, z, times)
    rms = lambda d: float(jnp.sqrt(jnp.mean(jnp.square(d))))
    return dict(error=rms(back - x), latent_error=rms(z - latent), latent_size=rms(z))


def fine(process: Any, model: Any, x: Any, num_steps: int = 200) -> Any:
    """Return the latent of x by a fourth-order method."""
    return integrate_flow(process, model, x, process.default_times(num_steps)[::-1])


def measure_round_trips(call: common.Call, chain: Chain) -> None:
    """Measure the way there and back of held-out images, and of points of a known mixture in float64."""
    data, p = chain.held_out, chain.process
    count = min(len(data["data"]), 100)
    x = jnp.asarray(data["data"][:count])
    model = chain.model(jax.tree.map(lambda a: jnp.asarray(a[:count]), data["cond"]))
    latent = functools.cache(lambda: fine(p, model, x, 30))
    for n in ROUND_TRIPS:
        make = lambda n=n: round_trip(p, model, x, n, latent())
        call.item("round trip", "network", str(n), make=make)
    with jax.enable_x64(True):
        exact = MIXTURE.denoiser(p)
        points = MIXTURE.sample(jax.random.key(0), 256)
        z = jax.random.normal(jax.random.key(1), points.shape)
        points = p.interpolate(points, z, p.t_min)
        end = functools.cache(lambda: fine(p, exact, points))
        for n in ROUND_TRIPS:
            make = lambda n=n: round_trip(p, exact, points, n, end())
            call.item("round trip", "mixture", str(n), make=make)


# ---- all ----------------------------------------------------------------------------------------


def measure(call: common.Call) -> None:
    """Measure all that is missing, the cheap first."""
    tier = TIERS[call.tier]
    chain = Chain(tier, call.models)
    chain.measure_data(call)
    measure_round_trips(call, chain)
    measure_between(call, chain)
    for whole in (False, True):
        chain.measure_all(call, "network", METHODS, whole=whole)
        chain.measure_all(call, "exact", EXACT, whole=whole, exact=True)
        taken = [
            n for n in tier.evaluations if n <= tier.every or (whole and "eta=0" in tier.whole)
        ]
        for n in taken[:-1]:
            make = lambda n=n, most=taken[-1]: consistency(chain, n, most)
            call.item("consistency", f"against {taken[-1]}", str(n), make=make)


def main() -> None:
    """Measure one tier and write the pages."""
    from experiments.ddim_steps import pages

    call = common.command(HERE, __doc__, tuple(TIERS))
    measure(call)
    pages.pictures(call, Chain(TIERS[call.tier], call.models))
    common.write_pages(HERE, pages)
