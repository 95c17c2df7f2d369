"""The DDPM chain on digits: which noise in the reverse step, how many steps, which loss, which schedule.

    python -m experiments.demolish_and_rebuild --tier small|full

results.json is written after every item; a later call measures only what is missing. table.md, the pictures and
the table in README.md are made from what there is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build
from diffusion.likelihood import DiscretizedDecoder, elbo
from diffusion.numerics import on_host
from experiments import _common as common
from experiments.demolish_and_rebuild.chain import TIERS, Chain, Tier
from experiments.demolish_and_rebuild.losses import gradient_noise, gradient_sums, two_noise_loss

HERE = Path(__file__).parent
VARIANCES = ("posterior", "beta", "greedy")
LOSSES: dict[str, dict[str, Any]] = {
    "one noise, weight dropped": dict(name="one_noise"),
    "one noise, weight kept": dict(name="elbo", more=(("weight.name", "elbo"),)),
    "two noises": dict(name="two_noises", loss=two_noise_loss),
}
GRADIENT_TIMES = (1e-3, 1e-2, 0.1, 0.3, 0.6, 1.0)
GRADIENT_DRAWS = 300
LOSS_EVALUATIONS = 50


def gaussian_end(
    method: str, std: float, n: int = 1000, schedule: str = "proportional_beta"
) -> float:
    """Return the variance of what n exact steps make of N(0, 1), where the data is N(0, std^2): no sampling.

    Every step is linear, so the variance follows in closed form. The chain ends at t = 0 without noise.
    """
    process = build("process", dict(name=schedule, num_chain_steps=n))
    sampler = build("sampler", dict(name="ancestral", variance="beta" if method == "beta" else "posterior",
                                    eta=0.0 if method == "eta=0" else 1.0))  # fmt: skip
    times = np.arange(n, -1, -1) / n
    row = sampler.prepare(process, times)
    alpha, sigma = on_host(process.alpha, times[:-1]), on_host(process.sigma, times[:-1])
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    variance = 1.0
    for keep, pull, g, noise in zip(row.keep, row.pull, gain, row.spread, strict=True):
        variance = (keep + pull * g) ** 2 * variance + (0.0 if method == "greedy" else noise**2)
    return float(variance)


def schedules() -> dict[str, float]:
    """Return how far the article's schedule is from the usual one."""
    t = np.arange(1, 1001) / 1000
    article, ddpm = (build("process", name) for name in ("article", "ddpm"))
    a, b = on_host(article.log_alpha, t), on_host(ddpm.log_alpha, t)
    level = [on_host(p.log_snr, t) for p in (article, ddpm)]
    return dict(
        log_alpha_at_T_article=a[-1], log_alpha_at_T_ddpm=b[-1],
        largest_difference_of_log_alpha=np.abs(a - b).max(),
        log_snr_at_1_article=level[0][0], log_snr_at_1_ddpm=level[1][0],
    )  # fmt: skip


def bound(chain: Chain) -> dict[str, float]:
    """Return the bound of the whole chain on held-out digits, in bits per dimension of their 17 levels."""
    data, spec = chain.held_out, chain.experiment.spec
    levels = 17 if chain.tier.config == "digits" else 2**spec.bits
    # the stored bytes round the levels: put them where the decoder looks for them
    x = np.round((data["data"] + 1) / 2 * (levels - 1)) / (levels - 1) * 2 - 1
    times = np.arange(1, chain.process.num_chain_steps + 1) / chain.process.num_chain_steps
    found = elbo(
        chain.process, chain.model(jax.tree.map(jnp.asarray, data["cond"])), jnp.asarray(x, jnp.float32),
        jax.random.key(0), times, num_draws=200, decoder=DiscretizedDecoder(levels=levels), prior_std=1.0,
    )  # fmt: skip
    bits = np.asarray(found.total, np.float64) / np.log(2) / np.prod(spec.shape)
    return dict(bits=bits.mean(), error=bits.std(ddof=1) / len(bits) ** 0.5)


def _budget(tier: Tier) -> tuple[tuple[str, Any], ...]:
    return (("train.num_steps", tier.loss_steps),) if tier.loss_steps else ()


def measure_losses(call: common.Call) -> None:
    """Train with every form of the loss; measure its examples, its bound, and its gradient's noise."""
    tier = TIERS[call.tier]
    for label, how in LOSSES.items():
        more = (*how.get("more", ()), *_budget(tier))
        chain = Chain(tier, call.models, **{**how, "more": more})
        for seed in tier.seeds:
            draw = lambda c=chain, s=seed: c.draw("posterior", LOSS_EVALUATIONS, s)
            chain.measure(call, ("losses", label, str(LOSS_EVALUATIONS), str(seed)), draw)
        call.item("bounds", label, make=lambda c=chain: bound(c))


def measure_gradients(call: common.Call, chain: Chain) -> None:
    """Measure the noise of the gradient of both forms, before and after training."""
    sums, size = gradient_sums(chain.experiment, chain.data), len(chain.data["data"])
    places = {"at the start": chain.experiment.init_params(), "when trained": chain.run.params}
    for when, params in places.items():
        for t in GRADIENT_TIMES:
            call.item("gradients", when, f"{t:g}", make=lambda t=t, p=params: gradient_noise(
                sums, p, chain.process, t, GRADIENT_DRAWS, size))  # fmt: skip


def measure(call: common.Call) -> None:
    """Measure all that is missing, the cheap first."""
    tier = TIERS[call.tier]
    for method in ("beta", "posterior", "eta=0", "greedy"):
        for std in (1.0, 0.5):
            make = lambda m=method, s=std: gaussian_end(m, s)
            call.item("gaussian", method, f"{std**2:g}", make=make)
    call.item("schedules", "numbers", make=schedules)
    chain = Chain(tier, call.models)
    chain.measure_data(call)
    chain.measure_all(call, "exact", VARIANCES, whole=False, exact=True)
    chain.measure_all(call, "network", VARIANCES, whole=False)
    article = build("process", "proportional_beta")
    for seed in tier.seeds:
        draw = lambda s=seed: chain.draw("posterior", tier.every, s, process=article)
        chain.measure(call, ("article", "posterior", str(tier.every), str(seed)), draw)
    measure_gradients(call, chain)
    measure_losses(call)
    chain.measure_all(call, "network", VARIANCES, whole=True)
    chain.measure_all(call, "exact", VARIANCES, whole=True, exact=True)


def way(chain: Chain) -> Mapping[str, np.ndarray]:
    """Return a digit of each class demolished, and rebuilt digits on their way, at the same times."""
    from diffusion import trajectory

    process, times = chain.process, chain.times(100)
    shown = np.linspace(0, len(times) - 1, 12).round().astype(int)
    classes = chain.experiment.spec.num_classes
    first = [
        int(np.flatnonzero(chain.data["cond"]["label"] == k)[0]) for k in range(min(classes, 5))
    ]
    x_0 = jnp.asarray(chain.data["data"][first])
    keys = jax.random.split(jax.random.key(0), len(x_0))
    z = process.sample_noise(keys, x_0.shape)
    down = [x_0] + [process.interpolate(x_0, z, float(t)) for t in times[shown[::-1]]]
    cond = chain.experiment.conditions(np.arange(len(x_0)), len(x_0))
    x_T = process.sample_prior(jax.random.key(1), x_0.shape)
    sampler = build("sampler", "ancestral")
    states = trajectory(sampler, process, chain.model(cond), jax.random.key(2), x_T, times)
    last = chain.model(cond)(states[-1], jnp.full(len(x_0), times[-1]))
    return {"demolished": np.stack(down), "rebuilt": np.stack([*states[shown], last])}


def main() -> None:
    """Measure one tier and write the pages."""
    from experiments.demolish_and_rebuild import pages

    call = common.command(HERE, __doc__, tuple(TIERS))
    measure(call)
    pages.pictures(call, Chain(TIERS[call.tier], call.models))
    common.write_pages(HERE, pages)
