"""Data sets by name, as pure functions of (seed, step).

    dataset = diffusion.build("dataset", dict(name="digits", flip=False))
    dataset.spec                                    # shape, classes, size
    dataset.batch(step, batch_size=64, seed=0)      # {"data", "cond": {"label"}, "index"}
    dataset.examples(0, 100)                        # in order, for evaluation

Importing this package is cheap: modules that read and write files are imported when they are needed.
"""

from diffusion.data.arrays import ArrayFile
from diffusion.data.base import Batch, Dataset, DataSpec, FiniteDataset, Source, Table
from diffusion.data.conditioned import Condition, Conditioned, ImageCondition, conditioned
from diffusion.data.digits import Digits
from diffusion.data.duplicates import Duplicates, find_duplicates
from diffusion.data.emoji import EmojiImages
from diffusion.data.fashion_mnist import FashionMNIST
from diffusion.data.folder import Folder
from diffusion.data.icons import Icons
from diffusion.data.openclipart import OpenClipart
from diffusion.data.pixels import to_float
from diffusion.data.points import Points1D, Points2D
from diffusion.data.prefetch import Prefetch, prefetch
from diffusion.data.prepared import PreparedImages
from diffusion.data.stock import CIFAR10, MNIST, TFDS, CelebA, ImageNetResized
from diffusion.data.storage import MissingDataError, data_root
from diffusion.data.summary import Summary, summarize

__all__ = [
    "CIFAR10",
    "MNIST",
    "TFDS",
    "ArrayFile",
    "Batch",
    "CelebA",
    "Condition",
    "Conditioned",
    "DataSpec",
    "Dataset",
    "Digits",
    "Duplicates",
    "EmojiImages",
    "FashionMNIST",
    "FiniteDataset",
    "Folder",
    "Icons",
    "ImageCondition",
    "ImageNetResized",
    "MissingDataError",
    "OpenClipart",
    "Points1D",
    "Points2D",
    "Prefetch",
    "PreparedImages",
    "Source",
    "Summary",
    "Table",
    "conditioned",
    "data_root",
    "find_duplicates",
    "prefetch",
    "summarize",
    "to_float",
]
