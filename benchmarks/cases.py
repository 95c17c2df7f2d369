"""Definitions of the work to measure, as plain data, the same for every competitor.

A case is passed between processes and interpreters as JSON, so this module imports only the standard library.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its input and how it is trained.

    Attributes:
        name: name of the case.
        family: family of the network, "unet" or "dit".
        shape: shape of one example, (height, width, channels).
        batch: examples per training step, over all devices.
        dtype: dtype of the computation; parameters, averages and losses are float32.
        learning_rate: learning rate of Adam.
        ema_decay: decay of the average of the weights.
        channels: channels of the U-Net, multiplied by `multipliers`, one per level.
        multipliers: see `channels`.
        blocks: residual blocks per level of the encoder, one more in the decoder.
        attention: sides of the feature maps with attention, besides the bottleneck.
        resample: "pool", or "conv" for learned down- and upsampling.
        resample_in_block: resample inside residual blocks, by "pool".
        adaptive_scale: whether the embedding scales and shifts, or is only added.
        dropout: dropout rate in residual blocks.
        residual_scale: factor on the sum of a residual block.
        patch: patch size of the transformer.
        width: width of the tokens of the transformer.
        depth: number of blocks of the transformer.
        heads: number of attention heads of the transformer.
        devices: number of virtual CPU devices for this package; 0 for one per core.
        steps: number of steps of a sampler.
    """

    name: str = "unet"
    family: str = "unet"
    shape: tuple[int, ...] = (32, 32, 3)
    batch: int = 64
    dtype: str = "float32"
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    resample: str = "conv"
    resample_in_block: bool = False
    adaptive_scale: bool = True
    dropout: float = 0.0
    residual_scale: float = 1.0
    patch: int = 2
    width: int = 192
    depth: int = 6
    heads: int = 3
    devices: int = 0
    steps: int = 20

    def replaced(self, **fields: Any) -> "Case":
        """Return the case with other fields."""
        return dataclasses.replace(self, **fields)

    def to_json(self) -> str:
        """Return the case as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Undo `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        frozen: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**frozen)


CASES = {
    # 2.7 M parameters, 2.2 GFLOP per example and training step; the layers of diffusers' UNet2DModel
    "unet": Case(),
    # 4.1 M parameters on 256 tokens; DiT-B/2 with --size base
    "dit": Case(name="dit", family="dit"),
    # DDPM++ as Karras et al. (2022) train it on CIFAR-10, for accelerators
    "edm56": Case(
        name="edm56", channels=128, multipliers=(2, 2, 2), blocks=4, attention=(16,), dropout=0.13,
        resample="pool", resample_in_block=True, adaptive_scale=False, residual_scale=0.5**0.5, dtype="bfloat16",
        batch=256,
    ),
}  # fmt: skip

SIZES = {
    "small": {},
    "base": {  # a published size
        "unet": {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,), "batch": 128},
        "dit": {"width": 768, "depth": 12, "heads": 12, "shape": (32, 32, 4), "dtype": "bfloat16", "batch": 256},
        "edm56": {},
    },
    "tiny": {  # nothing but a test that it runs
        "unet": {"channels": 8, "multipliers": (1, 2), "shape": (8, 8, 3), "batch": 4},
        "dit": {"width": 16, "depth": 2, "heads": 2, "shape": (8, 8, 3), "batch": 4},
        "edm56": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "shape": (8, 8, 3), "batch": 4},
    },
}  # fmt: skip


def case_of(name: str, size: str = "small", **fields: Any) -> Case:
    """Return a case at a size, with the fields replaced that are not None.

    Raises:
        ValueError: the name or the size is unknown.
    """
    for given, known in ((name, CASES), (size, SIZES)):
        if given not in known:
            raise ValueError(f"unknown {given!r}; there are {', '.join(known)}.")
    changes = SIZES[size].get(name, {})
    told = {k: v for k, v in fields.items() if v is not None}
    return CASES[name].replaced(**{**changes, **told})
