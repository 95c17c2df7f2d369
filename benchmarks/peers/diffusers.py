"""Hugging Face diffusers: UNet2DModel and DDIMScheduler."""

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import device, parameters, peak_memory, trainer, versions, wait
from benchmarks.worker import Work


def network(case: Case) -> Any:
    """Return the U-Net nearest to that of the case."""
    widths = tuple(case.channels * m for m in case.multipliers)
    sides = [case.shape[0] // 2**i for i in range(len(widths))]
    kinds = ["Attn" if side in case.attention else "" for side in sides]
    return UNet2DModel(
        sample_size=case.shape[0],
        in_channels=case.shape[-1],
        out_channels=case.shape[-1],
        block_out_channels=widths,
        layers_per_block=case.blocks,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        norm_num_groups=min(32, min(widths) // 4),
        attention_head_dim=None if not case.attention else widths[-1],
        downsample_type="resnet" if case.resample_in_block else "conv",
        upsample_type="resnet" if case.resample_in_block else "conv",
        resnet_time_scale_shift="scale_shift" if case.adaptive_scale else "default",
        dropout=case.dropout,
    )


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    predict = lambda net, x, t: net(x, t).sample
    differs = "learned convolutions between the levels"
    return trainer(case, variant, network(case), predict, ("diffusers",), differs=differs)


def draw(case: Case, variant: str) -> Work:
    """Return the loop of its DDIM pipeline around its U-Net."""
    where = device()
    net = network(case).to(where).eval()
    called = torch.compile(net) if variant == "compile" else net
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(case.steps, device=where)
    size = (case.batch, case.shape[-1], *case.shape[:-1])

    def run(n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                x = torch.randn(size, device=where)
                for t in scheduler.timesteps:
                    bf16 = case.dtype == "bfloat16"
                    with torch.autocast(where.type, dtype=torch.bfloat16, enabled=bf16):
                        y = called(x, t).sample
                    x = scheduler.step(y.float(), t, x).prev_sample
        wait()

    facts = versions("diffusers") | {"parameters": parameters(net), "devices_used": 1}
    return Work(run=run, facts=facts, memory=peak_memory)
