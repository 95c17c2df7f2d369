"""Metric cards: records of how a number was measured, and the check whether two numbers are comparable.

A card is a JSON dictionary. Its own entries describe the measurement: the metric and its version, the features, the
reference. Further entries are `seed` and

    model       step, average, digests of weights and config; absent for examples from a file
    generated   sampling settings and number of examples, or the file they come from; absent if none were used
    made_by     versions, device, commit, date, command

Two numbers are comparable if their measurements agree; the model and the sampler may differ, since these are the
subject of a comparison.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.evaluation.results import Entry
from diffusion.runtime.digests import as_json
from diffusion.runtime.files import MissingFileError
from diffusion.runtime.reading import check_plain, read_json

FORMAT = 1
# entries that do not describe the measurement
SUBJECT = ("model", "generated", "made_by", "seed", "format")
_ERRORS = ("standard_error", "error_of_mean")
_VALUES = ("value", "mean", "bits_per_dim", "error")


def make_card(
    measured_with: Mapping[str, Any],
    *,
    seed: int,
    made_by: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    generated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the card of a metric.

    Args:
        measured_with: description of the metric, its features and its reference.
        seed: seed of all random numbers.
        made_by: versions, device, commit, date.
        model: the measured model, if there is one.
        generated: the measured examples, if there are any.
    """
    parts = {"model": model, "generated": generated}
    return {
        "format": FORMAT, **measured_with, **{k: dict(v) for k, v in parts.items() if v},
        "seed": seed, "made_by": dict(made_by),
    }  # fmt: skip


def still_holds(card: Mapping[str, Any], measured_with: Mapping[str, Any]) -> bool:
    """Return whether a card has the current features and reference of its metric."""
    then = {k: v for k, v in card.items() if k not in SUBJECT}
    return as_json(measured_with) == as_json(then)


def one_line(card: Mapping[str, Any]) -> str:
    """Return a card in one line, for tables and terminals."""
    features, reference = card.get("features"), card.get("reference")
    model, generated = card.get("model"), card.get("generated")
    words = [f"{card.get('metric', 'metric')} v{card.get('version', '?')}"]
    if features:
        words.append(f"features {features.get('name')} {_short(features.get('sha256'))}")
    if reference:
        split = f"{reference.get('dataset')}/{reference.get('split')}"
        words.append(
            f"against {reference.get('count')} of {split} {_short(reference.get('sha256'))}"
        )
    if generated:
        words.append(_generated(generated))
    if model:
        words.append(
            f"step {model['step']}, weights {model['ema']} {_short(model['weights_sha256'])}"
        )
    words.append(f"seed {card.get('seed')}")
    return " | ".join(words)


def _generated(made: Mapping[str, Any]) -> str:
    if "from" in made:
        return f"{made['count']} examples of {made['from']} {_short(made['sha256'])}"
    guided = ", ".join(_named(g) for g in made["guidance"]) or "no guidance"
    return (
        f"{made['count']} examples by {_named(made['sampler'])} on {_named(made['grid'])}, "
        f"{made['num_steps']} steps, NFE {made['nfe']}, {guided}"
    )


def _named(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    scale = f" {spec['scale']:g}" if isinstance(spec.get("scale"), int | float) else ""
    return f"{spec.get('name')}{scale}"


def _short(digest: Any) -> str:
    return str(digest)[:8]


# ---- two of them --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A file of results: numbers and card by metric, and further entries."""

    path: Path
    results: Mapping[str, Mapping[str, Any]]
    cards: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]


def read_measured(path: Path) -> Measured:
    """Read the results of `demolish evaluate`, from a file or from the work directory that holds it.

    Raises:
        ValueError: there are no results, they are damaged, or they were written without cards.
    """
    file = path / "evaluation.json" if path.is_dir() else path
    if not check_plain(file):
        raise MissingFileError(f"there is no {file}: measure first, by `demolish evaluate`.")
    try:
        content = read_json(file)
        entries, made_of = content["metrics"], content["made_of"]
        found = {name: Entry(entry["results"], entry["card"]) for name, entry in entries.items()}
        whole = all(e.digest(name, made_of) == entries[name]["sha256"] for name, e in found.items())
        fits = all(isinstance(part, dict) for entry in found.values() for part in entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no result of `demolish evaluate` with cards, or damaged ({type(error).__name__}: {error})."
        ) from None
    if not whole or not fits:
        raise ValueError(f"{file} is damaged: a number does not match its digest. Measure it anew.")
    return Measured(
        path=file,
        results={k: e.results for k, e in found.items()},
        cards={k: e.card for k, e in found.items()},
        about={k: v for k, v in content.items() if k not in ("results", "metrics", "made_of")},
    )


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and of lists of mappings by dotted path; any other list is one leaf."""
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {path: value}
    inner = {f"{path}.{k}" if path else str(k): v for k, v in value.items()}
    return {k: v for key, item in inner.items() for k, v in flat(item, key).items()}


def obstacles(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the reasons why numbers with these two cards are not comparable; empty if they are."""
    words = {"features": "other features", "reference": "another reference"}
    pick = lambda card: flat({k: v for k, v in card.items() if k not in SUBJECT})
    reasons = [
        f"{words.get(path.split('.')[0], 'another measurement')}: {path} {old} -> {new}"
        for path, old, new in _changed(pick(a), pick(b))
    ]
    counts = [card.get("generated", {}).get("count") for card in (a, b)]
    if counts[0] != counts[1]:
        reasons.append(f"other counts: {counts[0]} -> {counts[1]} examples")
    return reasons


def _changed(a: Mapping, b: Mapping) -> Iterator[tuple[str, Any, Any]]:
    for key in [*a, *(k for k in b if k not in a)]:
        old, new = a.get(key, "absent"), b.get(key, "absent")
        if old != new:
            yield key, old, new


def entries_of(value: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the names of the entries of a result with its number and its standard error, or None."""
    first = lambda keys: next((k for k in keys if isinstance(value.get(k), int | float)), None)
    return first(_VALUES), first(_ERRORS)


def estimate_of(value: Any) -> tuple[float, float | None] | None:
    """Return a number and its standard error, if it has one; None if the value is not a single number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Mapping):
        return None
    if not isinstance(value, Mapping):
        return float(value), None
    number, error = entries_of(value)
    if number is None:
        return None
    return float(value[number]), None if error is None else float(value[error])


def compared(a: Any, b: Any) -> str:
    """Return a description of the difference of two values, also in standard errors.

    The error of the difference is computed as for independent numbers; with equal seeds and references, the true
    error is usually smaller.
    """
    if isinstance(a, list) and isinstance(b, list):
        return _rows(a, b)
    x, y = estimate_of(a), estimate_of(b)
    if x is None or y is None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):  # several numbers in one
            return "; ".join(f"{k} {_change(a.get(k), b.get(k))}" for k in [*a, *(b.keys() - a)])
        return _change(a, b)
    told = f"{x[0]:.5g} -> {y[0]:.5g}, difference {y[0] - x[0]:+.3g}"
    if x[1] is None or y[1] is None:
        return f"{told}; no standard error is known"
    error = math.hypot(x[1], y[1])
    return f"{told} = {_ratio(y[0] - x[0], error)} standard errors"


def _change(a: Any, b: Any) -> str:
    told = [f"{v:.5g}" if isinstance(v, float) else str(v) for v in (a, b)]
    return f"{told[0]} (the same)" if a == b else f"{told[0]} -> {told[1]}"


def _ratio(difference: float, error: float) -> str:
    return f"{difference / error:+.1f}" if error > 0 else "0" if difference == 0 else "many"


def _rows(a: list, b: list) -> str:
    """Compare tables row by row; the first entry of a row identifies it."""
    if not a or not b or [next(iter(r.values())) for r in a] != [next(iter(r.values())) for r in b]:
        return "their rows are not the same ones: other levels"
    worst, at, known = 0.0, None, False
    for old, new in zip(a, b, strict=True):
        x, y = estimate_of(old), estimate_of(new)
        if x is None or y is None or x[1] is None or y[1] is None:
            continue
        known, error = True, math.hypot(x[1], y[1])
        z = abs(y[0] - x[0]) / error if error > 0 else 0.0
        if z >= worst:
            worst, at = z, next(iter(old.items()))
    if not known or at is None:
        return "the same" if a == b else "they differ; no standard error is known"
    return (
        f"of {len(a)} rows the farthest, {at[0]} {at[1]:.4g}, differ by {worst:.1f} standard errors"
    )
