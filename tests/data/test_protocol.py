"""What every registered data set promises: batches are pure functions of (seed, step)."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import DataSpec, data_root
from diffusion.data.fashion_mnist import DEBIAN_FOLDER
from diffusion.data.records import newest_version
from diffusion.registry import build, registered

FINITE = ["digits", "tfds", "tfds streamed", "folder", "array", "points2d finite"]
ENDLESS = ["points2d", "points1d"]
NEEDS_DOWNLOAD = {"cifar10", "mnist", "celeb_a", "imagenet_resized"}  # presets of "tfds"
PREPARED_APART = {
    "fashion_mnist",
    "emoji",
    "icons",
    "openclipart",
}  # tests of their own, where their sources are


@pytest.fixture(scope="module")
def datasets(digits_root, stock_root, tmp_path_factory):
    """Build the data set of a name, with flips where there are images."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    for i in range(23):
        (folder / "pictures" / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8))
        picture.save(folder / "pictures" / f"class{i % 3}" / f"{i}.png")
    images = rng.integers(0, 256, (31, 6, 5), np.uint8)
    np.savez(folder / "images.npz", data=images, label=np.arange(31) % 4)
    specs = {
        "digits": dict(name="digits", data_dir=digits_root, flip=True),
        "tfds": dict(name="tfds", dataset="toy", data_dir=stock_root[0], flip=True),
        "tfds streamed": dict(
            name="tfds", dataset="toy", data_dir=stock_root[0], flip=True, in_memory=False, size=8
        ),
        "folder": dict(name="folder", path=str(folder / "pictures"), size=8, flip=True),
        "array": dict(name="array", path=str(folder / "images.npz"), flip=True),
        "points2d finite": dict(name="points2d", kind="8gaussians", size=37, label=True),
        "points2d": dict(name="points2d", kind="moons", label=True),
        "points1d": dict(name="points1d", points=(-1.0, 0.0, 3.0), weights=(1, 2, 1), std=0.1),
    }
    cache = {}

    def make(name):
        if name not in cache:
            cache[name] = build("dataset", specs[name])
        return cache[name]

    return make


def same(a, b):
    assert a.keys() == b.keys()
    np.testing.assert_array_equal(a["data"], b["data"])
    np.testing.assert_array_equal(a["index"], b["index"])
    if "cond" in a:
        np.testing.assert_array_equal(a["cond"]["label"], b["cond"]["label"])


def joined(parts):
    merged = {k: np.concatenate([p[k] for p in parts]) for k in ("data", "index")}
    if "cond" in parts[0]:
        merged["cond"] = {"label": np.concatenate([p["cond"]["label"] for p in parts])}
    return merged


def test_every_registered_name_is_covered():
    covered = {n.split()[0] for n in FINITE + ENDLESS} | NEEDS_DOWNLOAD | PREPARED_APART
    ours = {n for n in registered("dataset") if _module("dataset", n).startswith("diffusion.")}
    assert ours == covered


def _module(kind, name):
    from diffusion.registry import lookup

    return lookup(kind, name).__module__


@pytest.mark.parametrize("name", FINITE + ENDLESS)
def test_shapes_types_and_ranges(datasets, name):
    dataset = datasets(name)
    spec, batch = dataset.spec, dataset.batch(0, 16)
    assert isinstance(spec, DataSpec)
    assert batch["data"].shape == (16, *spec.shape)
    assert batch["data"].dtype == np.float32
    assert batch["index"].shape == (16,)
    assert batch["index"].dtype == np.int64
    if spec.kind == "image":
        assert np.abs(batch["data"]).max() <= 1
    assert ("cond" in batch) == (spec.num_classes != 0)
    if spec.num_classes:
        label = batch["cond"]["label"]
        assert label.dtype == np.int32
        assert label.min() >= 0
        assert label.max() < spec.num_classes
    assert dataset == dataset
    assert hash(dataset) == hash(dataset)


@pytest.mark.parametrize("name", FINITE + ENDLESS)
def test_batch_depends_on_seed_and_step_alone(datasets, name):
    dataset = datasets(name)
    alone = dataset.batch(5, 8, seed=3)
    for step in (9, 0, 4):
        dataset.batch(step, 8, seed=1)
    same(dataset.batch(5, 8, seed=3), alone)
    assert not np.array_equal(dataset.batch(5, 8, seed=4)["data"], alone["data"])
    assert not np.array_equal(dataset.batch(6, 8, seed=3)["data"], alone["data"])


@pytest.mark.parametrize("num_processes", [1, 2, 4])
@pytest.mark.parametrize("name", FINITE + ENDLESS)
def test_rows_of_processes_make_the_global_batch(datasets, name, num_processes):
    dataset, share = datasets(name), 12 // num_processes
    parts = [
        dataset.batch(4, 12, seed=2, rows=slice(i * share, (i + 1) * share))
        for i in range(num_processes)
    ]
    same(joined(parts), dataset.batch(4, 12, seed=2))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("name", ["digits", "array", "points2d finite"])
def test_each_epoch_holds_every_example_once(datasets, name, batch_size):
    dataset = datasets(name)
    size = dataset.spec.size
    steps = -(-3 * size // batch_size)
    seen = np.concatenate([dataset.batch(s, batch_size, seed=5)["index"] for s in range(steps)])
    epochs = seen[: 3 * size].reshape(3, size)  # batches run across the ends of epochs
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


@pytest.mark.parametrize("name", FINITE)
def test_examples_are_ordered_and_complete(datasets, name):
    dataset = datasets(name)
    size = dataset.spec.size
    parts = [dataset.examples(start, 10) for start in range(0, size, 10)]
    whole = joined(parts)
    np.testing.assert_array_equal(whole["index"], np.arange(size))
    same(dataset.examples(0, size), whole)
    same(dataset.batch(0, size, train=False), whole)
    with pytest.raises(IndexError, match="start"):
        dataset.examples(size, 1)


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_examples_are_one_sequence_apart_from_training(datasets, name):
    dataset = datasets(name)
    assert dataset.spec.size is None
    same(joined([dataset.examples(0, 3), dataset.examples(3, 5)]), dataset.examples(0, 8))
    for seed in range(3):
        assert not np.array_equal(
            dataset.batch(0, 8, seed=seed)["data"], dataset.examples(0, 8)["data"]
        )


@pytest.mark.parametrize("name", FINITE + ENDLESS)
def test_given_indices_are_taken(datasets, name):
    dataset = datasets(name)
    index = [4, 0, 9, 4]
    batch = dataset.batch(0, 4, index=index, train=False)
    np.testing.assert_array_equal(batch["index"], index)
    for row, i in enumerate(index):
        np.testing.assert_array_equal(batch["data"][row], dataset.examples(i, 1)["data"][0])
    with pytest.raises(ValueError, match="index"):
        dataset.batch(0, 5, index=index)
    with pytest.raises(IndexError, match="index"):
        dataset.batch(0, 1, index=[-1])


@pytest.mark.parametrize("name", ["digits", "tfds", "tfds streamed", "folder", "array"])
def test_flips_mirror_about_half_of_the_rows(datasets, name):
    dataset, n = datasets(name), 2048 if name == "digits" else 64
    augmented = dataset.batch(1, n, seed=7)
    plain = dataset.batch(1, n, seed=7, index=augmented["index"], train=False)
    mirrored = plain["data"][:, :, ::-1]  # the width axis; twice is the identity
    np.testing.assert_array_equal(mirrored[:, :, ::-1], plain["data"])
    is_plain = (augmented["data"] == plain["data"]).all((1, 2, 3))
    is_mirrored = (augmented["data"] == mirrored).all((1, 2, 3))
    assert (is_plain | is_mirrored).all()
    share = (is_mirrored & ~is_plain).mean()
    symmetric = (is_plain & is_mirrored).mean()
    assert abs(share + symmetric / 2 - 0.5) < 4 * 0.5 / np.sqrt(n)  # four standard errors


@pytest.mark.parametrize("name", ["digits", "points2d"])
def test_bad_requests_name_the_argument(datasets, name):
    dataset = datasets(name)
    with pytest.raises(ValueError, match="batch_size"):
        dataset.batch(0, 0)
    with pytest.raises(ValueError, match="step"):
        dataset.batch(-1, 4)
    with pytest.raises(ValueError, match="seed"):
        dataset.batch(0, 4, seed=-1)


@pytest.mark.slow
def test_fashion_mnist(tmp_path):
    prepared = newest_version(data_root() / "fashion_mnist")
    if prepared is None and not DEBIAN_FOLDER.is_dir():
        pytest.skip("neither a prepared copy nor Debian's package dataset-fashion-mnist is here")
    root = None if prepared else str(tmp_path)
    for split, size in [("train", 60_000), ("test", 10_000)]:
        dataset = build("dataset", dict(name="fashion_mnist", split=split, data_dir=root))
        assert dataset.spec.shape == (28, 28, 1)
        assert dataset.spec.size == size
        labels = dataset.examples(0, size)["cond"]["label"]
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, size // 10))
