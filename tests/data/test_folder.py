"""Folders of pictures: what is used, what is left out, and what is said about it."""

import contextlib
import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Folder, MissingDataError
from diffusion.data.pixels import decode
from diffusion.data.scan import counted, scan, shown
from diffusion.evaluation.images import to_uint8


@pytest.fixture
def odd_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
            picture.save(tmp_path / name / "deep" / f"{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "empty.jpg").write_bytes(b"")
    whole = (tmp_path / "dog" / "deep" / "0.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    return tmp_path


def test_folder_reports_what_it_leaves_out(odd_folder, caplog):
    data = Folder(path=str(odd_folder), size=16)
    with caplog.at_level(logging.WARNING, "diffusion"):
        assert data.spec.size == 6
    for words in (
        "1 not a picture (cat/notes.txt)",
        "1 empty file (empty.jpg)",
        "1 beside the class folders (loose.png)",
        "1 damaged (dog/cut.png)",
    ):
        assert words in caplog.text
    assert data.spec.class_names == ("cat", "dog")
    np.testing.assert_array_equal(data.examples(0, 9)["cond"]["label"], [0, 0, 0, 1, 1, 1])


def test_folder_streamed_equals_loaded(odd_folder):
    (odd_folder / "dog" / "cut.png").unlink()
    loaded, streamed = (
        Folder(path=str(odd_folder), size=16, channels=1, in_memory=m) for m in (True, False)
    )
    np.testing.assert_array_equal(loaded.examples(0, 6)["data"], streamed.examples(0, 6)["data"])


def test_folder_names_the_damaged_file_when_streaming(odd_folder):
    data = Folder(path=str(odd_folder), size=16, in_memory=False)
    with pytest.raises(ValueError, match=r"cut\.png"):
        data.examples(0, data.spec.size)


def test_flat_folder_has_no_labels_and_can_hold_out(tmp_path):
    for i in range(10):
        Image.new("L", (5, 7), 20 * i).save(tmp_path / f"{i}.png")
    train, test = (
        Folder(path=str(tmp_path), size=5, channels=1, split=s, test_fraction=0.3)
        for s in ("train", "test")
    )
    assert (train.spec.size, test.spec.size, train.spec.num_classes) == (7, 3, 0)
    assert "cond" not in train.batch(0, 4)
    levels = np.concatenate(
        [to_uint8(d.examples(0, 10)["data"])[:, 0, 0, 0] for d in (train, test)]
    )
    np.testing.assert_array_equal(np.sort(levels), 20 * np.arange(10))


def test_folder_without_pictures(tmp_path):
    with pytest.raises(MissingDataError, match="no folder"):
        _ = Folder(path=str(tmp_path / "absent")).spec
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(MissingDataError, match="1 not a picture"):
        _ = Folder(path=str(tmp_path)).spec


def picture(path, color="red", size=(9, 7), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    picture(root / "a" / "x.png")
    picture(elsewhere / "deep" / "y.png")
    (root / "b").symlink_to(elsewhere)  # a class that lies on another disk
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (root / "a" / "gone.png").symlink_to(tmp_path / "absent.png")
    (root / "a" / "copy.png").symlink_to(root / "a" / "x.png")
    found = scan(root)
    names = [shown(p.path, root) for p in found.pictures]
    assert names == ["a/copy.png", "a/x.png", "b/deep/y.png"]
    assert found.folders == ("a", "b")
    assert found.left_out == {
        "linked to a folder around it": ("a/up", "b/deep/back"),
        "broken link": ("a/gone.png", "a/self"),
    }


def test_a_link_to_itself_fails_no_folder(tmp_path):
    picture(tmp_path / "x.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    data = Folder(path=str(tmp_path), size=4)
    assert (data.spec.size, data.spec.num_classes) == (1, 0)
    assert "1 broken link (loop.png)" in data.notes()["left out"]


def test_pipes_are_not_opened(tmp_path):
    picture(tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait forever
    assert scan(tmp_path).left_out == {"not a plain file": ("pipe.png",)}


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    picture(tmp_path / "small.png", size=(10, 10))
    picture(tmp_path / "large.png", size=(20, 10))
    picture(tmp_path / "vast.png", size=(60, 10))
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 150
    )  # Pillow warns above it, raises above twice it
    found = scan(tmp_path)
    assert [p.size for p in found.pictures] == [(10, 10)]
    assert found.left_out == {"larger than 0 million pixels": ("large.png", "vast.png")}


def test_of_animations_the_first_frame_is_used(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    options = dict(save_all=True, append_images=frames[1:], duration=50)
    names = ["a.gif", "b.png", "c.tif"]
    for name in names:
        frames[0].save(
            tmp_path / name, **(options if name != "c.tif" else options | {"duration": 0})
        )
    data = Folder(path=str(tmp_path), size=8)
    images = to_uint8(data.examples(0, 9)["data"])
    np.testing.assert_array_equal(images, np.full((3, 8, 8, 3), [255, 0, 0]))
    assert data.notes()["animated"] == "3, of which the first frame is used (a.gif, b.png, c.tif)"


def test_depth_and_transparency_agree_with_arithmetic(tmp_path):
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = np.dstack(
        [np.zeros_like(alpha), np.full_like(alpha, 255), np.full_like(alpha, 51), alpha]
    )
    Image.fromarray(rgba).save(tmp_path / "0.png")
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257 + 100).clip(0, 65535)
    Image.fromarray(deep).save(tmp_path / "1.png")
    Image.fromarray(alpha).save(tmp_path / "2.png")
    images = to_uint8(Folder(path=str(tmp_path), size=16).examples(0, 3)["data"])
    weight = alpha[..., None] / 255
    on_white = weight * rgba[..., :3] + (1 - weight) * 255
    assert np.abs(images[0] - on_white).max() <= 1  # blended and rounded in 8 bits
    np.testing.assert_array_equal(images[1], np.repeat(np.round(deep / 257)[..., None], 3, -1))
    np.testing.assert_array_equal(images[2], np.repeat(alpha[..., None], 3, -1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_ranges_that_nobody_knows_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 70_000, dtype)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif.*no known range"):
        decode(tmp_path / "x.tif", 1)


@pytest.mark.parametrize("junk", [False, True])
def test_an_empty_class_is_an_error(tmp_path, junk):
    picture(tmp_path / "full" / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache").mkdir()
    if junk:
        (tmp_path / "empty" / "junk.jpg").write_bytes(b"junk")
    with pytest.raises(MissingDataError, match="class folders empty") as error:
        _ = Folder(path=str(tmp_path)).spec
    assert ("1 not a picture (empty/junk.jpg)" in str(error.value)) == junk


def test_a_class_of_damaged_pictures_is_an_error(odd_folder):
    cut = (odd_folder / "dog" / "cut.png").read_bytes()
    for path in (odd_folder / "dog" / "deep").iterdir():
        path.write_bytes(cut)
    with pytest.raises(MissingDataError, match=r"class folders dog .*4 damaged \(dog/cut\.png"):
        _ = Folder(path=str(odd_folder), size=8).spec


def test_all_damaged_is_an_error(tmp_path):
    whole = picture(tmp_path / "x.png", size=(40, 40)).read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingDataError, match=r"1 damaged \(x\.png\)"):
        _ = Folder(path=str(tmp_path)).spec


def test_names_that_cannot_be_printed_are_reported_and_used(tmp_path, caplog):
    bad = os.fsdecode(b"caf\xe9\n.png")
    picture(tmp_path / bad)
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    data = Folder(path=str(tmp_path), size=4)
    assert data.spec.size == 1
    assert "1 not a picture (\N{REPLACEMENT CHARACTER}.txt)" in caplog.text
    str(data.notes()).encode()  # no lone surrogates


def test_few_names_are_shown():
    assert counted({"odd": tuple("abcde"), "bad": ("x",)}) == "1 bad (x); 5 odd (a, b, c, ...)"


def test_notes_tell_the_sizes(odd_folder):
    picture(odd_folder / "cat" / "wide.png", size=(200, 5))
    notes = Folder(path=str(odd_folder), size=16).notes()
    assert notes["files"] == "30x5 ... 200x20 (least and largest sides), median 30x20"
    assert "1 damaged (dog/cut.png)" in notes["left out"]
    assert "1 empty file (empty.jpg)" in notes["left out"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm", "ico"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
def test_damaged_files_are_pictures_or_value_errors(tmp_path, suffix):
    """Whatever bytes a file holds, decoding returns the promised shape or raises ValueError."""
    rng, stream = np.random.default_rng(0), io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    whole = np.frombuffer(stream.getvalue(), np.uint8)
    for trial in range(60):
        damaged = whole.copy()
        places = rng.integers(0, len(whole) if trial % 2 else min(len(whole), 64), 4)
        damaged[places] = rng.integers(0, 256, 4)
        damaged = damaged[: rng.integers(1, len(whole) + 1)] if trial % 3 == 0 else damaged
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(damaged.tobytes())
        if scan(tmp_path).pictures:
            with contextlib.suppress(ValueError):
                assert decode(path, 3, 8).shape == (8, 8, 3)
