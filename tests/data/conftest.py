import numpy as np
import pytest

from diffusion.data import Digits
from diffusion.data.records import write_records


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """A data folder with the digits prepared."""
    root = tmp_path_factory.mktemp("data")
    Digits(data_dir=str(root)).prepare()
    return str(root)


@pytest.fixture(scope="session")
def stock_root(tmp_path_factory):
    """A data folder with a set as TFDS leaves it: color images 12 x 10, three classes."""
    root = tmp_path_factory.mktemp("stock")
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (n, 12, 10, 3), np.uint8), np.arange(n) % 3)
        for split, n in [("train", 50), ("test", 20)]
    }
    folder = write_records(
        root, name="toy", version="2.0.1", splits=splits, class_names=["a", "b", "c"], note="random"
    )
    assert folder == root / "toy" / "2.0.1"
    return str(root), splits
