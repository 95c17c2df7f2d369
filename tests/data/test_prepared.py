"""Preparing, keeping and reading image sets."""

import errno
import gzip
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import error_of, run

from diffusion.data import (
    TFDS,
    CelebA,
    Digits,
    FashionMNIST,
    MissingDataError,
    Points2D,
    data_root,
    fashion_mnist,
    summarize,
)
from diffusion.data.digits import levels_to_bytes
from diffusion.data.fashion_mnist import file_names, read_idx
from diffusion.data.records import split_sizes
from diffusion.data.splits import parse_split
from diffusion.data.storage import publish
from diffusion.evaluation.images import to_uint8

ROOT = Path(__file__).parents[2]


def test_levels_of_the_digits_can_be_recovered():
    levels = np.arange(17)
    stored = levels_to_bytes(levels)
    assert (stored[0], stored[16]) == (0, 255)
    np.testing.assert_array_equal(np.round(stored.astype(int) * 16 / 255), levels)


def test_digits_are_those_of_scikit_learn(digits_root):
    from sklearn.datasets import load_digits

    found = load_digits()
    parts = [Digits(data_dir=digits_root, split=s).examples(0, 1797) for s in ("train", "test")]
    assert [len(p["data"]) for p in parts] == [1438, 359]
    images = np.concatenate([to_uint8(p["data"]) for p in parts])[..., 0]
    labels = np.concatenate([p["cond"]["label"] for p in parts])
    ours, theirs = (
        np.unique(np.column_stack([x.reshape(1797, 64), y]), axis=0)
        for x, y in [(images, labels), (levels_to_bytes(found.images), found.target)]
    )
    np.testing.assert_array_equal(ours, theirs)
    share = np.bincount(parts[1]["cond"]["label"]) / np.bincount(labels)
    assert np.abs(share - 0.2).max() < 0.5 / np.bincount(labels).min()  # rounded to whole images


@pytest.mark.programs
def test_reading_imports_neither_tensorflow_nor_the_preparing_libraries(digits_root):
    code = (
        "import sys; from diffusion.data import Digits; d = Digits(data_dir=sys.argv[1]);"
        "d.batch(0, 4); Digits(data_dir=sys.argv[1], in_memory=False, flip=True).batch(0, 4);"
        "print([m for m in ('tensorflow', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    Digits(data_dir=digits_root).batch(0, 1)
    done = subprocess.run(
        [sys.executable, "-c", code, digits_root], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_prepared_set_is_not_prepared_again(tmp_path):
    data = Digits(data_dir=str(tmp_path))
    folder = data.prepare()
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()}
    assert data.prepare() == folder
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()} == before
    left = {p.name for p in tmp_path.rglob("*")}
    assert not any(name.startswith((".preparing", "incomplete")) for name in left)


def test_damaged_decoded_arrays_are_made_again(tmp_path):
    root = str(tmp_path)
    whole = Digits(data_dir=root).examples(0, 2000)
    (cache,) = tmp_path.glob("digits/*/decoded/train-*/images.npy")
    cache.write_bytes(cache.read_bytes()[:5000])
    np.testing.assert_array_equal(Digits(data_dir=root).examples(0, 2000)["data"], whole["data"])
    notes = cache.parent / "decoded.json"
    notes.write_text(json.dumps({"records": {}}))
    np.testing.assert_array_equal(Digits(data_dir=root).examples(0, 2000)["data"], whole["data"])


def test_decoded_arrays_that_cannot_be_read_stay(tmp_path, monkeypatch):
    root = str(tmp_path)
    whole = Digits(data_dir=root).examples(0, 2000)
    (cache,) = tmp_path.glob("digits/*/decoded/train-*/images.npy")
    before, read = cache.stat().st_mtime_ns, Path.read_text

    def fail(path, *args, **options):
        if path.name == "decoded.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", fail)
    np.testing.assert_array_equal(Digits(data_dir=root).examples(0, 2000)["data"], whole["data"])
    assert cache.stat().st_mtime_ns == before


def test_failed_preparation_leaves_nothing(tmp_path):
    def write(scratch):
        (scratch / "half").mkdir()
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        publish(tmp_path / "x", lambda: None, write)
    assert [p.name for p in (tmp_path / "x").iterdir()] == [".lock"]


def test_two_at_once_prepare_once(tmp_path):
    parent, calls, found = tmp_path / "x", [], []

    def ready():
        target = parent / "1.0.0"
        return target if target.exists() else None

    def write(scratch):
        calls.append(scratch)
        (scratch / "1.0.0").mkdir()
        (scratch / "1.0.0" / "file").write_text("whole")
        return scratch / "1.0.0"

    threads = [
        threading.Thread(target=lambda: found.append(publish(parent, ready, write)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert found == [parent / "1.0.0"] * 4


def test_leftovers_of_a_killed_process_are_swept(tmp_path):
    (tmp_path / ".preparing-123-4").mkdir()

    def write(scratch):
        (scratch / "a").mkdir()
        return scratch / "a"

    publish(tmp_path, lambda: None, write)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a"]


def test_stock_set_in_order_without_tensorflow(stock_root):
    root, splits = stock_root
    for in_memory in (True, False):
        data = TFDS(dataset="toy", data_dir=root, split="test", in_memory=in_memory)
        assert data.spec.shape == (12, 10, 3)
        assert data.spec.class_names == ("a", "b", "c")
        found = data.examples(0, 99)
        np.testing.assert_array_equal(to_uint8(found["data"]), splits["test"][0])
        np.testing.assert_array_equal(found["cond"]["label"], splits["test"][1])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("in_memory", [True, False])
def test_slices_and_sums_of_splits(stock_root, in_memory):
    root, splits = stock_root
    data = TFDS(dataset="toy", data_dir=root, split="train[40:]+test[:25%]", in_memory=in_memory)
    expected = np.concatenate([splits["train"][0][40:], splits["test"][0][:5]])
    np.testing.assert_array_equal(to_uint8(data.examples(0, 99)["data"]), expected)
    assert data.spec.size == 15


def test_resized_gray_and_unlabeled(stock_root):
    data = TFDS(dataset="toy", data_dir=stock_root[0], size=6, channels=1, label=None)
    assert data.spec.shape == (6, 6, 1)
    assert "cond" not in data.batch(0, 4)
    double = TFDS(dataset="toy", data_dir=stock_root[0], label=("label", "label"))
    assert double.spec.num_classes == (3, 3)
    label = double.examples(0, 4)["cond"]["label"]
    np.testing.assert_array_equal(label, np.array([[0, 1, 2, 0]] * 2).T)


def test_unknown_features_and_formats(stock_root, tmp_path):
    with pytest.raises(ValueError, match=r"no feature 'lable'.*: image, label"):
        _ = TFDS(dataset="toy", data_dir=stock_root[0], label="lable").spec
    with pytest.raises(ValueError, match="must name train, test"):
        _ = TFDS(dataset="toy", data_dir=stock_root[0], split="valid").spec
    info = tmp_path / "old" / "1.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"fileFormat": "tfrecord", "splits": []}))
    with pytest.raises(ValueError, match="tfrecord"):
        _ = TFDS(dataset="old", data_dir=str(tmp_path)).spec


@pytest.mark.parametrize(
    ("split", "pieces"),
    [
        ("a", [("a", 0, 10)]),
        ("a[:30%]", [("a", 0, 3)]),
        ("a[-2:] + b", [("a", 8, 10), ("b", 0, 4)]),
        ("a[2:5]", [("a", 2, 5)]),
    ],
)
def test_split_texts(split, pieces):
    assert parse_split(split, {"a": 10, "b": 4}) == pieces


@pytest.mark.parametrize("split", ["c", "", "a[", "a[5:5]", "a+"])
def test_bad_split_texts(split):
    with pytest.raises(ValueError, match="split"):
        parse_split(split, {"a": 10, "b": 4})


def test_missing_data_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "absent")
    with pytest.raises(
        MissingDataError, match=r"dataset-fashion-mnist.*data_dir.*demolish data prepare"
    ):
        FashionMNIST(data_dir=str(tmp_path)).prepare()
    with pytest.raises(MissingDataError, match=r"demolish data prepare.*demolish\[prepare\]"):
        CelebA(data_dir=str(tmp_path)).prepare()


def test_a_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingDataError, match="DEMOLISH_DATA"):
        Digits(data_dir=str(tmp_path / "file")).prepare()


def test_fashion_mnist_from_idx_files(tmp_path, monkeypatch):
    """A small set in the format of the real files."""
    rng, images = np.random.default_rng(0), {}
    for split, n in [("train", 30), ("test", 10)]:
        images[split] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        for name, array in zip(
            file_names(split), (images[split], (np.arange(n) % 10).astype(np.uint8)), strict=True
        ):
            sizes = np.array(array.shape, ">u4").tobytes()
            raw = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            (tmp_path / name).write_bytes(gzip.compress(raw))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    data = FashionMNIST(data_dir=str(tmp_path / "root"))
    found = data.examples(0, 99)
    np.testing.assert_array_equal(to_uint8(found["data"])[..., 0], images["train"])
    np.testing.assert_array_equal(found["cond"]["label"], np.arange(30) % 10)
    assert data.spec.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("raw", [b"", b"\0\0\x08", b"\0\0\x08\1\0\0\0\5abc", b"\0\0\x0d\1\0\0\0\0"])
def test_damaged_idx_files(tmp_path, raw):
    (tmp_path / "x.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(ValueError, match="idx"):
        read_idx(tmp_path / "x.gz")
    (tmp_path / "x.gz").write_bytes(gzip.compress(raw)[:-4])
    with pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path / "x.gz")
    content = bytearray(gzip.compress(raw * 9))
    content[14:20] = b"\xff" * 6  # the stream: not an error that gzip knows
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path / "x.gz")
    (tmp_path / "dataset_info.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="dataset_info"):
        split_sizes(tmp_path)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DEMOLISH_DATA", str(tmp_path / "variable"))
    assert data_root("given") == Path("given")
    assert data_root() == tmp_path / "variable"
    monkeypatch.delenv("DEMOLISH_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root() == tmp_path / ".cache" / "demolish"


def test_summary(digits_root):
    found = summarize(Digits(data_dir=digits_root), chunk=100)
    data = Digits(data_dir=digits_root).examples(0, 2000)["data"].astype(np.float64)
    np.testing.assert_allclose([found.mean, found.std], [data.mean(), data.std()], rtol=1e-12)
    assert sum(found.class_counts) == found.num_examples == 1438
    assert found.sigma_max <= 2 * 8  # the diagonal of [-1, 1]^64
    points = summarize(Points2D(kind="moons"))
    assert abs(points.std - 1) < 4 * np.sqrt(2 / 10_000)


@pytest.mark.programs
def test_program(digits_root, tmp_path):
    picture, pairs = tmp_path / "x.png", tmp_path / "pairs.png"
    outputs = ["--out", str(picture), "--duplicates", str(pairs), "--pairs", "3"]
    code, out, err = run("data", "inspect", "digits", "--data_dir", digits_root, *outputs)
    assert code == 0, err
    for words in ("sigma_data", "train 1438, test 359", "exact copies  0 of test", "test 318"):
        assert words in out
    assert picture.exists()
    with Image.open(pairs) as drawn:
        assert drawn.height == (3 * 9 + 1) * 8  # three rows of 8x8 with lines, each pixel 8x8


@pytest.mark.programs
def test_the_program_tells_what_a_folder_holds(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    (tmp_path / "notes.txt").write_text("no picture")
    code, out, err = run(
        "data", "inspect", "folder", "--set", f"path={tmp_path}", "--set", "size=8"
    )
    assert code == 0, err
    assert "1 not a picture (notes.txt)" in out
    assert "30x20" in out


@pytest.mark.programs
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "digit"], 2, "Did you mean 'digits'"),
        (["inspect", "points2d", "--set", "kind=moon"], 2, "moons"),
        (["inspect", "points2d", "--set", "kind"], 2, "FIELD=VALUE"),
        (["inspect", "folder", "--set", "path=absent"], 5, "no folder"),
        (["inspect", "cifar10"], 5, "prepare"),
        (["inspect", "points2d", "--duplicates", "x.png"], 2, "8-bit images"),
    ],
)
def test_program_errors_are_one_line(tmp_path, arguments, code, words):
    found, message = error_of("data", *arguments, data_dir=tmp_path)
    assert found == code
    assert words in message
