"""Image data sets of TensorFlow Datasets.

Most of its builders need TensorFlow once, to prepare the data; reading never does. Preparation is therefore an
explicit command, `demolish data prepare NAME`, with the extra `prepare` installed.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from diffusion.data.prepared import PreparedImages
from diffusion.data.records import Layout
from diffusion.data.storage import LOG, MissingDataError, Progress
from diffusion.numerics import at_least, one_of
from diffusion.registry import register


@register("dataset", "tfds")
@dataclass(frozen=True, kw_only=True)
class TFDS(PreparedImages):
    """Any image set of TensorFlow Datasets.

    Args:
        dataset: name, or name/config, as in the catalog.
        image: the feature with the picture.
        label: the feature with the class; several for several labels, "a/b" for nested features,
            None for no labels.
        size: height and width, by a centered crop and a resize; None keeps the stored shape.
        channels: 1 or 3; None keeps the stored number.
    """

    dataset: str
    image: str = "image"
    label: str | tuple[str, ...] | None = "label"
    size: int | None = None
    channels: int | None = None

    def __post_init__(self):
        super().__post_init__()
        one_of((None, 1, 3), channels=self.channels)
        at_least(1, size=self.size, none="that of the set")

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return self.dataset

    @property
    def layout(self) -> Layout:
        """Conversion of records to arrays."""
        labels = (self.label,) if isinstance(self.label, str) else tuple(self.label or ())
        return Layout(image=self.image, labels=labels, size=self.size, channels=self.channels)

    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        if not download:
            raise MissingDataError(
                f"{self.dataset!r} is not prepared in {root}. Run `demolish data prepare` for it where there is a "
                "network (needs pip install 'demolish[prepare]'), or give a prepared copy as `data_dir`."
            )
        if importlib.util.find_spec("tensorflow") is None:
            raise MissingDataError(
                f"Preparing {self.dataset!r} needs TensorFlow, this once: pip install 'demolish[prepare]'."
            )
        return _prepare_stock(self.dataset, scratch, root / "downloads")


def _prepare_stock(dataset: str, scratch: Path, downloads: Path) -> Path:
    """Download a data set with TFDS and write ArrayRecord files; TFDS shows its own progress bars."""
    import tensorflow_datasets as tfds

    LOG.info("Preparing %s with TensorFlow Datasets.", dataset)
    try:
        builder = tfds.builder(dataset, data_dir=str(scratch), file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise MissingDataError(f"TensorFlow Datasets has no set {dataset!r}.") from error
    try:
        builder.download_and_prepare(
            download_dir=str(downloads),  # downloads are kept if the preparation fails
            download_config=tfds.download.DownloadConfig(manual_dir=str(downloads / "manual")),
        )
    except Exception as error:  # TFDS raises whatever its transport raises
        reason, manual = f"{type(error).__name__}: {error}", downloads / "manual"
        raise MissingDataError(
            f"TensorFlow Datasets could not prepare {dataset!r}: {reason} (files to fetch by hand: {manual})."
        ) from error
    return Path(builder.data_path)


@register("dataset", "cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10(TFDS):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 color 32x32 images, ten classes."""

    dataset: str = "cifar10"


@register("dataset", "mnist")
@dataclass(frozen=True, kw_only=True)
class MNIST(TFDS):
    """MNIST (LeCun et al., 1998): 60,000 + 10,000 gray 28x28 digits."""

    dataset: str = "mnist"


@register("dataset", "celeb_a")
@dataclass(frozen=True, kw_only=True)
class CelebA(TFDS):
    """CelebA (Liu et al., 2015): 202,599 faces, cropped from the middle and resized.

    Unlabeled by default; `label="attributes/Male"`, or several such names, selects attributes as labels.
    """

    dataset: str = "celeb_a"
    label: str | tuple[str, ...] | None = None
    size: int | None = 64


@register("dataset", "imagenet_resized")
@dataclass(frozen=True, kw_only=True)
class ImageNetResized(TFDS):
    """ImageNet at low resolution (Chrabaszcz et al., 2017); splits "train" and "validation"."""

    dataset: str = "imagenet_resized/64x64"
