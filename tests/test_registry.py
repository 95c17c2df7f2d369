"""Names and errors of the registry."""

import pytest

from diffusion import build, register, registered
from diffusion.registry import KINDS, lookup


def test_names_are_lower_snake_case():
    names = [(kind, name) for kind in KINDS for name in registered(kind)]
    plain = lambda name: name == name.lower() and name.replace("_", "").isalnum()
    assert not [(kind, name) for kind, name in names if not plain(name)]


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("process", "vpp", ["'vp'", "Registered"]),
        ("process", dict(name="vp", beta_mx=3.0), ["beta_mx", "beta_max"]),
        ("process", dict(beta_max=3.0), ["name"]),
        ("proces", "vp", ["process"]),
        ("sampler", "no_such_module_xyz:Thing", ["no_such_module_xyz"]),
        ("sampler", "math:Thing", ["Thing"]),
    ],
)
def test_errors_name_the_key_and_the_nearest(kind, spec, words):
    with pytest.raises((KeyError, TypeError)) as error:
        build(kind, spec)
    for word in words:
        assert word in str(error.value)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="registered already"):
        register("process", "vp")(lambda: None)


def test_lists_become_tuples_and_objects_pass():
    given = build("grid", dict(name="given", times=[1.0, 0.5]))
    assert given.times == (1.0, 0.5)
    assert build("grid", given) is given
    assert hash(given) == hash(build("grid", dict(name="given", times=(1.0, 0.5))))


def test_contract_names_exist():
    contract = {
        "process": "vp sub_vp ve edm cosine ddpm article rectified_flow trigonometric poisson_flow linear_sde",
        "sampler": "euler heun midpoint rk4 ddim ancestral euler_maruyama reverse_sde dpm_solver_pp_2m diffrax",
        "grid": "uniform uniform_log_snr karras quadratic chain given",
        "prediction": "data noise score v velocity edm",
        "guidance": "classifier_free",
    }
    for kind, names in contract.items():
        for name in names.split():
            assert lookup(kind, name), (kind, name)
