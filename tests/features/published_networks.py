"""Networks of other packages with random weights, and what they answer; and random weights by name.

Whether two networks are the same function does not depend on the values of their weights. Those here keep the
size of activations near 1 in every layer, and all stored statistics and scales are random.
"""

import zlib

import numpy as np

INCEPTION_BLOCKS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
    "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
SMALL_DINO = dict(width=48, depth=3, heads=3, grid=5)  # fields of our DINOv2
NARROW_DINO = dict(width=16, depth=1, heads=2)  # with the positions of the published ones


def random_weights(wanted, seed=0):
    """Return float64 arrays by their published names; each depends on the seed and its own name only."""
    found = {}
    for name, shape in wanted.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        normal, last = rng.normal(size=shape), name.rpartition(".")[2]
        if last in ("running_var", "gamma") or (last == "weight" and len(shape) == 1):
            found[name] = rng.uniform(0.5, 1.5, shape)
        elif last == "weight":
            found[name] = normal * (1.5 / np.prod(shape[1:])) ** 0.5
        else:
            found[name] = normal * (1.0 if "token" in name or "embed" in name else 0.2)
    return found


def fidelity_inception(weights, dtype):
    """Return torch-fidelity's network: 8-bit images, resizing, features, logits."""
    import tempfile
    from pathlib import Path

    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names, state = (
        ["2048", "logits_unbiased", "logits"],
        {k: torch.tensor(v) for k, v in weights.items()},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(state, path)
        net = FeatureExtractorInceptionV3("random", names, feature_extractor_weights_path=str(path))
    # Its own option for double precision computes in single precision, in version 0.4.0.
    net.feature_extractor_internal_dtype = getattr(torch, dtype)
    net.to(getattr(torch, dtype))
    net.load_state_dict(state)
    return net


def pytorch_fid_inception(weights):
    """Return pytorch-fid's network in double precision, without its resizing and scaling."""
    import pytorch_fid.inception as package
    import torch

    original = package.load_state_dict_from_url
    package.load_state_dict_from_url = lambda *a, **k: {
        n: torch.tensor(v) for n, v in weights.items()
    }
    try:
        net = package.InceptionV3(resize_input=False, normalize_input=False)
    finally:
        package.load_state_dict_from_url = original
    net.double().eval()
    blocks = [m for sequence in net.blocks for m in sequence if "Pool" not in type(m).__name__]
    net.load_blocks = dict(zip(INCEPTION_BLOCKS, blocks, strict=True))
    for name, block in net.load_blocks.items():  # once more in double: it was loaded as float32
        inner = {
            k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")
        }
        block.load_state_dict({k: torch.tensor(v) for k, v in inner.items()}, strict=False)
    return net


def dinov2_of_the_authors(weights, *, width, depth, heads, grid=37):
    """Return the authors' network in double precision."""
    import torch
    from dinov2.models.vision_transformer import DinoVisionTransformer

    net = DinoVisionTransformer(
        img_size=14 * grid, patch_size=14, embed_dim=width, depth=depth, num_heads=heads, init_values=1.0,
        block_chunks=0,
    )  # fmt: skip
    net.double().eval()
    state = {k: torch.tensor(v) for k, v in weights.items()}
    state["mask_token"] = torch.zeros(1, width, dtype=torch.float64)
    net.load_state_dict(state)
    return net


def dinov2_of_timm(weights, *, width, depth, heads, grid=37):
    """Return timm's network in double precision."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(
        img_size=14 * grid, patch_size=14, embed_dim=width, depth=depth, num_heads=heads, init_values=1.0,
        num_classes=0, global_pool="token",
    )  # fmt: skip
    net.double().eval()
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    return net


def hooked(blocks, call):
    """Run a network and return what each of its blocks gave, as arrays, channels last, and the result."""
    found, handles = {}, []
    for name, block in blocks.items():
        keep = lambda module, given, out, name=name: found.__setitem__(name, to_array(out))
        handles.append(block.register_forward_hook(keep))
    try:
        result = call()
    finally:
        for handle in handles:
            handle.remove()
    return found, result


def to_array(x):
    """Return a tensor as an array, images as (batch, height, width, channels)."""
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def inception_images():
    """Images whose last maps are 3 x 3."""
    return np.random.default_rng(1).uniform(-1, 1, (2, 139, 139, 3))


def small_levels():
    """Small images of 8 bits, not square."""
    return np.random.default_rng(2).integers(0, 256, (1, 32, 40, 3), dtype=np.uint8)


def dino_images(side):
    """Standardized images."""
    return np.random.default_rng(4).normal(size=(2, side, side, 3))


def summary(x):
    """Return size, mean, standard deviation, and eight entries spread over an array."""
    x = np.asarray(x, np.float64)
    spread = np.linspace(0, x.size - 1, 8).astype(int)
    return np.array([x.size, x.mean(), x.std(), *x.reshape(-1)[spread]])
