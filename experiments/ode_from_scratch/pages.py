"""table.md and the pictures, from what has been measured."""

from pathlib import Path
from typing import Any

import numpy as np

from diffusion import build
from diffusion.evaluation import images, pictures
from experiments._common import heading, markdown
from experiments.ode_from_scratch import store
from experiments.ode_from_scratch.plane import BATCHES, BUDGETS, CURVED, KINDS, trained_on
from experiments.ode_from_scratch.recipes import DIGITS, PLANE, exact_field_of

METHODS = tuple(f"{s}, {g}" for s in ("euler", "heun") for g in ("uniform", "uniform_log_snr"))
NAMES = {"linear_path": "linear_path (straight)"}


def _examples() -> list[str]:
    rows = [
        (r["source"], r["what"], r["printed"], r["measured"], "yes" if r["agrees"] else "**no**")
        for r in store.get("examples") or ()
    ]
    head = ("part", "quantity", "printed", "measured", "agrees")
    return ["## Worked numbers", "", *markdown(head, rows)] if rows else []


def _thousandths(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    lost = f", {found['lost']:.1%} lost" if found["lost"] else ""
    return f"{1e3 * found['value']:.2f} ± {1e3 * found['error']:.2f}{lost}"


def _ratio(trained: dict[str, float], exact: list[dict[str, float]], floor: float) -> str:
    """Return the ratio of plain distances, with its standard error to first order."""
    below = float(np.mean([e["value"] for e in exact])) + floor
    spread = float(np.std([e["value"] for e in exact], ddof=1) / np.sqrt(len(exact)))
    value = (trained["value"] + floor) / below
    return f"{value:.2f} ± {np.hypot(trained['error'], value * spread) / below:.2f}"


def _to_own(run: dict[str, Any] | None, own: dict[str, float] | None, floor: float) -> str:
    """Return the ratio to the recipe's own exact field, which began at the same draws of the prior."""
    if run is None or own is None:
        return "-"
    return f"{(run['distance']['value'] + floor) / (own['value'] + floor):.2f}"


def _plane(kind: str) -> list[str]:
    found, floor = store.get("plane", kind) or {}, store.get("plane", kind, "floor")
    exact = found.get("exact", {})
    trained = [found.get(trained_on(size), {}) for size in BATCHES]
    if floor is None or len(exact) < 2:
        return []
    fields = [r["distance"] for r in exact.values()]
    ratio = lambda r: _ratio(r["distance"], fields, floor["plain"]) if r else "-"
    rows = []
    for name in PLANE:
        runs = [part.get(name) for part in trained]
        last, own = runs[-1], exact.get(exact_field_of(name), {}).get("distance")
        rows.append((
            name, PLANE[name].family, *(ratio(r) for r in runs), _to_own(last, own, floor["plain"]),
            _thousandths(last and last["distance"]), _thousandths(own), f"{last['seconds']:.0f}" if last else "-",
        ))  # fmt: skip
    ratios = [f"ratio, {trained_on(size)}" for size in BATCHES]
    head = (
        "recipe",
        "construction",
        *ratios,
        "to its own",
        "trained",
        "exact field",
        "s of training",
    )
    return [
        f"## {kind}: energy distance, in thousandths",
        "",
        f"Fresh points from fresh points: {1e3 * floor['rms']:.2f} (root mean square of {floor['repetitions']}); "
        f"the 2,000 training points: {1e3 * floor['points']:.2f}. "
        f"`floor` in the ratio: {1e3 * floor['plain']:.2f}. "
        f"Distances, seconds and the ratio to the recipe's own exact field are those of {trained_on(BATCHES[-1])}.",
        "",
        *markdown(head, rows),
    ]


def _few_steps(kind: str) -> list[str]:
    rows = []
    for part, model in ((trained_on(BATCHES[-1]), "trained"), ("exact", "exact")):
        for method in METHODS:
            for name in CURVED:
                found = store.get("plane", kind, part, name, "few_steps")
                if found is not None:
                    values = [f"{1e3 * found[method][str(n)]:.1f}" for n in BUDGETS]
                    rows.append((model, method, NAMES.get(name, name), *values))
    head = ("field", "sampler, grid", "path", *(f"{n} evaluations" for n in BUDGETS))
    title = f"## {kind}: curved against straight, energy distance in thousandths"
    return [title, "", *markdown(head, rows)] if rows else []


def _digits() -> list[str]:
    measured = store.get("digits", "recipes") or {}
    rows = [
        (name, DIGITS[name].family, f"{r['frechet']:.2f}", f"{r['agreement']:.1%}", f"{r['lost']:.1%}",
         f"{r['seconds']:.0f}")
        for name in DIGITS if (r := measured.get(name)) is not None
    ]  # fmt: skip
    if not rows:
        return []
    one = next(iter(measured.values()))
    rows.append(("training data", "", f"{one['frechet_of_training_data']:.2f}",
                 f"{one['accuracy_of_the_judge']:.1%}", "", ""))  # fmt: skip
    head = (
        "recipe",
        "construction",
        "Frechet on pixels",
        "label agreement",
        "lost",
        "s of training",
    )
    return ["## Digits", "", *markdown(head, rows)]


def _scatter(folder: Path, kind: str) -> None:
    """Draw the data, then what each recipe and its exact field make of it."""
    fresh = build("dataset", dict(name="points2d", kind=kind, split="test")).examples(0, 1500)
    panels, titles = [fresh["data"]], ["data"]
    for name in PLANE:
        x = store.examples(folder, kind, name)
        if x is not None:
            panels.append(x)
            titles.append(name)
    if len(panels) > 1:
        path = store.HERE / f"{kind}.png"
        images.scatter_grid(path, panels, titles, columns=5, limit=2.4)


def _digit_rows(folder: Path) -> None:
    found = {n: store.examples(folder, "digits", n) for n in ("data", *DIGITS)}
    there = {n: x for n, x in found.items() if x is not None}
    names = list(there)
    if len(names) > 1:
        x = np.concatenate(list(there.values()))
        spec = build("dataset", "digits").spec
        pictures.save_examples(store.HERE / "digits.png", x, spec, columns=16, names=names)


def _curves() -> None:
    """Draw what evaluations buy on straight and on curved paths."""
    for kind in KINDS:
        curves = {}
        for name in CURVED:
            found = store.get("plane", kind, trained_on(BATCHES[-1]), name, "few_steps")
            for method in ("euler, uniform", "heun, uniform"):
                if found is not None:
                    row = [max(found[method][str(n)], 1e-5) for n in BUDGETS]
                    curves[f"{NAMES.get(name, name)}, {method.split(',')[0]}"] = (BUDGETS, row)
        if curves:
            path = store.HERE / f"few_steps_{kind}.png"
            pictures.save_lines(path, curves, "evaluations", "energy distance", log=True)


def text() -> str:
    """Return everything measured as Markdown."""
    lines = heading("Measurements", "ode_from_scratch") + _examples()
    for kind in KINDS:
        lines += _plane(kind) + _few_steps(kind)
    return "\n".join(lines + _digits())


def write(folder: Path) -> None:
    """Write table.md and the pictures."""
    (store.HERE / "table.md").write_text(text())
    for kind in KINDS:
        _scatter(folder, kind)
    _digit_rows(folder)
    _curves()
