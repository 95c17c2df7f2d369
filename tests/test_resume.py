"""What may change when a run is resumed, and what may not: every field is one or the other."""

import dataclasses
import json

import pytest

from diffusion.config import FREE, IDENTITY, SECTIONS, ConfigError
from diffusion.options import TrainOptions
from diffusion.workdir import Workdir

CONFIG = {
    "seed": 0,
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 16},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 64},
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
    "ema": ["0.999"],
    "train": {"num_steps": 20},
}

REFUSED = {
    "seed": 1,
    "process.beta_max": 15.0,
    "network.width": 32,
    "network.name": "dit",
    "data.batch_size": 128,
    "data.kind": "rings",
    "data.name": "digits",
    "optimizer.schedule": "linear",
    "optimizer.learning_rate": 1e-2,
    "ema": ["0.99"],
    "time.name": "log_normal",
    "train.label_dropout": 0.5,
    "train.spike_factor": 10.0,
}
ALLOWED = {
    "train.num_steps": 40,
    "train.checkpoint_every": 3,
    "train.keep": 1,
    "parallel.name": "pmap",
    "sampler.name": "heun",
    "grid.num_steps": 7,
    "evaluate.num_samples": 5,
    "data.data_dir": "elsewhere",
}


def changed(path, value):
    new = json.loads(json.dumps(CONFIG))
    section, _, field = path.partition(".")
    if field:
        new.setdefault(section, {})[field] = value
    else:
        new[section] = value
    return new


@pytest.fixture
def workdir(tmp_path):
    workdir = Workdir.of(tmp_path)
    workdir.write("config.json", CONFIG)
    return workdir


def test_every_field_is_fixed_or_free():
    fields = {f"train.{f.name}" for f in dataclasses.fields(TrainOptions)}
    assert sorted([*IDENTITY, *FREE]) == sorted(({*SECTIONS} - {"train"}) | fields)


@pytest.mark.parametrize(("path", "value"), REFUSED.items(), ids=REFUSED)
def test_what_must_not_change_is_refused_with_a_difference(workdir, path, value):
    with pytest.raises(ConfigError) as refusal:
        workdir.claim(changed(path, value))
    assert f"{path}: " in str(refusal.value)
    assert f"-> {value}" in str(refusal.value)
    assert "--restart" in str(refusal.value)


@pytest.mark.parametrize(("path", "value"), ALLOWED.items(), ids=ALLOWED)
def test_what_may_change_is_accepted(workdir, path, value):
    assert workdir.claim(changed(path, value))


def test_a_new_folder_is_nobodys(tmp_path):
    assert not Workdir.of(tmp_path / "new").claim(CONFIG)


def test_setting_aside_loses_nothing_and_leaves_nothing(workdir):
    (workdir.checkpoints / "5").mkdir(parents=True)
    (workdir.path / "notes.txt").write_text("mine")
    (workdir.path / "cache").mkdir()
    assert workdir.set_aside() == workdir.path / "earlier-1"
    assert sorted(p.name for p in workdir.path.iterdir()) == ["cache", "earlier-1", "notes.txt"]
    assert (workdir.path / "earlier-1" / "checkpoints" / "5").is_dir()
    assert Workdir.of(workdir.path / "earlier-1").read_config() == CONFIG
    assert workdir.set_aside() is None
    workdir.write("config.json", CONFIG)
    assert workdir.set_aside() == workdir.path / "earlier-2"


def test_files_of_processes_that_died_are_swept(workdir):
    for name in (".config.json.123", ".lock.json.host.7"):
        (workdir.path / name).write_text("{")
    (workdir.path / ".keep.json").write_text("{}")
    workdir.sweep()
    assert sorted(p.name for p in workdir.path.iterdir()) == [".keep.json", "config.json"]
