"""The tables and the pictures, from results.json and the examples that were kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common as common
from experiments.demolish_and_rebuild.chain import TIERS, Chain
from experiments.demolish_and_rebuild.measures import MEASURES, by_steps, cell, curves

HERE = Path(__file__).parent
NAMES = {
    "posterior": "sigma of the posterior",
    "beta": "sigma = beta",
    "greedy": "no noise (greedy)",
}
MODELS = {"network": "trained", "exact": "exact"}


def reverse_steps(found: Mapping[str, Any], tier: str, measures: Sequence[str]) -> list[str]:
    """Return the tables of reverse steps: one per measure and model, evaluations across."""
    lines, evaluations = [], TIERS[tier].evaluations
    for measure in measures:
        for model, word in MODELS.items():
            title = f"{MEASURES[measure]}, {word} model; evaluations"
            lines += by_steps(found, model, NAMES, evaluations, measure, title)
    return lines


def of_data(found: Mapping[str, Any]) -> list[str]:
    """Return the line that says what training data would show."""
    real = found.get("training data", {})
    words = "; ".join(f"{MEASURES[m]} {cell([real[m]], m)}" for m in MEASURES if m in real)
    return [f"As many training images as were drawn: {words}.", ""]


def losses(found: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """Return the table of forms of the loss."""
    head = ("loss", *(MEASURES[m] for m in measures), "bound, bits per dimension")
    rows = []
    for label, part in found.get("losses", {}).items():
        seeds = next(iter(part.values()), {}).values()
        values = [[s[m] for s in seeds if m in s] for m in measures]
        bits = found.get("bounds", {}).get(label)
        written = f"{bits['bits']:.3f} ± {bits['error']:.3f}" if bits else "-"
        cells = (cell(v, m) for v, m in zip(values, measures, strict=True))
        rows.append((label, *cells, written))
    return (
        common.markdown(head, rows) if len(rows) > 1 else []
    )  # there is nothing to compare in one


def gradients(found: Mapping[str, Any]) -> list[str]:
    """Return the table of the gradient's noise."""
    parts = found.get("gradients", {})
    times = list(next(iter(parts.values()), {}))
    if not times:
        return []
    ratio = lambda part, t: f"{part[t]['ratio']:.3g}" if t in part else "-"
    c = next(iter(parts.values()))
    rows = [("c^2", *(f"{c[t]['c'] ** 2:.3g}" for t in times))]
    rows += [(f"ratio {when}", *(ratio(part, t) for t in times)) for when, part in parts.items()]
    return common.markdown(("t / T", *times), rows)


def gaussian(found: Mapping[str, Any]) -> list[str]:
    """Return the table of exact variances of Gaussian data."""
    names = {**NAMES, "eta=0": "DDIM"}
    parts = found.get("gaussian", {})
    rows = [(names[m], *(f"{v:.4f}" if v > 1e-3 else f"{v:.1e}" for v in parts[m].values())) for m in names
            if m in parts]  # fmt: skip
    return (
        common.markdown(("reverse step", "data of variance 1", "data of variance 0.25"), rows)
        if rows
        else []
    )


def table(results: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = common.heading("Demolish and rebuild", "demolish_and_rebuild")
    for tier, found in results.items():
        lines += [f"## {tier}", "", "### Reverse steps", ""]
        lines += [*of_data(found), *reverse_steps(found, tier, tuple(MEASURES))]
        article = found.get("article", {}).get("posterior", {})
        for n, seeds in article.items():
            values = [[s[m] for s in seeds.values() if m in s] for m in MEASURES]
            cells = "; ".join(
                f"{MEASURES[m]} {cell(v, m)}" for m, v in zip(MEASURES, values, strict=True)
            )
            lines += [f"The same network on the article's schedule, {n} evaluations: {cells}.", ""]
        if forms := losses(found, tuple(MEASURES)):
            lines += ["### Forms of the loss", "", *forms]
        lines += ["### Variance of the gradient, two noises over one", "", *gradients(found)]
        lines += [
            "### The variance that exact steps leave of Gaussian data, T = 1000",
            "",
            *gaussian(found),
        ]
        if numbers := found.get("schedules", {}).get("numbers"):
            rows = [(k.replace("_", " "), f"{v:.4f}") for k, v in numbers.items()]
            lines += ["### Schedules", "", *common.markdown(("", "value"), rows)]
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """Return the tables of README.md."""
    found, lines = results.get("small", {}), []
    lines += [*of_data(found), *reverse_steps(found, "small", ("frechet", "diversity"))]
    lines += losses(found, ("frechet", "agreement"))
    lines += gradients(found)
    return "\n".join(lines)


def pictures(call: common.Call, chain: Chain) -> None:
    """Draw the curves, the examples, and a digit on its way."""
    from diffusion.evaluation.pictures import save_examples
    from experiments.demolish_and_rebuild.run import way

    found = call.results.load()[call.tier]
    real = found.get("training data", {})
    panels, evaluations = [], TIERS[call.tier].evaluations
    for measure in ("frechet", "diversity", "roughness"):
        lines = {}
        for model, word in MODELS.items():
            names = {method: f"{word}, {name}" for method, name in NAMES.items()}
            lines |= curves(found, model, names, evaluations, measure)
        panels.append(common.Panel(lines, "evaluations", MEASURES[measure], log_y=measure == "frechet",
                                   level=real.get(measure), level_name="training data"))  # fmt: skip
    suffix = "" if call.tier == "small" else f"_{call.tier}"
    common.plot(HERE / f"steps{suffix}.png", panels)
    spec = chain.experiment.spec
    rows, names = [], []
    for model in MODELS:
        for method, name in NAMES.items():
            for n in (10, 100):
                rows.append(chain.draw(method, n, exact=model == "exact")[:16])
                names.append(f"{MODELS[model]}, {name}, {n}")
    save_examples(
        HERE / f"examples{suffix}.png", np.concatenate(rows), spec, columns=16, names=names
    )
    both = way(chain)
    for word, states in both.items():  # noise is far out of range: show each time in its own
        peak = np.maximum(1.0, np.abs(states).reshape(len(states), -1).max(axis=1))
        scaled = np.swapaxes(states / peak.reshape(-1, *(1,) * (states.ndim - 1)), 0, 1)
        flat = scaled.reshape(-1, *states.shape[2:])
        save_examples(HERE / f"{word}{suffix}.png", flat, spec, columns=len(states))
