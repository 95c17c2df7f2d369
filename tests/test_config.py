"""Configs and overrides."""

import json
import math
import sys

import pytest

from diffusion.cli.data import read_fields
from diffusion.config.build import build_section
from diffusion.config.identity import as_stored, differences
from diffusion.config.overrides import apply_overrides
from diffusion.config.sections import ConfigError, check_sections, with_defaults
from diffusion.evaluation.metrics import parse, written
from diffusion.registry import build
from diffusion.registry.typed import literal, read
from diffusion.run.workdir import Workdir

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


TYPED = (
    "2024_01",
    "1e3",
    "1.50",
    "true",
    "nan",
    "0x10",
    "(1, 2)",
    "{}",
    "none",
    "007",
    "[a",
    "-" * 9000 + "1",
)


@pytest.mark.parametrize(
    "old", [{}, {"path": "x"}, {"path": 202401}], ids=["absent", "text", "number"]
)
def test_text_stays_text(old):
    """A string field holds what was typed, whatever it looks like and whatever it held before."""
    for text in TYPED:
        new = apply_overrides({"data": {"name": "array", **old}}, [("data.path", text)])
        assert new["data"]["path"] == text
        assert build_section(with_defaults({**BASE, **new}), "data").path == text
        swapped = apply_overrides({"data": "digits"}, [("data.path", text), ("data.name", "array")])
        assert swapped["data"] == {"name": "array", "path": text}


def test_text_stays_text_where_only_the_old_value_says_that_it_is_one():
    config = {"network": {"name": "never_imported:Net", "tag": "a"}, "seed": 0}
    for text in TYPED:
        assert apply_overrides(config, [("network.tag", text)])["network"]["tag"] == text


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("data.in_memory", "true", True),  # bool | str | None
        ("data.in_memory", "auto", "auto"),
        ("data.in_memory", "none", None),
        ("data.in_memory", "1", "1"),  # no number is admitted
        ("data.data_dir", "2024", "2024"),  # str | None
        ("data.data_dir", "None", None),
        ("data.data_dir", "none", "none"),
        ("data.label", "1.50", "1.50"),  # str | tuple[str, ...] | None
        ("data.label", "(1.50, 'a,b')", ["1.50", "a,b"]),
        ("evaluate.ema", "0.9990", "0.9990"),
        ("train.loss_target", "1e3", "1e3"),
        ("train.spike_factor", "20", 20),
        ("optimizer.clip", "none", None),
        ("process.path_fn", "1e3", "1e3"),  # Callable | str
        ("process.prior.std", "2", 2),  # through the kind of a field
        ("data.condition.factor", "2", 2),
        ("sampler", "1e3", {"name": "1e3"}),
        ("process.name", "true", {"name": "true"}),
    ],
)
def test_annotations_decide_how_a_word_is_read(path, text, value):
    config = {
        "data": {"name": "tfds", "in_memory": False, "condition": {"name": "superres"}},
        "sampler": {"name": "ddim"}, "optimizer": "adam", "evaluate": {},
        "process": {"name": "characteristics", "prior": {"name": "normal"}}, "train": {},
    }  # fmt: skip
    new = apply_overrides(config, [(path, text)])
    keys = path.split(".")
    for key in keys[: 1 if isinstance(value, dict) else None]:
        new = new[key]
    assert new == value
    assert type(new) is type(value)


def test_a_word_of_which_nothing_is_known_is_a_literal_and_depth_is_no_error():
    assert literal("none") is None
    assert read("x, y", tuple[str, ...]) == ["x, y"]
    assert read("('', 1e3, 'a b')", tuple[str, ...]) == ["", "1e3", "a b"]
    for deep in ("[" * 5000, "-" * 50_000 + "1", "(" * 90 + ")" * 90):
        assert isinstance(literal(deep), str | tuple)


MODULE = """
from __future__ import annotations
from dataclasses import dataclass
from diffusion.data import Dataset

@dataclass(frozen=True)
class Mine(Dataset):
    path: str | None = None
    size: int = 3
"""


def test_classes_of_ones_own_are_asked_only_if_the_command_line_or_a_config_file_names_them(
    tmp_path, monkeypatch
):
    """A stored config may come from anywhere: an override of another field imports nothing that it names."""
    (tmp_path / "module_of_words.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    name, config = "module_of_words:Mine", {"data": {"name": "module_of_words:Mine"}}
    stored = apply_overrides(config, [("data.path", "1e3")])
    assert "module_of_words" not in sys.modules
    assert stored["data"]["path"] == 1000.0
    try:
        fields, digits = [("data.path", "1e3"), ("data.size", "4")], {"data": {"name": "digits"}}
        for new in (
            apply_overrides(config, fields, imports=True),
            apply_overrides(digits, [*fields, ("data.name", name)]),
        ):
            assert new["data"] == {"name": name, "path": "1e3", "size": 4}
    finally:
        sys.modules.pop("module_of_words", None)


def test_metrics_and_data_sets_read_words_in_the_same_way():
    weights = {"name": "frechet", "features": {"name": "inception", "weights": "2024_01"}}
    assert parse("frechet[inception,weights=2024_01]") == weights
    assert parse(written(weights)) == weights
    assert parse("kid[pixels,kid.subset_size=100]")["subset_size"] == 100
    fields = read_fields("folder", ["path=1e3", "size=32", "in_memory=none"])
    assert fields == {"path": "1e3", "size": 32, "in_memory": None}


def test_a_path_that_is_a_number_in_a_config_file_is_said():
    with pytest.raises(ConfigError, match="`path` must be str"):
        build_section(with_defaults({"data": {"name": "array", "path": 2024}}), "data")


def test_a_config_with_a_mark_of_byte_order_opens(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(BASE).encode())
    assert Workdir.of(tmp_path).read_config() == as_stored(BASE)


@pytest.mark.parametrize(
    "kind", ["condition", "sampler", "process", "guidance", "prior", "dataset"]
)
def test_a_number_is_no_object_of_a_kind(kind):
    for value in (17, 1.5, True, [1]):
        with pytest.raises(TypeError, match="name"):
            build(kind, value)
    assert build("scale", 1.5) == 1.5


@pytest.mark.parametrize("section", ["train", "evaluate"])
@pytest.mark.parametrize("text", ["nan", "3", "abc"])
def test_a_section_that_becomes_a_value_is_refused_at_once(section, text):
    with pytest.raises(ConfigError, match=f"config.{section} must be"):
        apply_overrides(BASE | {"evaluate": {}}, [(section, text)])
    with pytest.raises(ConfigError, match=f"config.{section} must be"):
        apply_overrides(BASE | {section: literal(text)}, [])
