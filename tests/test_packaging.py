"""The pages say which extras and which versions there are: those of pyproject.toml and constraints.txt."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from programs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALL = (ROOT / "docs/install.md").read_text()
CLASSIFIER = "Programming Language :: Python :: 3."
MINORS = [
    int(c[len(CLASSIFIER) :]) for c in PROJECT["classifiers"] if c.startswith(CLASSIFIER + "1")
]


def table(head):
    """Return the rows of the table of docs/install.md that begins with this cell."""
    rows = INSTALL.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def pinned(package, minor):
    """Return the version in constraints.txt for Python 3.minor."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    given = [Requirement(line) for line in lines if line and not line.startswith("#")]
    python = {"python_version": f"3.{minor}"}
    (version,) = [
        str(r.specifier).removeprefix("==")
        for r in given
        if r.name == package and (r.marker is None or r.marker.evaluate(python))
    ]
    return version


def test_every_extra_stands_in_the_table():
    assert {row[0].strip("`") for row in table("extra")} == {"none", *EXTRAS}


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/install.md", "docs/data.md"]
)
def test_extras_that_are_asked_for_exist(page):
    text = (ROOT / page).read_text()
    asked = re.findall(r"pip install.*?[\"'](?:\.|demolish)\[([\w,]+)\]|setup\.sh ([\w,]+)", text)
    assert asked
    assert {name for pair in asked for name in "".join(pair).split(",")} <= set(EXTRAS)


def test_all_is_made_of_other_extras_and_needs_no_accelerator():
    (whole,) = map(Requirement, EXTRAS["all"])
    assert whole.name == PROJECT["name"]
    assert whole.extras == set(EXTRAS) - {"all", "dev", "cuda", "tpu"}


def test_versions_of_each_python_are_those_that_are_pinned():
    found = [
        [f"3.{minor}", *(pinned(package, minor) for package in ("jax", "flax", "numpy"))]
        for minor in MINORS
    ]
    assert table("Python") == found
    assert PROJECT["requires-python"] == f">=3.{min(MINORS)}"
