"""Run by test_parallel in a process of its own, with eight virtual devices, in float64.

Ten AdamW steps under every layout; and checkpoints written under one layout and read under others.
Prints a JSON report. `python -m training.layouts_program FOLDER`, from the folder `tests`.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import json
import logging
import sys
import warnings

import jax
import numpy as np

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.training.state import keys_to_data

from .problem import make, make_batch

warnings.simplefilter("error")

LAYOUTS = {
    "jit": {"name": "mesh", "num_devices": 1},
    "data_8": {"name": "mesh"},
    "fsdp_8": {"name": "mesh", "fsdp": 8, "min_shard_size": 1},
    "data_2_fsdp_4": {"name": "mesh", "fsdp": 4, "min_shard_size": 1},
    "pmap": {"name": "pmap"},
    **{f"data_{n}": {"name": "mesh", "num_devices": n} for n in (2, 4)},
    **{
        f"fsdp_{n}": {"name": "mesh", "num_devices": n, "fsdp": n, "min_shard_size": 1}
        for n in (2, 4)
    },
    **{f"pmap_{n}": {"name": "pmap", "num_devices": n} for n in (1, 2, 4)},
}
# name: (layout, micro-batches per step, steps per dispatch)
RUNS = {name: (name, 1, 1) for name in LAYOUTS} | {
    "jit_accumulate_4": ("jit", 4, 1),
    "fsdp_accumulate_4": ("data_2_fsdp_4", 4, 1),
    "pmap_accumulate_2": ("pmap", 2, 1),
    "fsdp_dispatch_5": ("data_2_fsdp_4", 1, 5),
    "pmap_dispatch_5": ("pmap", 2, 5),
}


class Compilations(logging.Handler):
    """Counts how often the step was compiled."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        text = record.getMessage()
        step = any(f"jit({name})" in text for name in ("placed", "steps", "_fun"))
        self.count += text.startswith("Finished XLA compilation") and step


def run(spec, accumulate, many, counter):
    layout = build("parallel", spec)
    fields = {"learning_rate": 1e-2, "clip": 1.0, "warmup": 3, "weight_decay": 0.1}
    state, step = make(
        build("optimizer", {"name": "adamw", **fields}),
        ema=("0.9", "half_life_64", "power_0.1"),
        dtype=np.float64,
        label_dropout=0.3,
        accumulate=accumulate,
        reduce=layout.reduce,
    )
    template = layout.template(state)
    layout.check_batch(32, accumulate)
    compiled = layout.compile(step) if many == 1 else layout.compile_many(step)
    state = layout.place_state(state)
    counter.count, kinds, metrics = 0, set(), {}
    for k in range(0, 10, many):
        batches = [make_batch(k + i, 32, np.float64) for i in range(many)]
        placed = layout.place_batch(batches[0]) if many == 1 else layout.place_batches(batches)
        state, metrics = compiled(state, placed)
        kinds.add(str(state.params["hidden"]["kernel"].sharding))
    if many > 1:
        metrics = jax.tree.map(lambda x: x[-1], metrics)
    return layout, state, metrics, template, len(kinds), counter.count


def difference(a, b):
    pairs = zip(jax.tree.leaves(keys_to_data(a)), jax.tree.leaves(keys_to_data(b)), strict=True)
    number = lambda x: np.asarray(x, np.float64)  # truth values are subtracted as well
    return max(float(np.max(np.abs(number(x) - number(y)))) for x, y in pairs)


def main(folder):
    counter = Compilations()
    logging.getLogger("jax").addHandler(counter)
    logging.getLogger("jax").propagate = False
    jax.config.update("jax_log_compiles", True)
    results = {
        name: run(LAYOUTS[layout], *counts, counter) for name, (layout, *counts) in RUNS.items()
    }
    jax.config.update("jax_log_compiles", False)
    reference, reference_metrics = results["jit"][1:3]
    report = {}
    for name, (layout, state, metrics, _, kinds, compilations) in results.items():
        whole = layout.fetch(state)
        with Checkpoints(os.path.join(folder, name), asynchronous=False) as checkpoints:
            checkpoints.save(10, layout.saveable(state), {"layout": name})
        report[name] = {
            "state": difference(whole, reference),
            "metrics": difference(metrics, reference_metrics),
            "placements": kinds,
            "compilations": compilations,
            "moved": float(np.abs(whole.params["out"]["bias"]).max()),
            "rows": float(metrics["level_count"].sum()),
        }
        other = "jit" if name == "data_2_fsdp_4" else "data_2_fsdp_4"
        with Checkpoints(os.path.join(folder, name)) as checkpoints:
            read = checkpoints.restore(10, results[other][3])
            placed = results[other][0].place_state(read)
            report[name]["reread"] = difference(results[other][0].fetch(placed), whole)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
