"""Earlier names of registered things and of fields are understood, with one line each, and mean the same run."""

import dataclasses
import logging

import pytest

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
