"""Run on eight virtual devices by test_parallel: ten AdamW steps under every layout, in float64."""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from diffusion import build
from diffusion.training.state import keys_to_data
from tests.training.problem import make, make_batch

LAYOUTS = {
    "jit": {"name": "mesh", "num_devices": 1},
    "data_8": {"name": "mesh"},
    "fsdp_8": {"name": "mesh", "fsdp": 8, "min_shard_size": 1},
    "data_2_fsdp_4": {"name": "mesh", "fsdp": 4, "min_shard_size": 1},
    "pmap": {"name": "pmap"},
}


def run(spec, accumulate):
    layout = build("parallel", spec)
    optimizer = build(
        "optimizer",
        {"name": "adamw", "learning_rate": 1e-2, "clip": 1.0, "warmup": 3, "weight_decay": 0.1},
    )
    state, step = make(
        optimizer,
        ema=("0.9", "half_life_64", "power_0.1"),
        dtype=np.float64,
        label_dropout=0.3,
        accumulate=accumulate,
        reduce=layout.reduce,
    )
    layout.check_batch(32, accumulate)
    compiled = layout.compile(step)
    state = layout.place_state(state)
    kinds = set()
    for k in range(10):
        state, metrics = compiled(state, layout.place_batch(make_batch(k, 32, np.float64)))
        kinds.add(str(state.params["hidden"]["kernel"].sharding))
    return (
        layout.fetch(state),
        jax.device_get(metrics),
        len(kinds),
        getattr(compiled, "_cache_size", lambda: None)(),
    )


def main():
    found = {}
    for name, spec in LAYOUTS.items():
        found[name] = run(spec, 1)
    found["jit_accumulate_4"] = run(LAYOUTS["jit"], 4)
    found["fsdp_accumulate_4"] = run(LAYOUTS["data_2_fsdp_4"], 4)
    found["pmap_accumulate_2"] = run(LAYOUTS["pmap"], 2)
    reference_state, reference_metrics, _, _ = found["jit"]

    def difference(a, b):
        pairs = zip(jax.tree.leaves(keys_to_data(a)), jax.tree.leaves(keys_to_data(b)), strict=True)
        return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)

    report = {
        name: {
            "state": difference(state, reference_state),
            "metrics": difference(metrics, reference_metrics),
            "placements": kinds,
            "compilations": compilations,
            "moved": float(np.abs(state.params["out"]["bias"]).max()),
            "levels": float(metrics["level_count"].sum()),
        }
        for name, (state, metrics, kinds, compilations) in found.items()
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
