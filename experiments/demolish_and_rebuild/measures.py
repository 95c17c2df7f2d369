"""What examples of the chain are measured by beside registered metrics, and how tables write it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _common as common
from experiments._measures import diversity


def roughness(x: np.ndarray, labels: np.ndarray) -> float:
    """Return the root mean square of each pixel less the mean of its four neighbors."""
    del labels
    inner = x[:, 1:-1, 1:-1]
    around = (x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4
    return float(np.sqrt(np.mean((inner - around).astype(np.float64) ** 2)))


OWN = {"diversity": diversity, "roughness": roughness}  # in units of held-out examples
MEASURES = {
    "frechet": "Frechet, pixels",
    "classifier": "Frechet, classifier",
    "agreement": "requested class",
    "diversity": "diversity",
    "roughness": "roughness",
}


def over_seeds(
    found: Mapping[str, Any], section: str, method: str, n: int, measure: str
) -> list[float]:
    """Return a measure for every seed that there is."""
    rows = found.get(section, {}).get(method, {}).get(str(n), {})
    return [row[measure] for row in rows.values() if measure in row]


def cell(values: Sequence[float], measure: str) -> str:
    """Write a measure as tables show it: the mean over seeds, and the standard deviation of one of them."""
    if not values:
        return "-"
    if measure == "agreement":
        return f"{100 * np.mean(values):.1f} %"
    return common.spread(values, 2)


def by_steps(
    found: Mapping[str, Any],
    section: str,
    names: Mapping[str, str],
    evaluations: Sequence[int],
    measure: str,
    title: str,
) -> list[str]:
    """Return the table of one measure: methods down, evaluations across.

    Args:
        found: what a tier has measured.
        section: "network" or "exact".
        names: of the methods, in order.
        evaluations: of the columns.
        measure: one of `MEASURES`.
        title: of the first column.
    """
    rows = []
    for method, name in names.items():
        values = [over_seeds(found, section, method, n, measure) for n in evaluations]
        if any(values):
            rows.append((name, *(cell(v, measure) for v in values)))
    return common.markdown((title, *evaluations), rows) if rows else []


def curves(
    found: Mapping[str, Any],
    section: str,
    names: Mapping[str, str],
    evaluations: Sequence[int],
    measure: str,
) -> dict[str, Any]:
    """Return the same as curves for a plot, with the standard deviation over seeds."""
    lines = {}
    for method, name in names.items():
        values = {n: over_seeds(found, section, method, n, measure) for n in evaluations}
        values = {n: v for n, v in values.items() if v}
        if values:
            error = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values.values()]
            lines[name] = (list(values), [float(np.mean(v)) for v in values.values()], error)
    return lines
