"""Presentation of the results of `demolish evaluate`: on a terminal, two results side by side, an HTML report."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from diffusion.cli.messages import say

SHOWN = 100  # images in the picture of a report
MANY = 1000  # points or signals in the picture of a report
PAIRS = 8  # pairs (generated, nearest training example) in a picture
MOST_OF_A_PICTURE = 2**26  # bytes


def show(key: str, value: object) -> None:
    """Print one result in readable form."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = list(value[0])
        say(f"  {key}: {', '.join(names)}")
        for row in value:
            first, *rest = (row[name] for name in names)
            cells = [f"{v:10.5f}" if isinstance(v, float) else f"{v!s:>6}" for v in rest]
            digits = "2f" if isinstance(first, float) and abs(first) >= 0.1 else "2g"
            head = f"{first:8.{digits}}" if isinstance(first, float) else f"{first!s:>8}"
            say(f"    {head}  {'  '.join(cells)}")
    elif isinstance(value, dict):
        inner = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
        )
        say(f"  {key}: {inner}")
    else:
        say(f"  {key}: {value:.4f}" if isinstance(value, float) else f"  {key}: {value}")


# ---- two results --------------------------------------------------------------------------------


def compare(first: Path, second: Path, verbose: bool) -> int:
    """Print two results side by side: their cards, and the differences of comparable numbers."""
    from diffusion.evaluation.cards import compared, obstacles, read_measured

    a, b = read_measured(first), read_measured(second)
    say(f"A  {a.path}\nB  {b.path}\n")
    for metric in [*a.cards, *(k for k in b.cards if k not in a.cards)]:
        if metric not in a.cards or metric not in b.cards:
            say(f"{metric}: only in {'A' if metric in a.cards else 'B'}\n")
            continue
        cards = a.cards[metric], b.cards[metric]
        say(metric)
        side_by_side(*cards, verbose)
        reasons = obstacles(*cards)
        for reason in reasons:
            say(f"  not comparable: {reason}")
        old, new = a.results[metric], b.results[metric]
        for name in [*old, *(k for k in new if k not in old)]:
            if name not in old or name not in new:
                say(f"  {name}: only in {'A' if name in old else 'B'}")
            elif reasons:
                say(f"  {name}: may not be compared")
            else:
                say(f"  {name}: {compared(old[name], new[name])}")
        say("")
    return 0


def side_by_side(a: Any, b: Any, verbose: bool) -> None:
    """Print two cards, entry by entry; mark the differences."""
    from diffusion.evaluation.cards import flat

    a, b = flat(a), flat(b)
    rows = [(k, a.get(k, "-"), b.get(k, "-")) for k in [*a, *(k for k in b if k not in a)]]
    shown = [(k, _cell(x), _cell(y), x != y) for k, x, y in rows if verbose or x != y]
    widths = [max((len(row[i]) for row in shown), default=0) for i in (0, 1)]
    for key, x, y, differs in shown:
        mark = "*" if differs else " "
        say(f"  {mark} {key:<{widths[0]}}  {x:<{widths[1]}}  {y}")
    agreeing = sum(x == y for _, x, y in rows)
    if not verbose:
        say(f"    {agreeing} of {len(rows)} entries of the cards agree (--verbose shows them)")


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    # the first digits of a digest are enough
    width = 12 if re.fullmatch(r"[0-9a-f]{40,64}\+?", text) else 60
    return text if len(text) <= width else f"{text[:width]}..."


# ---- a page -------------------------------------------------------------------------------------


def picture_of(out: Path, what: str) -> Path:
    """Return the path of a picture that belongs to these results."""
    return out.with_name(f"{out.stem}_{what}.png")


def save_pictures(out: Path, target: Any, results: Any) -> None:
    """Draw the first generated examples and the pairs of `memorization`, next to the file of results.

    Nothing is drawn if no metric needed examples; pictures of an earlier run of the command are then kept.
    """
    from diffusion.evaluation import pictures

    spec, count = target.inputs.held_out.spec, max(target.requested, default=0)
    if not count:
        return
    classes = spec.num_classes if isinstance(spec.num_classes, int) else 0
    # examples cycle through the classes: one column per class
    columns = classes if 2 <= classes <= 12 else 10
    shown = min(count, SHOWN) if spec.pictured else min(count, MANY)
    if spec.pictured:
        shown = max(min(columns, shown), shown - shown % columns)
    pictures.save_examples(picture_of(out, "samples"), target.read(0, shown), spec, columns)
    save_pairs(out, target, spec, results)


def save_pairs(out: Path, target: Any, spec: Any, results: Any) -> None:
    """Draw generated examples, and below each its nearest training example."""
    import numpy as np

    from diffusion.evaluation import images, pictures
    from diffusion.evaluation.metrics import pairs_of

    pairs = next(filter(None, (pairs_of(found) for found in results.values())), [])
    pairs = [pair for pair in pairs if pair["generated"] < max(target.requested)]
    pairs = pairs[: len(pairs) - len(pairs) % PAIRS or len(pairs)]
    if not pairs or not spec.pictured:
        return
    rows = []
    for start in range(0, len(pairs), PAIRS):
        few = pairs[start : start + PAIRS]
        rows += [target.read(pair["generated"], 1)[0] for pair in few]
        rows += [target.inputs.train.examples(pair["training"], 1)["data"][0] for pair in few]
    names = ["generated", "training"] * -(-len(pairs) // PAIRS)
    picture = pictures.grid(np.stack(rows), spec, min(PAIRS, len(pairs)), names)
    images.save_png(picture_of(out, "nearest"), picture)


def write_page(out: Path, workdir: str | None, title: str = "") -> Path:
    """Write the HTML report of the evaluation and the training; return its path."""
    from diffusion.evaluation.cards import Measured, read_measured
    from diffusion.evaluation.report import Report
    from diffusion.run.workdir import Workdir
    from diffusion.runtime.files import write_atomically
    from diffusion.training.metrics import read_jsonl

    run = Workdir.of(workdir) if workdir else None
    config: Any = run.read_config() if run else {}
    if out.is_file() or run is None:
        measured = read_measured(out)
    else:
        measured = Measured(path=out, results={}, cards={}, about={})
    about = measured.about
    names = [_name(config.get(k)) for k in ("data", "process", "network")]
    if run:
        title = title or f"{names[0]}: {names[1]}, {names[2]}"
    trained = _json(run.path / "run.json") if run else {}
    page = Report(
        title=title or out.name, summary=_summary(about, trained), pictures=_pictures(out, run),
        history=read_jsonl(run.metrics, _warn) if run else (), results=measured.results, cards=measured.cards,
        config=about.get("config") or (_json(run.path / "resolved.json") if run else {}) or config,
        made_by={k: about[k] for k in ("versions", "python", "device", "devices", "commit") if k in about},
        commands={
            k: " ".join(map(str, found["command"]))
            for k, found in (("trained by", trained), ("measured by", about)) if found.get("command")
        },
    ).page()  # fmt: skip
    default = out.name == "evaluation.json"
    path = out.with_name("report.html") if default else out.with_suffix(".html")
    write_atomically(path, page.encode())
    return path


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _name(section: Any) -> str:
    return str(section.get("name", "?") if isinstance(section, dict) else section)


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON file; return {} if it is missing or damaged, so that the report shows the rest."""
    from diffusion.runtime.reading import read_json

    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _summary(about: Any, trained: Any) -> list[str]:
    lines = []
    if "steps" in trained:
        seconds = trained.get("seconds")
        took = f" in {seconds:.0f} s" if isinstance(seconds, int | float) else ""
        device = trained.get("device", "an unknown device")
        lines.append(
            f"trained {trained['steps']} steps{took} on {trained.get('devices', 1)} x {device}"
        )
    if "step" in about:
        lines.append(
            f"measured at step {about['step']}, weights {about['ema']}, seed {about['seed']}"
        )
    elif "examples" in about:
        lines.append(f"{about['examples']['there']} examples of {about['examples']['from']}")
    return lines


def _pictures(out: Path, run: Any) -> list[Any]:
    """Return the pictures next to the results; without a picture of examples, the last one drawn in training."""
    from diffusion.evaluation.report import Picture
    from diffusion.runtime.reading import check_plain, read_bytes

    found, samples = [], picture_of(out, "samples")
    read = lambda path: read_bytes(path, MOST_OF_A_PICTURE)
    if check_plain(samples):
        found.append(Picture(title="Examples", png=read(samples), caption="the first ones"))
    elif run and (last := sorted(run.samples.glob("*.png"))):
        caption = f"drawn while it was trained: {last[-1].name}"
        found.append(Picture(title="Examples", png=read(last[-1]), caption=caption))
    if check_plain(nearest := picture_of(out, "nearest")):
        caption = (
            "the closest pairs: generated examples, and below each its nearest training example"
        )
        found.append(Picture(title="Nearest neighbors", png=read(nearest), caption=caption))
    return found
