"""table.md, the table of README.md and the pictures, from what has been measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments._common import Panel, heading, markdown, plot
from experiments.sde_and_ode.family import LAMBDAS, PROCESSES

HERE = Path(__file__).parent
NAMES = [f"{lam:g}" for lam in LAMBDAS]


def _by_number(names: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=float)


def number(value: float, digits: int = 2) -> str:
    """Return a number of thousandths, or what became of it."""
    if not np.isfinite(value) or value > 1e5:
        return "diverged"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.0f}"


def family(found: Mapping[str, Any], scale: float, digits: int) -> list[str]:
    """Return a table of error by process, lambda and steps."""
    steps = _by_number({k: 0 for rows in found.values() for row in rows.values() for k in row})
    rows = []
    for name in [p for p in PROCESSES if p in found]:
        for lam in [v for v in NAMES if v in found[name]]:
            row = found[name][lam]
            cells = [number(scale * row[k], digits) if k in row else "" for k in steps]
            rows.append((name, lam, *cells))
    return markdown(("process", "lambda", *(f"{k} steps" for k in steps)), rows)


def wrong(plane: Mapping[str, Any]) -> list[str]:
    """Return a table of errors by what is wrong, against lambda."""
    rows = []
    for case, found in plane.get("wrong", {}).items():
        rows.append((case, "mixture", *(number(1e3 * found[v]) for v in NAMES if v in found)))
    for case, found in plane.get("wrong gaussian", {}).items():
        if case != "nothing":
            pair = lambda r: f"{r['measured']:.4f} ({r['predicted']:.4f})"
            rows.append((case, "normal", *(pair(found[v]) for v in NAMES if v in found)))
    return markdown(("error", "target", *(f"lambda {v}" for v in NAMES)), rows)


def likelihood(plane: Mapping[str, Any]) -> list[str]:
    """Return errors of log p by process and steps."""
    rows = []
    for name in [p for p in PROCESSES if p in plane.get("likelihood", {})]:
        found = plane["likelihood"][name]
        steps = _by_number(found)
        ends = plane["ends"][name]
        span = f"{ends['t_max']:.1f} to {ends['t_min']:.1f}"
        cells = [f"{found[k]['solver']:.1e}" for k in steps]
        rows.append((name, span, *cells, f"{found[steps[-1]]['error']:.1e}"))
    steps = _by_number(next(iter(plane["likelihood"].values()))) if rows else []
    head = ("process", "log-SNR", *(f"{k} steps" for k in steps), "with the prior")
    return markdown(head, rows)


def bits(digits: Mapping[str, Any]) -> list[str]:
    """Return bits per dimension by process and training."""
    pair = lambda r: f"{r['bits']:.3f} ± {r['error']:.3f}"
    rows = [("vp", name, pair(r)) for name, r in digits.get("bits", {}).items()]
    rows += [(name, name, pair(r)) for name, r in digits.get("recipes", {}).items() if name != "vp"]
    return markdown(("trained on", "integrated on", "bits per dimension"), rows)


def table(found: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = heading("SDE and ODE, measured", "sde_and_ode")
    for tier, parts in found.items():
        plane, digits = parts.get("plane", {}), parts.get("digits", {})
        if "family" in plane:
            floor = plane["floor"]
            lines += [f"## {tier}: eight Gaussians, energy distance in thousandths", ""]
            lines += [f"Exact draws: {1e3 * floor['mean']:.2f} on average, root mean square "
                      f"{1e3 * floor['rms']:.2f}.", "", *family(plane["family"], 1e3, 2)]  # fmt: skip
        if "wrong" in plane:
            lines += [f"## {tier}: artificial errors, vp", ""]
            lines += [
                "Mixture: energy distance in thousandths. Normal: shift of the mean, measured (predicted).",
                "",
            ]
            lines += wrong(plane)
        if "likelihood" in plane:
            lines += [
                f"## {tier}: root mean square error of log p, in nats",
                "",
                *likelihood(plane),
            ]
        if "family" in digits:
            lines += [f"## {tier}: digits, Frechet distance on pixels", ""]
            lines += [
                f"Training images: {digits['real']:.2f}.",
                "",
                *family(digits["family"], 1, 2),
            ]
        if "other noise" in digits:
            lines += ["The same from other noise:", ""]
            for rows in digits["other noise"].values():
                lines += family({"vp": rows}, 1, 2)
        if "bits" in digits:
            lines += [f"## {tier}: digits, bits per dimension", "", *bits(digits)]
    return "\n".join(lines)


def summary(found: Mapping[str, Any]) -> str:
    """Return the table of README.md: the small tier, vp."""
    parts = found.get("small", {})
    plane, digits = parts.get("plane", {}), parts.get("digits", {})
    lines = []
    if "vp" in plane.get("family", {}):
        lines += ["Eight Gaussians, process vp, energy distance in thousandths "
                  f"(exact draws: {1e3 * plane['floor']['rms']:.2f}, root mean square):", ""]  # fmt: skip
        lines += family({"vp": plane["family"]["vp"]}, 1e3, 2)
    if "wrong" in plane:
        lines += ["Artificial errors, 512 steps (mixture: energy distance in thousandths; normal: shift of the mean, "
                  "measured, and predicted in brackets):", "", *wrong(plane)]  # fmt: skip
    if "vp" in digits.get("family", {}):
        lines += [
            f"Digits, Frechet distance on pixels (training images: {digits['real']:.2f}):",
            "",
        ]
        lines += family({"vp": digits["family"]["vp"]}, 1, 2)
    return "\n".join(lines)


def _curves(rows: Mapping[str, Any], scale: float, floor: float) -> dict[str, Any]:
    curves = {}
    for lam in [v for v in NAMES if v in rows]:
        steps = [k for k in _by_number(rows[lam]) if np.isfinite(rows[lam][k])]
        y = [min(max(scale * rows[lam][k], floor), 1e4 * floor) for k in steps]
        curves[f"lambda {lam}"] = ([float(np.log2(int(k))) for k in steps], y)
    return curves


def pictures(found: Mapping[str, Any], models: Path) -> None:
    """Draw error against steps, what lambda mends, and examples."""
    parts = found.get("small", {})
    plane, digits = parts.get("plane", {}), parts.get("digits", {})
    panels = []
    if "vp" in plane.get("family", {}):
        floor = plane["floor"]["rms"]
        energy = "energy distance, eight Gaussians"
        panels += [Panel(_curves(plane["family"][name], 1, floor / 3), f"log2 of the steps, {name}", energy,
                         log_x=False, level=floor, level_name="exact draws")
                   for name in ("vp", "edm") if name in plane["family"]]  # fmt: skip
    if "wrong gaussian" in plane:
        curves = {}
        for case, rows in plane["wrong gaussian"].items():
            if case != "nothing":
                x = [v for v in NAMES if v in rows]
                curves[case] = ([float(v) for v in x], [abs(rows[v]["measured"]) for v in x])
        panels.append(Panel(curves, "lambda", "shift of the mean", log_x=False))
    if "vp" in digits.get("family", {}):
        curves = _curves(digits["family"]["vp"], 1, 0.1)
        panels.append(Panel(curves, "log2 of the steps, vp", "Frechet distance, digits", log_x=False,
                            level=digits["real"], level_name="training images"))  # fmt: skip
    if panels:
        plot(HERE / "lambda.png", panels, columns=2)
    file = models / "sde_and_ode-small.npy"
    if file.is_file():
        from diffusion import build
        from diffusion.evaluation import pictures

        x = np.load(file)
        dataset: Any = build("dataset", "digits")
        names = [f"lambda {v}" for v in NAMES]
        pictures.save_examples(
            HERE / "digits.png",
            x.reshape(-1, 8, 8, 1),
            dataset.spec,
            columns=x.shape[1],
            names=names,
        )
