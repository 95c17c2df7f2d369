"""What is said before a run costs anything, and the parts that a config gets without naming them."""

import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import Characteristics, GaussianProcess, build
from diffusion.config.checks import SAMPLING, TRAINING, notes
from diffusion.config.experiment import Experiment
from diffusion.models.prediction import error_gain


@dataclass(frozen=True, kw_only=True)
class Bent(Characteristics):
    """A path of one's own, for a plain `Process`."""

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
    assert own.evaluate.metrics == ("frechet",)  # an error by noise level is one of denoisers
    assert experiment().evaluate.metrics == ("loss_by_level", "frechet")
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


@pytest.mark.parametrize(
    ("process", "gain"),
    [("vp", np.exp(5.025) * np.sqrt(1 - np.exp(-10.05))), ("edm", 80.0), ("rectified_flow", 999.0)],
)
def test_the_gain_of_errors_is_that_of_the_noise(process, gain):
    """x_0 = (x_t - sigma z) / alpha: sigma / alpha for noise, and no more than 1 for v where alpha^2 + sigma^2 = 1."""
    end = build("process", process).t_max
    np.testing.assert_allclose(error_gain(process, "noise", end), gain, rtol=1e-9)
    np.testing.assert_allclose(error_gain(process, "score", end), gain, rtol=1e-9)
    assert error_gain(process, "data", end) == 1
    assert error_gain(process, "v", end) <= 1 + 1e-12


def test_a_gain_that_ruins_samples_is_said_for_every_process():
    (said,) = notes(experiment("zero_terminal_snr", prediction="noise"))
    assert "at t_max = 0.999" in said
    assert "error of the prediction noise counts 1.5e+04 times" in said
    assert notes(experiment("zero_terminal_snr", prediction="v")) == []
    assert notes(experiment("edm", prediction="noise")) == []  # 80 times
    (said,) = notes(experiment("straight_line", prediction="noise"))
    assert "inf times" in said


def test_a_warm_up_longer_than_the_run_is_said():
    (said,) = notes(experiment(optimizer={"name": "adam", "warmup": 400}))
    assert "warm-up of 400 steps is longer than the run of 100" in said
    assert "25% of config.optimizer.learning_rate" in said
    assert notes(experiment(optimizer={"name": "adam", "warmup": 100})) == []


@pytest.mark.parametrize(
    ("sampler", "grid", "num_steps", "std"),
    [("heun", "karras", 1, 40.0), ("heun", "uniform_log_snr", 2, 19.8), ("heun", "karras", 6, None),
     ("ddim", "karras", 1, None), ("churn", "karras", 1, 40.0)],
)  # fmt: skip
def test_a_grid_too_coarse_for_its_sampler_is_said(sampler, grid, num_steps, std):
    """Heun's one step on edm takes back half of the noise: 40 of 80; churn adds none above s_max = 50."""
    found = notes(
        experiment("edm", sampler=sampler, grid={"name": grid, "num_steps": num_steps}), SAMPLING
    )
    assert len(found) == (std is not None)
    if std is not None:
        many = "1 step" if num_steps == 1 else f"{num_steps} steps"
        assert found[0].startswith(f"{sampler} with {many} of this grid ends on normal data")
        number = float(found[0].split("with one of ")[1].split(":")[0])
        np.testing.assert_allclose(number, std, rtol=0.01)


def test_an_endless_noise_level_is_said():
    (said,) = notes(experiment("mine_of_notes:Straight"), TRAINING)
    assert "-inf" in said
    assert "config.process.t_max=0.999" in said
    ended = {"name": "mine_of_notes:Straight", "t_max": 0.999}
    assert notes(experiment(ended), TRAINING) == []
