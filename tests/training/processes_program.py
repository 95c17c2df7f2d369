"""Run twice at the same time by test_processes: one job of two processes with two devices each.

Every layout trains, saves and restores; then process 0 alone gets SIGTERM and both must stop after
the same step. Prints a JSON report. `python -m training.processes_program RANK PORT FOLDER`.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import json
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime.distributed import FirstProcessError, initialize_distributed, select_rows
from diffusion.runtime.exits import LockedError, SaveError, Stopped
from diffusion.runtime.lock import owned
from diffusion.training import Hook, LoopOptions, train
from diffusion.training.state import keys_to_data

from .problem import make, make_batch

LAYOUTS = {
    "data_2_fsdp_2": {"name": "mesh", "fsdp": 2, "min_shard_size": 1},
    "fsdp_4": {"name": "mesh", "fsdp": 4, "min_shard_size": 1},
    "pmap": {"name": "pmap"},
}
SIZE = 32


def prepare(spec):
    layout = build("parallel", spec)
    optimizer = build("optimizer", {"name": "adamw", "learning_rate": 1e-2, "clip": 1.0})
    options = {"dtype": np.float64, "label_dropout": 0.3, "reduce": layout.reduce}
    state, step = make(optimizer, ema=("0.9", "half_life_64"), **options)
    return layout, layout.template(state), layout.place_state(state), layout.compile(step)


def batches(layout):
    rows, k = layout.local_rows(SIZE), 0
    while True:
        yield select_rows(make_batch(k, SIZE, np.float64), rows)
        k += 1


def train_and_restore(spec, folder):
    layout, template, state, step = prepare(spec)
    with Checkpoints(folder, keep=1) as checkpoints:

        def save(step, state, block):
            checkpoints.save(step, layout.saveable(state), {}, block=block)

        options = {"num_steps": 6, "batch_size": SIZE, "place": layout.place_batch, "save": save}
        state = train(
            step, state, batches(layout), options=LoopOptions(checkpoint_every=3), **options
        )
        whole = keys_to_data(layout.fetch(state))
        read = layout.place_state(checkpoints.restore(6, template))
        pairs = zip(
            jax.tree.leaves(whole), jax.tree.leaves(keys_to_data(layout.fetch(read))), strict=True
        )
        return {
            "reread": max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs),
            "bias": whole.params["out"]["bias"].tolist(),
            "average": np.asarray(checkpoints.restore_params(6, "0.9")["out"]["bias"]).tolist(),
            "steps": checkpoints.steps(),
        }


def agree(rank, folder):
    """Only process 0 looks, writes and moves; the others hear what it found, errors included."""
    layout, template, state, _ = prepare(LAYOUTS["fsdp_4"])
    saveable = layout.saveable(state)
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, saveable, {}, block=True)
        if rank == 0:
            (checkpoints.path(2) / "meta.json").write_text("{}")
        found = {"recovered": checkpoints.recover(), "left": checkpoints.steps()}
        checkpoints.restore(1, template)
        with mock.patch(
            "diffusion.checkpoints.folders.write_manifest", side_effect=OSError("full")
        ):
            checkpoints.save(3, saveable, {})
            try:
                checkpoints.wait()
            except SaveError as error:
                found["save"] = str(error)
    if rank == 0:
        other = {"host": "elsewhere", "pid": 1}
        (Path(folder) / "lock.json").write_text(json.dumps(other))
    try:
        with owned(Path(folder)):
            pass
    except (LockedError, FirstProcessError) as error:
        found["locked"] = error.exit_code
    return found


def stop_together(rank):
    layout, _, state, step = prepare(LAYOUTS["fsdp_4"])

    def disturb(step, state, metrics):
        time.sleep(0.05)
        if step == 10 and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    options = {"num_steps": 1000, "batch_size": SIZE, "place": layout.place_batch}
    try:
        train(step, state, batches(layout), hooks=[Hook(call=disturb, every=1)], **options)
    except Stopped as stopped:
        return {"step": stopped.step, "code": stopped.code}
    return None


def main(rank, port, folder):
    initialize_distributed(f"localhost:{port}", 2, rank)
    report = {n: train_and_restore(s, os.path.join(folder, n)) for n, s in LAYOUTS.items()}
    report["agreed"] = agree(rank, os.path.join(folder, "agreed"))
    json.dump(report | {"stopped": stop_together(rank)}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
