"""Conditions computed from the examples of a data set: super-resolution, image-to-image, attributes.

`data = dict(name="fashion_mnist", condition=dict(name="superres", factor=4))` adds cond["image"] to the examples of
any data set of images; other conditions are kept.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from diffusion.data.base import Batch, Dataset, DataSpec
from diffusion.numerics import at_least, multiple_of, require
from diffusion.registry import build, register


@dataclass(frozen=True, kw_only=True)
class Condition(abc.ABC):
    """A condition computed from the batches of a data set."""

    @abc.abstractmethod
    def respec(self, spec: DataSpec) -> DataSpec:
        """Return the spec of the data with this condition.

        Raises:
            ValueError: the condition cannot be computed from such data.
        """

    @abc.abstractmethod
    def cond(self, batch: Batch) -> dict[str, Any]:
        """Return the conditions of a batch, including those that it already has."""


@dataclass(frozen=True, kw_only=True)
class ImageCondition(Condition):
    """An image computed from an image, of the same height and width."""

    @abc.abstractmethod
    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the conditioning images (batch, height, width, channels) of images x."""

    def check(self, spec: DataSpec) -> None:
        """Raise ValueError if the condition cannot be computed from such data."""
        who = type(self).__name__
        require(spec.kind == "image", f"{who} is for images; this data is made of {spec.kind}.")
        require(not spec.image_channels, f"{who} makes cond['image'], which is there already.")

    def respec(self, spec: DataSpec) -> DataSpec:
        self.check(spec)
        channels = self(np.zeros((1, *spec.shape), np.float32)).shape[-1]
        return dataclasses.replace(spec, image_channels=channels)

    def cond(self, batch: Batch) -> dict[str, Any]:
        return {**batch.get("cond", {}), "image": self(batch["data"]).astype(np.float32)}


@register("condition", "superres")
@final
@dataclass(frozen=True, kw_only=True)
class SuperResolution(ImageCondition):
    """The mean over squares of `factor` pixels, repeated to the full size (Saharia et al., 2021)."""

    factor: int = 4

    def __post_init__(self) -> None:
        at_least(2, factor=self.factor)

    def check(self, spec: DataSpec) -> None:
        super().check(spec)
        multiple_of(self.factor, height=spec.shape[0], width=spec.shape[1], of="superres")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        k = self.factor
        small = x.reshape(n, height // k, k, width // k, k, channels).mean(axis=(2, 4))
        return small.repeat(k, axis=1).repeat(k, axis=2)


@register("condition", "gray", renamed_from="grey")
@final
@dataclass(frozen=True, kw_only=True)
class Gray(ImageCondition):
    """The mean over channels, the input of colorization."""

    def check(self, spec: DataSpec) -> None:
        super().check(spec)
        require(spec.shape[-1] > 1, "`gray` needs color images; these have one channel already.")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=-1, keepdims=True)


@register("condition", "multi_hot")
@final
@dataclass(frozen=True, kw_only=True)
class LabelsAsMultiHot(Condition):
    """Several labels of two classes each, such as attributes of faces, as one multi-hot condition."""

    def respec(self, spec: DataSpec) -> DataSpec:
        sizes = spec.num_classes
        require(
            isinstance(sizes, tuple) and set(sizes) == {2} and not spec.multi_hot_dim,
            f"the condition multi_hot takes several labels of two classes each; this data has num_classes = {sizes}.",
        )
        assert isinstance(sizes, tuple)
        return dataclasses.replace(spec, num_classes=0, multi_hot_dim=len(sizes), class_names=())

    def cond(self, batch: Batch) -> dict[str, Any]:
        given = dict(batch["cond"])
        return {"multi_hot": given.pop("label"), **given}


@dataclass(frozen=True, kw_only=True)
class Conditioned(Dataset):
    """A data set with a computed condition.

    Args:
        base: the data set.
        condition: the condition to compute.
    """

    base: Dataset = field(metadata={"kind": "dataset"})
    condition: Condition = field(metadata={"kind": "condition"})

    @property
    def spec(self) -> DataSpec:
        """Describe the contents."""
        return self.condition.respec(self.base.spec)

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
        batch = self.base.batch(step, batch_size, seed, index, train, rows)
        return {**batch, "cond": self.condition.cond(batch)}

    def examples(self, start: int, count: int) -> Batch:
        """Return examples in natural order; see `Dataset.examples`."""
        batch = self.base.examples(start, count)
        return {**batch, "cond": self.condition.cond(batch)}

    def content(self) -> str | None:
        """Return the digest of the data set; see `Dataset.content`."""
        return self.base.content()

    def division(self) -> str:
        """Return the sentence of the data set; see `Dataset.division`."""
        return self.base.division()

    def held_out(self) -> "Conditioned":
        """Return the held-out data with the same condition; the data set itself if nothing is held out."""
        base = self.base.held_out()
        return self if base is self.base else dataclasses.replace(self, base=base)


def conditioned(spec: str | Mapping[str, Any] | None, dataset: Dataset) -> Dataset:
    """Return a data set with the condition of a spec, "superres:4" or a mapping; None for no condition.

    Raises:
        KeyError: there is no such condition.
        TypeError: a field is unknown.
        ValueError: a field has an invalid value.
    """
    if spec is None:
        return dataset
    if isinstance(spec, str):
        name, _, number = spec.partition(":")
        spec = {"name": name, "factor": int(number)} if number.isdigit() else {"name": spec}
    return Conditioned(base=dataset, condition=build("condition", spec))
