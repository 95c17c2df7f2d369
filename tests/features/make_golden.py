"""Make golden.npz and two small .pth files with the packages of test_against_torch.py.

    python tests/features/make_golden.py

Weights are those of `published_networks.random_weights`; what is stored of each block are the mean, the standard
deviation and a few entries, computed in double precision.
"""

from pathlib import Path

import numpy as np
import torch
from published_networks import (
    SMALL_DINO,
    dino_images,
    dinov2_of_the_authors,
    fidelity_inception,
    hooked,
    inception_images,
    pytorch_fid_inception,
    random_weights,
    small_levels,
    summary,
    to_array,
)

from diffusion.evaluation.features import inception
from diffusion.evaluation.features.published import Architecture
from diffusion.networks.dinov2 import DINOv2

HERE = Path(__file__).parent


def first(x):
    """Return a batch of images as torch orders its axes."""
    return torch.tensor(x).permute(0, 3, 1, 2)


def make():
    """Write the files."""
    weights, golden = random_weights(inception.ARCHITECTURE.wanted), {}
    net = pytorch_fid_inception(weights)
    blocks, (pool,) = hooked(net.load_blocks, lambda: net(first(inception_images())))
    golden |= {f"inception/{k}": summary(v) for k, v in blocks.items()}
    golden["inception/pool"] = summary(to_array(pool)[:, 0, 0])
    net = fidelity_inception(weights, "float64")
    for name, value in zip(("pool", "unbiased", "logits"), net(first(small_levels())), strict=True):
        golden[f"levels/{name}"] = summary(value.numpy())
    fields = Architecture(title="", module=DINOv2(**SMALL_DINO), size=14, passed="").wanted
    net = dinov2_of_the_authors(random_weights(fields), **SMALL_DINO)
    for side in (70, 42):
        named = {f"blocks.{i}": block for i, block in enumerate(net.blocks)}
        blocks, token = hooked(named, lambda side=side: net(first(dino_images(side))))
        golden |= {f"dinov2/{side}/{k}": summary(v) for k, v in blocks.items()}
        golden[f"dinov2/{side}/token"] = summary(token.detach().numpy())
    np.savez_compressed(HERE / "golden.npz", **golden)
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    tensors = layer.state_dict()  # with its hidden attribute, as published files have it
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    for x in tensors.values():
        x.copy_(torch.arange(x.numel()).reshape(x.shape))
    tensors["turned"], tensors["part"] = base.T, base[1:, 2:]  # windows into one storage
    tensors["parameter"] = torch.nn.Parameter(base[:1])
    torch.save(tensors, HERE / "archive.pth")
    torch.save(tensors, HERE / "stream.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    make()
