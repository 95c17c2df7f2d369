"""table.md and the pictures, from what has been measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import build
from diffusion.evaluation import images, pictures
from experiments._common import heading
from experiments.ode_from_scratch import store
from experiments.ode_from_scratch.plane import BUDGETS, CURVED, KINDS
from experiments.ode_from_scratch.recipes import DIGITS, PLANE

METHODS = tuple(f"{s}, {g}" for s in ("euler", "heun") for g in ("uniform", "uniform_log_snr"))
NAMES = {"linear_path": "linear_path (straight)"}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a Markdown table, one line per row."""
    line = lambda cells: f"| {' | '.join(str(c) for c in cells)} |"
    return [line(head), "|---" * len(head) + "|", *map(line, rows), ""]


def _examples() -> list[str]:
    rows = [
        (r["source"], r["what"], r["printed"], r["measured"], "yes" if r["agrees"] else "**no**")
        for r in store.get("examples") or ()
    ]
    head = ("part", "what", "printed", "measured", "agrees")
    return ["## Worked numbers", "", *table(head, rows)] if rows else []


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


def _plane(kind: str) -> list[str]:
    measured = store.get("plane", kind, "recipes") or {}
    floor = store.get("plane", kind, "floor")
    if not measured or floor is None:
        return []
    exact = [r["exact"] for r in measured.values() if "exact" in r]
    rows = []
    for name in PLANE:
        if (r := measured.get(name)) is None:
            continue
        ratio = _ratio(r["trained"], exact, floor["plain"]) if len(exact) > 1 else "-"
        rows.append((name, PLANE[name].family, _thousandths(r["trained"]),
                     _thousandths(r.get("exact")), ratio, f"{r['seconds']:.0f}"))  # fmt: skip
    head = ("recipe", "construction", "trained", "exact field", "ratio", "s of training")
    return [
        f"## {kind}: energy distance, in thousandths",
        "",
        f"Fresh points from fresh points: {1e3 * floor['rms']:.2f} (root mean square of {floor['repetitions']}); "
        f"the 2,000 training points: {1e3 * floor['points']:.2f}. "
        f"`floor` in the ratio: {1e3 * floor['plain']:.2f}.",
        "",
        *table(head, rows),
    ]


def _few_steps(kind: str) -> list[str]:
    measured = store.get("plane", kind, "recipes") or {}
    rows = []
    for part, model in (("few_steps", "trained"), ("few_steps_exact", "exact")):
        for method in METHODS:
            for name in CURVED:
                found = measured.get(name, {}).get(part)
                if found is not None:
                    values = [f"{1e3 * found[method][str(n)]:.1f}" for n in BUDGETS]
                    rows.append((model, method, NAMES.get(name, name), *values))
    head = ("field", "sampler, grid", "path", *(f"{n} evaluations" for n in BUDGETS))
    title = f"## {kind}: curved against straight, energy distance in thousandths"
    return [title, "", *table(head, rows)] if rows else []


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
    return ["## Digits", "", *table(head, rows)]


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
    names = [n for n in ("data", *DIGITS) if store.examples(folder, "digits", n) is not None]
    if len(names) > 1:
        x = np.concatenate([store.examples(folder, "digits", n) for n in names])
        spec = build("dataset", "digits").spec
        pictures.save_examples(store.HERE / "digits.png", x, spec, columns=16, names=names)


def _curves() -> None:
    """Draw what evaluations buy on straight and on curved paths."""
    for kind in KINDS:
        measured = store.get("plane", kind, "recipes") or {}
        curves = {}
        for name in CURVED:
            found = measured.get(name, {}).get("few_steps")
            for method in ("euler, uniform", "heun, uniform"):
                if found is not None:
                    row = [max(found[method][str(n)], 1e-5) for n in BUDGETS]
                    curves[f"{NAMES.get(name, name)}, {method.split(',')[0]}"] = (BUDGETS, row)
        if curves:
            path = store.HERE / f"few_steps_{kind}.png"
            pictures.save_lines(path, curves, "evaluations", "energy distance", log=True)


def write(folder: Path) -> None:
    """Write table.md and the pictures."""
    lines = heading("What was measured", "ode_from_scratch")
    lines += _examples()
    for kind in KINDS:
        lines += _plane(kind) + _few_steps(kind)
        _scatter(folder, kind)
    lines += _digits()
    _digit_rows(folder)
    _curves()
    (store.HERE / "table.md").write_text("\n".join(lines))
