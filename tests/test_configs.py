"""Every shipped config builds, with the network that its header promises; no data set is touched."""

import runpy
from pathlib import Path

import jax
import pytest

from diffusion.config.experiment import Experiment
from diffusion.data import DataSpec
from diffusion.networks import count_parameters

CONFIGS = Path(__file__).parent.parent / "configs"
SPECS = {
    "digits": DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, bits=8),
    "fashion_mnist": DataSpec(shape=(28, 28, 1), num_classes=10, size=60_000, bits=8),
    "digits_classifier": DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, bits=8),
    "fashion_mnist_classifier": DataSpec(shape=(28, 28, 1), num_classes=10, size=60_000, bits=8),
    "emoji": DataSpec(shape=(32, 32, 3), num_classes=9, size=1490, bits=8),
    "icons": DataSpec(shape=(32, 32, 3), num_classes=7, size=985, bits=8),
    "openclipart": DataSpec(shape=(32, 32, 3), num_classes=19, size=4400, bits=8),
    "pictures": DataSpec(shape=(64, 64, 3), size=180, bits=8),
    "toy2d": DataSpec(shape=(2,), kind="points"),
    "cifar10": DataSpec(shape=(32, 32, 3), num_classes=10, size=50_000, bits=8),
    "celeb_a": DataSpec(shape=(128, 128, 3), size=162_770, bits=8),
    "imagenet64": DataSpec(shape=(64, 64, 3), num_classes=1000, size=1_281_167, bits=8),
}
PARAMETERS = {"cifar10": 55.7e6, "imagenet64": 295.9e6}  # as published


def experiment(name, *arguments):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*arguments)
    return Experiment.from_config(config, SPECS[name])


def test_every_config_is_tested():
    assert {p.stem for p in CONFIGS.glob("*.py")} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_config_builds(name):
    e = experiment(name)
    state = e.abstract_state()
    assert len(e.times()) == e.num_steps + 1
    assert set(state.ema) == set(e.ema)
    assert e.resolved()["process"]["name"] == e.config["process"]["name"]
    number = count_parameters(state.params)
    assert number > 1000
    if name in PARAMETERS:
        assert abs(number / PARAMETERS[name] - 1) < 0.05
    assert jax.tree.leaves(state.params)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("fashion_mnist", "gpu"),
        ("openclipart", "gpu"),
        ("pictures", "32"),
        ("pictures", "128"),
        ("pictures", "gpu128"),
        ("toy2d", "moons"),
        ("cifar10", "unconditional"),
    ],
)
def test_presets_build(name, preset):
    assert count_parameters(experiment(name, preset).abstract_state().params) > 1000


@pytest.mark.parametrize("name", ["openclipart", "pictures"])
def test_unknown_words_are_refused(name):
    with pytest.raises(ValueError, match=f"configs/{name}.py:tpu: the word is"):
        experiment(name, "tpu")
