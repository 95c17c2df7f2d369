"""k-diffusion: its first image model, a U-Net."""

from typing import Any

from k_diffusion.models.image_v1 import ImageDenoiserModelV1

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import trainer
from benchmarks.worker import Work


def network(case: Case) -> Any:
    """Return the U-Net nearest to that of the case."""
    widths = [case.channels * m for m in case.multipliers]
    sides = [case.shape[0] // 2**i for i in range(len(widths))]
    attend = [side in case.attention or i == len(sides) - 1 for i, side in enumerate(sides)]
    depths = [case.blocks + 1 + max(0, 2 - i) for i in range(len(widths))]  # the FLOPs agree
    return ImageDenoiserModelV1(case.shape[-1], 4 * case.channels, depths, widths, attend,
                                dropout_rate=case.dropout)  # fmt: skip


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    predict = lambda net, x, t: net(x, (t + 1.0) / 1000)
    differs = (
        "4, 3, 2 blocks on the levels, each way, attention in all of the lowest, fixed resampling"
    )
    return trainer(case, variant, network(case), predict, ("k-diffusion",), differs=differs)
