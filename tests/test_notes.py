"""What is said before a run costs anything, and the parts that a config gets without naming them."""

import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import pytest

from diffusion import Characteristics, GaussianProcess
from diffusion.experiment import Experiment
from diffusion.notes import notes


@dataclass(frozen=True, kw_only=True)
class Bent(Characteristics):
    """A path of one's own, on the lowest rung."""

    coordinatewise: ClassVar[bool] = True

    def path(self, x_0, x_T, t):
        return x_0 + jnp.sinh(t * jnp.arcsinh(x_T - x_0))


@dataclass(frozen=True, kw_only=True)
class Straight(GaussianProcess):
    """Up to t = 1, where nothing of the data is left."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    module = types.ModuleType("mine_of_notes")
    module.Bent, module.Straight = Bent, Straight
    monkeypatch.setitem(sys.modules, "mine_of_notes", module)


def experiment(process="vp", **sections):
    given = {
        "process": {"name": process} if isinstance(process, str) else process,
        "network": {"name": "mlp", "width": 8, "depth": 1},
        "data": {"name": "points2d", "batch_size": 8},
        "train": {"num_steps": 100},
    }
    return Experiment.from_config(given | sections)


def test_a_minimal_config_gets_the_sampler_that_its_process_carries():
    assert experiment().config["sampler"] == {"name": "ddim"}
    own = experiment("mine_of_notes:Bent")
    assert own.config["sampler"] == {"name": "heun"}
    assert own.resolved()["sampler"]["name"] == "heun"
    assert len(own.times()) == 51  # the default grid serves every process
    with pytest.raises(ValueError, match="DDIM needs alpha"):  # what is asked for is not replaced
        experiment("mine_of_notes:Bent", sampler={"name": "ddim"})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"prediction": "edm"}, "config.prediction (edm) is not used by Bent"),
        (
            {"prediction": "data", "weight": {"name": "min_snr"}},
            "config.prediction (data) and config.weight (min_snr) are not used by Bent",
        ),
    ],
)
def test_sections_that_nothing_uses_are_named(sections, words):
    (said,) = notes(experiment("mine_of_notes:Bent", **sections))
    assert said.startswith(words)
    assert notes(experiment("mine_of_notes:Bent")) == []
    assert not any("not used" in n for n in notes(experiment("vp", **sections)))


def test_an_endless_noise_level_is_said():
    (said,) = notes(experiment("mine_of_notes:Straight"))
    assert "-inf" in said
    assert "config.process.t_max=0.999" in said
    assert notes(experiment({"name": "mine_of_notes:Straight", "t_max": 0.999})) == []
