"""Measure what a budget of training buys on Fashion-MNIST: bits per dimension and Frechet distances by step.

    python -m experiments.fashion_mnist --tier small|full

results.json is written after every item; a later call measures only what is missing from it. table.md, the table
of README.md and the pictures are made from what there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.evaluation.held_out import bits_per_dim
from diffusion.evaluation.images import save_grid
from diffusion.networks.base import count_parameters
from diffusion.run.workdir import Workdir, open_run
from diffusion.training.metrics import read_jsonl
from experiments._common import Call, command, config_of, measured, samples, trained, write_pages
from experiments.fashion_mnist import pages

HERE = Path(__file__).parent
Changes = tuple[tuple[str, Any], ...]
FEATURES = ("pixels", "classifier")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Sizes of the study.

    Args:
        file: the config of the long training, with the word after its colon.
        points: measurements along it, evenly spaced in steps.
        drawn: examples of each measurement.
        held_out: examples whose bits are counted.
        choices: changes to that config by name, each trained for a short while.
        short: steps of those.
        foldings: likewise, with steps of their own.
    """

    file: str
    points: int = 6
    drawn: int = 1000
    held_out: int = 100
    choices: Mapping[str, Changes]
    short: int = 1000
    foldings: Mapping[str, Changes] = field(default_factory=dict)


OLD_TIMES = (("time.mean", -1.2), ("time.std", 1.2))
CHOICES: dict[str, Changes] = {
    "mirrored, log sigma ~ N(-1.2, 1.2^2)": (("data.flip", True), *OLD_TIMES),
    "log sigma ~ N(-1.2, 1.2^2)": OLD_TIMES,
    "log sigma ~ N(-1.8, 1.8^2)": (),
}
FULL_RESOLUTION = (("network.patch", 1), ("network.attention", (14,)))  # the lowest level attends
FOLDINGS: dict[str, Changes] = {
    f"{name}, {steps:,} steps": (*changes, ("train.num_steps", steps))
    for name, changes, budgets in (("folded", (), (3000,)), ("28x28", FULL_RESOLUTION, (900,)))
    for steps in budgets
}
TIERS = {
    "small": Tier(file="fashion_mnist:half_hour", choices=CHOICES, foldings=FOLDINGS),
    "full": Tier(file="fashion_mnist:gpu", drawn=10_000, held_out=1000, choices=CHOICES, short=10_000),
}  # fmt: skip


def measure(call: Call, tier: Tier) -> None:
    """Measure the choices, the reference and the long training."""
    folder = call.models / tier.file.replace(":", "_")
    run = trained(folder, tier.file, kept(tier))
    call.item("training images", make=partial(of_training_images, run.experiment, tier))
    call.item("training", make=partial(told, folder, run))
    for step in range(run.step // tier.points, run.step + 1, run.step // tier.points):
        make = partial(along, folder, tier, step)
        call.item("curve", str(step), make=make)
    for part in ("choices", "foldings"):
        for number, (name, changes) in enumerate(getattr(tier, part).items()):
            folder = call.models / f"{part}_{tier.file.replace(':', '_')}_{number}"
            call.item(part, name, make=partial(chosen, folder, tier, changes))


def kept(tier: Tier) -> list[tuple[str, Any]]:
    """Return what makes a training keep the checkpoints that are measured."""
    every = config_of(tier.file)["train"]["num_steps"] // tier.points
    return [("train.checkpoint_every", every), ("train.keep", tier.points), ("train.log_every", 50)]


def chosen(folder: Path, tier: Tier, changes: Changes) -> dict[str, float]:
    """Train for a short while with some choice, and measure."""
    run = trained(folder, tier.file, [("train.num_steps", tier.short), *changes])
    minutes = run.step * run.experiment.batch_size / speed(folder) / 60
    return {"minutes": minutes, **numbers(run, tier)}


def along(folder: Path, tier: Tier, step: int) -> dict[str, float]:
    """Measure the checkpoint of a step."""
    workdir = Workdir.of(folder)
    return numbers(open_run(workdir, workdir.read_config(), step=step), tier)


def numbers(run: Any, tier: Tier) -> dict[str, float]:
    """Return bits per dimension with their error, and both Frechet distances."""
    experiment = run.experiment
    model_of = lambda cond: experiment.model(run.params, cond)
    bits = bits_per_dim(
        experiment.process, model_of, experiment.held_out(), num_examples=tier.held_out,
        num_steps=32, num_probes=1,
    )  # fmt: skip
    x = samples(experiment, model_of, tier.drawn)
    found = {"bits": bits.bits_per_dim, "bits_error": bits.standard_error}
    return found | frechets(x, experiment)


def frechets(x: np.ndarray, experiment: Any) -> dict[str, float]:
    """Return the distances on pixels and on a classifier's features from the held-out images."""
    metrics = [{"name": "frechet", "features": features} for features in FEATURES]
    values = measured(x, experiment, metrics)
    return {
        features: next(v for k, v in values.items() if k.startswith(f"frechet_{features}") and "training" not in k)
        for features in FEATURES
    }  # fmt: skip


def of_training_images(experiment: Any, tier: Tier) -> dict[str, float]:
    """Return the distances of as many training images."""
    return frechets(experiment.dataset.examples(0, tier.drawn)["data"], experiment)


def told(folder: Path, run: Any) -> dict[str, Any]:
    """Return what a training was, and the smoothed loss in it by step."""
    return {
        "parameters": count_parameters(run.params), "steps": run.step,
        "batch": run.experiment.batch_size, "images per second": speed(folder),
        "loss": {
            str(r["step"]): r["loss"]
            for r in history(folder) if "loss" in r and r["step"] % (run.step // 30) == 0
        },
    }  # fmt: skip


def history(folder: Path) -> list[dict[str, Any]]:
    """Return what a training wrote about itself."""
    return read_jsonl(folder / "metrics.jsonl")


def speed(folder: Path) -> float:
    """Return the median number of images per second of a training."""
    told = (record.get("images_per_second") for record in history(folder))
    return float(np.median([rate for rate in told if rate]))


def pictures_of(call: Call, tier: Tier) -> None:
    """Write examples of the trained model, a row for each class."""
    folder = call.models / tier.file.replace(":", "_")
    run = trained(folder, tier.file, kept(tier))
    model_of = lambda cond: run.experiment.model(run.params, cond)
    classes = run.experiment.spec.num_classes
    x = samples(run.experiment, model_of, 12 * classes, batch_size=12 * classes)
    rows = x.reshape(12, classes, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    save_grid(HERE / "examples.png", rows, columns=12)


def main() -> None:
    """Measure one tier and write the pages."""
    call = command(HERE, __doc__ or "")
    measure(call, TIERS[call.tier])
    pictures_of(call, TIERS[call.tier])
    write_pages(HERE, pages)
    pages.pictures(call.results.load())
