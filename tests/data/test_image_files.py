"""Pixels, array files, and the pictures that are written."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion.data import ArrayFile, DataSpec, MissingDataError, to_float
from diffusion.data.pixels import decode
from diffusion.evaluation import pictures
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
from diffusion.runtime.files import WriteError


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


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def raw_png(row, width, depth, color, clear):
    """A PNG of one row, written byte by byte: `clear` is the transparent color, in the depth of the file."""
    head = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    parts = (b"IHDR", head), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def words(*values):
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("row", "width", "depth", "color", "clear", "levels"),
    [
        (words(10000, 10001, 20000), 3, 16, 0, words(10000), [255, 39, 78]),
        (bytes([10, 11]), 2, 8, 0, words(10), [255, 11]),
        (bytes([0x3A]), 2, 4, 0, words(3), [255, 170]),
        (bytes([0b0110_0000]), 2, 2, 0, words(1), [255, 170]),
        (bytes([0b0100_0000]), 2, 1, 0, words(0), [255, 255]),
        (words(256, 256, 257, 256, 256, 256), 2, 16, 2, words(256, 256, 256), [1, 255]),
    ],
)
def test_a_transparent_color_has_the_depth_of_the_file(row, width, depth, color, clear, levels):
    """One value of gray or color is transparent, and only that: its neighbor at 16 bits is not."""
    content = raw_png(row, width, depth, color, clear)
    for channels in (1, 3):
        found = decode(content, channels)
        np.testing.assert_array_equal(
            found, np.repeat(np.array(levels)[None, :, None], channels, -1)
        )


def test_crops_have_the_proportions_that_are_asked_for():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 2:10] = 200
    np.testing.assert_array_equal(decode(wide, 3, (4, 8)), np.full((4, 8, 3), 200))
    tall = np.swapaxes(wide, 0, 1)
    np.testing.assert_array_equal(decode(tall, 3, (8, 4)), np.full((8, 4, 3), 200))
    assert decode(wide, 3, (6, 2)).shape == (6, 2, 3)


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
        ((9, 28, 28), np.uint8, "image", 8),
        ((9, 28, 28), np.float32, "image", None),  # as uint8 of this shape are
    ],
)
def test_array_kinds(tmp_path, shape, dtype, kind, bits):
    values = np.random.default_rng(0).uniform(-1, 1, shape).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    spec = ArrayFile(path=str(tmp_path / "x.npy")).spec
    assert (spec.kind, spec.bits, spec.size, spec.num_classes) == (kind, bits, 9, 0)
    channel = (1,) if kind == "image" and len(shape) == 3 else ()
    assert spec.shape == (*shape[1:], *channel)


def test_what_could_be_read_in_two_ways_is_asked(tmp_path):
    path = tmp_path / "x.npy"
    of = lambda **fields: ArrayFile(path=str(path), **fields)
    np.save(path, np.zeros((3, 20, 30)))
    with pytest.raises(ValueError, match=r"\(20, 30\): give kind='signal'.* kind='image'"):
        _ = of().spec
    assert of(kind="signal").spec.shape == (20, 30)
    assert of(kind="image").spec.shape == (20, 30, 1)
    with pytest.raises(ValueError, match="`kind` must be one of points"):
        _ = of(kind="picture").spec
    with pytest.raises(ValueError, match="1 axes for kind points"):
        _ = of(kind="points").spec
    for shape in [(3, 3, 16, 16), (3, 1, 28, 28), (3, 4, 8, 8)]:
        for dtype in (np.uint8, np.float32):
            np.save(path, np.zeros(shape, dtype))
            with pytest.raises(ValueError, match=r"Put them last: np\.moveaxis"):
                _ = of().spec


def test_floats_have_a_range(tmp_path):
    """[0, 1] is refused as evaluate.py refuses it, or scaled where that is said; latents have none."""
    path = tmp_path / "x.npy"
    of = lambda **fields: ArrayFile(path=str(path), **fields)
    levels = np.arange(256).reshape(4, 8, 8)
    exact = to_float(levels.astype(np.uint8))[..., None]
    for x, span in ((levels / 255, (0, 1)), (levels.astype(np.float64), (0, 255))):
        np.save(path, x)
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\].*data\.range=\(0, 1\)"):
            _ = of().spec
        found = of(range=span, split="all").examples(0, 4)["data"]
        np.testing.assert_allclose(found, exact, atol=2e-7)  # two roundings of float32 near 1
        assert (found.min(), found.max()) == (-1, 1)
    with pytest.raises(ValueError, match=r"range=\(0, 1\), but .* spans 0 to 255"):
        _ = of(range=(0, 1)).spec
    with pytest.raises(ValueError, match="black to white"):
        _ = of(range=(1, 0)).spec
    with pytest.raises(ValueError, match="`range` must be"):
        of(range="all")
    latents = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype(np.float32) * 3
    np.save(path, latents)
    with pytest.raises(ValueError, match=r"data\.kind=latent"):
        _ = of().spec
    data = of(kind="latent")
    assert (data.spec.kind, data.spec.pictured) == ("latent", True)
    np.testing.assert_array_equal(data.examples(0, 4)["data"], latents)
    np.testing.assert_array_equal(of(range="any").examples(0, 4)["data"], latents)
    with pytest.raises(ValueError, match=r"`flip` is for images; .* kind latent"):
        _ = of(kind="latent", flip=True).spec


def test_runs_of_before_read_arrays_as_they_did(tmp_path):
    path = tmp_path / "x.npz"
    of = lambda: ArrayFile(path=str(path), rules=1)
    for shape, kind in [
        ((3, 28, 28), "signal"),
        ((3, 3, 16, 16), "image"),
        ((3, 20, 30), "signal"),
    ]:
        np.savez(path, data=np.ones(shape, np.float32) / 2, y=np.arange(3))
        spec = of().spec
        assert (spec.shape, spec.kind, spec.num_classes) == (shape[1:], kind, 0)
    np.savez(path, data=np.full((3, 4, 4, 1), 7.0))
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        _ = of().spec


def test_no_array_is_passed_over_in_silence(tmp_path, caplog):
    path = str(tmp_path / "x.npz")
    np.savez(path, data=np.zeros((3, 2)), y=np.arange(3))
    with pytest.raises(
        ValueError, match=r"array 'y' .*label, multi_hot, vector, image.*ignore='y'"
    ):
        _ = ArrayFile(path=path).spec
    assert ArrayFile(path=path, ignore="y").spec.num_classes == 0
    assert not caplog.text
    np.savez(path, data=np.zeros((3, 2)), label=np.arange(3), y=np.arange(3), about=np.array("x"))
    assert ArrayFile(path=path).spec.num_classes == 3
    assert "not used: y, about" in caplog.text
    np.savez(path, data=np.zeros((30, 2)), noise=np.zeros((30, 2)))
    assert ArrayFile(path=path).spec.size == 30  # pairs are by number: none is held out unasked


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (dict(x=np.zeros((3, 2))), "no array 'data'"),
        (dict(data=np.zeros((3, 2), np.int64)), "uint8 or float"),
        (dict(data=np.full((3, 2), np.nan)), "not finite"),
        (dict(data=np.full((3, 4, 4, 1), 7.0)), r"\[-1, 1\]"),
        (dict(data=np.zeros((3, 2)), label=np.zeros(2, int)), "3 integers"),
        (dict(data=np.zeros((3, 2)), label=np.array([0, 1, -2])), "from 0.* the least -2"),
        (dict(data=np.zeros((0, 2))), "1 to 3 axes"),
        (dict(data=np.zeros((3, 2), np.uint8)), "channels last"),
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
    with pytest.raises(ValueError, match=r"cannot be read as \.npy or \.npz"):
        _ = ArrayFile(path=str(tmp_path / "x.npz")).spec


def test_channels_that_are_no_colors_stand_side_by_side_and_are_said(tmp_path):
    x = np.zeros((2, 8, 8, 4), np.float32)
    x[..., 1], x[..., 2], x[..., 3] = -3, 3, 1.5
    for kind, levels in (("latent", (128, 0, 255, 191)), ("image", (128, 0, 255, 255))):
        spec = DataSpec(shape=(8, 8, 4), kind=kind)
        canvas = pictures.grid(x, spec, columns=2)
        scale = pictures.natural_scale(spec)
        height, width = 12 * scale, (2 * 34 + 2) * scale  # two lines around and between
        assert canvas.shape[0] > height  # a line of text above
        assert (canvas[:-height] > SEPARATOR).any()
        row = canvas[-height:, :width, 0][6 * scale]
        np.testing.assert_array_equal(row[2 * scale + 4 * scale :: 8 * scale][:4], levels)
    plain = pictures.grid(x[..., :3], DataSpec(shape=(8, 8, 3)), columns=2)
    assert plain.shape == (12 * scale, 22 * scale, 3)


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


def test_labeled_rows():
    grid = np.zeros((40, 30, 3), np.uint8)
    labeled = label_rows(grid, ["ddim", "heun"])
    margin = labeled.shape[1] - 30
    np.testing.assert_array_equal(labeled[:, margin:], grid)
    for half in (labeled[:20, :margin], labeled[20:, :margin]):
        assert half.max() > SEPARATOR  # there is text
    np.testing.assert_array_equal(label_rows(grid, []), grid)


def test_unwritable_paths_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(WriteError, match=r"cannot write .*x\.png: .*file is no folder"):
        save_png(tmp_path / "file" / "x.png", image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(WriteError, match=r"folder\.png: Is a directory"):
        save_png(tmp_path / "folder.png", image)
    with pytest.raises(ValueError, match="channels"):
        save_png(tmp_path / "x.png", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match="frame"):
        save_gif(tmp_path / "x.gif", [])
