"""The command: which parts are measured, where to, and what is written.

    python -m experiments.ode_from_scratch --part examples|plane|digits|all

results.json is written after every recipe; a later call measures only what is missing from it. --fresh begins anew.
table.md and the pictures are made from what there is.
"""

import argparse
import time
from pathlib import Path

from experiments.ode_from_scratch import store

PARTS = ("examples", "plane", "digits")


def main() -> None:
    """Measure the parts that were asked for, and write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--keep", type=Path, default=Path("runs/ode_from_scratch"),
                        help="where examples for the pictures are kept")  # fmt: skip
    args = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {text}", flush=True)

    for part in PARTS if args.part == "all" else (args.part,):
        if args.fresh:
            store.forget(part)
        if part == "examples":
            from experiments.ode_from_scratch import examples

            examples.run(say)
        elif part == "plane":
            from experiments.ode_from_scratch import plane

            plane.run(args.keep, say)
        else:
            from experiments.ode_from_scratch import digits

            digits.run(args.keep, say)
    from experiments.ode_from_scratch import pages

    pages.write(args.keep)
    say(f"wrote {store.HERE.name}/table.md and the pictures")
