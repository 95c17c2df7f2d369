"""Preparing a set of the catalog, with a builder of our own in the place of a stock one."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from diffusion.data import TFDS, CelebA, MissingDataError
from diffusion.data.stock import _prepare_stock

SIZES = [(30, 20), (20, 30), (25, 25), (40, 21)]  # width and height of the pictures


@pytest.fixture(scope="module")
def faces_root(tmp_path_factory):
    """A prepared set of JPEG pictures of several sizes with nested truth values, like CelebA."""
    import tensorflow_datasets as tfds

    def info(self):
        attributes = tfds.features.FeaturesDict({"Male": np.bool_, "Smiling": np.bool_})
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        features = tfds.features.FeaturesDict({"image": image, "attributes": attributes})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def examples(self):
        for i, size in enumerate(SIZES * 5):
            stream = io.BytesIO()
            Image.new("RGB", size, (12 * i, 100, 50)).save(stream, "JPEG", quality=95)
            stream.seek(0)
            attributes = {"Male": i % 2 == 0, "Smiling": i % 4 == 0}
            yield i, {"image": stream, "attributes": attributes}

    body = {
        "name": "toy_faces",
        "VERSION": tfds.core.Version("1.2.3"),
        "_info": info,
        "_split_generators": lambda self, manager: {"train": self._generate_examples()},
        "_generate_examples": examples,
    }
    type("toy_faces", (tfds.core.GeneratorBasedBuilder,), body)  # the class registers itself
    root = tmp_path_factory.mktemp("faces")
    present = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(  # this builder, unlike most stock ones, does without TensorFlow
            importlib.util, "find_spec", lambda n: n if n == "tensorflow" else present(n)
        )
        dataset = TFDS(dataset="toy_faces", data_dir=str(root))
        assert dataset.find() is None
        assert dataset.prepare(download=True) == root / "toy_faces" / "1.2.3"
    return str(root)


@pytest.mark.parametrize("in_memory", [True, False])
def test_pictures_of_several_sizes_and_nested_labels(faces_root, in_memory):
    fields = dict(dataset="toy_faces", data_dir=faces_root, size=16, in_memory=in_memory)
    plain = CelebA(**fields)
    assert plain.spec.shape == (16, 16, 3)
    assert plain.spec.num_classes == 0
    assert "cond" not in plain.batch(0, 4)
    one = CelebA(**fields, label="attributes/Male")
    assert one.spec.num_classes == 2
    two = CelebA(**fields, label=("attributes/Male", "attributes/Smiling"))
    assert two.spec.num_classes == (2, 2)
    found = two.examples(0, 20)
    red = np.round((found["data"][:, 8, 8, 0] + 1) * 127.5 / 12).astype(int)  # the number i
    np.testing.assert_array_equal(np.sort(red), np.arange(20))
    expected = np.stack([red % 2 == 0, red % 4 == 0], axis=1)
    np.testing.assert_array_equal(found["cond"]["label"], expected)
    np.testing.assert_array_equal(one.examples(0, 20)["cond"]["label"], expected[:, 0])


def test_pictures_of_several_sizes_need_a_size(faces_root):
    with pytest.raises(ValueError, match="give `size`"):
        _ = TFDS(dataset="toy_faces", data_dir=faces_root, label=None).spec


def test_unknown_stock_set(tmp_path):
    with pytest.raises(MissingDataError, match="no set 'nothing_like_this'"):
        _prepare_stock("nothing_like_this", tmp_path, tmp_path)


def test_tensorflow_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"demolish\[prepare\]"):
        TFDS(dataset="cifar10", data_dir=str(tmp_path)).prepare(download=True)
