"""The tables and the plots, from results.json and the examples that were kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common as common
from experiments.demolish_and_rebuild.chain import TIERS, Chain
from experiments.demolish_and_rebuild.measures import MEASURES, by_steps, curves

HERE = Path(__file__).parent
NAMES = {
    "posterior": "posterior",
    "beta": "beta",
    "analytic": "analytic",
    "eta=0": "none (DDIM)",
    "analytic, eta=0": "analytic, eta = 0",
}
ON_THE_LINE = {
    "posterior": "posterior",
    "beta": "beta",
    "residual": "analytic: exact sbar^2(t)",
    "npr": "of x_t as well: exact Var[x_0 given x_t]",
    "npr, clipped": "the same, clipped at sigma^2 / alpha^2",
    "posterior, eta=0": "none (DDIM)",
    "residual, eta=0": "analytic, eta = 0",
}
WRONG = {
    "posterior": "posterior",
    "beta": "beta",
    "noise": "analytic from the noise",
    "data": "analytic from the data",
    "residual": "analytic from the squared error",
    "sn": "of x_t, SN",
    "npr": "of x_t, NPR",
}


def _row(part: Mapping[str, Any], key: str, steps: Sequence[str]) -> list[str]:
    return [f"{part[n][key]:.3g}" if n in part and key in part[n] else "-" for n in steps]


def chains(found: Mapping[str, Any]) -> list[str]:
    """Return the table of the line with the exact mean: KL of the end, and the bound's part."""
    part = found.get("line", {}).get("chains", {})
    steps = list(part.get("posterior", {}))
    rows = [
        (f"{word.removesuffix(' in nats')}: {name}", *_row(part.get(v, {}), key, steps))
        for key, word in WORDS.items()
        for v, name in ON_THE_LINE.items()
        if key == "shift" or not v.endswith("eta=0")
    ]
    return (
        common.markdown(("on the line (KL and bound in nats); steps", *steps), rows) if part else []
    )


WORDS = {"end": "KL in nats", "shift": "Wasserstein-1", "path": "bound in nats"}


def wrong_means(found: Mapping[str, Any], key: str) -> list[str]:
    """Return the table of the line with a mean that is wrong."""
    part, rows = found.get("line", {}).get("chains", {}), []
    steps = list(part.get("posterior, timid", {}))
    for denoiser in ("timid", "bold"):
        for v, name in WRONG.items():
            rows.append(
                (f"{denoiser} mean: {name}", *_row(part.get(f"{v}, {denoiser}", {}), key, steps))
            )
    return common.markdown((f"on the line, {WORDS[key]}; steps", *steps), rows) if steps else []


def estimates(found: Mapping[str, Any]) -> list[str]:
    """Return the table of what an estimate from few examples is worth, on the line and on digits."""
    part = found.get("line", {}).get("estimates", {})
    kinds = list(next(iter(part.values()), {}))
    rows = [(f"on the line: {k}", *(f"{v[k]:.2g}" for v in part.values())) for k in kinds]
    lines = common.markdown(("relative error of sbar^2; examples", *part), rows) if part else []
    part = found.get("examples", {})
    counts = list(next(iter(part.values()), {}))
    rows = [(f"digits: {k}", *(f"{v[c]:.2g}" for c in counts if c in v)) for k, v in part.items()]
    return lines + (
        common.markdown(("relative difference from 500 images; images", *counts), rows)
        if part
        else []
    )


def bounds(found: Mapping[str, Any]) -> list[str]:
    """Return the table of the bound on held-out digits."""
    part = found.get("bounds", {})
    steps = list(next(iter(part.values()), {}))
    names = {"residual": "analytic, from the squared error", "noise": "analytic, from the noise",
             "data": "analytic, from the data", "residual, per pixel": "analytic, one per pixel",
             "best possible": "analytic, from the held-out images themselves"}  # fmt: skip
    rows = [(names.get(k, k), *(f"{v[n]:.3f}" for n in steps if n in v)) for k, v in part.items()]
    head = ("reverse steps' part of the bound, bits per dimension; steps", *steps)
    return common.markdown(head, rows) if part else []


def examples(found: Mapping[str, Any], tier: str, measure: str) -> list[str]:
    """Return the table of one measure of digits: variance down, evaluations across."""
    title = f"digits: {MEASURES[measure]}; evaluations"
    return by_steps(found, "network", NAMES, TIERS[tier].evaluations, measure, title)


def table(results: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = common.heading("Optimal variance", "optimal_variance")
    for tier, found in results.items():
        lines += [
            f"## {tier}",
            "",
            *chains(found),
            *wrong_means(found, "end"),
            *wrong_means(found, "path"),
        ]
        lines += [*estimates(found), *bounds(found)]
        for measure in MEASURES:
            lines += examples(found, tier, measure)
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """Return the tables of README.md."""
    found = results.get("small", {})
    lines = [*chains(found), *examples(found, "small", "frechet"), *bounds(found)]
    lines += [*estimates(found), *wrong_means(found, "end")]
    return "\n".join(lines)


def pictures(call: common.Call, chain: Chain) -> None:
    """Draw sbar^2 under its bounds, the law's error, and the Frechet distance."""
    from diffusion.evaluation.pictures import save_examples

    found = call.results.load()[call.tier]
    line, errors = found["line"]["limits"], found["errors"]
    level = line["log_snr"]
    flat = lambda v: [v] * len(level)
    limits = {
        "sbar^2, exact": (level, line["exact"]),
        "bound sigma^2 / alpha^2": (level, line["noise_bound"]),
        "bound Var[x_0]": (level, flat(line["data_bound"])),
        "bound ((b - a) / 2)^2": (level, flat(line["range_bound"])),
        "best linear estimate": (level, line["linear_bound"]),
    }
    seen = lambda v: np.where(np.asarray(v) > 0, v, np.nan)  # 0 where an estimate was clipped
    digits = {
        "squared error, held-out images": (errors["log_snr"], errors["held_out"]),
        "squared error, training images": (errors["log_snr"], errors["residual"]),
        "from the noise": (errors["log_snr"], seen(errors["noise"])),
        "from the data": (errors["log_snr"], seen(errors["data"])),
    }
    parts = found["line"]["chains"]
    ends = {
        name: ([int(n) for n in parts[v]], [r["end"] for r in parts[v].values()])
        for v, name in ON_THE_LINE.items()
        if v in parts and not v.endswith("eta=0")
    }
    frechet = curves(found, "network", NAMES, TIERS[call.tier].evaluations, "frechet")
    real = found.get("training data", {}).get("frechet")
    suffix = "" if call.tier == "small" else f"_{call.tier}"
    common.plot(HERE / f"variance{suffix}.png", [
        common.Panel(limits, "log-SNR", "on the line: variance of x_0 given x_t", log_x=False),
        common.Panel(digits, "log-SNR", "digits: variance of x_0 given x_t", log_x=False),
        common.Panel(ends, "steps", "on the line: KL of the end, nats"),
        common.Panel(frechet, "evaluations", "digits: Frechet, pixels", level=real, level_name="training data"),
    ], columns=2)  # fmt: skip
    rows, names = [], []
    for method, name in NAMES.items():
        for n in (5, 10, 20):
            rows.append(chain.draw(method, n)[:20])
            names.append(f"{name}, {n}")
    spec = chain.experiment.spec
    save_examples(
        HERE / f"examples{suffix}.png", np.concatenate(rows), spec, columns=20, names=names
    )
