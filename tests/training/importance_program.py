"""Run by test_learning_parts in a process of its own, with two virtual devices, in float64.

Ten steps with times by importance on one device, on a mesh of two and under pmap. Prints a JSON report.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import json
import sys

import jax
import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.run.step import compiled_step
from diffusion.training.state import keys_to_data

CONFIG = dict(
    process=dict(name="vp"),
    network=dict(name="mlp", width=8, depth=1, dtype="float64"),
    data=dict(name="points2d", kind="moons", batch_size=32),
    time=dict(name="importance", num_bins=3, warmup=2, stratified=True),
    weight=dict(name="learned_uncertainty"),
    optimizer=dict(name="adam", learning_rate=1e-2),
    train=dict(learn_variance=True, accumulate=2),
)
LAYOUTS = {"one": dict(num_devices=1), "mesh": dict(name="mesh"), "pmap": dict(name="pmap")}


def run(layout):
    experiment = Experiment.from_config(CONFIG | {"parallel": dict(name="mesh") | layout})
    parallel, step = experiment.parallel, compiled_step(experiment)
    state = jax.tree.map(
        lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, experiment.init_state()
    )
    state = parallel.place_state(state)
    for k in range(10):
        data = experiment.dataset.batch(k, 32)["data"].astype(np.float64)
        batch = dict(data=data, row=np.arange(32, dtype=np.int32))
        state, _ = step(state, parallel.place_batch(batch))
    return experiment, parallel.fetch(state)


def main():
    results = {name: run(layout) for name, layout in LAYOUTS.items()}
    experiment, reference = results["one"]
    leaves = lambda state: jax.tree.leaves(keys_to_data(state))
    report = {
        name: max(
            float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))
            for x, y in zip(leaves(state), leaves(reference), strict=True)
        )
        for name, (_, state) in results.items()
    }
    statistics = jax.tree.map(np.asarray, reference.statistics)
    shares = experiment.time.shares(jax.tree.map(jax.numpy.asarray, statistics))
    report["largest_share"] = float(shares.max())
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
