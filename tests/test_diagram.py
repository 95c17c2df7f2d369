"""The picture of the architecture is drawn from the imports, and is up to date."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
import diagram  # noqa: E402


def test_the_picture_is_up_to_date():
    assert diagram.PICTURE.read_text() == diagram.picture(), "run python scripts/diagram.py"


def test_each_unit_has_a_line_in_the_page_with_its_layer():
    page = (ROOT / "docs/architecture.md").read_text()
    edges, _ = diagram.import_graph()
    for unit in edges:
        name = f"diffusion/{unit}" if unit.startswith("__") else unit
        lines = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert any(line.startswith(f"| {diagram.LAYERS[unit]} |") for line in lines), name


def test_arrows_that_follow_from_others_are_left_out():
    edges = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    layer = {"top": 2, "middle": 1, "bottom": 0}
    assert diagram.reduced(edges, layer) == {
        "top": {"middle"},
        "middle": {"bottom"},
        "bottom": set(),
    }


def test_check_says_whether_the_file_is_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr(diagram, "PICTURE", tmp_path / "picture.svg")
    with pytest.raises(SystemExit, match="run python scripts"):
        diagram.main(["--check"])
    diagram.main([])
    diagram.main(["--check"])
