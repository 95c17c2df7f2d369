"""`demolish check` as a person runs it."""

import pytest
from programs import run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--process", "edm", "--data_mean", "1", "--data_std", "0.5"], 0, "prior mismatch"),
        (["--sampler", "ancestral", "--sampler.eta=0.5", "--process", "edm"], 0, "eta=0.5"),
        (["--sampler", "ddmi"], 2, "'ddim'"),
        (["--sampler.eta=0.5", "--process", "vp"], 2, "--sampler"),
        (["--process", "vp", "--data_std=-1"], 2, "--data_std"),
        (["--all", "--process", "vp"], 2, "--all"),
        ([], 2, "required"),
    ],
)
def test_the_program(words, code, said):
    found, out, err = run("check", *words)
    assert found == code, out + err
    assert said in out + err
