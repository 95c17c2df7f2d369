"""A folder whose config is not the one that its checkpoint was trained with: labels on weights are true."""

import dataclasses
import shutil

import pytest

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.manifest import write_manifest
from diffusion.config.experiment import Experiment
from diffusion.config.identity import differences
from diffusion.run.export import export_run
from diffusion.run.workdir import Workdir, open_run
from diffusion.runtime.exits import CheckpointError

CONFIG = {
    "process": {"name": "vp", "beta_max": 15.0},
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 8},
    "ema": ["0.9"],
    "train": {"num_steps": 5},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir, experiment = Workdir.of(tmp_path_factory.mktemp("run")), Experiment.from_config(CONFIG)
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(5, experiment.init_state(), dict(experiment.config), block=True)
    workdir.write("data.json", dataclasses.asdict(experiment.spec))
    return workdir


OTHER = {
    "process": {"process": {"name": "edm"}},
    "a field": {"process": {"name": "vp"}},
    "prediction": {"prediction": {"name": "noise"}},
    "data": {"data": {"name": "points2d", "kind": "spirals", "batch_size": 8}},
    "seed": {"seed": 1},
    "weight": {"weight": {"name": "edm"}},
    "time": {"time": {"name": "log_normal"}},
    "optimizer": {"optimizer": {"name": "adamw"}},
    "average": {"ema": ["0.9", "0.99"]},
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_weights_of_another_config_are_refused(change, workdir, tmp_path):
    workdir.write("config.json", CONFIG | change)
    (line, *_) = differences(CONFIG, CONFIG | change)
    for use in (
        lambda: open_run(workdir, workdir.read_config()),
        lambda: open_run(workdir, workdir.read_config(), "raw", 5),
        lambda: export_run(workdir, tmp_path / "x.safetensors"),
    ):
        with pytest.raises(CheckpointError, match="is not that of step 5") as error:
            use()
        assert line in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": {"name": "heun"}}, {"grid": {"name": "karras", "num_steps": 7}}, {"guidance": ["clip"]},
        {"train": {"num_steps": 50, "checkpoint_every": 7}}, {"evaluate": {"num_samples": 9}},
        {"prediction": {"name": "v"}, "seed": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_may_change_in_between_may_differ(change, workdir, tmp_path):
    workdir.write("config.json", CONFIG | change)
    assert open_run(workdir, workdir.read_config()).step == 5
    card = export_run(workdir, tmp_path / "x.safetensors")
    assert (card["step"], card["ema"], card["config"]["process"]) == (5, "0.9", CONFIG["process"])


def test_the_process_of_a_run_can_still_be_replaced_by_its_user(workdir):
    """The network sees the log-SNR: the user says so on the command line, and no file claims it."""
    workdir.write("config.json", CONFIG)
    run = open_run(workdir, CONFIG | {"process": {"name": "cosine"}})
    assert type(run.experiment.process).__name__ == "Cosine"


def test_a_checkpoint_under_the_number_of_another_is_refused(workdir, tmp_path):
    """Also where manifest and number agree, by the hand of a stranger."""
    shutil.copytree(workdir.path, tmp_path / "run")
    there = Workdir.of(tmp_path / "run")
    there.write("config.json", CONFIG)
    folder = (there.checkpoints / "5").rename(there.checkpoints / "7")
    (folder / "manifest.json").unlink()
    write_manifest(folder, step=7)
    with pytest.raises(CheckpointError, match="written as step 5"):
        open_run(there, CONFIG)
