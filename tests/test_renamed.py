"""Earlier names of registered things and of fields are understood, with one line each, and mean the same run."""

import dataclasses
import logging

import numpy as np
import pytest

import diffusion
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.registry import build, current, register, registered, registry, renamed, resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renamed(TimeDistribution):
    """A distribution that had another name, and a field that had one."""

    fraction: float = dataclasses.field(default=0.5, metadata={"renamed_from": "share"})

    def quantile(self, process, u):
        return u


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The class under its names, for one test."""
    registered("time")  # what is built in is there before anything is put in its place
    monkeypatch.setattr(
        registry, "_REGISTRY", registry._REGISTRY | {"time": dict(registry._REGISTRY["time"])}
    )
    monkeypatch.setattr(renamed, "_NAMES", dict(renamed._NAMES))
    monkeypatch.setattr(renamed, "_noticed", set())
    register("time", "renamed_for_this_test", renamed_from="called_otherwise")(Renamed)


def test_earlier_names_are_understood_with_one_line_each(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert build("time", {"name": "called_otherwise", "share": 0.2}) == Renamed(
                fraction=0.2
            )
    still = "the earlier name is still understood."
    assert [r.getMessage() for r in caplog.records] == [
        f"time 'called_otherwise' is now called 'renamed_for_this_test'; {still}",
        f"the field 'share' of time 'renamed_for_this_test' is now called 'fraction'; {still}",
    ]
    assert "called_otherwise" not in registered("time")


def test_a_config_of_earlier_names_is_the_same_config():
    earlier = {"name": "called_otherwise", "share": 0.2}
    today = {"name": "renamed_for_this_test", "fraction": 0.2}
    assert current("time", earlier) == today == current("time", today)
    assert resolve("time", earlier) == resolve("time", today)
    assert current("time", "called_otherwise") == "renamed_for_this_test"
    assert current("time", "unknown") == "unknown"


def test_an_earlier_field_beside_its_new_one_is_an_error():
    with pytest.raises(TypeError, match="no field 'share'"):
        build("time", {"name": "renamed_for_this_test", "share": 0.2, "fraction": 0.3})


def test_a_definition_of_earlier_names_is_understood(caplog):
    """Methods and attributes that someone's own classes define are taken under today's names, and the laws hold."""

    class Own(diffusion.AffineProcess):
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return t

        def natural_times(self, num_steps):
            return np.linspace(1.0, 0.25, num_steps + 1)

        @property
        def reach(self):
            return 0.1, 1.0

    class Steps(diffusion.StepSampler):
        rung = diffusion.GaussianProcess

    assert Own().default_times(3).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert Own().t_domain == (0.1, 1.0)
    assert Steps.requires is diffusion.GaussianProcess
    assert "Own.reach is now called 't_domain'; the earlier name is still understood." in [
        r.getMessage() for r in caplog.records
    ]


def test_earlier_public_names_warn_and_are_what_they_were():
    for name, today in (
        ("carry", diffusion.integrate_flow),
        ("Dequantisation", diffusion.Dequantization),
    ):
        with pytest.warns(DeprecationWarning, match=f"diffusion.{name} is now called"):
            assert getattr(diffusion, name) is today
    with pytest.warns(DeprecationWarning, match="inverse_problems"):
        assert diffusion.operators is diffusion.inverse_problems.operators


EARLIER = [
    ("time", "natural"), ("process", "article"), ("process", "article_limit"), ("condition", "grey"),
    ("metric", "memorisation"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), EARLIER)
def test_each_earlier_name_makes_what_its_new_one_does(kind, name):
    assert build(kind, name) == build(kind, current(kind, name))
    assert name not in registered(kind)


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        ("operator", "random_mask", "fraction"),
        ("operator", "compressed_sensing", "fraction"),
        ("guidance", "rescale", "phi"),
    ],
)
def test_each_earlier_field_fills_its_new_one(kind, name, field):
    assert getattr(build(kind, {"name": name, "share": 0.25}), field) == 0.25


def test_the_earlier_spelling_of_a_field_of_dps_fills_its_new_one():
    spec = {"name": "dps", "operator": "identity", "std": 0.1, "scale": 1.0, "normalised": False}
    assert build("guidance", spec).normalized is False
