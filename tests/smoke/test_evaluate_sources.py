"""Examples from files: what is read is what was stored, and what does not fit is refused with the reason."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from diffusion.data import DataSpec
from diffusion.evaluation.images import save_png
from diffusion.evaluation.sources import SourceError, open_examples

GREY = DataSpec(shape=(8, 8, 1), kind="image", bits=8)
COLOR = DataSpec(shape=(8, 8, 3), kind="image", bits=8)
POINTS = DataSpec(shape=(2,), kind="points")


def pixels(count, channels=1, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def all_of(examples, first=0):
    return np.concatenate(list(examples.read(examples.count - first, first)))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "packed.npz"])
def test_arrays_come_back_whole_and_from_any_place(tmp_path, name):
    x, path = pixels(700), tmp_path / name
    if name == "x.npy":
        np.save(path, x)
    else:
        (np.savez if name == "x.npz" else np.savez_compressed)(path, x=x, label=np.zeros(700))
    examples = open_examples(path, GREY)
    assert examples.count == 700
    for first in (0, 1, 256, 699):
        found = all_of(examples, first)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, x[first:] / 127.5 - 1, atol=1e-6)


def test_gray_pictures_and_arrays_may_lack_their_channel_and_have_one_digest(tmp_path):
    x = pixels(5)
    np.save(tmp_path / "x.npy", x[..., 0])
    for i, image in enumerate(x):
        save_png(tmp_path / "pictures" / f"{i}.png", image)
    a, b = (open_examples(tmp_path / name, GREY) for name in ("x.npy", "pictures"))
    assert a.sha256 == b.sha256
    np.testing.assert_array_equal(all_of(a), all_of(b))
    np.save(tmp_path / "y.npy", x[::-1])
    assert open_examples(tmp_path / "y.npy", GREY).sha256 != a.sha256


def test_floats_of_points_have_no_range_and_those_of_images_have_one(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, 100 * np.random.default_rng(0).normal(size=(10, 2)))
    assert all_of(open_examples(path, POINTS)).shape == (10, 2)
    np.save(path, np.linspace(-1.2, 1.2, 640, dtype=np.float32).reshape(10, 8, 8, 1))
    assert 0.1 < open_examples(path, GREY).outside < 0.2  # 0.4 / 2.4


def bad_arrays():
    x = pixels(4) / 127.5 - 1
    nan = x.copy()
    nan[2, 0, 0] = np.nan
    yield "another size", pixels(4, size=9), r"shape \(9, 9, 1\)"
    yield "other channels", pixels(4, 3), r"shape \(8, 8, 3\)"
    yield "floats of 8 bits", pixels(4).astype(np.float32), "reaches from"
    yield "from 0 to 1", (x + 1) / 2, r"Scale \[0, 1\] by 2 x - 1"
    yield "NaN", nan, "example 2 has values that are not finite"
    yield "integers", pixels(4).astype(np.int32), "made of int32"
    yield "one example", pixels(1), "at least 2"
    yield "none", pixels(0), "at least 2"
    yield "a number", np.array(3.0), "a single number"
    yield "columns", np.asfortranarray(x), "Fortran"


@pytest.mark.parametrize(("x", "words"), [b[1:] for b in bad_arrays()], ids=[b[0] for b in bad_arrays()])  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(tmp_path, x, words):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(SourceError, match=words):
        open_examples(tmp_path / "x.npy", GREY)


def test_channels_first_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.moveaxis(pixels(4, 3), -1, 1))
    with pytest.raises(SourceError, match="Put them last"):
        open_examples(tmp_path / "x.npy", COLOR)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=pixels(100))
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read to its end"):  # the checksum
        open_examples(path, GREY)
    path.write_bytes(content[:2000])
    with pytest.raises(SourceError, match="cannot be read"):
        open_examples(path, GREY)
    path.write_text("hello")
    with pytest.raises(SourceError, match="cannot be read"):
        open_examples(path, GREY)
    np.save(tmp_path / "x.npy", pixels(100))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-70])
    with pytest.raises(SourceError, match="cut off after 98 of 100 examples"):  # fmt: skip
        open_examples(tmp_path / "x.npy", GREY)
    np.savez(path, a=pixels(2), b=pixels(2))
    with pytest.raises(SourceError, match="it has a, b"):
        open_examples(path, GREY)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "none")
    with pytest.raises(SourceError, match="it has none"):
        open_examples(path, GREY)
    with pytest.raises(SourceError, match="neither a folder nor a file"):
        open_examples(tmp_path / "nothing", GREY)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    from PIL import Image

    def refused(words, spec=GREY):
        with pytest.raises(SourceError, match=words):
            open_examples(tmp_path, spec)

    refused("holds no picture, but nothing")
    (tmp_path / "card.json").write_text("{}")
    refused("holds no picture, but 1 other files")
    refused("give an .npz", POINTS)
    save_png(tmp_path / "a.png", pixels(1)[0])
    refused("holds 1 examples")
    save_png(tmp_path / "b.png", pixels(1, 3)[0])
    refused("mode RGB; this data has mode L")
    save_png(tmp_path / "b.png", pixels(1, size=9)[0])
    refused(r"size \(9, 9\), not \(8, 8\)")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    refused("b.png cannot be read as a picture")
    (tmp_path / "b.png").unlink()
    frames = [Image.fromarray(p[..., 0]) for p in pixels(2)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    refused("animated: 2 pictures")


def test_pictures_are_turned_as_training_turns_them(tmp_path):
    """A camera's note says: the first row is the right side of the scene, to be seen upright."""
    from PIL import Image

    from diffusion.data.pixels import decode, to_float

    note = Image.Exif()
    note[0x0112] = 6
    (tmp_path / "x").mkdir()
    stored = np.random.default_rng(0).integers(0, 256, (2, 6, 8), np.uint8)
    for i, image in enumerate(stored):
        Image.fromarray(image).save(tmp_path / "x" / f"{i}.png", exif=note)
    found = all_of(open_examples(tmp_path / "x", DataSpec(shape=(8, 6, 1), bits=8)))
    np.testing.assert_array_equal(found, to_float(np.rot90(stored, -1, (1, 2)))[..., None])
    np.testing.assert_array_equal(found[0], to_float(decode(tmp_path / "x" / "0.png", 1)))


def test_what_is_no_file_is_named_and_counted(tmp_path, caplog):
    for i, image in enumerate(pixels(3)):
        save_png(tmp_path / f"{i}.png", image)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "card.json").write_text("{}")
    examples = open_examples(tmp_path, GREY)
    assert (examples.count, examples.left_out) == (3, 2)
    assert "3 pictures; left out: 1 broken link (loop.png)" in caplog.text
    save_png(tmp_path / "3.png", pixels(1)[0])
    from PIL import Image

    Image.fromarray(pixels(1)[0, ..., 0]).save(tmp_path / "3.png", transparency=7)
    with pytest.raises(SourceError, match=r"3\.png has a transparent color"):
        open_examples(tmp_path, GREY)


def test_channels_first_and_ranges_are_refused_as_in_training(tmp_path):
    """One sentence for both: what training refuses is refused with the same words where it is measured."""
    from diffusion.data import ArrayFile

    path = tmp_path / "x.npy"
    for x in (np.moveaxis(pixels(4, 3), -1, 1), pixels(4, 3) / 255):
        np.save(path, x)
        said = []
        for read in (lambda: ArrayFile(path=str(path)).spec, lambda: open_examples(path, COLOR)):
            with pytest.raises(ValueError, match=r"Put them last|must lie in") as error:
                read()
            said.append(str(error.value).replace(f"'data' in {path}", str(path)))
        assert said[1].rstrip(".") in said[0]


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path):
    """20,000 images of 32 x 32 x 3 are 61 MB, 246 MB as floats; a few batches of 256 lie in memory."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((20_000, 32, 32, 3), np.uint8))
    spec = DataSpec(shape=(32, 32, 3), kind="image", bits=8)
    tracemalloc.start()
    examples = open_examples(path, spec)
    assert sum(len(x) for x in examples.read(20_000, 0)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
