"""Prepared sets on disk: folders of ArrayRecord files in the layout of TensorFlow Datasets.

A prepared set is <root>/<name>[/<config>]/<version>/ with `dataset_info.json`, `features.json` and
the records. TensorFlow is needed neither to write one from pictures nor to read it.
"""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.pixels import decode, to_picture
from diffusion.data.storage import Progress
from diffusion.runtime.files import decoding
from diffusion.runtime.reading import read_json

_THREADS = 4  # decoders release the GIL; more threads only wait for each other


def _builder_class(name: str, version: str, features: Any, splits: Any, note: str) -> Any:
    """Return a TFDS builder class that yields the examples of `splits` in order."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=note,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # keys are row numbers: the records keep the order of the rows
        )

    body = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, manager: splits,
        "_generate_examples": lambda self: iter(()),  # required by the base class, never called
    }
    with registered.skip_registration():  # does not replace TFDS data sets of the same name
        return type(name, (tfds.core.GeneratorBasedBuilder,), body)


def write_records(
    folder: Path,
    *,
    name: str,
    version: str,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    note: str,
    progress: Progress | None = None,
) -> Path:
    """Write labeled uint8 images as PNG into ArrayRecord files.

    Args:
        folder: data folder of the builder.
        name: name of the data set.
        version: three numbers with dots.
        splits: images (n, height, width, channels) and labels (n,) of each split, in order.
        class_names: one per label.
        note: source of the data.
        progress: called with the number of examples written so far and their total.

    Returns:
        The folder with the records.
    """
    import tensorflow_datasets as tfds

    shape = next(iter(splits.values()))[0].shape[1:]
    total = sum(len(images) for images, _ in splits.values())
    written = 0

    def generate(images: np.ndarray, labels: np.ndarray) -> Any:
        nonlocal written
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield row, {"image": to_picture(image), "label": int(label)}
            written += 1
            if progress and (written % 1000 == 0 or written == total):
                progress(written, total)

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
    )
    generators = {split: generate(*arrays) for split, arrays in splits.items()}
    cls = _builder_class(name, version, features, generators, note)
    with quiet():
        builder = cls(data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_path)


@contextlib.contextmanager
def quiet() -> Any:
    """Silence the progress bars and the printed lines of TFDS."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def newest_version(folder: Path) -> Path | None:
    """Return the prepared set of the highest version below <root>/<name>[/<config>], or None."""
    found = [p.parent for p in folder.glob("*/dataset_info.json")]
    numbered = [p for p in found if re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", p.name)]
    return max(numbered, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def _info(folder: Path) -> dict[str, Any]:
    """Return the dataset_info.json of a prepared data set."""
    path = folder / "dataset_info.json"
    with decoding(path, "as the description of a prepared set"):
        return dict(read_json(path, links=True))


def split_sizes(folder: Path) -> dict[str, int]:
    """Return the number of examples of each split of a prepared set.

    Raises:
        ValueError: the set was prepared in a format without random access.
    """
    info = _info(folder)
    if info.get("fileFormat") != "array_record":
        kind = info.get("fileFormat", "tfrecord")
        raise ValueError(
            f"{folder} holds {kind} files, without random access; run `demolish data prepare` into another --data_dir."
        )
    return {s["name"]: sum(int(n) for n in s["shardLengths"]) for s in info["splits"]}


def description(folder: Path) -> str:
    """Return the first line of the description of a prepared data set."""
    text = str(_info(folder).get("description", ""))
    return next(iter(text.strip().splitlines()), "")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Conversion of the examples of a prepared data set to arrays.

    Args:
        image: feature with the picture.
        labels: features with the labels; the parts of nested names are joined by "/".
        size: height and width after a centered crop; None keeps the stored shape.
        channels: 1, 3, or None for the stored number.
    """

    image: str = "image"
    labels: tuple[str, ...] = ("label",)
    size: int | None = None
    channels: int | None = None

    @property
    def slug(self) -> str:
        """A short name of the layout, for folders."""
        # part of the names of folders
        labels = "-".join(self.labels).replace("/", ".") or "unlabelled"
        fit = f"{self.size or 'stored'}x{self.channels or 'stored'}"
        return f"{self.image}-{labels}-{fit}"


class RecordReader:
    """Random access to the pictures of one split, decoded on demand."""

    def __init__(self, folder: Path, split: str, layout: Layout):
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder_from_directory(str(folder))
        features = builder.info.features
        self.layout = layout
        self.class_names, self.num_classes = _classes(folder, features, layout)
        self.shape = _shape(folder, features, layout)
        # Pictures are decoded by `_decode`: resizing needs the picture, and TFDS would warn about OpenCV.
        decoders = {layout.image: tfds.decode.SkipDecoding()}
        self._records = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._records)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Read, decode and stack examples; see `diffusion.data.base.Source`."""
        records = self._records.__getitems__([int(i) for i in index])
        pictures = [record[self.layout.image] for record in records]
        with ThreadPoolExecutor(_THREADS) as pool:
            images = list(pool.map(self._decode, pictures))
        values = np.stack(images) if images else np.empty((0, *self.shape), np.uint8)
        if not self.layout.labels:
            return values, None
        labels = np.array([[int(_part(r, p)) for p in self.layout.labels] for r in records])
        labels = labels.reshape(len(records), len(self.layout.labels)).astype(np.int32)
        if (labels < 0).any():
            raise ValueError("This split has unlabeled examples (-1); build it with label=None.")
        return values, labels if len(self.layout.labels) > 1 else labels[:, 0]

    def _decode(self, picture: Any) -> np.ndarray:
        return decode(picture, self.shape[-1], self.layout.size)


def _part(record: Any, path: str) -> Any:
    """Return the value at a path "a/b" of nested features."""
    part = record
    for name in path.split("/"):
        part = part[name]
    return part


def _feature(folder: Path, features: Any, path: str) -> Any:
    try:
        return _part(features, path)
    except (KeyError, TypeError):
        names = ", ".join(sorted(features.keys()))
        raise ValueError(
            f"The set in {folder} has no feature {path!r}; name others by `image=` and `label=`: {names}."
        ) from None


def _classes(folder: Path, features: Any, layout: Layout) -> tuple[tuple, Any]:
    """Return the class names, and the number of classes of each label."""
    found = [_feature(folder, features, path) for path in layout.labels]
    for path, feature in zip(layout.labels, found, strict=True):
        if not hasattr(feature, "num_classes") and feature.np_dtype != np.bool_:
            raise ValueError(f"The feature {path!r} of {folder} is not a class label or a bool.")
    counts = tuple(int(getattr(feature, "num_classes", 2)) for feature in found)
    if len(counts) > 1:
        return (), counts
    names = tuple(getattr(found[0], "names", None) or ()) if found else ()
    return names, counts[0] if counts else 0


def _shape(folder: Path, features: Any, layout: Layout) -> tuple[int, int, int]:
    """Return the shape of every decoded picture."""
    stored = tuple(_feature(folder, features, layout.image).shape)
    height, width = (layout.size, layout.size) if layout.size else stored[:2]
    channels = layout.channels or {1: 1, 4: 3}.get(stored[2], 3)
    if height is None or width is None:
        raise ValueError(f"The pictures in {folder} differ in shape {stored}; give `size`.")
    return int(height), int(width), channels
