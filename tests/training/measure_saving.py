"""What saving costs: seconds by part, and what it does to the steps meanwhile.

python tests/training/measure_saving.py --mib 100

Prints one JSON object. "share" is the time of hashing and of the guard, per minute of training with one
checkpoint a minute: hashing runs in a thread of low priority, the guard holds up the step.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from diffusion.checkpoints import folders as folders_module
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.finite import not_finite
from diffusion.checkpoints.manifest import digest
from diffusion.checkpoints.stored import entries
from diffusion.training import TrainState


def make_state(mib, arrays=16):
    """A state of incompressible numbers: parameters, two moments, one average."""
    size = mib * 2**20 // 4 // 4 // arrays

    def tree(seed):
        keys = jax.random.split(jax.random.key(seed), arrays)
        return {f"layer_{i}": jax.random.normal(k, (size,)) for i, k in enumerate(keys)}

    zero = lambda: jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero(), params=tree(0), opt_state={"mu": tree(1), "nu": tree(2)}, ema={"0.999": tree(3)},
        key=jax.random.key(0), bad_steps=zero(), bad_run=zero(),
    )  # fmt: skip


def seconds(work, repeats=5):
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def steps_in(step, x, duration):
    """Return how many steps are done in so many seconds."""
    count, end = 0, time.perf_counter() + duration
    while time.perf_counter() < end:
        step(x).block_until_ready()
        count += 1
    return count


def measure(mib, folder):
    state = make_state(mib)
    jax.block_until_ready(state)
    step, x = jax.jit(lambda x: jnp.tanh(x @ x) / 10), jnp.ones((700, 700))
    step(x).block_until_ready()
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(0, state, {}, block=True)  # what is made once is not counted
        numbers, last = iter(range(1, 10**6)), [0]

        def save():
            last[0] = next(numbers)
            checkpoints.save(last[0], state, {})

        blocked, whole = [], []
        for _ in range(5):
            started = time.perf_counter()
            save()
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            whole.append(time.perf_counter() - started)
        files = [p for p in checkpoints.path(last[0]).rglob("*") if p.is_file()]
        hashing = seconds(lambda: [digest(p) for p in files])
        guard = seconds(lambda: not_finite(entries(state)))
        verifying = seconds(lambda: checkpoints._folders.verify(last[0]))
        size = sum(p.stat().st_size for p in files) / 2**20
        counts = {"alone": [], "during a save": [], "during a save without hashing": []}
        for _ in range(5):  # by turns: other work on the machine meets all alike
            counts["alone"].append(steps_in(step, x, 1.5))
            save()
            counts["during a save"].append(steps_in(step, x, 1.5))
            checkpoints.wait()
            with mock.patch.object(folders_module, "write_manifest"):
                save()
                counts["during a save without hashing"].append(steps_in(step, x, 1.5))
                checkpoints.wait()
    return {
        "mib_on_disk": round(size, 1),
        "save_returns_after_s": round(statistics.median(blocked), 3),
        "on_disk_after_s": round(statistics.median(whole), 3),
        "hashing_s": round(hashing, 3),
        "guard_s": round(guard, 4),
        "verifying_before_use_s": round(verifying, 3),
        "share_of_a_minute_percent": round(100 * (hashing + guard) / 60, 2),
        "steps_in_1.5_s": {name: statistics.median(found) for name, found in counts.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=100, help="size of the state")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(parser.parse_args().mib, Path(folder) / "checkpoints")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
