"""`demolish edit` as its readers run it: every command once, and everything that is refused."""

import numpy as np
import pytest
from programs import error_of, run

SMALL = [
    "--config.train.num_steps=4",
    "--config.train.sample_every=0",
    "--config.network.channels=8",
    "--config.network.multipliers=(1,)",
    "--config.network.attention=()",
    "--config.network.middle_attention=False",
    "--config.data.batch_size=8",
    "--config.grid.num_steps=3",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {"DEMOLISH_DATA": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data):
    """A tiny run on digits, trained once for all tests of this file."""
    path = tmp_path_factory.mktemp("run") / "digits"
    code, _, err = run(
        "train.py", "--config", "configs/digits.py", "--workdir", path, *SMALL, **data
    )
    assert code == 0, err
    return path


@pytest.fixture
def picture(tmp_path):
    """Return a function that writes a picture of some size."""
    from PIL import Image

    def write(name, height, width):
        values = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        Image.fromarray(values).save(tmp_path / name)
        return tmp_path / name

    return write


def tiles(path):
    """Return rows and columns of images of 8 x 8 pixels in a grid magnified 6 times, names left out."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
    return (height // 6 - 2) // 10, (width // 6 - 2) // 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "rows", "columns"),
    [
        ("inpaint", ["--mask", "box:0,0,4,8", "--method", "moment_matching", "--std", 0.1], 2, 5),
        ("inpaint", ["--mask", "random:0.5", "--method", "repaint", "--repeats", 2], 2, 5),
        ("superres", ["--method", "pigdm"], 2, 5),
        ("deblur", ["--method", "dps", "--border", "zero"], 2, 5),
        ("vary", ["--level", 0.4], 2, 4),
        ("interpolate", ["--level", 0.4], 1, 5),
        ("interpolate", ["--through", "latent"], 1, 5),
    ],
)
def test_every_command_writes_its_grid(workdir, data, tmp_path, command, words, rows, columns):
    out = tmp_path / "x.png"
    code, said, err = run(
        "edit.py", command, "--workdir", workdir, "--image", "data:0,5", "--num_samples", 3, "--out", out,
        *words, **data,
    )  # fmt: skip
    assert code == 0, err
    assert "step 4" in said
    found_rows, found_columns = tiles(out)
    assert found_rows == rows
    assert found_columns in (columns, columns + 1)  # names at the left take some room


@pytest.mark.slow
def test_what_was_known_and_what_was_changed_is_said(workdir, data, tmp_path):
    """dps moves known pixels and says by how much; --consistent puts them back; a level below t_min's is said."""
    box = ["inpaint", "--mask", "box:0,0,4,8", "--method", "dps"]
    for words, note, told in [
        (box, "dps keeps to the measurement only roughly: a number of it is off by ", " of 255 levels"),
        ([*box, "--consistent"], "", "root mean square of y - A x 0.000 (noise 0), at most 0 of 255 levels"),
        (["vary", "--level", 0.005], "adds no noise, so the model changes nothing", "changes 0.000, at most 0 of 255"),
    ]:  # fmt: skip
        code, said, err = run(
            "edit.py", *words, "--workdir", workdir, "--image", "data:0", "--num_samples", 2,
            "--out", tmp_path / "x.png", **data,
        )  # fmt: skip
        assert code == 0, err
        notes = [line for line in err.splitlines() if line.startswith("note: ") and "--" in line]
        assert (note in notes[0]) if note else not notes, err
        assert told in said


@pytest.mark.slow
def test_files_are_images_and_masks(workdir, data, tmp_path, picture):
    mask = tmp_path / "mask.npy"
    np.save(mask, np.eye(8))
    large = picture("large_mask.png", 20, 12)  # as large as the photo: cropped and resized like it
    for image, name, resized in [
        (picture("a.png", 8, 8), mask, False),
        (picture("photo.png", 20, 12), large, True),
    ]:
        code, said, err = run(
            "edit.py", "inpaint", "--workdir", workdir, "--image", image, "--mask", name,
            "--num_samples", 1, "--method", "replacement", "--out", tmp_path / "x.png", **data,
        )  # fmt: skip
        assert code == 0, err
        assert "y - A x 0.000" in said
        assert ("20 x 12 pixels (height x width), cropped and resized to 8 x 8" in said) == resized


@pytest.mark.slow
def test_bad_input_is_refused_before_anything_is_written(workdir, data, tmp_path, picture):
    out = tmp_path / "never.png"
    text = tmp_path / "text.png"
    text.write_text("no picture")
    values = tmp_path / "mask.npy"
    np.save(values, np.ones((4, 8)))
    inpaint = ["inpaint", "--workdir", workdir, "--out", out]
    box = ["--image", "data:0", "--mask", "box:0,0,4,4"]
    for words, said in [
        ([*inpaint, "--image", "data:0", "--mask", picture("m.png", 8, 9)], "8 x 8"),
        ([*inpaint, "--image", "data:0", "--mask", values], "8 x 8"),
        ([*inpaint, "--image", "data:0", "--mask", "box:0,0,9,4"], "8 x 8"),
        ([*inpaint, "--image", "data:0", "--mask", "box:a"], "--mask box:a"),
        ([*inpaint, "--image", "data:0", "--mask", "random:2"], "fraction"),
        ([*inpaint, "--image", "data:0", "--mask", "nowhere.png"], "no such file"),
        ([*inpaint, "--image", picture("big.png", 9, 12), "--mask", picture("m.png", 8, 9)], "8 x 8"),
        ([*inpaint, "--image", text, "--mask", "random:0.5"], "cannot read picture"),
        ([*inpaint, "--image", "nowhere.png", "--mask", "random:0.5"], "no such file"),
        ([*inpaint, "--image", "data:400", "--mask", "random:0.5"], "0 to 358"),
        ([*inpaint, "--image", "data:a", "--mask", "random:0.5"], "whole numbers"),
        ([*inpaint, *box, "--method", "dsp"], "'dps'"),
        ([*inpaint, *box, "--sampler", "ddmi"], "'ddim'"),
        ([*inpaint, *box, "--method", "repaint", "--sampler", "unipc"], "single-step"),
        (["superres", *inpaint[1:], "--image", "data:0", "--factor", 3], "positive multiple of 3"),
        (["colorize", *inpaint[1:], "--image", "data:0"], "one channel"),
        (["deblur", *inpaint[1:], "--image", "data:0", "--border", "zero", "--method", "repaint"], "circular"),
        (["interpolate", *inpaint[1:], "--image", "data:0"], "two images"),
    ]:  # fmt: skip
        code, message = error_of("edit", *words, **data)
        assert code == (6 if "no such file" in message else 2), message
        assert said in message, message
        assert not out.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "inpaint"),
        (["inpant"], 2, "'inpaint'"),
        (["inpaint"], 2, "--workdir is required"),
        (["vary", "--workdir", "x"], 2, "--image is required"),
        (["inpaint", "--workdir", "x", "--image", "a.png"], 2, "--mask"),
        (["vary", "--workdir", "x", "--image", "a.png", "--mask", "random:0.5"], 2, "belongs to inpaint"),
        (["vary", "--workdir", "x", "--image", "a.png", "--level", "2"], 2, "--level"),
        (["vary", "--workdir", "x", "--image", "a.png", "--std", "-1"], 2, "--std"),
        (["inpaint", "--workdir", "x", "--image", "a.png", "--mask", "random:0.5", "--scale", "nan"], 2, "--scale"),
        (["vary", "--workdir", "x", "--image", "a.png", "--consistent"], 2, "--consistent"),
        (["vary", "--workdir", "x", "--image", "a.png", "--out", "a.jpg"], 2, ".png"),
        (["vary", "--workdir", "x", "--image", "a.png", "--out", "/proc/no/a.png"], 6, "cannot be written"),
        (["vary", "--workdir", "/tmp/never-made-by-tests", "--image", "a.png"], 2, "config.json is missing"),
    ],
)  # fmt: skip
def test_bad_command_lines(words, code, said):
    found, message = error_of("edit", *words)
    assert found == code, message
    assert said in message
