"""denoising-diffusion-pytorch: its Unet."""

from typing import Any

from denoising_diffusion_pytorch import Unet

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import trainer
from benchmarks.worker import Work


def network(case: Case) -> Any:
    """Return the U-Net nearest to that of the case."""
    width = 2 * round(case.channels * 15 / 32)  # its blocks cost more; with these the FLOPs agree
    return Unet(width, dim_mults=case.multipliers, channels=case.shape[-1],
                dropout=case.dropout, flash_attn=True)  # fmt: skip


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    predict = lambda net, x, t: net(x, t)
    differs = "a 7 x 7 first convolution, linear attention on every level, two blocks per level"
    return trainer(case, variant, network(case), predict, ("denoising-diffusion-pytorch",),
                   differs=differs)  # fmt: skip
