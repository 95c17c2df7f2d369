"""The programs among strangers' files: one's own module works as printed, nothing else is executed."""

import json
import os
import shutil
from functools import partial

import pytest
from programs import ROOT, error_of, start

pytestmark = pytest.mark.programs
error_of = partial(error_of, by=start)  # their imports are what is tested
MODULE = '''
from dataclasses import dataclass
import jax.numpy as jnp
from diffusion import LinearSDE


@dataclass(frozen=True, kw_only=True)
class Accelerating(LinearSDE):
    """dx = -4 t x dt + sqrt(8 t + 0.1) dW."""

    def drift(self, t):
        return -4 * t

    def diffusion(self, t):
        return jnp.sqrt(8 * t + 0.1)
'''
MARK = "from pathlib import Path\nPath(__file__).with_name('canary').touch()\n"
SMALL = ["--config.train.num_steps=3", "--config.network.width=16", "--config.train.sample_every=0"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A current folder with a module of one's own and packages that are called like others, and a home."""
    here, home = tmp_path_factory.mktemp("mine"), tmp_path_factory.mktemp("home")
    (here / "mymodule.py").write_text(MODULE)
    for name in ("optax", "flax", "orbax", "PIL", "sample"):
        (here / f"{name}.py").write_text(MARK)
    return here, {
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "XDG_DATA_HOME": "",
        "DEMOLISH_DATA": str(home),
    }


@pytest.fixture(scope="module")
def run(mine):
    """The run of the README, by its commands, with an empty home."""
    here, env = mine
    code, out, err = start("check.py", "--process", "mymodule:Accelerating", cwd=here, **env)
    assert code == 0, out + err
    code, _, err = start(
        "train.py", "--config", ROOT / "configs/toy2d.py", "--workdir", "runs/mine",
        "--config.process.name=mymodule:Accelerating", *SMALL, cwd=here, **env,
    )  # fmt: skip
    assert code == 0, err
    return here / "runs/mine"


SAMPLE = ["sample.py", "--num_samples", 4, "--num_steps", 2]


@pytest.mark.slow
def test_ones_own_module_works_as_the_readme_says(mine, run):
    here, env = mine
    words = ["--workdir", "runs/mine", "--out", "points.png"]
    code, _, err = start(*SAMPLE, *words, cwd=here, **env)
    assert code == 0, err
    assert (here / "points.png").is_file()
    assert not (here / "canary").exists()
    assert not (run / "cache").exists()
    cache = os.path.join(env["HOME"], ".cache/demolish/compiled")
    assert os.stat(cache).st_mode & 0o777 == 0o700
    assert any(name.endswith("-cache") for name in os.listdir(cache))
    code, _, err = start(*SAMPLE, *words, cwd=here, **(env | {"HOME": "/proc/self"}))
    assert code == 2  # nobody knows any more that the run is one's own
    assert "--allow_code" in err
    words = [*words, "--allow_code"]
    code, _, err = start(*SAMPLE, *words, cwd=here, **(env | {"HOME": "/proc/self"}))
    assert code == 0, err
    assert [line for line in err.splitlines() if "not kept" in line]


@pytest.mark.slow
def test_the_same_run_from_a_stranger_runs_nothing(mine, run, tmp_path):
    _, env = mine
    theirs = tmp_path / "theirs"
    shutil.copytree(run, theirs / "run")
    (theirs / "mymodule.py").write_text(MARK + MODULE)
    code, message = error_of(*SAMPLE, "--workdir", "run", cwd=theirs, **env)
    assert code == 2
    assert "--allow_code" in message
    assert not (theirs / "canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [[], ["--allow_code"]])
def test_a_command_is_no_sampler(mine, run, tmp_path, allowed):
    _, env = mine
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config |= {
        "process": {"name": "vp"},
        "sampler": {"name": "os:system", "command": "touch canary"},
    }
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    code, message = error_of(*SAMPLE, "--workdir", "run", *allowed, cwd=tmp_path, **env)
    assert code == 2
    assert ("Python's own library" if allowed else "--allow_code") in message
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["edit.py", "vary", "--image", "data:0"],  # reads data before it opens the run
        ["sample.py", "--classifier", "stranger"],
    ],
    ids=" ".join,
)
def test_programs_run_no_code_of_a_folder(command, mine, tmp_path, run):
    _, env = mine
    workdir = tmp_path / "stranger"
    workdir.mkdir()
    (tmp_path / "mark.py").write_text(MARK)
    config = json.loads((run / "config.json").read_text())
    config |= {"process": {"name": "vp"}, "data": "mark:Data", "task": "generator"}
    if "--classifier" in command:
        config["task"] = "classifier"
    (workdir / "config.json").write_text(json.dumps(config))
    shutil.copy(run / "data.json", workdir)
    own = [] if command[-1] != "stranger" else ["--workdir", run, "--config.process.name=vp"]
    code, message = error_of(*command, *(own or ["--workdir", workdir]), cwd=tmp_path, **env)
    assert code == 2
    assert "--allow_code" in message
    assert "mark:Data" in message
    assert not (tmp_path / "canary").exists()
