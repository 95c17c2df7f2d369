"""The smallest real run: points in the plane, a checkpoint every few steps, the programs as users start them."""

import hashlib
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
STEPS, EVERY, KEEP = 40, 5, 4
TRAIN = (
    "--config=configs/toy2d.py",
    "--config.network.width=8",
    "--config.network.depth=1",
    "--config.data.batch_size=16",
    f"--config.train.num_steps={STEPS}",
    f"--config.train.checkpoint_every={EVERY}",
    f"--config.train.keep={KEEP}",
    "--config.train.log_every=1",
    "--config.train.sample_every=0",
)


def train(workdir: Path, *more: str) -> list[str]:
    """Return the command line that trains in a folder."""
    return ["scripts/train.py", *TRAIN, f"--workdir={workdir}", *more]


def sample(workdir: Path, out: Path, *more: str) -> list[str]:
    """Return the command line that samples, in many small shards."""
    return [
        "scripts/sample.py", f"--workdir={workdir}", f"--out={out}", "--num_samples=160",
        "--shard_size=16", "--num_steps=3", *more,
    ]  # fmt: skip


def evaluate(workdir: Path, *more: str) -> list[str]:
    """Return the command line that measures."""
    return [
        "scripts/evaluate.py", f"--workdir={workdir}", "--metrics=loss_by_level,energy_distance",
        "--num_samples=64", "--config.grid.num_steps=3", *more,
    ]  # fmt: skip


def state_hash(workdir: Path, step: int = STEPS) -> str:
    """Return a hash of every leaf of a checkpoint: parameters, optimizer, averages, key, counters."""
    import jax

    from diffusion.checkpoints.reader import CheckpointReader
    from diffusion.config.experiment import Experiment
    from diffusion.training.state import keys_to_data

    found = hashlib.sha256()
    config = json.loads((workdir / "config.json").read_text())
    experiment = Experiment.from_config(config)
    with CheckpointReader(workdir / "checkpoints") as reader:
        template = experiment.parallel.template(experiment.abstract_state())
        state = keys_to_data(reader.restore(step, template))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def log_lines(workdir: Path) -> list[dict]:
    """Return the numbers of the log that do not depend on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_second",)
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def outcome(workdir: Path) -> list[str]:
    """Return what two runs must have in common: the last state and the log."""
    log = json.dumps(log_lines(workdir), sort_keys=True)
    return [state_hash(workdir), hashlib.sha256(log.encode()).hexdigest()]
