"""PyTorch alone: networks of the same layers as ours and as `plain_flax`, as one writes them by hand."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import trainer
from benchmarks.worker import Work


class Embed(nn.Module):
    """Two linear layers over sinusoids of the noise level."""

    def __init__(self, width: int):
        super().__init__()
        frequencies = np.geomspace(0.2, 32.0, width // 2)
        self.register_buffer("w", torch.tensor(frequencies, dtype=torch.float32))
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, t: Any) -> Any:
        """Embed whole numbers below 1000."""
        angles = (t[:, None] / 67.0 - 7.5) * self.w
        h = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return F.silu(self.second(F.silu(self.first(h))))


def norm(channels: int) -> nn.Module:
    """Return group normalization with at most 32 groups of at least four channels."""
    return nn.GroupNorm(min(32, max(1, channels // 4)), channels, eps=1e-5)


class Attend(nn.Module):
    """Self-attention over tokens (batch, tokens, features)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        """Attend all to all."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


def resize(x: Any, change: int) -> Any:
    """Double the sides by repeating, or halve them by averages."""
    return F.interpolate(x, scale_factor=2, mode="nearest") if change > 0 else F.avg_pool2d(x, 2)


class Block(nn.Module):
    """Residual block; `change` is 0, +1 to double the sides, or -1 to halve them."""

    def __init__(self, case: Case, before: int, width: int, attend: bool, change: int = 0):
        super().__init__()
        self.case, self.change = case, change
        self.norm_in, self.norm_out = norm(before), norm(width)
        self.conv_in = nn.Conv2d(before, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(4 * case.channels, width * (1 + case.adaptive_scale))
        self.drop = nn.Dropout(case.dropout)
        self.project = nn.Conv2d(before, width, 1) if before != width else nn.Identity()
        self.norm_attention = norm(width) if attend else None
        self.attention = Attend(width, 1) if attend else None

    def forward(self, x: Any, emb: Any) -> Any:
        """Return features of the block's width."""
        h = F.silu(self.norm_in(x))
        if self.change:
            h, x = resize(h, self.change), resize(x, self.change)
        h, m = self.conv_in(h), self.modulation(emb)[:, :, None, None]
        if self.case.adaptive_scale:
            scale, shift = m.chunk(2, dim=1)
            h = F.silu((1 + scale) * self.norm_out(h) + shift)
        else:
            h = F.silu(self.norm_out(h + m))
        x = (self.project(x) + self.conv_out(self.drop(h))) * self.case.residual_scale
        if self.attention is not None:
            y = self.attention(self.norm_attention(x).flatten(2).transpose(1, 2))
            x = (x + y.transpose(1, 2).reshape(x.shape)) * self.case.residual_scale
        return x


class Resample(nn.Module):
    """Change the level between blocks, by a learned convolution or not."""

    def __init__(self, case: Case, width: int, change: int):
        super().__init__()
        self.change, learned = change, case.resample == "conv"
        stride = 1 if change > 0 else 2
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1) if learned else None

    def forward(self, x: Any, emb: Any) -> Any:
        """Return features of half or twice the sides."""
        del emb
        if self.conv is None:
            return resize(x, self.change)
        return self.conv(resize(x, +1) if self.change > 0 else x)


class UNet(nn.Module):
    """Convolutional encoder and decoder with skips from every step."""

    def __init__(self, case: Case):
        super().__init__()
        widths = [case.channels * m for m in case.multipliers]
        here = lambda level: case.shape[0] // 2**level in case.attention
        self.embed = Embed(4 * case.channels)
        self.first = nn.Conv2d(case.shape[-1], case.channels, 3, padding=1)
        self.down, self.up, skips, now = (
            nn.ModuleList(),
            nn.ModuleList(),
            [case.channels],
            case.channels,
        )
        for i, width in enumerate(widths):
            for _ in range(case.blocks):
                self.down.append(Block(case, now, width, here(i)))
                now = width
                skips.append(now)
            if i + 1 < len(widths):
                self.down.append(self._change(case, now, -1))
                skips.append(now)
        self.middle = nn.ModuleList([Block(case, now, now, True), Block(case, now, now, False)])
        for i in reversed(range(len(widths))):
            for _ in range(case.blocks + 1):
                self.up.append(Block(case, now + skips.pop(), widths[i], here(i)))
                now = widths[i]
            if i:
                self.up.append(self._change(case, now, +1))
        self.joins = [isinstance(m, Block) and not m.change for m in self.up]
        self.norm, self.head = norm(now), nn.Conv2d(now, case.shape[-1], 3, padding=1)

    @staticmethod
    def _change(case: Case, width: int, by: int) -> nn.Module:
        in_block = case.resample_in_block
        return Block(case, width, width, False, by) if in_block else Resample(case, width, by)

    def forward(self, x: Any, t: Any) -> Any:
        """Return the predicted noise."""
        emb, h = self.embed(t), self.first(x)
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        for block in self.middle:
            h = block(h, emb)
        for block, joins in zip(self.up, self.joins, strict=True):
            h = block(torch.cat([h, skips.pop()], dim=1) if joins else h, emb)
        return self.head(F.silu(self.norm(h)))


class DiTBlock(nn.Module):
    """Attention and perceptron, both modulated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.modulation, self.attention = nn.Linear(width, 6 * width), Attend(width, heads)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Any, emb: Any) -> Any:
        """Return new tokens."""
        s1, t1, g1, s2, t2, g2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        plain = lambda x: F.layer_norm(x, x.shape[-1:])
        h = h + g1 * self.attention((1 + s1) * plain(h) + t1)
        y = F.gelu(self.mlp_in((1 + s2) * plain(h) + t2), approximate="tanh")
        return h + g2 * self.mlp_out(y)


class DiT(nn.Module):
    """Transformer over patches with adaptive layer norms."""

    def __init__(self, case: Case):
        super().__init__()
        self.p, side, size = case.patch, case.shape[0] // case.patch, case.patch**2 * case.shape[-1]
        self.embed, self.patches = Embed(case.width), nn.Linear(size, case.width)
        w = 1e4 ** -(np.arange(case.width // 4) / (case.width // 4))
        rows, columns = (i.reshape(-1, 1) * w for i in np.indices((side, side)))
        table = np.concatenate([f(a) for a in (rows, columns) for f in (np.sin, np.cos)], axis=-1)
        self.register_buffer("positions", torch.tensor(table, dtype=torch.float32))
        self.blocks = nn.ModuleList([DiTBlock(case.width, case.heads) for _ in range(case.depth)])
        self.modulation, self.head = (
            nn.Linear(case.width, 2 * case.width),
            nn.Linear(case.width, size),
        )

    def forward(self, x: Any, t: Any) -> Any:
        """Return the predicted noise."""
        height, width = x.shape[-2:]
        emb, p = self.embed(t), self.p
        h = self.patches(F.unfold(x, p, stride=p).transpose(1, 2)) + self.positions
        for block in self.blocks:
            h = block(h, emb)
        s, shift = self.modulation(emb)[:, None].chunk(2, dim=-1)
        y = self.head((1 + s) * F.layer_norm(h, h.shape[-1:]) + shift)
        assert y.shape[1] == math.prod((height // p, width // p))
        return F.fold(y.transpose(1, 2), (height, width), p, stride=p)


def train(case: Case, variant: str) -> Work:
    """Return the step of the network written here."""
    network = {"unet": UNet, "dit": DiT}[case.family](case)
    return trainer(case, variant, network, lambda net, x, t: net(x, t), ())
