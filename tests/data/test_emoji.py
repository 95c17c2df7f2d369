"""Emoji: the list, the ligatures of the font, the pictures, and the split by families."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from diffusion.data import EmojiImages, MissingDataError, data_root
from diffusion.data import emoji as module
from diffusion.data.emoji import (
    CLASS_NAMES,
    FONT,
    FONT_FOLDERS,
    LIST,
    LIST_FOLDERS,
    draw_all,
    family,
    is_test,
    split_up,
)
from diffusion.data.glyphs import BitmapFont, Emoji, join, read_list, render

LISTED = """# group: Smileys & Emotion
1F600   ; fully-qualified     # 😀 E1.0 grinning face
263A    ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
# subgroup: hand-fingers-open
1F44B 1F3FF ; fully-qualified # 👋🏿 waving hand: dark skin tone
# group: Component
1F3FB   ; component           # 🏻 E1.0 light skin tone
"""


def located(name, folders):
    """Return where a file is, or skip the test."""
    places = [data_root() / "downloads" / "manual", *folders]
    found = [place / name for place in places if (place / name).is_file()]
    if not found:
        pytest.skip(f"{name} is not installed (Debian: fonts-noto-color-emoji and unicode-data)")
    return found[0]


@pytest.fixture(scope="module")
def font():
    return BitmapFont(located(FONT, FONT_FOLDERS))


@pytest.fixture(scope="module")
def listed():
    return read_list(located(LIST, LIST_FOLDERS))


def test_the_list_keeps_what_is_fully_qualified(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(LISTED, encoding="utf-8")
    face, hand = read_list(path)
    assert face == Emoji(points=(0x1F600,), group="Smileys & Emotion", name="grinning face")
    assert (face.toned, hand.toned) == (False, True)
    assert hand.name == "waving hand: dark skin tone"  # lists before 12.1 name no version
    path.write_bytes(b"\xff\x00 nothing")
    with pytest.raises(ValueError, match="lists no emoji"):
        read_list(path)


def test_ligatures_join_from_the_left():
    rules = {
        "a": [
            SimpleNamespace(Component=["b", "c"], LigGlyph="abc"),
            SimpleNamespace(Component=["b"], LigGlyph="ab"),
        ]
    }
    assert join(["a", "b", "c", "a", "b", "a"], rules) == ["abc", "ab", "a"]
    assert join([], rules) == []


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("man cook: dark skin tone", "People & Body", "cook"),
        ("cook", "People & Body", "cook"),
        ("people holding hands", "People & Body", "holding hands"),
        ("woman and man holding hands: light skin tone", "People & Body", "holding hands"),
        ("family: man, woman, boy", "People & Body", "family"),
        ("woman: red hair", "People & Body", "person"),
        ("flag: Norway", "Flags", "flag: Norway"),
        ("person in bed", "People & Body", "bed"),
    ],
)
def test_families(name, group, expected):
    assert family(Emoji(points=(1,), group=group, name=name)) == expected


def test_rendering_averages_blocks_on_white():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (128, 136, 4), np.uint8)
    picture[..., 3] = 255 * rng.integers(
        0, 2, (128, 136)
    )  # opaque or clear, so that white is exact
    on_white = np.where(picture[..., 3:] == 255, picture[..., :3], 255)[:, 4:132].astype(float)
    expected = on_white.reshape(32, 4, 32, 4, 3).mean((1, 3))
    # Pillow rounds to 8 bits after the rows and again after the columns: half a level each.
    assert np.abs(render(Image.fromarray(picture), 32) - expected).max() <= 1
    narrow = render(Image.new("RGBA", (8, 16), "black"), 16)
    assert (narrow[:, :4] == 255).all()
    assert (narrow[:, 4:12] == 0).all()
    assert (narrow[:, 12:] == 255).all()


class FakeFont(BitmapFont):
    """A font of single colors: code point 1 is missing, 2 is blank, 4 and 5 look the same."""

    def __init__(self):
        pass

    def picture(self, points):
        if points[0] == 1:
            return None
        color = (0, 0, 0, 0) if points[0] == 2 else (10 * (points[0] // 2), 0, 0, 255)
        return Image.new("RGBA", (16, 16), color)


def test_blank_missing_and_repeated_pictures_are_left_out(caplog):
    wanted = [Emoji(points=(p,), group="Flags", name=f"flag {p}") for p in (1, 2, 5, 4, 6, 8)]
    drawn = draw_all(FakeFont(), wanted, 16)
    assert [e.points[0] for e, _ in drawn] == [5, 6, 8]
    assert "lacks 2 of 6" in caplog.text
    with pytest.raises(ValueError, match="no picture of any"):
        draw_all(FakeFont(), wanted[:2], 16)
    with pytest.raises(ValueError, match="unknown group 'Runes'"):
        draw_all(FakeFont(), [Emoji(points=(8,), group="Runes", name="x")], 16)


def test_missing_files_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FONT_FOLDERS", ())
    with pytest.raises(MissingDataError, match=r"fonts-noto-color-emoji.*manual.*data_dir"):
        EmojiImages(data_dir=str(tmp_path)).prepare()
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / FONT).write_bytes(b"no font")
    (manual / LIST).write_text(LISTED, encoding="utf-8")
    with pytest.raises(ValueError, match="Cannot read the font"):
        EmojiImages(data_dir=str(tmp_path)).prepare()
    with pytest.raises(ValueError, match="size"):
        EmojiImages(size=48)


def test_a_font_without_bitmaps_is_named(tmp_path):
    from fontTools.fontBuilder import FontBuilder

    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef"])
    builder.setupCharacterMap({})
    builder.save(tmp_path / "plain.ttf")
    with pytest.raises(ValueError, match="holds no bitmaps"):
        BitmapFont(tmp_path / "plain.ttf")


def test_families_lie_in_one_split_whatever_the_tones(listed):
    plain = [e for e in listed if not e.toned]
    train, test = ({family(e) for e in plain if is_test(e) == side} for side in (False, True))
    assert not train & test
    for emoji in listed:  # every toned variant follows its plain form
        assert (family(emoji) in test) == is_test(emoji)
        assert family(emoji) in (test if is_test(emoji) else train)
    # A hash is a fair draw: the fraction of families is 1/5 within four standard errors.
    share, count = len(test) / len(train | test), len(train | test)
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / count)
    assert {e.group for e in plain} == set(CLASS_NAMES)


def test_pictures_are_those_that_the_font_engine_draws(font, listed):
    """Pillow with FreeType and HarfBuzz is an independent reader of the same font."""
    if not (features.check("raqm") and features.check("fribidi")):
        pytest.skip("Pillow has no text shaping here")
    engine = ImageFont.truetype(str(located(FONT, FONT_FOLDERS)), 109)
    for emoji in listed[::60]:
        text = "".join(chr(p) for p in emoji.points)
        clear, white = Image.new("RGBA", (300, 200)), Image.new("RGB", (300, 200), "white")
        for canvas in (clear, white):
            ImageDraw.Draw(canvas).text((40, 20), text, font=engine, embedded_color=True)
        theirs, ours = white.crop(clear.getbbox()), font.picture(emoji.points)
        ours = ours.crop(ours.getbbox())
        ground = Image.new("RGBA", ours.size, "white")
        ground.alpha_composite(ours)
        difference = np.asarray(ground.convert("RGB"), np.int64) - np.asarray(theirs)
        assert np.abs(difference).max() <= 1, emoji.name  # the engine blends with other rounding


def test_every_emoji_of_the_list_has_ink_inside_the_picture(font, listed):
    wanted = [e for e in listed if not e.toned][::5]
    for emoji in wanted:
        alpha = np.asarray(font.picture(emoji.points))[:, :, 3]
        assert alpha.any(), emoji.name
        assert not alpha[:, :4].any(), emoji.name  # the sides that `render` cuts
        assert not alpha[:, -4:].any(), emoji.name
    assert font.picture((0x10FFFF,)) is None
    assert font.picture((0x1F600, 0x1F601)) is None  # two glyphs


def test_prepared_emoji(font, listed, tmp_path):
    wanted = [e for e in listed if not e.toned][::20]
    splits = split_up(draw_all(font, wanted, 16))
    assert sum(len(images) for images, _ in splits.values()) == len(wanted)
    for images, labels in splits.values():
        assert images.shape == (len(labels), 16, 16, 3)
        assert (np.diff(labels) >= 0).all()  # the order of the list, whose groups are the classes
    everything = np.concatenate([images for images, _ in splits.values()])
    assert len(np.unique(everything.reshape(len(wanted), -1), axis=0)) == len(wanted)


@pytest.mark.slow
def test_emoji_from_the_installed_font(font, listed, tmp_path, monkeypatch):
    data = {s: EmojiImages(data_dir=str(tmp_path), size=16, split=s) for s in ("train", "test")}
    train, test = (data[s].examples(0, 5000) for s in ("train", "test"))
    assert data["train"].spec.class_names == CLASS_NAMES
    assert data["train"].spec.shape == (16, 16, 3)
    plain = sum(not e.toned for e in listed)
    assert 0.95 * plain < len(train["data"]) + len(test["data"]) <= plain
    for part in (train, test):
        assert set(np.unique(part["cond"]["label"])) == set(range(9))
    rows = {row.tobytes() for row in train["data"]}
    assert not rows & {row.tobytes() for row in test["data"]}
    again = EmojiImages(data_dir=str(tmp_path), size=16, in_memory=False)
    np.testing.assert_array_equal(again.examples(0, 50)["data"], train["data"][:50])
