"""Run by test_shards on several numbers of devices and cores: digests of what is generated at several batch sizes.

`python -m bits_program DEVICES CORES [sums]` prints JSON: name -> case -> [digest of floats, digest of 8-bit levels];
with "sums" only how arrays are summed up.
"""

import os
import sys

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[1]}"
os.environ["JAX_PLATFORMS"] = "cpu"
if hasattr(os, "sched_setaffinity"):  # before the pool of threads is made
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.runtime.compilation import use_fixed_sums

if "free" not in sys.argv:
    use_fixed_sums()

from diffusion.config.experiment import Experiment
from diffusion.data import DataSpec
from diffusion.evaluation import generate, replicated
from diffusion.evaluation.images import to_uint8

COUNT = 70
NETWORKS = {
    "unet": dict(name="unet", channels=8, multipliers=(1, 2), blocks=1, attention=(4,)),
    "mlp": dict(name="mlp", width=64, depth=2),
}


CASES = {
    "unet": (NETWORKS["unet"], dict(name="ancestral")),
    "mlp": (NETWORKS["mlp"], dict(name="ancestral")),
    "steps of a whole batch": (NETWORKS["mlp"], dict(name="dpm_solver_12")),
}


def experiment_of(network, sampler):
    return Experiment.from_config(
        dict(
            seed=0,
            process=dict(name="vp"),
            prediction=dict(name="v"),
            network=network,
            data=dict(name="digits"),
            sampler=sampler,
            grid=dict(name="uniform_log_snr", num_steps=5),
        ),
        DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, kind="image", bits=8),
    )


def noisy(params):
    """Parameters without zeros, so that every layer counts."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return replicated(jax.tree.unflatten(tree, moved))


def digests(network, sampler):
    experiment = experiment_of(network, sampler)
    params = noisy(experiment.init_params())

    def run(batch_size, start=0, block=None):
        parts = generate(
            experiment.sampler, experiment.process, lambda cond: experiment.model(params, cond), 0,
            COUNT - start, experiment.spec.shape, experiment.times(),
            lambda i: experiment.conditions(i % 10, len(i)),
            batch_size=batch_size, start=start, block=block,
        )  # fmt: skip
        return np.concatenate(list(parts))[-20:]

    cases = {f"batch {b}": run(b) for b in (1, 7, 32)}
    cases |= {"start 45": run(32, start=45), "block 16": run(32, block=16)}
    sha = lambda x: hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
    assert all(len(x) == 20 and np.isfinite(x).all() for x in cases.values())
    found = {name: [sha(x), sha(to_uint8(x))] for name, x in cases.items()}
    apart = np.abs(cases["block 16"] - cases["batch 1"]).max()
    return found | {"apart": float(apart), "inside": float((np.abs(cases["batch 1"]) < 1).mean())}


SUMS = {  # (shape, axes): long enough to be divided among threads
    "statistics of groups": ((8, 32, 32, 64), (1, 2)),
    "gradients of a bias": ((32, 8, 8, 64), (0, 1, 2)),
    "all": ((65536,), (0,)),
    "columns": ((2048, 64), (0,)),
    "rows": ((8, 100_000), (1,)),
}


def summed():
    """Digests of sums of the same random numbers."""
    draw = lambda shape: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    total = jax.jit(jnp.sum, static_argnums=1)
    sha = lambda x: hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
    return {name: sha(total(draw(shape), axes)) for name, (shape, axes) in SUMS.items()}


if __name__ == "__main__":
    if "sums" in sys.argv:
        json.dump(summed(), sys.stdout)
        sys.exit()
    json.dump({name: digests(*case) for name, case in CASES.items()}, sys.stdout)
