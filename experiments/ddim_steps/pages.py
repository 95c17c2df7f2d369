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
    "eta=0": "eta = 0 (DDIM)",
    "eta=0.5": "eta = 0.5",
    "posterior": "eta = 1 (DDPM)",
    "beta": "sigma = beta",
}
MODELS = {"network": "trained", "exact": "exact"}


def steps(found: Mapping[str, Any], tier: str, model: str, measure: str) -> list[str]:
    """Return the table of one measure of one model: noise down, evaluations across."""
    title = f"{MEASURES[measure]}, {MODELS[model]} model; evaluations"
    return by_steps(found, model, NAMES, TIERS[tier].evaluations, measure, title)


def consistency(found: Mapping[str, Any]) -> list[str]:
    """Return the table of what the same noise becomes at fewer steps."""
    lines = []
    for against, part in found.get("consistency", {}).items():
        rows = [
            (
                "distance, two examples of a class = 1",
                *(f"{v['distance']:.2f}" for v in part.values()),
            ),
            ("nearest to its own", *(f"{v['recognized']:.1%}" for v in part.values())),
        ]
        lines += common.markdown((f"DDIM from the same noise, {against} evaluations", *part), rows)
    return lines


def between(found: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """Return the table of what lies half way between two latents."""
    part, sizes, rows = found.get("half way", {}), found.get("between", {}), []
    for way, values in part.items():
        size = sizes.get(way, {}).get("0.5") or sizes.get("straight", {}).get("0")
        latent = f"{size:.3f}" if size else "-"
        rows.append((way, latent, *(cell([values[m]] if m in values else [], m) for m in measures)))
    head = ("half way between latents", "size of the latent", *(MEASURES[m] for m in measures))
    return common.markdown(head, rows) if rows else []


def round_trips(found: Mapping[str, Any]) -> list[str]:
    """Return the table of the way there and back."""
    part, lines = found.get("round trip", {}), []
    for model, word in (("network", "digits, trained"), ("mixture", "known mixture, exact")):
        rows = part.get(model, {})
        if rows:
            values = [
                (f"{word}: there and back", *(f"{v['error']:.4f}" for v in rows.values())),
                (f"{word}: latent against a fine solver", *(f"{v['latent_error']:.4f}" for v in rows.values())),
                (f"{word}: size of the latent", *(f"{v['latent_size']:.3f}" for v in rows.values())),
            ]  # fmt: skip
            lines += values
    counts = next((list(v) for v in part.values()), [])
    return (
        common.markdown(("root mean square per pixel, steps each way", *counts), lines)
        if lines
        else []
    )


def table(results: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = common.heading("DDIM: noise and steps", "ddim_steps")
    for tier, found in results.items():
        lines += [f"## {tier}", ""]
        real = found.get("training data", {})
        words = "; ".join(f"{MEASURES[m]} {cell([real[m]], m)}" for m in MEASURES if m in real)
        lines += [f"Training data, as many as were drawn: {words}.", ""]
        for model in MODELS:
            for measure in MEASURES:
                lines += steps(found, tier, model, measure)
        lines += [*consistency(found), *between(found, tuple(MEASURES)), *round_trips(found)]
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """Return the tables of README.md."""
    found, lines = results.get("small", {}), []
    for model, measure in (("network", "frechet"), ("exact", "frechet"), ("network", "agreement"),
                           ("network", "diversity"), ("network", "roughness")):  # fmt: skip
        lines += steps(found, "small", model, measure)
    lines += consistency(found)
    lines += between(found, ("frechet", "agreement", "diversity"))
    lines += round_trips(found)
    return "\n".join(lines)


def pictures(call: common.Call, chain: Chain) -> None:
    """Draw the curves, examples from the same noise, and the ways between latents."""
    from diffusion.evaluation.pictures import save_examples
    from experiments.ddim_steps.run import SHARES, WAYS, between

    found = call.results.load()[call.tier]
    real = found.get("training data", {})
    panels = []
    for model, measure in (("network", "frechet"), ("exact", "frechet"), ("network", "diversity")):
        lines = curves(found, model, NAMES, TIERS[call.tier].evaluations, measure)
        y = f"{MEASURES[measure]}, {MODELS[model]} model"
        panels.append(common.Panel(lines, "evaluations", y, log_y=measure == "frechet",
                                   level=real.get(measure), level_name="training data"))  # fmt: skip
    suffix = "" if call.tier == "small" else f"_{call.tier}"
    common.plot(HERE / f"steps{suffix}.png", panels)
    spec, rows, names = chain.experiment.spec, [], []
    for method, name in NAMES.items():
        for n in (5, 10, 20, 100):
            rows.append(chain.draw(method, n)[:20])
            names.append(f"{name}, {n}")
    save_examples(
        HERE / f"examples{suffix}.png", np.concatenate(rows), spec, columns=20, names=names
    )
    pairs = min(4, spec.num_classes)
    rows = [np.stack([between(chain, way, u, pairs) for u in SHARES], axis=1) for way in WAYS]
    names = [f"{way}" for way in WAYS for _ in range(pairs)]
    flat = np.concatenate([r.reshape(-1, *spec.shape) for r in rows])
    save_examples(HERE / f"between{suffix}.png", flat, spec, columns=len(SHARES), names=names)
