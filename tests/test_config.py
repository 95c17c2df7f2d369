"""Configs and overrides."""

import math

import pytest

from diffusion.config import (
    ConfigError,
    apply_overrides,
    build_section,
    check_sections,
    differences,
    with_defaults,
)

BASE = {
    "process": {"name": "vp", "beta_max": 15.0},
    "sampler": {"name": "ancestral", "eta": 0.5},
    "grid": {"name": "karras", "rho": 5.0, "num_steps": 30},
    "data": {"name": "digits", "batch_size": 32, "flip": True},
    "train": {"num_steps": 10},
    "guidance": [],
}


def test_a_swapped_name_forgets_its_siblings_but_keeps_what_is_not_its_own():
    new = apply_overrides(
        BASE, [("process.name", "edm"), ("grid.name", "uniform"), ("data.name", "folder")]
    )
    assert new["process"] == {"name": "edm"}
    assert new["grid"] == {"name": "uniform", "num_steps": 30}
    assert new["data"] == {"name": "folder", "batch_size": 32}


@pytest.mark.parametrize("path", ["grid", "grid.name"])
def test_a_section_may_be_swapped_by_its_name_alone(path):
    assert apply_overrides(BASE, [(path, "uniform")])["grid"] == {
        "name": "uniform",
        "num_steps": 30,
    }


def test_fields_given_with_the_swap_stay_in_any_order():
    for overrides in (
        [("process.t_max", "50.0"), ("process.name", "edm")],
        [("process.name", "edm"), ("process.t_max", "50.0")],
    ):
        assert apply_overrides(BASE, overrides)["process"] == {"name": "edm", "t_max": 50.0}


def test_the_same_name_changes_nothing():
    assert apply_overrides(BASE, [("process.name", "vp")])["process"] == BASE["process"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 2)", [1, 2]),
        ("true", True),
        ("1e-3", 1e-3),
        ("mymodule:Thing", "mymodule:Thing"),
        ("7", 7),
    ],
)
def test_values_are_literals_or_text(text, value):
    assert apply_overrides(BASE, [("network.field", text)])["network"]["field"] == value


@pytest.mark.parametrize(
    ("path", "text", "word"),
    [
        ("proces.name", "vp", "'process'"),
        ("train.num_steps", "ten", "int"),
        ("data.flip", "3", "bool"),
        ("train.num_steps", "2.5", "int"),
    ],
)
def test_wrong_overrides_name_the_key(path, text, word):
    with pytest.raises(ConfigError, match=word):
        apply_overrides(BASE, [(path, text)])


def test_fields_of_a_section_that_the_file_does_not_have_go_to_the_default():
    given = {"process": "vp", "grid": {"num_steps": 7}, "train": {"keep": 2}}
    config = with_defaults(given)
    assert config["grid"] == {"name": "uniform_log_snr", "num_steps": 7}
    assert config["train"] == {"keep": 2}
    assert config["sampler"] == {"name": "ddim"}
    assert with_defaults({"grid": {"name": "karras"}})["grid"] == {"name": "karras"}


def test_a_run_from_before_a_section_existed_does_not_differ_from_its_default():
    old = {k: v for k, v in with_defaults(BASE).items() if k not in ("task", "classifier_loss")}
    assert differences(old, with_defaults(BASE)) == []
    assert differences(old, {**BASE, "task": "classifier"}) == ["task: generator -> classifier"]


def test_nothing_in_an_override_is_executed():
    new = apply_overrides(BASE, [("network.field", "__import__('os').getcwd()")])
    assert new["network"]["field"] == "__import__('os').getcwd()"


def test_differences_name_the_path_and_ignore_where_the_data_lies():
    other = apply_overrides(
        BASE,
        [("process.beta_max", "20.0"), ("data.data_dir", "/elsewhere"), ("train.num_steps", "99")],
    )
    assert differences(BASE, other) == ["process.beta_max: 15.0 -> 20.0"]


@pytest.mark.parametrize(
    ("section", "value"),
    [("process", 3), ("train", "abc"), ("evaluate", [1]), ("guidance", "x"), ("sampler", None), ("data", {"name": 1})],
)  # fmt: skip
def test_a_section_that_is_none_is_named(section, value):
    config = {"process": "vp", "network": {"name": "mlp"}, "data": {"name": "points2d"}}
    with pytest.raises(ConfigError, match=f"config.{section} must be"):
        check_sections(with_defaults(config | {section: value}))


def test_a_slip_of_the_keyboard_in_a_field_of_the_experiment_is_named():
    config = {
        "data": {"name": "points2d", "batch_sise": 3},
        "grid": {"name": "karras", "num_step": 3},
    }
    for section, word in (("data", "batch_size"), ("grid", "num_steps")):
        with pytest.raises(ConfigError, match=f"Did you mean '{word}'"):
            build_section(with_defaults(config), section)


def test_not_a_number_is_a_number_and_equals_itself():
    config = apply_overrides({"data": {"name": "x"}}, [("data.value", "nan"), ("data.low", "-inf")])
    assert math.isnan(config["data"]["value"])
    assert config["data"]["low"] == -math.inf
    assert differences(config, {"data": {"name": "x", "value": math.nan, "low": -math.inf}}) == []
