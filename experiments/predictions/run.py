"""Measure the nine combinations of what a network predicts and what its loss compares.

    python -m experiments.predictions --tier small|full

results.json is written after every training; a later call measures only what is missing from it. table.md, the
table of README.md and the pictures are made from what there is.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments._common import Call, command, write_pages
from experiments.predictions import pages
from experiments.predictions.digits import Digits, of_training_images
from experiments.predictions.toy import Toy, combinations, floors, of_real_points
from experiments.predictions.training import OUTPUTS, Budget

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Sizes of the study.

    Args:
        dim: of the space around the plane, for all nine combinations.
        widths: of the network there: with a bottleneck and without.
        dims: of the sweep, where the loss compares the velocity.
        sweep_width: of the network there.
        digit_widths: of the networks on digits.
        seeds: trainings of each of the nine; one in the sweep.
        toy, digits: budgets of training.
    """

    dim: int
    widths: tuple[int, ...]
    dims: tuple[int, ...]
    sweep_width: int
    digit_widths: tuple[int, ...]
    seeds: int
    toy: Budget
    digits: Budget


TIERS = {
    "small": Tier(
        dim=64, widths=(32, 128), dims=(16, 32, 128, 256, 512), sweep_width=32,
        digit_widths=(16, 128), seeds=2, toy=Budget(),
        digits=Budget(num_steps=2000, batch_size=128),
    ),
    "full": Tier(
        dim=512, widths=(256, 2048), dims=(16, 64, 128, 256, 512, 1024, 3072), sweep_width=256,
        digit_widths=(16, 32, 64, 256, 1024), seeds=5,
        toy=Budget(num_steps=20_000, batch_size=1024, learning_rate=1e-3),
        digits=Budget(num_steps=20_000, batch_size=256, learning_rate=1e-3),
    ),
}  # fmt: skip


def toy(call: Call, tier: Tier, seed: int) -> None:
    """Measure the nine combinations for the plane in many dimensions, with and without a bottleneck."""
    call.item("toy", "real", make=of_real_points)
    for width in tier.widths:
        call.item("toy", "floors", str(width), make=lambda w=width: floors(tier.dim, w))
        study = Toy(tier.dim, width, tier.toy)
        trainer = study.trainer()
        for output, of_loss in combinations():
            make = partial(study.measure, trainer, output, of_loss, seed)
            call.item("toy", "nine", str(width), output, of_loss, str(seed), make=make)


def sweep(call: Call, tier: Tier) -> None:
    """Measure the three outputs by dimension, where the loss compares the velocity."""
    for dim in tier.dims:
        study = Toy(dim, tier.sweep_width, tier.toy)
        call.item("toy", "sweep floors", str(dim), make=lambda d=dim: floors(d, tier.sweep_width))
        trainer = study.trainer()
        for output in OUTPUTS:
            make = partial(study.measure, trainer, output, "velocity", 0)
            call.item("toy", "sweep", str(dim), output, make=make)


def digits(call: Call, tier: Tier, seed: int) -> None:
    """Measure the nine combinations on digits."""
    call.item("digits", "real", make=of_training_images)
    for width in tier.digit_widths:
        study = Digits(width, tier.digits)
        trainer = study.trainer()
        file = call.models / f"predictions-{call.tier}-{width}.npy"
        for output, of_loss in combinations():
            make = partial(study.measure, trainer, output, of_loss, seed)
            call.item("digits", "nine", str(width), output, of_loss, str(seed), make=make)
        if not file.is_file():
            rows = [study.sheet(trainer, output, "velocity", 0) for output in OUTPUTS]
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.stack(rows))


def main() -> None:
    """Measure one tier and write the pages."""
    call = command(HERE, __doc__ or "")
    tier = TIERS[call.tier]
    for seed in range(tier.seeds):
        toy(call, tier, seed)
        sweep(call, tier)
        digits(call, tier, seed)
    write_pages(HERE, pages)
    pages.pictures(call.results.load(), call.models)
