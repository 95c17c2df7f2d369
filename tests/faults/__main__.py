"""Run the campaign of faults and print its table.

    python -m tests.faults --tier commit
    python -m tests.faults --tier full --out experiments/faults/results.json

Every trial is the real command line on the smallest real run. Exit code 1 if anything was silent or wrong.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from . import damage, inputs, kills, outputs, processes, surroundings
from .recipe import outcome, sample, train
from .tally import Tally, table

POISONS = ("nan", "1e30", "inf", "-inf")
TIERS = {
    "commit": dict(rounds=2, kills=20, signals=6, flips=200, resumed=2, stopped=1, configs=300, lines=40,
                   shards=4, places=3, poisons=1),
    "full": dict(rounds=4, kills=150, signals=60, flips=2000, resumed=40, stopped=10, configs=20000, lines=400,
                 shards=30, places=1, poisons=4),
}  # fmt: skip


def campaign(
    folder: Path, tier: dict[str, int], seed: int, facts: dict
) -> Iterator[tuple[str, Callable[[], Tally]]]:
    """Yield one case after another: its short name, and what tries it."""
    whole, log = folder / "whole", folder / "log"
    first = processes.run(train(whole), log)  # compiles, into the cache that all others share
    if first.code:
        sys.exit(f"the undisturbed run failed: {first.text}")
    expected = processes.call(lambda: outcome(whole))
    again = processes.run(train(folder / "again"), log)
    span = again.seconds
    again_is_same = lambda: processes.call(lambda: outcome(folder / "again")) == expected
    undisturbed = Tally("the undisturbed run, once more")
    undisturbed.note(whole=again_is_same())
    yield "undisturbed", lambda: undisturbed
    yield "points", lambda: kills.at_points(folder, expected, tier["rounds"])
    yield "kills", lambda: kills.at_random(folder, expected, tier["kills"], seed, span)
    yield "signals", lambda: kills.by_signals(folder, expected, tier["signals"], seed + 1, span)
    yield "stopped", lambda: kills.stopped(folder, expected, tier["stopped"], seed, span)
    yield (
        "cuts",
        lambda: damage.seen("every file cut or missing", whole, damage.truncations, 0, seed),
    )
    yield "flips", lambda: damage.seen("one flipped bit", whole, damage.flips, tier["flips"], seed)
    yield "damaged", lambda: damage.continued(whole, folder, expected, tier["resumed"], seed)
    yield "ruined", lambda: damage.nothing_left(whole, folder)
    yield "lost", lambda: damage.lost(whole, folder, expected)
    yield "log", lambda: damage.log_lines_kept(whole, folder, expected, tier["resumed"], seed)
    yield "owners", lambda: surroundings.two_owners(folder)
    yield "disk", lambda: surroundings.full_disk(whole, folder, expected)
    yield "places", lambda: surroundings.no_place(folder)
    yield "strange", lambda: surroundings.strange_places(folder, expected, tier["places"])
    yield "poison", lambda: surroundings.poison(folder, POISONS[: tier["poisons"]])
    yield "configs", lambda: _configs(tier["configs"], seed, facts)
    yield "lines", lambda: inputs.command_lines(folder, tier["lines"], seed)
    yield "files", lambda: inputs.unreadable(folder)
    seconds = lambda: _sampling_seconds(whole, folder)
    yield "sampling", lambda: outputs.sampling(whole, folder, tier["shards"], seed, seconds())
    yield "measuring", lambda: outputs.measuring(whole, folder)


def _configs(count: int, seed: int, facts: dict) -> Tally:
    tally, facts["configs"] = inputs.configs(count, seed)
    return tally


def _sampling_seconds(workdir: Path, folder: Path) -> float:
    return processes.run(sample(workdir, folder / "timed.npz"), folder / "log").seconds


def say(text: str) -> None:
    """Show a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run one tier; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tier", choices=TIERS, default="commit")
    parser.add_argument("--seed", type=int, default=0, help="of moments, bits and mutations")
    parser.add_argument("--only", default="", help="cases by their short names, with commas")
    parser.add_argument("--out", type=Path, help="a JSON file for everything; table.md beside it")
    given = parser.parse_args()
    os.environ |= {"XLA_FLAGS": processes.FLAGS, "JAX_PLATFORMS": "cpu"}
    processes.warm_up()
    began, tallies, facts = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "cache")
        for name, attempt in campaign(Path(folder), TIERS[given.tier], given.seed, facts):
            if given.only and name not in given.only.split(","):
                continue
            tally = attempt()
            tallies.append(tally)
            say(f"{time.monotonic() - began:6.0f} s  {tally.row()}")
            for problem in tally.wrong[:3]:
                say("    " + problem.replace("\n", "\n    "))
    report = summary(tallies, facts, given, time.monotonic() - began)
    say(f"\n{table(tallies)}\n\n{json.dumps(facts)}")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
        made_of = f"{report['seconds']} s, seed {given.seed}, {report['versions']}, {facts}"
        given.out.with_name("table.md").write_text(f"{table(tallies)}\n\n{made_of}\n")
    return int(any(t.wrong for t in tallies))


def summary(tallies: list[Tally], facts: dict, given: Any, seconds: float) -> dict[str, Any]:
    """Return everything that was found, and what it was found with."""
    versions = {p: metadata.version(p) for p in ("demolish", "jax", "orbax-checkpoint", "numpy")}
    return {
        "tier": given.tier,
        "seed": given.seed,
        "seconds": round(seconds),
        "python": platform.python_version(),
        "versions": versions,
        "cases": [t.record() for t in tallies],
        **facts,
    }


if __name__ == "__main__":
    sys.exit(main())
