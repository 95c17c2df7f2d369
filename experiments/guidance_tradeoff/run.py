"""Measure agreement, Frechet distance and diversity against the scale of four kinds of guidance.

    python -m experiments.guidance_tradeoff --tier digits|fashion_mnist

results.json is written after every setting; a later call measures only what is missing from it. table.md and the
pictures are made from what there is.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.guidance_tradeoff import pages
from experiments.guidance_tradeoff.measure import Bench
from experiments.guidance_tradeoff.tiers import REPEATED, SEEDS, TIERS

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def load() -> dict[str, Any]:
    """Return what has been measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def keep(found: dict[str, Any]) -> None:
    """Write what has been measured, to four digits."""
    short = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
    RESULTS.write_text(json.dumps(short, indent=1) + "\n")


def repeat(bench: Bench, rows: dict[str, Any], done: Callable[[], None]) -> None:
    """Measure a few settings from other noise: what the numbers are worth."""
    for method, scales in REPEATED.items():
        for scale in (s for s in scales if s in bench.tier.scales[method]):
            for seed in SEEDS:
                name = f"{method} {scale:g}, seed {seed}"
                if name not in rows:
                    x = bench.samples(method, scale, seed)
                    rows[name] = bench.measured(x, bench.classes_in_turn())
                    done()


def main() -> None:
    """Measure one tier and write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", choices=tuple(TIERS), default="digits")
    parser.add_argument("--keep", type=Path, default=Path("runs/guidance_tradeoff"),
                        help="where the trained runs and examples for the pictures lie")  # fmt: skip
    args = parser.parse_args()
    tier, began = TIERS[args.tier], time.monotonic()
    bench = Bench.of(tier, args.tier, args.keep)
    found = load()
    rows = found.setdefault(args.tier, {})
    rows["training data"] = bench.of_real_data()
    keep(found)
    for method, scales in tier.scales.items():
        for scale in scales:
            if f"{scale:g}" in rows.setdefault(method, {}):
                continue
            x = bench.samples(method, scale)
            np.save(args.keep / f"{args.tier}-{method}-{scale:g}.npy", x[:100].astype(np.float32))
            rows[method][f"{scale:g}"] = bench.measured(x, bench.classes_in_turn())
            keep(found)
            row = rows[method][f"{scale:g}"]
            print(f"[{time.monotonic() - began:5.0f} s] {method} {scale:g}: {row}", flush=True)
    repeat(bench, rows.setdefault("other noise", {}), lambda: keep(found))
    pages.write(found, args.keep)
