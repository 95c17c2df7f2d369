"""azula: its UNet, with one more linear embedding of the noise level."""

import torch
from azula.nn.unet import UNet

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import trainer
from benchmarks.worker import Work


class Network(torch.nn.Module):
    """The U-Net nearest to that of the case, modulated by sinusoids of the time."""

    def __init__(self, case: Case):
        super().__init__()
        width = 4 * round(case.channels * 9 / 32)  # with these its FLOPs agree
        widths = [width * m for m in case.multipliers]
        blocks = [case.blocks + 1] * len(widths)
        self.features = 4 * case.channels
        self.unet = UNet(
            case.shape[-1], case.shape[-1], hid_channels=widths, hid_blocks=blocks, norm="group",
            groups=width // 4, mod_features=self.features, dropout=case.dropout or None,
        )  # fmt: skip

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the predicted noise."""
        w = torch.logspace(0, -3, self.features // 2, device=x.device)
        angles = t[:, None] * w
        return self.unet(x, torch.cat([angles.cos(), angles.sin()], dim=-1))


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    predict = lambda net, x, t: net(x, t)
    differs = "1.1 times as wide, one norm per block, no attention, no block in the middle"
    return trainer(case, variant, Network(case), predict, ("azula",), differs=differs)
