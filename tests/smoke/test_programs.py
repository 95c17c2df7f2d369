"""The programs as their readers run them: train, resume, sample, evaluate, check, and their errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, error_of, run, start

SMALL = [
    "--config.train.num_steps=6",
    "--config.train.checkpoint_every=3",
    "--config.train.log_every=2",
    "--config.train.sample_every=6",
    "--config.train.samples_per_class=1",
    "--config.network.channels=8",
    "--config.network.multipliers=(1,)",
    "--config.network.attention=()",
    "--config.network.middle_attention=False",
    "--config.data.batch_size=8",
    "--config.grid.num_steps=3",
    "--config.evaluate.num_samples=80",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    """A tiny run on digits, trained once for all tests of this file."""
    path = tmp_path_factory.mktemp("run") / "digits"
    code, _, err = run(
        "train.py", "--config", "configs/digits.py", "--workdir", path, *SMALL, data_dir=data_dir
    )
    assert code == 0, err
    return path


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(workdir):
    for name in ("config.json", "resolved.json", "data.json", "run.json", "metrics.jsonl"):
        assert (workdir / name).is_file()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert any(key.startswith("loss_log_snr/") for key in lines[0])
    assert {p.name for p in (workdir / "samples").iterdir()} == {
        "00000006_raw.png",
        "00000006_0.995.png",
    }
    made_of = json.loads((workdir / "run.json").read_text())
    assert {"command", "versions", "device", "commit", "seconds"} <= set(made_of)


@pytest.mark.slow
def test_a_finished_run_does_nothing_and_a_longer_budget_goes_on(workdir, data_dir, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    again = ["--config", "configs/digits.py", "--workdir", copy, *SMALL]
    code, _, err = run("train.py", *again, data_dir=data_dir)
    assert code == 0
    assert "Nothing to do" in err
    code, _, err = run("train.py", *again, "--config.train.num_steps=8", data_dir=data_dir)
    assert code == 0
    assert "resumed from step 6" in err
    steps = [json.loads(line)["step"] for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused(workdir, data_dir):
    words = [
        "--config",
        "configs/digits.py",
        "--workdir",
        workdir,
        *SMALL,
        "--config.process.name=edm",
    ]
    code, message = error_of("train.py", *words, data_dir=data_dir)
    assert code == 2
    assert "process.name: vp -> edm" in message


@pytest.mark.slow
def test_sampling_depends_on_the_index_alone(workdir, tmp_path):
    """Images 0 .. 4 have the same 8 bits in batches of 5, of 2, and without the data set at hand."""
    pixels = []
    for batch_size in (5, 2):
        out = tmp_path / f"{batch_size}.npz"
        code, _, err = run(
            "sample.py", "--workdir", workdir, "--num_samples", 5, "--batch_size", batch_size, "--out", out,
            "--guidance", 2.0, "--sampler", "ancestral", "--num_steps", 3, data_dir=tmp_path / "none",
        )  # fmt: skip
        assert code == 0, err
        loaded = np.load(out)
        assert loaded["x"].shape == (5, 8, 8, 1)
        np.testing.assert_array_equal(loaded["label"], [0, 1, 2, 3, 4])
        pixels.append(np.round((np.clip(loaded["x"], -1, 1) + 1) * 127.5).astype(np.uint8))
    np.testing.assert_array_equal(*pixels)


@pytest.mark.slow
def test_sampling_writes_grids_folders_strips_and_animations(workdir, tmp_path):
    from PIL import Image

    code, out, err = run(
        "sample.py", "--workdir", workdir, "--num_samples", 4, "--labels", "3,7", "--num_steps", 2,
        "--out", tmp_path / "grid.png", "--trajectory", tmp_path / "way.png", "--gif", tmp_path / "way.gif",
    )  # fmt: skip
    assert code == 0, err
    assert "4 examples of step 6" in out
    for name in ("grid.png", "way.png", "way.gif"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 32
    code, _, err = run(
        "sample.py", "--workdir", workdir, "--num_samples", 2, "--labels", "none", "--num_steps", 2,
        "--out", tmp_path / "folder", "--ema", "raw",
    )  # fmt: skip
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        ".shards",
        "000000.png",
        "000001.png",
        "card.json",
    ]
    card = json.loads((tmp_path / "folder" / "card.json").read_text())
    assert card["ema"] == "raw"
    assert card["step"] == 6


@pytest.mark.slow
def test_evaluation_says_what_its_numbers_are_made_of(workdir, data_dir, tmp_path):
    code, out, err = run(
        "evaluate.py", "--workdir", workdir, "--out", tmp_path / "e.json", data_dir=data_dir
    )
    assert code == 0, err
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["step"] == 6
    assert any(key.startswith("frechet_pixels@80_against_") for key in report["results"])
    assert "denoising_error@" in out


@pytest.mark.slow
def test_dry_run_prices_a_run(data_dir):
    code, out, err = run(
        "train.py", "--config", "configs/digits.py", "--dry_run", *SMALL, data_dir=data_dir
    )
    assert code == 0, err
    report = json.loads(out[out.index("{") :])
    assert report["parameters"] > 0
    flops, memory = report["gflop_per_step_and_device"], report["mib_per_device"]
    assert 0 < flops["counted"] <= flops["compiled"]  # which has elementwise operations as well
    assert min(memory["counted"].values()) >= 0 < memory["compiled"]["peak"]
    of_parts = sum(v for k, v in memory["counted"].items() if k != "peak")
    assert memory["counted"]["peak"] == pytest.approx(of_parts, abs=0.05)
    assert report["config"]["process"]["beta_max"] == 20.0


@pytest.mark.slow
@pytest.mark.programs
def test_a_process_of_ones_own_is_trained_by_its_path(data_dir, tmp_path):
    (tmp_path / "mymodule.py").write_text(
        "from dataclasses import dataclass\n"
        "from diffusion import GaussianProcess\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Square(GaussianProcess):\n"
        '    """x_t = (1 - t^2) x_0 + t z."""\n\n'
        "    t_max: float = 0.99\n\n"
        "    def alpha(self, t):\n        return 1 - t**2\n\n"
        "    def sigma(self, t):\n        return t\n"
    )
    code, out, err = run("check.py", "--process", "mymodule:Square", cwd=tmp_path)
    assert code == 0, out + err
    assert "laws hold" in out
    assert "FAILS" not in out
    code, _, err = run(
        "train.py", "--config", ROOT / "configs/toy2d.py", "--workdir", tmp_path / "run",
        "--config.process.name=mymodule:Square", "--config.train.num_steps=3", "--config.network.width=16",
        "--config.train.sample_every=0", cwd=tmp_path, data_dir=data_dir,
    )  # fmt: skip
    assert code == 0, err


TRAIN = ["train.py", "--config", "configs/digits.py", "--workdir", "/tmp/never-made-by-tests"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([*TRAIN, "--config.proces.name=vp"], 2, "'process'"),
        ([*TRAIN, "--config.process.name=vpp"], 2, "'vp'"),
        ([*TRAIN, "--config.process.beta_mx=3"], 2, "'beta_max'"),
        ([*TRAIN, "--config.train.num_step=3"], 2, "'num_steps'"),
        ([*TRAIN, "--config.train.num_steps=many"], 2, "must be int"),
        ([*TRAIN, "--config.train.num_steps=-4"], 2, "budget"),
        ([*TRAIN, "--config.optimizer.learning_rate=fast"], 2, "learning_rate"),
        ([*TRAIN, "--config.data.batch_size=0"], 2, "batch_size"),
        ([*TRAIN, "--config.network.name=uent"], 2, "'unet'"),
        ([*TRAIN, "--network.patch=2"], 2, "--config.network.patch=VALUE"),
        ([*TRAIN, "--wrkdir=x"], 2, "Did you mean: workdir? See --help."),
        (["train.py", "--config", "configs/absent.py", "--workdir", "x"], 6, "--config"),
        (["train.py", "--workdir", "x"], 2, "--config is required"),
        (["train.py", "--config", "configs/digits.py"], 2, "--workdir is required"),
        ([*TRAIN[:3], "--workdir", "/proc/run"], 6, "cannot be written"),
        (["sample.py"], 2, "--workdir is required"),
        (["sample.py", "--workdir", "/tmp/never-made-by-tests"], 2, "config.json is missing"),
        (["sample.py", "--workdir", "x", "--num_samples", "0"], 2, "--num_samples"),
        (["sample.py", "--workdir", "x", "--out", "a.jpeg"], 2, ".png"),
        (["sample.py", "--workdir", "x", "--out", "/proc/no/a.png"], 6, "cannot be written"),
        (["evaluate.py", "--workdir", "x", "--num_samples", "1"], 2, "--num_samples"),
        (["check.py", "--process", "vpp"], 2, "'vp'"),
        (["check.py", "--prcess", "vp"], 2, "process"),
    ],
    ids=lambda x: " ".join(map(str, x[-2:])) if isinstance(x, list) else None,
)
def test_bad_input_is_one_line_and_an_exit_code(words, code, said, data_dir):
    found, message = error_of(*words, data_dir=data_dir)
    assert found == code, message
    assert said in message
    assert not Path("/tmp/never-made-by-tests").exists()


@pytest.mark.slow
@pytest.mark.programs
def test_bad_input_to_a_trained_run(workdir, data_dir, tmp_path):
    sample = ["sample.py", "--workdir", workdir, "--num_samples", 2, "--out", tmp_path / "x.png"]
    for words, said in [
        (["--labels", "3,12"], "0 ... 9"),
        (["--labels", "a"], "whole numbers"),
        (["--sampler", "ddmi"], "'ddim'"),
        (["--ema", "0.9"], "'0.995'"),
        (["--labels", "none", "--guidance", "2"], "--guidance"),
    ]:
        code, message = error_of(*sample, *words, data_dir=data_dir)
        assert code == 2
        assert said in message
        assert not (tmp_path / "x.png").exists()
    code, message = error_of(
        "train.py", "--config", "configs/digits.py", "--workdir", tmp_path / "odd", *SMALL, data_dir=data_dir, by=start,
        XLA_FLAGS="--xla_force_host_platform_device_count=3",
    )  # fmt: skip
    assert code == 2
    assert "6 or 9" in message
    assert not (tmp_path / "odd").exists()
    code, message = error_of(
        "train.py", "--config", "configs/digits.py", "--workdir", tmp_path / "m", *SMALL,
        "--config.data.name=mnist", "--config.data.data_dir=" + str(tmp_path),
    )  # fmt: skip
    assert code == 5
    assert "prepare" in message


@pytest.mark.programs
def test_importing_is_cheap():
    """Heavy libraries are imported when they are used."""
    code = (
        "import sys, diffusion\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'orbax', 'diffrax', 'sklearn', 'PIL', 'grain'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
