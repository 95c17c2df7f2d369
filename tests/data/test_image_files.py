"""Pixels, array files, and the pictures that are written."""

import io

import numpy as np
import pytest
from PIL import Image

from diffusion.data import ArrayFile, MissingDataError, to_float
from diffusion.data.pixels import decode
from diffusion.evaluation.images import (
    SEPARATOR,
    image_grid,
    label_rows,
    save_gif,
    save_grid,
    save_png,
    scatter_grid,
    to_uint8,
)


def test_levels_survive_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    x = to_float(levels)
    assert x.dtype == np.float32
    assert (x[0], x[255]) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(x), levels)
    off = np.float32(0.49 / 127.5)  # less than half a level
    np.testing.assert_array_equal(to_uint8(x + off), levels)
    np.testing.assert_array_equal(to_uint8(x - off), levels)
    np.testing.assert_array_equal(to_uint8(np.array([-7, 7, np.inf, np.nan])), [0, 255, 255, 0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_modes_of_white_are_white(tmp_path, mode, channels):
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 8), 65535, np.uint16))
    else:
        picture = Image.new("RGB", (8, 6), "white").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    picture.save(path)
    image = decode(path, channels, 4)
    assert image.shape == (4, 4, channels)
    assert image.min() == 255


def test_sixteen_bits_keep_their_order():
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    np.testing.assert_array_equal(decode(png(values), 1)[..., 0], values // 257)


def test_transparency_is_white_and_crops_are_central():
    clear = np.zeros((4, 4, 4), np.uint8)
    assert decode(png(clear), 3).min() == 255
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200  # the middle square
    np.testing.assert_array_equal(decode(wide, 3, 4), np.full((4, 4, 3), 200))


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "bits"),
    [
        ((9, 6, 5), np.uint8, "image", 8),
        ((9, 6, 5, 3), np.float64, "image", None),
        ((9, 7), np.float32, "points", None),
        ((9, 12, 2), np.float32, "signal", None),
    ],
)
def test_array_kinds(tmp_path, shape, dtype, kind, bits):
    values = np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    spec = ArrayFile(path=str(tmp_path / "x.npy")).spec
    assert (spec.kind, spec.bits, spec.size, spec.num_classes) == (kind, bits, 9, 0)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (dict(x=np.zeros((3, 2))), "no array 'data'"),
        (dict(data=np.zeros((3, 2), np.int64)), "uint8 or float"),
        (dict(data=np.full((3, 2), np.nan)), "not finite"),
        (dict(data=np.full((3, 4, 4, 1), 7.0)), r"\[-1, 1\]"),
        (dict(data=np.zeros((3, 2)), label=np.zeros(2, int)), "3 integers"),
        (dict(data=np.zeros((3, 2)), label=np.array([0, 1, -1])), "from 0"),
        (dict(data=np.zeros((0, 2))), "shape"),
        (dict(data=np.zeros((3, 2), np.uint8)), "height"),
    ],
)
def test_array_refuses(tmp_path, arrays, word):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=word):
        _ = ArrayFile(path=str(tmp_path / "x.npz")).spec


def test_array_file_problems(tmp_path):
    with pytest.raises(MissingDataError, match="no file"):
        _ = ArrayFile(path=str(tmp_path / "x.npz")).spec
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="Cannot read"):
        _ = ArrayFile(path=str(tmp_path / "x.npz")).spec


def test_grid_places_images_between_lines():
    images = np.stack([np.full((2, 3, 1), 10 * i, np.uint8) for i in range(5)])
    grid = image_grid(images, columns=2, border=1, scale=1)
    assert grid.shape == (3 * 3 + 1, 2 * 4 + 1, 1)
    for i in range(5):
        top, left = 1 + (i // 2) * 3, 1 + (i % 2) * 4
        assert (grid[top : top + 2, left : left + 3] == 10 * i).all()
    lines = np.ones(grid.shape[:2], bool)
    lines[[r for r in range(10) if r % 3], :] &= np.isin(np.arange(9), [0, 4, 8])
    assert (grid[..., 0][lines] == SEPARATOR).all()
    scaled = image_grid(images, columns=2, border=1, scale=3)
    np.testing.assert_array_equal(scaled[::3, ::3], grid)
    with pytest.raises(ValueError, match="columns"):
        image_grid(images, columns=0)


def test_files_are_written_whole(tmp_path):
    x = np.linspace(-1, 1, 4 * 6 * 6 * 3).reshape(4, 6, 6, 3).astype(np.float32)
    save_grid(tmp_path / "new" / "grid.png", x, columns=2, border=0)
    read = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    np.testing.assert_array_equal(read[:6, :6], to_uint8(x[0]))
    frames = [np.full((8, 8, 1), level, np.uint8) for level in (0, 128, 255)]
    save_gif(tmp_path / "x.gif", frames, ms=50)
    with Image.open(tmp_path / "x.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (3, 50)
    scatter_grid(tmp_path / "s.png", [np.eye(2), np.zeros((3, 2))], titles=["a", "b"])
    with Image.open(tmp_path / "s.png") as plot:
        assert plot.width > 100
    names = sorted(p.name for p in tmp_path.rglob("*"))
    assert names == ["grid.png", "new", "s.png", "x.gif"]  # no temporary files


def test_labelled_rows():
    grid = np.zeros((40, 30, 3), np.uint8)
    labelled = label_rows(grid, ["ddim", "heun"])
    margin = labelled.shape[1] - 30
    np.testing.assert_array_equal(labelled[:, margin:], grid)
    for half in (labelled[:20, :margin], labelled[20:, :margin]):
        assert half.max() > SEPARATOR  # there is text
    np.testing.assert_array_equal(label_rows(grid, []), grid)


def test_unwritable_paths_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="Cannot write"):
        save_png(tmp_path / "file" / "x.png", image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder\.png"):
        save_png(tmp_path / "folder.png", image)
    with pytest.raises(ValueError, match="channels"):
        save_png(tmp_path / "x.png", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match="frame"):
        save_gif(tmp_path / "x.gif", [])
