"""The variance of a reverse step: fixed, estimated or known, on a mixture on the line and on digits.

    python -m experiments.optimal_variance --tier small|full

results.json is written after every item; a later call measures only what is missing. table.md, the plots and
the table in README.md are made from what there is.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build, estimate_variance, with_variance
from diffusion.numerics import on_host
from experiments import _common as common
from experiments.demolish_and_rebuild.chain import TIERS, Chain
from experiments.optimal_variance import line

HERE = Path(__file__).parent
STEPS, STEPS_IMPERFECT = (5, 10, 20, 50, 100), (5, 10, 20, 50)
EXAMPLES, REPETITIONS = (10, 100, 1000, 10_000), 20
METHODS = ("posterior", "beta", "analytic", "eta=0", "analytic, eta=0")
KINDS = ("residual", "noise", "data")
LEVELS = 30
USED = 500  # training images that a table is estimated from
BOUND_STEPS = (4, 9, 19, 49, 99, 999)  # the last evaluation is the posterior mean


def measure_line(call: common.Call) -> None:
    """Measure everything on the line."""
    process = build("process", "ddpm")
    call.item("line", "limits", make=lambda: line.limits(process))
    for count in EXAMPLES:
        make = lambda m=count: line.estimates(process, m, REPETITIONS)
        call.item("line", "estimates", str(count), make=make)
    for n in STEPS:
        for name, chain in line.chains().items():
            if chain.denoiser == "exact" or n in STEPS_IMPERFECT:
                call.item(
                    "line", "chains", name, str(n), make=lambda c=chain, n=n: c.measure(process, n)
                )


def variance_table(
    chain: Chain, part: str, kind: str, count: int, seed: int, diagonal: bool = False
) -> Any:
    """Return times and sbar^2 estimated from `count` images of a split."""
    data = chain.data if part == "train" else chain.held_out
    count = min(count, len(data["data"]))
    order = np.random.default_rng(seed).permutation(len(data["data"]))[:count]
    part_of = lambda rows: {
        "data": data["data"][rows],
        "cond": {"label": data["cond"]["label"][rows]},
    }
    batches = (part_of(order[i : i + 500]) for i in range(0, count, 500))
    null = chain.model(chain.experiment.conditions(None, 1))
    times = chain.process.default_times(LEVELS)
    values = estimate_variance(
        chain.process, null, batches, times, jax.random.key(seed), kind=kind, diagonal=diagonal
    )
    return times, values


Pair = tuple[np.ndarray, Any]  # times, and one value or row of values for each


def at(process: Any, times: np.ndarray, values: Any, t: np.ndarray) -> np.ndarray:
    """Return sbar^2 at other times, as samplers do, (len(t), ...)."""
    table = with_variance(lambda x, t: x, process, times, values)
    shape = np.shape(values)[1:] or (1,)
    return np.asarray(
        table.posterior_variance(jnp.zeros((len(t), *shape)), jnp.asarray(t)), np.float64
    )


def path_bound(process: Any, n: int, miss: Pair, estimated: Pair | None, fixed: str) -> float:
    """Return the reverse steps' part of the bound on -log p, in bits per dimension.

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)), averaged over data and dimensions and summed over n steps, needs no
    sampling: it depends on the model through its squared error alone.

    Args:
        process: the chain.
        n: steps of its subsequence.
        miss: (times, E(x_0 - x_0_hat)^2) on held-out data, per dimension or averaged.
        estimated: (times, sbar^2) that the steps use, or None for a fixed variance.
        fixed: "posterior" or "beta".
    """
    times = build("grid", "chain")(process, n)
    row = build("sampler", dict(name="ancestral", variance=fixed)).prepare(process, times)
    exact = build("sampler", dict(name="ancestral")).prepare(process, times)
    error = at(process, *miss, times[:-1])
    wide = lambda a: np.asarray(a).reshape(-1, *(1,) * (error.ndim - 1))
    variance = wide(row.spread**2)
    if estimated is not None:
        variance = variance + wide(row.pull**2) * at(process, *estimated, times[:-1])
    true = wide(exact.spread**2)
    terms = np.log(variance / true) + (true + wide(row.pull**2) * error) / variance - 1
    return float(0.5 * terms.reshape(n, -1).mean(axis=1).sum() / np.log(2))


def measure_bounds(call: common.Call, chain: Chain) -> None:
    """Measure the bound of every variance on held-out images."""
    last = ("bounds", "residual, per pixel", str(BOUND_STEPS[-1]))
    if call.results.get(call.tier, *last) is not None:
        return
    p = chain.process
    passes = [
        variance_table(chain, "held out", "residual", 10**6, seed, diagonal=True)
        for seed in range(2)
    ]
    times = passes[0][0]
    pixels = np.mean([values for _, values in passes], axis=0)
    mean = pixels.reshape(len(times), -1).mean(axis=1)
    own = {kind: variance_table(chain, "train", kind, USED, 0) for kind in KINDS}
    own_pixels = variance_table(chain, "train", "residual", USED, 0, diagonal=True)
    rows: dict[str, tuple[Any, str, Any]] = {v: (None, v, mean) for v in ("posterior", "beta")}
    rows |= {kind: (table, "posterior", mean) for kind, table in own.items()}
    rows["best possible"] = ((times, mean), "posterior", mean)
    rows["residual, per pixel"] = (own_pixels, "posterior", pixels)
    call.item("errors", make=lambda: dict(
        log_snr=on_host(p.log_snr, times), held_out=mean, variance_of_data=data_variance(chain),
        **{kind: table[1] for kind, table in own.items()},
    ))  # fmt: skip
    for name, (estimated, fixed, miss) in rows.items():
        for n in BOUND_STEPS:
            make = lambda n=n, e=estimated, f=fixed, m=miss: path_bound(p, n, (times, m), e, f)
            call.item("bounds", name, str(n), make=make)


def data_variance(chain: Chain) -> float:
    """Return Var[x_0], averaged over pixels."""
    return float(chain.data["data"].reshape(len(chain.data["data"]), -1).var(axis=0).mean())


def measure_examples(call: common.Call, chain: Chain) -> None:
    """Measure how an estimate depends on the number of images: the difference from that of many."""
    for kind in KINDS:
        for count in (10, 50, 200):

            def make(count: int = count, kind: str = kind) -> float:
                many = variance_table(chain, "train", kind, USED, 99)[1]
                found = [variance_table(chain, "train", kind, count, seed)[1] for seed in range(3)]
                return float(np.sqrt(np.mean((np.array(found) / many - 1) ** 2)))

            call.item("examples", kind, str(count), make=make)


def measure(call: common.Call) -> None:
    """Measure all that is missing."""
    tier = TIERS[call.tier]
    measure_line(call)
    chain = Chain(tier, call.models)
    chain.measure_data(call)
    measure_bounds(call, chain)
    for whole in (False, True):
        chain.measure_all(call, "network", METHODS, whole=whole)
    measure_examples(call, chain)


def main() -> None:
    """Measure one tier and write the pages."""
    from experiments.optimal_variance import pages

    call = common.command(HERE, __doc__, tuple(TIERS))
    measure(call)
    pages.pictures(call, Chain(TIERS[call.tier], call.models))
    common.write_pages(HERE, pages)
