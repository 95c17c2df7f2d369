"""Measure U-Net against transformer, attention with and without log n, and residuals by depth.

    python -m experiments.architectures --tier small|full

results.json is written after every item; a later call measures only what is missing from it. table.md, the table
of README.md and the pictures are made from what there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from experiments._common import Call, command, write_pages
from experiments.architectures import lengths, pages
from experiments.architectures.depths import RESIDUALS, Stack
from experiments.architectures.images import Contest

HERE = Path(__file__).parent


def unet(**fields: Any) -> dict[str, Any]:
    """Return the section of a U-Net."""
    return dict(name="unet") | fields


def dit(**fields: Any) -> dict[str, Any]:
    """Return the section of a transformer."""
    return dict(name="dit") | fields


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Sizes of the study.

    Args:
        file: the config of the contest.
        networks: by name.
        num_steps: of their training.
        drawn: examples per network.
        signals: the transformer on signals.
        lengths: where it is asked.
        seeds: of its training.
        depths: of the stacks.
        stack_steps: of their training.
    """

    file: str = "digits"
    networks: Mapping[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "U-Net": unet(channels=16, multipliers=(1, 2), blocks=1, attention=(4,)),
            "DiT, as many parameters": dit(patch=2, width=48, depth=4, heads=4),
            "DiT, as many operations": dit(patch=2, width=48, depth=6, heads=4),
        }
    )
    num_steps: int = 400
    drawn: int = 500
    signals: lengths.Signals = field(
        default_factory=lambda: lengths.Signals(length=32, num_steps=1000)
    )
    lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    seeds: int = 2
    depths: tuple[int, ...] = (4, 32)
    stack_steps: int = 100


TIERS = {
    "small": Tier(),
    "full": Tier(
        file="fashion_mnist",
        networks={
            "U-Net": unet(channels=128, multipliers=(1, 2, 2), blocks=2, attention=(14, 7)),
            "DiT, patches of 2": dit(patch=2, width=384, depth=10, heads=6),
            "DiT, patches of 4": dit(patch=4, width=384, depth=12, heads=6),
        },
        num_steps=40_000,
        drawn=10_000,
        signals=lengths.Signals(length=64, num_steps=20_000, width=128, depth=6),
        lengths=(16, 32, 64, 128, 256, 512, 1024),
        seeds=5,
        depths=(4, 16, 64, 256),
        stack_steps=5000,
    ),
}


def measure(call: Call, tier: Tier) -> None:
    """Measure all three parts."""
    at_lengths(call, tier, 0)
    for depth in tier.depths:
        for residual in RESIDUALS:
            stack = Stack(residual=residual, depth=depth, num_steps=tier.stack_steps)
            call.item("depths", residual, str(depth), make=stack.measure)
    for name, network in tier.networks.items():
        contest = Contest(tier.file, network, tier.num_steps, tier.drawn)
        call.item("contest", name, make=contest.measure)
    for seed in range(1, tier.seeds):
        at_lengths(call, tier, seed)


def at_lengths(call: Call, tier: Tier, seed: int) -> None:
    """Measure one training on signals."""
    make = partial(lengths.measure, tier.signals, tier.lengths, seed)
    call.item("lengths", str(seed), make=make)


def main() -> None:
    """Measure one tier and write the pages."""
    call = command(HERE, __doc__ or "")
    measure(call, TIERS[call.tier])
    write_pages(HERE, pages)
    pages.pictures(call.results.load())
