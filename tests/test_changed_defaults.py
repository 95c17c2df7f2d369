"""Defaults that changed: runs that were begun before go on as they were, and new ones state what they use."""

import json

import pytest

from diffusion.config.experiment import Experiment
from diffusion.config.identity import as_stored, differences, marks
from diffusion.config.recording import continued
from diffusion.config.sections import ConfigError, with_defaults
from diffusion.run.runner import run, stored_config
from diffusion.run.workdir import Workdir, open_run

SMALL = {
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "points2d", "batch_size": 8},
    "train": {"num_steps": 2, "sample_every": 0},
}
CHAIN = {"name": "proportional_beta", "num_chain_steps": 500, "rate": 0.04}
HEAT = {"name": "heat", "schedule": "power"}


def of_before(given):
    """The experiment of a config that a run of before has stored."""
    return Experiment.from_config(as_stored(with_defaults(given)))


def config(process, **sections):
    return json.loads(json.dumps(SMALL | {"process": process} | sections))


@pytest.mark.parametrize(
    ("process", "today", "before"),
    [
        (CHAIN, 0.002, 1e-3),
        (HEAT, 0.005, 2.5e-5),
        ("ddpm", 1e-3, 1e-3),
        ("heat", 2.5e-5, 2.5e-5),
        ({"name": "shifted", "process": CHAIN}, 0.002, 1e-3),
    ],
)
def test_a_stored_config_that_does_not_say_has_the_earlier_default(process, today, before):
    new = Experiment.from_config(config(process))
    old = of_before(config(process))
    assert float(new.process.t_min) == today
    assert float(old.process.t_min) == before
    again = of_before(new.config)  # what is built states what it uses
    assert again.process == new.process
    assert again.config == new.config


def test_steps_of_chains_are_stated():
    given = config(CHAIN, weight="elbo", prediction={"name": "previous_mean"})
    new, old = Experiment.from_config(given), of_before(given)
    assert new.config["weight"] == {"name": "elbo", "step": 0.002}
    assert new.config["prediction"]["step"] == 0.002
    assert new.train.variance_step == 0.002
    assert new.config["train"]["variance_step"] == 0.002
    assert old.weight.step == old.prediction.step == old.train.variance_step == 1e-3
    assert new.resolved()["weight"]["step"] == 0.002


def test_the_ratios_of_blocks_are_stated():
    network = {"name": "dit", "patch": 2, "width": 8, "depth": 2, "heads": 2, "scan_blocks": True}
    data = {"name": "digits", "batch_size": 8}
    given = config("vp", network=network, data=data, optimizer="lamb")
    new, old = Experiment.from_config(given), of_before(given)
    assert new.optimizer.by_block
    assert not old.optimizer.by_block
    assert new.optimizer.stacked == old.optimizer.stacked == ("blocks",)
    assert new.resolved()["optimizer"]["stacked"] == ["blocks"]


def test_going_on_keeps_the_earlier_value_and_says_so():
    given, stored = config(CHAIN), config(CHAIN)
    begun, words = continued(given, stored)
    assert begun["process"] == CHAIN | {"t_min": 1e-3}
    assert words == [
        "config.process.t_min stays 0.001, as when this run was begun; today it is 0.002"
    ]
    assert begun["train"]["variance_step"] == 1e-3  # nothing depends on it
    learning = config(CHAIN, train={"num_steps": 2, "learn_variance": True})
    assert any(
        w.startswith("config.train.variance_step stays") for w in continued(learning, stored)[1]
    )
    assert (
        continued(config(CHAIN, train="nan"), stored)[1] == []
    )  # whoever builds it says what is wrong
    assert given == config(CHAIN)
    asked, words = continued(config(CHAIN | {"t_min": 0.02}), stored)  # what is said counts
    assert asked["process"]["t_min"] == 0.02
    assert not any("t_min" in w for w in words)
    for same in ("ddpm", "vp", "parabola"):  # where nothing changes nothing is said
        assert continued(config(same), config(same))[1] == []
    other, words = continued(config(HEAT), stored)  # of another class nothing is taken
    assert other["process"] == HEAT
    inner, _ = continued(
        config({"name": "shifted", "process": CHAIN}), config({"name": "shifted", "process": CHAIN})
    )
    assert inner["process"]["process"] == CHAIN | {"t_min": 1e-3}


def test_only_values_that_differ_are_differences():
    new = Experiment.from_config(config("ddpm")).config
    assert differences(config("ddpm"), new) == []
    new = Experiment.from_config(config(CHAIN)).config
    assert differences(config(CHAIN), new) == [
        "process.t_min: 0.001 -> 0.002", "train.variance_step: 0.001 -> 0.002",
    ]  # fmt: skip
    raw = config(CHAIN)
    assert differences(raw, raw) == []
    assert differences(new, raw) == []  # what was not built yet leaves it open


def test_every_changed_field_says_what_it_was():
    found = marks(with_defaults(config(HEAT, weight="elbo", optimizer="adafactor")), "formerly")
    assert {path.partition(".")[0] for path in found} == {"process", "weight", "optimizer", "train"}


def strip(folder):
    """Make a run look like one of an earlier version: neither config states the field."""
    file = folder / "config.json"
    stored = json.loads(file.read_text())
    assert stored["process"].pop("t_min") == 1e-3
    stored["train"].pop("variance_step")
    file.write_text(json.dumps(stored))


@pytest.mark.slow
def test_an_earlier_run_is_opened_and_resumed_as_it_was(tmp_path):
    workdir = Workdir.of(tmp_path / "run")
    run(
        Experiment.from_config(
            config(CHAIN | {"t_min": 1e-3}, train=SMALL["train"] | {"variance_step": 1e-3})
        ),
        workdir,
    )
    strip(workdir.path)
    opened = open_run(workdir, workdir.read_config())
    assert opened.experiment.process.t_min == 1e-3
    longer = config(CHAIN, train={"num_steps": 4, "sample_every": 0})
    with pytest.raises(
        ConfigError, match=r"process.t_min: 0.001 -> 0.002"
    ):  # from Python it is said
        run(Experiment.from_config(longer), workdir)
    begun, words = continued(longer, stored_config(workdir))
    assert len(words) == 1
    state = run(Experiment.from_config(begun), workdir)
    assert int(state.step) == 4
    assert workdir.read_config()["process"]["t_min"] == 1e-3  # from now on it is stated
    assert continued(longer, stored_config(workdir))[0]["process"]["t_min"] == 1e-3
