"""Fashion-MNIST (Xiao et al., 2017): 70,000 gray 28x28 pictures of clothes in ten classes."""

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.prepared import PreparedImages
from diffusion.data.records import quiet, write_records
from diffusion.data.storage import LOG, MissingDataError, Progress
from diffusion.registry import register
from diffusion.runtime.files import decoding
from diffusion.runtime.reading import open_plain, unpacked_limit

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
SOURCE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # the authors' own
PREFIXES = {"train": "train", "test": "t10k"}
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes, the format of MNIST (LeCun et al., 1998).

    Raises:
        OSError: the file cannot be read; its content is unknown.
        ValueError: the file is damaged or of another kind.
    """
    with open_plain(path, links=True) as packed:
        content = packed.read()
    with (
        decoding(path, "as gzip; delete it and get it again"),
        gzip.open(io.BytesIO(content)) as file,
    ):
        raw = file.read(unpacked_limit(len(content)))
    ndim = raw[3] if raw[:3] == b"\x00\x00\x08" and len(raw) > 3 else 0
    shape = tuple(np.frombuffer(raw, ">u4", count=ndim, offset=4)) if ndim else ()
    size = int(np.prod(shape, dtype=np.int64))
    if not ndim or len(raw) != 4 + 4 * ndim + size:
        raise ValueError(f"{path} is not an idx file of bytes. Delete it and get it again.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def file_names(split: str) -> tuple[str, str]:
    """Return the names of the files with the images and the labels of a split."""
    prefix = PREFIXES[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def read_split(files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the images (n, 28, 28, 1) and labels (n,) of a split."""
    images, labels = (read_idx(files[name]) for name in file_names(split))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max() > 9:
        raise ValueError(f"{files[file_names(split)[0]]} does not hold Fashion-MNIST.")
    return images[..., None], labels.astype(np.int64)


def _download(names: list[str], folder: Path) -> dict[str, Path]:
    """Fetch the files with the download manager of TFDS, which keeps them in `folder`."""
    import tensorflow_datasets as tfds

    manager = tfds.download.DownloadManager(
        download_dir=str(folder), dataset_name="fashion_mnist", register_checksums=False
    )
    with quiet():
        found = manager.download({name: SOURCE_URL + name for name in names})
    return {name: Path(path) for name, path in found.items()}


@register("dataset", "fashion_mnist")
@dataclass(frozen=True, kw_only=True)
class FashionMNIST(PreparedImages):
    """Fashion-MNIST: splits "train" (60,000) and "test" (10,000).

    Made on first use from Debian's package dataset-fashion-mnist when that is installed. The
    network is used only by `prepare(download=True)`, as `demolish data prepare` does.
    """

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return "fashion_mnist"

    def _files(self, root: Path, download: bool) -> dict[str, Path]:
        names = [name for split in PREFIXES for name in file_names(split)]
        local = {name: DEBIAN_FOLDER / name for name in names}
        if all(path.exists() for path in local.values()):
            return local
        reason = ""
        if download:
            try:
                return _download(names, root / "downloads")
            except Exception as error:  # the download manager raises exceptions of many classes
                reason = f" The download failed: {type(error).__name__}: {error}."
        raise MissingDataError(
            f"Fashion-MNIST is not in {root}.{reason} Run `apt-get install dataset-fashion-mnist` (Debian), give a "
            "prepared copy as `data_dir`, or run `demolish data prepare fashion_mnist` where there is a network."
        )

    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        files = self._files(root, download)
        LOG.info("Preparing Fashion-MNIST in %s (once, 10 seconds to a minute).", root)
        return write_records(
            scratch,
            name="fashion_mnist",
            version="1.0.0",
            splits={split: read_split(files, split) for split in PREFIXES},
            class_names=CLASS_NAMES,
            note="Fashion-MNIST, Xiao, Rasul and Vollgraf, 2017; MIT licence.",
            progress=progress,
        )
