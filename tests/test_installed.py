"""The package as others have it: a wheel in an environment of its own, the command, the recipes, the types."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from programs import ROOT, environment_of

import diffusion

pytestmark = [pytest.mark.slow, pytest.mark.programs]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


def called(*words, cwd):
    """Run a command; return what it prints."""
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment_of(), capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with an environment `env` that has the wheel, and what it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    for name in ("diffusion", "configs"):
        shutil.copytree(
            ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    called(
        *pip, "wheel", *offline, "--no-build-isolation", "-w", folder, folder / "source", cwd=folder
    )
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    packages = Path(
        called(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = folder.glob("*.whl")
    called(*pip, "--python", python, "install", *offline, "--no-compile", wheel, cwd=folder)
    (folder / "empty").mkdir()
    return folder


def test_the_command_works_in_an_empty_folder(installed):
    command, here = installed / "env/bin/demolish", installed / "empty"
    version = called(command, "--version", cwd=here)
    assert version == f"demolish {diffusion.__version__}\n"
    assert called(installed / "env/bin/python", "-m", "diffusion", "--version", cwd=here) == version
    assert "  train  " in called(command, "--help", cwd=here)
    small = [
        "--config.network.width=8",
        "--config.train.sample_every=0",
        "--config.train.num_steps=2",
    ]
    called(command, "train", "--config", "toy2d:moons", "--workdir", "runs/x", *small, cwd=here)
    made_of = json.loads((here / "runs/x/run.json").read_text())
    assert made_of["command"][:4] == ["demolish", "train", "--config", "toy2d:moons"]
    assert json.loads((here / "runs/x/config.json").read_text())["data"]["kind"] == "moons"
    where = called(
        installed / "env/bin/python", "-c", "import diffusion; print(diffusion.__file__)", cwd=here
    )
    package = Path(where.strip()).parent
    assert package.is_relative_to(installed)
    assert (package / "py.typed").is_file()
    recipes = {p.name for p in (ROOT / "configs").glob("*.py")}
    assert {p.name for p in (package / "configs").glob("*.py")} == recipes


def test_a_client_is_type_checked_and_no_public_name_is_unknown(installed):
    """By the strictest rules, and against the wheel: only py.typed lets a checker read the package's annotations."""
    folder = installed / "client"
    folder.mkdir()
    shutil.copy(ROOT / "tests/typed_client.py", folder / "client.py")
    names = "".join(f"    {name},\n" for name in diffusion.__all__)
    (folder / "names.py").write_text(
        f"from diffusion import (\n{names})\n\n__all__ = {diffusion.__all__!r}\n"
    )
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    checker = Path(sys.executable).with_name("basedpyright")
    said = called(checker, "--pythonpath", installed / "env/bin/python", cwd=folder)
    assert "0 errors, 0 warnings" in said
