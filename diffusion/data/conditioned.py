"""Conditions computed from the examples themselves: super-resolution and image-to-image.

`data = dict(name="fashion_mnist", condition=dict(name="superres", factor=4))` makes any set of images one whose
examples come with cond["image"]; what else the set says of an example stays.
"""

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from diffusion.data.base import Batch, Dataset, DataSpec
from diffusion.numerics import require
from diffusion.registry import build, register


@dataclass(frozen=True, kw_only=True)
class Condition(abc.ABC):
    """A picture computed from a picture, of the same height and width."""

    @abc.abstractmethod
    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the conditioning images (batch, height, width, channels) of images x."""

    def check(self, spec: DataSpec) -> None:
        """Raise ValueError for data that this cannot be computed from."""
        if spec.kind != "image":
            raise ValueError(
                f"{type(self).__name__} is for images; this data is made of {spec.kind}."
            )


@register("condition", "superres")
@final
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Condition):
    """The mean over squares of `factor` pixels, repeated to the full size (Saharia et al., 2021)."""

    factor: int = 4

    def __post_init__(self) -> None:
        require(self.factor >= 2, f"`factor` must be at least 2; got {self.factor}.")

    def check(self, spec: DataSpec) -> None:
        super().check(spec)
        require(
            not any(n % self.factor for n in spec.shape[:-1]),
            f"`factor` must divide height and width, {spec.shape[:-1]}; got {self.factor}.",
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        k = self.factor
        small = x.reshape(n, height // k, k, width // k, k, channels).mean(axis=(2, 4))
        return small.repeat(k, axis=1).repeat(k, axis=2)


@register("condition", "grey")
@final
@dataclass(frozen=True, kw_only=True)
class Grey(Condition):
    """The mean over channels: what colourisation starts from."""

    def check(self, spec: DataSpec) -> None:
        super().check(spec)
        require(spec.shape[-1] > 1, "`grey` needs colour images; these have one channel already.")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Conditioned(Dataset):
    """A data set whose examples also say a picture computed from them.

    Args:
        base: the data set.
        condition: what is computed.
    """

    base: Dataset = field(metadata={"kind": "dataset"})
    condition: Condition = field(metadata={"kind": "condition"})

    @property
    def spec(self) -> DataSpec:
        """Describe the contents: those of the base, and one image more."""
        spec = self.base.spec
        self.condition.check(spec)
        if spec.image_channels:
            raise ValueError("`condition` makes cond['image'], which this data set has already.")
        channels = self.condition(np.zeros((1, *spec.shape), np.float32)).shape[-1]
        return dataclasses.replace(spec, image_channels=channels)

    def batch(
        self,
        step: int,
        batch_size: int,
        seed: int = 0,
        index: Sequence[int] | np.ndarray | None = None,
        train: bool = True,
        rows: slice | None = None,
    ) -> Batch:
        """Return batch number `step`; see `Dataset.batch`."""
        return self._extended(self.base.batch(step, batch_size, seed, index, train, rows))

    def examples(self, start: int, count: int) -> Batch:
        """Return examples in natural order; see `Dataset.examples`."""
        return self._extended(self.base.examples(start, count))

    def held_out(self) -> "Conditioned":
        """Return the same of the held-out data."""
        return dataclasses.replace(self, base=self.base.held_out())

    def _extended(self, batch: Batch) -> Batch:
        image = self.condition(batch["data"]).astype(np.float32)
        return {**batch, "cond": {**batch.get("cond", {}), "image": image}}


def conditioned(spec: Any, dataset: Dataset) -> Dataset:
    """Return the data set with the condition that this names, "superres:4" or a mapping; None is none.

    Raises:
        KeyError: there is no such condition.
        TypeError: a field is unknown.
        ValueError: a field is impossible.
    """
    if spec is None:
        return dataset
    if isinstance(spec, str):
        name, colon, argument = spec.partition(":")
        spec = {"name": name} | ({"factor": int(argument)} if colon and argument.isdigit() else {})
    return Conditioned(base=dataset, condition=build("condition", spec))
