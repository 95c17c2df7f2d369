"""Runs of an earlier version open, sample the same and go on, whatever has been renamed since.

`fixtures/earlier_runs.tar.xz` holds what version 0.1.0 left behind on two CPU devices, and what it sampled:

    points, points.npz    4 steps of configs/toy2d.py with --config.network.width=8 --config.network.depth=1
                          --config.data.batch_size=16 and the time `natural`; 4 samples
    longer                the same run, gone on with to step 6
    gray, gray.npz        2 steps of gray.py on pictures.npz under the condition `grey`, the process `article` and
                          the metric `memorisation[pixels]`, with pmap; 2 samples
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import ROOT, run

from diffusion.run.workdir import Workdir, open_run

ARCHIVE = Path(__file__).parent / "fixtures" / "earlier_runs.tar.xz"
TODAY = {'"grey"': '"gray"', "memorisation": "memorization", '"article"': '"proportional_beta"'}
TOY = (
    "--config", ROOT / "configs" / "toy2d.py", "--config.train.checkpoint_every=4", "--config.train.sample_every=0",
    "--config.train.log_every=1", "--config.network.width=8", "--config.network.depth=1",
    "--config.data.batch_size=16",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(("name", "count"), [("points", 4), ("gray", 2)])
def test_samples_are_those_of_the_earlier_version(folder, name, count):
    """Three to thirty steps in float32 on numbers of order one; sums are made in another order since."""
    code, _, err = run(
        "sample",
        "--workdir",
        name,
        "--num_samples",
        count,
        "--out",
        "again.npz",
        "--ema",
        "raw",
        cwd=folder,
    )
    assert code == 0, err
    with np.load(folder / "again.npz") as again, np.load(folder / f"{name}.npz") as before:
        np.testing.assert_allclose(
            np.asarray(again["x"], float),
            np.asarray(before["x"], float),
            rtol=0,
            atol=1e-4 if name == "points" else 1,
        )


def test_a_run_goes_on_as_it_would_have(folder):
    """Two steps more, and the state is that of the earlier version."""
    kept = Workdir.of(folder / "longer")
    code, _, err = run(
        "train", *TOY, "--workdir", "points", "--config.train.num_steps=6", cwd=folder
    )
    assert code == 0, err
    assert "anew" not in err
    went_on, before = (
        open_run(w, w.read_config(), step=6).params for w in (Workdir.of(folder / "points"), kept)
    )
    for a, b in zip(jax.tree.leaves(went_on), jax.tree.leaves(before), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    lines = [
        json.loads(line)["step"]
        for line in (folder / "points" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("renamed", [False, True])
def test_earlier_names_of_its_config_mean_the_same_run(folder, renamed):
    """The config that it was begun with goes on with it, and so does one of today's names."""
    text = (folder / "gray.py").read_text()
    for earlier, today in TODAY.items():
        assert earlier in text
        text = text.replace(earlier, today) if renamed else text
    (folder / "again.py").write_text(
        text.replace("num_steps=2,", f"num_steps={4 if renamed else 3},")
    )
    code, _, err = run("train", "--config", "again.py", "--workdir", "gray", cwd=folder)
    assert code == 0, err
    assert "from step" in err or "resum" in err
