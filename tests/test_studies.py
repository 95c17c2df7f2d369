"""Studies: pages agree with what was measured, commands explain themselves, and a second call measures nothing.

No study is run and nothing is trained here.
"""

import importlib
import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # studies are no part of the installed package
    sys.path.append(str(ROOT))

common = importlib.import_module("experiments._common")

STUDIES = (
    "architectures",
    "ddim_steps",
    "demolish_and_rebuild",
    "fashion_mnist",
    "optimal_variance",
    "predictions",
    "sde_and_ode",
)
WORDS = ("**Question.**", "**Method.**", "**Result.**", "**Found.**")

each = pytest.mark.parametrize("name", STUDIES)


def folder(name):
    return ROOT / "experiments" / name


def part(name, module):
    return importlib.import_module(f"experiments.{name}.{module}")


@each
def test_the_page_of_a_study_has_its_parts_and_its_pictures(name):
    text = (folder(name) / "README.md").read_text()
    places = [text.index(word) for word in WORDS]
    assert places == sorted(places)
    assert f"python -m experiments.{name}" in text
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert shown
    for file in shown:
        assert (folder(name) / file).is_file(), file


@each
def test_tables_are_those_of_the_results(name):
    found = json.loads((folder(name) / "results.json").read_text())
    assert "small" in found
    pages = part(name, "pages")
    assert (folder(name) / "table.md").read_text() == pages.table(found)
    text = (folder(name) / "README.md").read_text()
    told = text.split(common.BEGIN)[1].split(common.END)[0]
    assert told.strip() == pages.summary(found).strip()
    assert "|" in told
    assert "nan" not in told


@each
def test_a_study_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "--help"])
    with pytest.raises(SystemExit) as stop:
        part(name, "run").main()
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert f"python -m experiments.{name}" in told
    assert {"small", "full"} <= set(re.findall(r"\w+", told))
    assert (folder(name) / "__main__.py").is_file()


@each
def test_an_unknown_tier_is_refused_by_name(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "--tier", "huge"])
    with pytest.raises(SystemExit) as stop:
        part(name, "run").main()
    assert stop.value.code == 2
    assert "huge" in capsys.readouterr().err


# ---- what studies share -------------------------------------------------------------------------


def a_call(tmp_path):
    return common.Call(
        "small", tmp_path, common.Results(tmp_path / "results.json"), time.monotonic()
    )


def test_what_was_measured_is_not_measured_again(tmp_path):
    calls = []
    make = lambda: calls.append(1) or {"value": np.float64(1 / 3), "rows": np.arange(2)}
    first = a_call(tmp_path).item("part", "a", make=make)
    assert (
        a_call(tmp_path).item("part", "a", make=make) == first == {"value": 0.33333, "rows": [0, 1]}
    )
    assert calls == [1]
    assert json.loads((tmp_path / "results.json").read_text()) == {"small": {"part": {"a": first}}}


def test_an_item_is_on_disk_before_the_next_is_measured(tmp_path):
    call = a_call(tmp_path)
    call.item("a", make=lambda: 1)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call.item("b", make=interrupted)
    assert common.Results(tmp_path / "results.json").load() == {"small": {"a": 1}}


def test_readme_keeps_what_people_wrote(tmp_path):
    class Pages:
        table = staticmethod(lambda found: "all")
        summary = staticmethod(lambda found: "| new |")

    (tmp_path / "README.md").write_text(f"before\n\n{common.BEGIN}\nold\n{common.END}\nafter\n")
    common.Results(tmp_path / "results.json").keep("small", record={})
    common.write_pages(tmp_path, Pages)
    assert (tmp_path / "README.md").read_text() == (
        f"before\n\n{common.BEGIN}\n\n| new |\n\n{common.END}\nafter\n"
    )
    assert (tmp_path / "table.md").read_text() == "all"


def test_a_mean_and_its_spread():
    assert common.spread([1.0, 3.0]) == "2.00 ± 1.41"
    assert common.spread([1.0]) == "1.00"


# ---- the mathematics of single studies ----------------------------------------------------------


def test_exact_steps_leave_the_variances_that_the_articles_state():
    end = part("demolish_and_rebuild", "run").gaussian_end
    assert end("beta", 1.0) == pytest.approx(
        1.0, abs=3e-5
    )  # the last step adds no noise: beta_1 is missing
    assert end("posterior", 1.0) == pytest.approx(0.9912, abs=5e-5)
    assert end("eta=0", 1.0) == pytest.approx(0.9963, abs=5e-5)
    assert end("posterior", 0.5) == pytest.approx(0.2462, abs=5e-5)
    assert end("eta=0", 0.5) == pytest.approx(0.2486, abs=5e-5)
    assert end("greedy", 1.0) == pytest.approx(float(np.exp(-2 * 5.0387)), rel=1e-4)  # = alpha_T^2


def test_the_second_noise_of_the_loss_has_what_is_missing_from_the_first(x64):
    second_noise = part("demolish_and_rebuild", "losses").second_noise
    process = diffusion.build("process", "ddpm")
    t = jnp.asarray([1e-3, 0.01, 0.3, 1.0])
    c = second_noise(process, t, 1e-3)
    one_step = 1 - (process.alpha(t) / process.alpha(t - 1e-3)) ** 2
    assert float(c[0]) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(1 + c**2, process.sigma(t) ** 2 / one_step, rtol=1e-9)


@pytest.mark.slow
def test_posteriors_on_the_line_are_those_of_the_mixture(x64):
    line = part("optimal_variance", "line")
    process = diffusion.build("process", "ddpm")
    for t in (0.02, 0.3, 0.9):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        found = line.posterior(alpha, sigma)
        x = jnp.asarray(line.GRID[200:-200:10])[:, None]
        exact = line.TARGET.denoiser(process)(x, jnp.full(len(x), t))[:, 0]
        np.testing.assert_allclose(found.mean[200:-200:10], exact, atol=1e-9)
        assert found.density.sum() == pytest.approx(1, abs=1e-4)  # what lies outside of the grid
        total = found.density @ (found.variance + (found.mean - line.MEAN) ** 2)
        assert total == pytest.approx(line.VARIANCE, rel=1e-3)
        tables = line.tables(alpha, sigma)
        assert tables["data"] == pytest.approx(tables["residual"], rel=2e-3)
        np.testing.assert_allclose(tables["npr"], found.variance)


@pytest.mark.slow
def test_the_bound_of_posterior_steps_is_the_drop_in_snr_times_the_error(x64):
    line, run = part("optimal_variance", "line"), part("optimal_variance", "run")
    process = diffusion.build("process", "ddpm")
    times = diffusion.build("grid", "chain")(process, 7)
    snr = np.exp(np.asarray(process.log_snr(jnp.asarray(times))))
    alpha, sigma = (np.asarray(f(jnp.asarray(times))) for f in (process.alpha, process.sigma))
    miss = [line.tables(a, s)["residual"] for a, s in zip(alpha[:-1], sigma[:-1], strict=True)]
    expected = 0.5 * float(np.diff(snr) @ miss)
    chain = {
        v: line.Reverse(v).measure(process, 7)["path"] for v in ("posterior", "beta", "residual")
    }
    assert chain["posterior"] == pytest.approx(expected, rel=1e-3)
    assert chain["residual"] < min(chain["posterior"], chain["beta"])
    table = (times[:-1], np.asarray(miss))
    for variance in ("posterior", "beta"):
        bits = run.path_bound(process, 7, table, None, variance)
        assert bits * np.log(2) == pytest.approx(chain[variance], rel=1e-3)
    bits = run.path_bound(process, 7, table, table, "posterior")
    assert bits * np.log(2) == pytest.approx(chain["residual"], rel=1e-3)


def test_ddim_of_the_study_is_the_sampler_and_goes_both_ways(x64):
    run = part("ddim_steps", "run")
    process = diffusion.build("process", "ddpm")
    model, times = run.MIXTURE.denoiser(process), diffusion.build("grid", "chain")(process, 400)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    down = run.ddim(process, model, x, times)
    sampler = diffusion.build("sampler", "ddim")
    exact = diffusion.sample(sampler, process, model, None, x, times, denoise_last=False)
    np.testing.assert_allclose(down, exact, atol=1e-12)
    back = run.ddim(process, model, down, times[::-1])
    assert float(jnp.abs(back - x).max()) < 0.1  # of first order in 1 / 400


def test_the_table_of_the_constructions_is_what_was_measured():
    pages = importlib.import_module("experiments.ode_from_scratch.pages")
    assert (folder("ode_from_scratch") / "table.md").read_text() == pages.text()
