"""evaluate.py beyond a run's own numbers: cards, comparisons, examples from files, pages, trends."""

import json
import re
import shutil

import numpy as np
import pytest
from programs import error_of, run
from test_programs import SMALL

from diffusion.evaluation.cards import compared, obstacles, read_measured, still_holds
from diffusion.evaluation.curves import Line, line_plot
from diffusion.evaluation.report import Picture, Report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    """A tiny run with a trend, measured once."""
    path = tmp_path_factory.mktemp("run") / "digits"
    words = ["--config", "configs/digits.py", "--workdir", path, *SMALL, "--tensorboard"]
    words += ["--config.evaluate.trend_every=3", "--config.evaluate.trend_samples=70"]
    code, _, err = run("train.py", *words, data_dir=data_dir)
    assert code == 0, err
    words = ["--workdir", path, "--metrics", "loss_by_level,frechet,memorization"]
    code, said, err = run("evaluate.py", *words, data_dir=data_dir)
    assert code == 0, err
    assert said.count("NFE 4") == 2  # three steps and the posterior mean at the end
    return path


@pytest.fixture(scope="module")
def generated(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("generated") / "x.npz"
    code, _, err = run("sample.py", "--workdir", workdir, "--num_samples", 80, "--out", out)
    assert code == 0, err
    return out


# ---- cards and pages ----------------------------------------------------------------------------


def test_every_number_has_a_card(workdir):
    measured = read_measured(workdir)
    assert set(measured.cards) == set(measured.results) == {"loss_by_level", "frechet", "memorization"}  # fmt: skip
    card = measured.cards["frechet"]
    assert card["metric"] == "frechet"
    assert len(card["features"]["sha256"]) == len(card["reference"]["sha256"]) == 64
    assert card["reference"]["split"] == "test"
    made = card["generated"]
    assert (made["count"], made["num_steps"], made["nfe"], made["guidance"]) == (80, 3, 4, [])
    assert made["sampler"]["name"] == "dpm_solver_pp_2m"
    assert {"step", "ema", "weights_sha256", "config_sha256"} <= set(card["model"])
    assert {"versions", "device", "commit", "date"} <= set(card["made_by"])
    assert "generated" not in measured.cards["loss_by_level"]  # it needs none
    assert (workdir / "evaluation_nearest.png").is_file()


def test_the_page_is_one_file_that_loads_nothing(workdir):
    page = (workdir / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", page)
    assert not re.search(r"url\(|@import|<script|<link", page)
    assert page.count("data:image/png;base64,") == 2  # the examples, the nearest neighbors
    names = "Trend: frechet_pixels", "frechet_pixels@80_against_"
    for words in ("Loss by noise level", *names, "<details>"):
        assert words in page
    before = (workdir / "evaluation.json").read_bytes()
    (workdir / "report.html").unlink()
    code, _, err = run("evaluate.py", "--workdir", workdir, "--report_only")
    assert code == 0, err
    assert (workdir / "report.html").read_text() == page
    assert (workdir / "evaluation.json").read_bytes() == before


def test_a_page_escapes_what_it_shows():
    bad = '<b onclick="x">&'
    page = Report(
        title=bad, summary=[bad], pictures=[Picture(title=bad, png=b"", caption=bad)],
        history=[{"step": 1, "loss": 1.0, f"{bad}@2": 3.0}, {"step": 2, "loss": None, f"{bad}@2": 2.0}],
        results={bad: {bad: bad, "rows": [{bad: bad}], "several": {bad: bad}}}, cards={bad: {"metric": bad, bad: bad}},
        config={bad: bad}, made_by={bad: bad}, commands={bad: bad},
    ).page()  # fmt: skip
    assert "<b" not in page.replace("<body>", "").replace("<br>", "")


def test_a_plot_leaves_out_what_it_cannot_show():
    assert line_plot([Line(name="none", x=[1], y=[np.nan])], xlabel="x", ylabel="y") == ""
    assert line_plot([Line(name="none", x=[1], y=[-1.0])], xlabel="x", ylabel="y", log=True) == ""
    for values in ([1.0, 1.0], [0.0, 0.0], [1e-9, 1e9], [-3.0, 5.0], [2.0]):
        for log in (False, True):
            line = Line(name="a", x=range(len(values)), y=values, errors=[0.5] * len(values))
            plot = line_plot([line], xlabel="x", ylabel="y", log=log)
            numbers = [float(n) for n in re.findall(r'(?:x1|y1|cx|cy|x|y)="(-?[\d.]+)"', plot)]
            assert all(-1 <= n <= 481 for n in numbers)
            assert "nan" not in plot


# ---- comparing ----------------------------------------------------------------------------------


def test_equal_names_are_compared_and_unequal_ones_are_refused_with_the_reason(
    workdir, generated, data_dir, tmp_path
):
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    words = ["--images", generated, "--data", "digits", "--metrics", "frechet,memorization"]
    code, _, err = run("evaluate.py", *words, "--out", same, data_dir=data_dir)
    assert code == 0, err
    ours = read_measured(workdir).results["frechet"]
    assert read_measured(same).results["frechet"] == ours  # the same examples by another way
    more = ["--num_samples", 40, "--config.data.split=test", "--out", other]
    code, _, err = run("evaluate.py", *words[:4], *more, data_dir=data_dir)
    assert code == 0, err
    code, said, err = run("evaluate.py", "--compare", workdir, same)
    assert code == 0, err
    assert "loss_by_level: only in A" in said
    name = next(iter(ours))
    assert f"{name}: {ours[name]:.5g} -> {ours[name]:.5g}, difference +0; no standard error" in said
    code, said, err = run("evaluate.py", "--compare", same, other, "--verbose")
    assert code == 0, err
    assert "not comparable: other counts: 80 -> 40 examples" in said
    assert f"{name}: only in A" in said


def test_cards_say_why_numbers_are_not_comparable():
    card = {
        "metric": "frechet", "version": 2, "features": {"name": "pixels", "sha256": "a"},
        "reference": {"dataset": "digits", "split": "test", "count": 359, "sha256": "b"},
        "generated": {"count": 100, "sampler": "ddim"}, "seed": 0, "made_by": {"date": "today"},
    }  # fmt: skip
    alike = card | {"seed": 1, "made_by": {"date": "then"}, "model": {"step": 3}}
    alike["generated"] = {"count": 100, "sampler": "heun"}
    assert obstacles(card, alike) == []
    changed = {
        "another measurement: version 2 -> 3": {"version": 3},
        "other features: features.sha256 a -> c": {"features": {"name": "pixels", "sha256": "c"}},
        "another reference: reference.sha256 b -> c": {"reference": card["reference"] | {"sha256": "c"}},
        "other counts: 100 -> 50 examples": {"generated": {"count": 50}},
    }  # fmt: skip
    for reason, new in changed.items():
        assert obstacles(card, card | new) == [reason]
    with_what = {k: card[k] for k in ("metric", "version", "features", "reference")}
    assert still_holds(json.loads(json.dumps(card)), with_what | {"version": 2})
    assert not still_holds(card, with_what | {"features": {"name": "pixels", "sha256": "c"}})
    a, b = {"value": 1.0, "standard_error": 0.3}, {"value": 2.0, "standard_error": 0.4}
    assert compared(a, b) == "1 -> 2, difference +1 = +2.0 standard errors"
    rows = lambda e: [{"log_snr": s, "error": e * s, "standard_error": 0.1} for s in (1.0, 2.0)]
    assert compared(rows(1.0), rows(1.1)) == (
        "of 2 rows the farthest, log_snr 2, differ by 1.4 standard errors"
    )


def test_results_that_are_no_results_are_refused(workdir, tmp_path):
    copy = tmp_path / "e.json"
    shutil.copy(workdir / "evaluation.json", copy)
    content = json.loads(copy.read_text())
    content["metrics"]["frechet"]["card"]["seed"] = 7
    copy.write_text(json.dumps(content))
    code, message = error_of("evaluate.py", "--compare", workdir, copy)
    assert code == 2
    assert "does not match its digest" in message
    with pytest.raises(ValueError, match="measure first"):
        read_measured(tmp_path / "none")
    for content in (b"{", b"[]", b"{}", b'{"metrics": {"a": 3}, "made_of": 1}', b"\xff"):
        copy.write_bytes(content)
        with pytest.raises(ValueError, match="is no result"):
            read_measured(copy)


# ---- examples from files ------------------------------------------------------------------------


def test_a_folder_of_pictures_gives_the_numbers_of_its_arrays(generated, data_dir, tmp_path):
    from diffusion.evaluation.images import save_png, to_uint8

    x = to_uint8(np.load(generated)["x"])
    for i, image in enumerate(x):
        save_png(tmp_path / "pictures" / f"{i:03d}.png", image)
    (tmp_path / "pictures" / "card.json").write_text("{}")
    np.savez_compressed(tmp_path / "x.npz", images=x, label=np.zeros(len(x)))
    found = []
    for source in ("pictures", "x.npz"):
        words = ["--images", tmp_path / source, "--config", "configs/digits.py"]
        code, _, err = run("evaluate.py", *words, data_dir=data_dir)
        assert code == 0, err
        out = tmp_path / f"{source}.evaluation.json"
        found.append(read_measured(out))
        assert out.with_suffix(".html").is_file()
    assert found[0].results == found[1].results
    cards = [m.cards["frechet"]["generated"] for m in found]
    assert [c["files_left_out"] for c in cards] == [1, 0]
    assert cards[0]["sha256"] == cards[1]["sha256"]


def test_metrics_of_models_are_refused_before_anything_is_read(tmp_path):
    words = ["--images", tmp_path / "none", "--data", "digits"]
    code, message = error_of(
        "evaluate.py", *words, "--metrics", "frechet,bits_per_dim,label_agreement"
    )
    assert code == 2
    assert "bits_per_dim, label_agreement cannot be measured on examples alone" in message


def test_a_metric_that_does_not_fit_is_told_and_the_others_are_measured(tmp_path):
    """Features of images do not fit points in the plane; the code is that of the first such error."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    words = ["--images", tmp_path / "x.npy", "--data", "points2d", "--config.data.size=200"]
    asked = (
        "frechet[random_conv],energy_distance,frechet[inception,weights=absent.safetensors],frechet"
    )
    code, out, err = run("evaluate.py", *words, "--metrics", asked, data_dir=tmp_path / "data")
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.split(" cannot be measured: ")[0] for line in told] == [
        "error: frechet[random_conv]", "error: frechet[inception,weights=absent.safetensors]",
    ]  # fmt: skip
    assert code == 2, err
    measured = read_measured(tmp_path / "x.npy.evaluation.json")
    assert list(measured.results) == ["energy_distance", "frechet"]
    assert "wrote" in out


# ---- trends -------------------------------------------------------------------------------------


def test_a_trend_is_logged_under_its_honest_name_and_changes_no_bit(workdir, data_dir, tmp_path):
    from diffusion.run.workdir import Workdir, open_run
    from diffusion.runtime.digests import digest_of

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trend = [line for line in lines if any("@" in key for key in line)]
    assert [line["step"] for line in trend] == [3, 6]
    assert [list(line)[1:] for line in trend] == [["frechet_pixels@70_against_359"]] * 2
    plain = tmp_path / "plain"
    words = ["--config", "configs/digits.py", "--workdir", plain, *SMALL]
    code, _, err = run("train.py", *words, data_dir=data_dir)
    assert code == 0, err
    digests = []
    for path in (workdir, plain):
        there = Workdir.of(path)
        digests.append(digest_of(open_run(there, there.read_config(), "raw").params))
    assert digests[0] == digests[1]
