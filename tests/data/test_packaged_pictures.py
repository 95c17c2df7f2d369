"""Pictures of Debian's packages, from small trees that look like them: classes, families, and what is left out."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Icons, MissingDataError, OpenClipart
from diffusion.data.installed import Drawing, in_test, split_by_family
from diffusion.data.pixels import centered
from diffusion.data.scan import scan
from diffusion.runtime import exits


def drawing(number, size=(20, 20)):
    """A transparent picture with a rectangle of noise, which is another one for each number."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[4:12, 4:16] = np.random.default_rng(number).integers(0, 250, (8, 12, 4))
    pixels[4:12, 4:16, 3] = 255
    return Image.fromarray(pixels)


def write(root, names, size=(20, 20)):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        drawing(number, size).save(root / name)


@pytest.fixture
def manual(tmp_path):
    """The folder of a data root in which packages lie unpacked."""
    return tmp_path / "downloads" / "manual"


@pytest.fixture
def clipart(manual):
    root = manual / "usr/share/openclipart/png"
    write(
        root,
        [
            *(f"animals/mammals/{word}_author_01.png" for word in ("cat", "dog", "bat", "cow")),
            *(f"animals/birds/{word}.png" for word in ("owl", "tit", "hen", "emu", "auk")),
            "food/red_apple_01.png",
            "food/fruit/green_apple_02.png",
            *(f"shapes/stars/star_{points:02}pt.png" for points in range(150)),
            "unsorted/thing.png",
            "logos/logo.png",
        ],
    )
    return root


@pytest.fixture
def icons(manual):
    root = manual / "usr/share/icons/oxygen/base/32x32"
    names = [f"actions/{w}-{v}.png" for w in ("go", "mail", "zoom", "lock") for v in ("in", "out")]
    names += ["apps/kate.png", "apps/krita.png", "emotes/face-smile.png", "animations/wheel.png"]
    write(root, names, size=(32, 32))
    return root


def test_a_set_is_made_from_the_unpacked_package(clipart, tmp_path):
    train, test = (OpenClipart(data_dir=str(tmp_path), size=16, split=s) for s in ("train", "test"))
    assert train.spec.shape == (16, 16, 3)
    assert train.spec.num_classes == len(OpenClipart.CLASS_NAMES) == 19
    assert (
        train.spec.size + test.spec.size == 9 + 2 + 128
    )  # stars are thinned; two folders have no class
    labels = np.concatenate([d.examples(0, 500)["cond"]["label"] for d in (train, test)])
    assert {train.spec.class_names[i] for i in labels} == {"animals", "food", "shapes"}
    assert "openclipart-png" in train.notes()["origin"]
    assert "public domain" in train.notes()["origin"]
    assert train.content() != test.content()


def test_icons_are_taken_pixel_by_pixel(icons, tmp_path):
    (icons / "actions/zoom-plus.png").symlink_to("zoom-in.png")  # another name, no other picture
    drawing(3, (16, 16)).save(icons / "apps/small.png")
    Image.new("RGBA", (32, 32)).save(icons / "apps/nothing.png")
    (icons / "apps/torn.png").write_bytes((icons / "apps/kate.png").read_bytes()[:60])
    data = Icons(size=32, data_dir=str(tmp_path))
    drawn, left_out = data.drawings(icons)
    assert len(drawn) == 11
    assert left_out["of another size"] == ("apps/small.png",)
    assert left_out["blank"] == ("apps/nothing.png",)
    assert "apps/torn.png" in sum(left_out.values(), ())
    assert [Icons.CLASS_NAMES[d.label] for d in drawn].count("status") == 1  # the emote
    first = drawing(0, (32, 32))  # go-in comes first by its path too
    ground = Image.new("RGBA", (32, 32), "white")
    ground.alpha_composite(first)
    np.testing.assert_array_equal(drawn[0].image, np.asarray(ground.convert("RGB")))


def test_repeated_pictures_keep_their_first_name(clipart, tmp_path):
    drawing(0).save(clipart / "food" / "zebra_cake.png")  # the cat again, in another class
    before = OpenClipart(size=16).drawings(clipart)[0]
    assert len(before) == 9 + 2 + 128
    assert [d.family for d in before].count("zebra") == 0


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("jigsaw_blue_01", "jigsaw"),
        ("red_arrow_mo_01", "arrow"),
        ("a_simple_pig_01", "pig"),
        ("_sweden__richard_torkar_01", "sweden"),
        ("home13", "home"),
        ("B_01", "b"),
        ("45", "45"),
    ],
)
def test_families_of_clip_art(name, family):
    assert OpenClipart().family_of(("animals",), name) == family


def test_decks_of_cards_are_one_family():
    decks = ("white", "bordered", "ornamental")
    cards = {
        OpenClipart().family_of(("recreation", "games", "cards", d), f"{d}_c_9") for d in decks
    }
    assert cards == {"playing cards"}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("folder-red", "folder"),
        ("mail-reply-all", "mail"),
        ("battery-charging-040", "battery"),
        ("text-x-csharp", "csharp"),
        ("application-vnd.ms-excel", "vnd"),
        ("view", "view"),
    ],
)
def test_families_of_icons(name, family):
    assert Icons().family_of(("status",), name) == family


def test_families_lie_in_one_split(clipart):
    """A fifth of 2,000 names within four standard errors, and the same for every size."""
    share = np.mean([in_test(f"name {i}") for i in range(2000)])
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)
    small, large = (OpenClipart(size=s).drawings(clipart)[0] for s in (16, 32))
    assert [d.family for d in small] == [d.family for d in large]


def test_families_with_nearly_equal_drawings_lie_in_one_split():
    """Names that fall into testing, with a drawing that is near to one in training, go to training whole."""
    names = [f"name {i}" for i in range(40)]
    test, train = ([n for n in names if in_test(n) == side] for side in (True, False))

    def filled(level, family):
        return Drawing(image=np.full((4, 4, 3), level, np.uint8), label=0, family=family)

    chain = [
        filled(100, train[0]),
        filled(105, test[0]),
        filled(200, test[0]),
        filled(195, test[1]),
    ]
    far = [filled(30, test[2]), filled(60, train[1])]
    splits = split_by_family([*chain, *far], near=8.0)
    assert splits["train"][0][:, 0, 0, 0].tolist() == [100, 105, 200, 195, 60]
    assert splits["test"][0][:, 0, 0, 0].tolist() == [30]
    assert len(split_by_family([*chain, *far])["test"][0]) == 4


def test_a_drawing_is_cut_to_its_ink_and_centered():
    page = np.full((200, 100, 3), 255, np.uint8)
    page[20:60, 10:30] = 0  # tall: 40 rows, 20 columns
    image = centered(page, 40, margin=0.0)  # the size of the ink: nothing is resized
    assert (image[:, 10:30] == 0).all()
    assert (image[:, :10] == 255).all()
    assert (image[:, 30:] == 255).all()
    with_margin = centered(page, 50, margin=0.1)  # a tenth of 50 on each side
    ink = (with_margin == 0).all(axis=-1)
    assert (ink.any(axis=1).sum(), ink.any(axis=0).sum()) == (40, 20)
    assert centered(np.full((9, 9, 3), 255, np.uint8), 16) is None


@pytest.mark.parametrize("cls", [OpenClipart, Icons])
def test_a_missing_package_is_named(cls, tmp_path, monkeypatch):
    monkeypatch.setattr(cls, "places", ("usr/share/nowhere/at/all",))
    with pytest.raises(
        MissingDataError, match=rf"apt-get install {cls.PACKAGE}.*dpkg-deb.*data_dir"
    ) as told:
        cls(data_dir=str(tmp_path)).prepare()
    assert told.value.exit_code == exits.DATA
    with pytest.raises(ValueError, match="size"):
        cls(size=33)


def test_a_folder_without_pictures_is_an_error(manual, tmp_path):
    (manual / "usr/share/openclipart/png/animals").mkdir(parents=True)
    with pytest.raises(ValueError, match="no picture of openclipart-png: no files"):
        OpenClipart(data_dir=str(tmp_path)).prepare()


def test_a_picture_of_too_many_pixels_is_left_out(clipart, monkeypatch):
    Image.new("L", (300, 300)).save(clipart / "food" / "poster.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert any("larger than" in reason for reason in scan(clipart).left_out)
    assert "poster" not in {d.family for d in OpenClipart(size=16).drawings(clipart)[0]}
