"""What the guard in a training step costs: the step of a config with and without it, in turn.

    python tests/training/measure_guard.py --config digits --rounds 15 --steps 20

Prints one JSON object: medians and the range over rounds of the seconds per step, and the fraction of the
guard (finite or not, selecting old or new, the rows for reports). The rule of spikes is a third variant.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from unittest import mock

import jax

from diffusion.config.experiment import Experiment
from diffusion.config.sections import plain
from diffusion.run.step import batches_of, compiled_step
from diffusion.training import step as step_module


def unguarded(ok, new, old):
    """Take the new state, whatever it holds."""
    del ok, old
    return new


def variant(config, guarded, spikes=0.0):
    """Return a compiled step, its state, and a batch."""
    config = config | {"train": config["train"] | {"spike_factor": spikes}}
    experiment = Experiment.from_config(config)
    layout = experiment.parallel
    with batches_of(experiment, 0, 1) as batches:
        batch = layout.place_batch(next(batches))
    select = step_module._select if guarded else unguarded
    with mock.patch.object(step_module, "_select", select):
        step, state = compiled_step(experiment), layout.place_state(experiment.init_state())
        state, metrics = step(state, batch)  # compiles
        jax.block_until_ready(metrics)
    return [step, state, batch]


def seconds(running, steps):
    """Return seconds per step; the state moves on."""
    step, state, batch = running
    started = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch)
    jax.block_until_ready((state.step, metrics))
    running[1] = state
    return (time.perf_counter() - started) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="digits")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    config = plain(importlib.import_module(f"configs.{given.config}").get_config())
    running = {
        "without": variant(config, guarded=False),
        "guarded": variant(config, guarded=True),
        "with_spikes": variant(config, guarded=True, spikes=20.0),
    }
    found = {name: [] for name in running}
    for _ in range(given.rounds):
        for name, parts in running.items():
            found[name].append(seconds(parts, given.steps))
    base = statistics.median(found["without"])
    report = {
        name: {
            "median": statistics.median(times),
            "least": min(times),
            "most": max(times),
            "share": statistics.median(times) / base - 1,
            "share_of_least": min(times) / min(found["without"]) - 1,
        }
        for name, times in found.items()
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
