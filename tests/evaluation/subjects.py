"""What the tests measure: digits and points, with generators that draw from real data and spoil it."""

import functools

import numpy as np

from diffusion import build
from diffusion.evaluation import EvalInputs


@functools.cache
def digits(split="train"):
    return build("dataset", dict(name="digits", split=split))


@functools.cache
def points(split="train"):
    return build("dataset", dict(name="points2d", kind="8gaussians", split=split, size=600))


@functools.cache
def images(split="train"):
    """All digits of a split, and their labels."""
    dataset = digits(split)
    batch = dataset.examples(0, dataset.spec.size)
    return batch["data"], batch["cond"]["label"]


def subject_of(x, train, *, batch_size=100, seed=0, **given):
    """Examples that were drawn already, as a subject without a model."""

    def generate(count, start=0):
        for i in range(start, start + count, batch_size):
            yield x[i : min(i + batch_size, start + count)]

    given = {"held_out": train.held_out(), "num_samples": len(x), **given}
    return EvalInputs(train=train, generate=generate, batch_size=batch_size, seed=seed, **given)


def damaged(x, labels, kind, seed=0):
    """Spoil images: none, little or much blur or noise, half or most classes missing."""
    rng = np.random.default_rng(seed)
    if kind.startswith("noise"):
        return (x + float(kind[5:]) * rng.normal(size=x.shape)).astype(np.float32)
    if kind.startswith("blur"):
        for _ in range(int(kind[4:])):
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
            x = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
            x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
        return x.astype(np.float32)
    if kind.startswith("classes"):
        kept = np.flatnonzero(labels < int(kind[7:]))
        return x[rng.choice(kept, len(x))]
    return x
