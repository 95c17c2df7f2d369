"""Pictures of definitions: their numbers against mathematics, their files, and the program that writes them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from programs import run

from diffusion import build, drawing
from diffusion.config.overrides import apply_overrides
from diffusion.drawing import film

ROOT = Path(__file__).resolve().parent.parent
LINE = np.array([[0.5], [0.5], [1.2], [1.7]], np.float32)
ANGLES = np.arange(8) * np.pi / 4
RING = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
UNIFORM = {
    "name": "straight_line",
    "prior": {"name": "uniform", "low": 0.0, "high": 2.0},
}
SCENES = {}


def scene_of(process, points, num_steps=12, num_paths=16):
    """Return a scene, the same one for the same arguments."""
    key = (repr(process), points.tobytes(), num_steps, num_paths)
    if key not in SCENES:
        SCENES[key] = new_scene(process, points, num_steps, num_paths)
    return SCENES[key]


def new_scene(process, points, num_steps, num_paths):
    built = build("process", process)
    return drawing.make_scene(
        built, points, sampler=build("sampler", "heun"), num_steps=num_steps, num_paths=num_paths,
        title=drawing.definition(built),
    )  # fmt: skip


def program(*words, cwd=ROOT):
    """Run the program; return (exit code, stdout, stderr)."""
    return run("draw", *words, cwd=cwd)


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_paths_to_a_uniform_prior_end_in_order():
    """On a line paths cannot cross, so [0, 1) goes to 0.5, [1, 1.5) to 1.2, the rest to 1.7."""
    scene = scene_of(UNIFORM, LINE, num_steps=128, num_paths=200)
    values, data, paths = drawing.landed(scene)
    np.testing.assert_allclose(values, [0.5, 1.2, 1.7], rtol=1e-6)
    np.testing.assert_allclose(data, [0.5, 0.25, 0.25])
    # Quantiles of 8,000 draws: standard error sqrt(0.25 / 8000) = 0.006; the jumps of the field cost the
    # solver about one path of 200 at each threshold.
    np.testing.assert_allclose(paths, data, atol=3 * 0.006 + 0.01)
    assert (np.diff(scene.states[0, :, 0]) > 0).all()


def test_the_density_of_a_scene_is_that_of_the_definition():
    scene = scene_of(UNIFORM, LINE)
    x = np.array([[0.3], [1.0], [1.9]], np.float32)
    # At t = 1/2 each point spreads evenly over x_0 / 2 + [0, 1].
    expected = [0.5, 1.0, 0.0]  # both of 0.5; these and 1.2 and 1.7 from 0.85 on; nobody
    np.testing.assert_allclose(np.exp(scene.log_density(x, 0.5)), expected, atol=1e-5)


@pytest.mark.slow
def test_mismatch_of_the_prior():
    """KL(N(0, s^2 + T^2) || N(0, T^2)) for a pair of points at +-s, T >> s, to second order: (s/T)^4 / 4."""
    assert drawing.prior_mismatch(scene_of(UNIFORM, LINE)) == (0.0, 0.0)
    pair = np.array([[-1.0], [1.0]], np.float32)
    edm = scene_of({"name": "edm", "t_max": 4.0}, pair)
    value, error = drawing.prior_mismatch(edm)
    x = np.linspace(-40, 40, 200_001)
    normal = lambda m: np.exp(-((x - m) ** 2) / 32) / np.sqrt(32 * np.pi)
    p, q = (normal(1) + normal(-1)) / 2, normal(0)
    exact = np.sum(p * np.log(p / q)) * (x[1] - x[0])
    assert abs(value - exact) < 5 * error
    assert 0 < error < exact


@pytest.mark.slow
def test_windows_survive_heavy_tails():
    heavy, light = (scene_of(name, RING) for name in ("poisson_flow", "vp"))
    assert heavy.wide
    assert not light.wide
    far = np.abs(heavy.demolished[0]).max()
    assert heavy.half(0) < far / 3  # one far point does not decide
    inside = (np.abs(heavy.demolished[0]) < heavy.half(0)).mean()
    assert inside > 0.85
    assert heavy.half(len(heavy.times) - 1) < 1.2 * heavy.data_half


@pytest.mark.parametrize("name", ["vp", "edm", "poisson_flow"])
def test_moments_begin_at_the_prior_and_end_near_the_data(name):
    scene = scene_of(name, RING)
    moments = scene.moments(6, first=1.0)
    assert moments[0] == 0
    assert (np.diff(moments) > 0).all()
    way = np.median(np.linalg.norm(scene.demolished - scene.demolished[-1], axis=-1), axis=1)
    assert way[moments[-1]] < 0.3 * scene.data_half


def test_estimates_agree_with_the_exact_field():
    """Means of `velocity` over draws near a place tend to the field; on a line, from Gaussian noise."""
    scene = scene_of("rectified_flow", LINE)
    edges = np.linspace(0.0, 2.0, 41)
    counts, means = drawing.estimate(scene, 0.6, [edges])
    middle = (edges[1:] + edges[:-1]) / 2
    exact = scene.velocity(middle[:, None], 0.6)[:, 0]
    assert counts.max() == 1
    # About 500 draws per cell; given x_t, z spreads by 0.4 std(x_0) / 0.6 < 0.4, velocity by x_0 / 0.6: < 0.9.
    np.testing.assert_allclose(means[:, 0], exact, atol=5 * 0.9 / np.sqrt(500) + 0.02)


def test_words_of_a_definition():
    process = build("process", UNIFORM)
    first, second = drawing.definition(process, UNIFORM).split("\n")
    assert first.startswith("x_t = (1 - t) x_0 + t x_T")
    assert second == "straight_line(prior=uniform(low=0, high=2))"
    assert "mu_fn=fading_blur" in drawing.definition(
        build("process", "linear_path"), {"name": "linear_path"}
    )


def test_points_in_three_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 1\) or \(n, 2\)"):
        scene_of("vp", np.zeros((4, 3), np.float32))


# ---- files --------------------------------------------------------------------------------------


def size_of(path):
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return picture.size, getattr(picture, "n_frames", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "points"),
    [
        pytest.param("vp", LINE, id="line"),
        pytest.param("vp", RING, id="plane", marks=pytest.mark.slow),
        pytest.param("nonlinear_sde", LINE, id="line, no density", marks=pytest.mark.slow),
        pytest.param("nonlinear_sde", RING, id="plane, no density", marks=pytest.mark.slow),
    ],
)
def test_pictures_are_written(name, points, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_FRAMES", 4)
    scene = scene_of(name, points)
    for kind in ("trajectories", "field", "density"):
        getattr(drawing, f"save_{kind}")(tmp_path / f"{kind}.png", scene)
        (width, height), _ = size_of(tmp_path / f"{kind}.png")
        assert width > 400
        assert height > 400
    frames, durations = drawing.render(scene)
    assert len(frames) == len(durations)
    assert len({f.shape for f in frames}) == 1
    written = drawing.save_gif(tmp_path / "film.gif", frames, durations)
    assert written == (tmp_path / "film.gif").stat().st_size
    size, count = size_of(tmp_path / "film.gif")
    assert size == frames[0].shape[1::-1]
    assert count == len(frames)


def test_a_film_is_reduced_to_its_limit(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (80, 80, 3), dtype=np.uint8) for _ in range(12)]
    whole = drawing.save_gif(tmp_path / "whole.gif", frames, [90] * 12)
    monkeypatch.setattr(film, "MAX_BYTES", whole // 4)
    assert drawing.save_gif(tmp_path / "less.gif", frames, [90] * 12) <= whole // 4
    assert 2 <= size_of(tmp_path / "less.gif")[1] < 12


def test_mp4_without_ffmpeg_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "find_ffmpeg", lambda: None)
    with pytest.raises(ValueError, match="ffmpeg"):
        drawing.save_mp4(tmp_path / "film.mp4", [np.zeros((8, 8, 3), np.uint8)], [90])


# ---- the program --------------------------------------------------------------------------------


@pytest.mark.programs
@pytest.mark.slow
def test_the_program_writes_pictures_and_a_card(tmp_path):
    code, out, err = program(
        "--process", "straight_line", "--process.prior=uniform", "--process.prior.low", "0",
        "--process.prior.high=2", "--data_1d", "0.5,0.5,1.2,1.7", "--num_paths", 40, "--num_steps", 32,
        "--sampler", "midpoint", "--animate", "mp4", "--out", tmp_path / "d",
    )  # fmt: skip
    assert code == 0, err
    assert "prior mismatch at t_max, KL(p_T || prior): 0, by construction" in out
    card = json.loads((tmp_path / "d/card.json").read_text())
    assert card["process"]["prior"] == {"name": "uniform", "low": 0, "high": 2}
    assert card["process"]["t_max"] == 1.0
    assert card["data"]["points"] == pytest.approx([0.5, 0.5, 1.2, 1.7])
    expected = {
        "num_points": 4,
        "num_steps": 32,
        "num_paths": 40,
        "seed": 0,
        "field": "exact field",
    }
    assert {k: card[k] for k in expected} == expected
    assert card["sampler"]["name"] == "midpoint"
    assert "jax" in card["versions"]
    assert {p.name for p in (tmp_path / "d").iterdir()} == {*card["files"], "card.json"}
    assert card["files"][:3] == ["trajectories.png", "field.png", "density.png"]
    if card["files"][3].endswith("gif"):  # there was no ffmpeg
        assert "a GIF instead" in out
        assert size_of(tmp_path / "d/demolition.gif")[1] > 10


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "process"), [("vp", "vp"), ("parabola", "parabola")], ids=["denoiser", "velocity"]
)
def test_a_trained_run_is_drawn(config, process, tmp_path):
    small = [
        "--config.train.num_steps=3", "--config.network.width=16", "--config.train.sample_every=0",
        f"--config.process.name={process}",
    ]  # fmt: skip
    if process == "parabola":
        small.append("--config.time.name=uniform")
    code, _, err = run("train", "--config=toy2d", *small, "--workdir", tmp_path / "run")
    assert code == 0, err
    options = ["--num_points", 32, "--num_paths", 50, "--num_steps", 6, "--animate", "none"]
    code, _, err = program("--workdir", tmp_path / "run", *options, "--out", tmp_path / "d")
    assert code == 0, err
    card = json.loads((tmp_path / "d/card.json").read_text())
    assert card["field"].startswith("trained run run, step 3, weights ")
    assert card["process"]["name"] == process
    assert card["data"]["kind"] == "8gaussians"
    assert card["prior_mismatch_nats"] is None or process == "parabola"
    assert size_of(tmp_path / "d/field.png")[0][0] > 1000


@pytest.mark.programs
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--process", "vpp"], 2, "'vp'"),
        (["--process", "vp", "--process.beta_mx=3"], 2, "'beta_max'"),
        (["--process", "vp", "--data", "8gausians"], 2, "'8gaussians'"),
        (["--process", "vp", "--data_1d", "1,a"], 2, "--data_1d"),
        (["--process", "vp", "--data_1d", "1", "--data", "moons"], 2, "one of --data"),
        (["--process", "vp", "--sampler", "hein"], 2, "'heun'"),
        (["--process", "vp", "--num_paths", "0"], 2, "--num_paths"),
        (["--process", "vp", "--animate", "avi"], 2, "animate"),
        (["--process", "vp", "--network.width=3"], 2, "network"),
        (["--process", "vp", "--out", "/proc/no"], 6, "cannot be written"),
        ([], 2, "one of --process and --workdir"),
        (["--workdir", "never-made-by-tests"], 2, "config.json is missing"),
    ],
    ids=lambda x: " ".join(map(str, x[-2:])) if isinstance(x, list) else None,
)
def test_bad_input_is_one_line_and_an_exit_code(words, code, said, tmp_path):
    out = [] if "--out" in words else ["--out", tmp_path / "d"]
    found, _, err = program(*words, *out)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert found == code, err
    assert len(lines) == 1, err
    assert said in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "d").exists()


def test_commands_of_the_page_build():
    """Their processes, fields and samplers exist; their modules are not written here."""
    page = (ROOT / "docs/drawing.md").read_text().replace("\\\n", " ")
    commands = re.findall(
        r"^(?:python scripts/draw\.py|demolish draw) (.*)$", page, flags=re.MULTILINE
    )
    assert len(commands) >= 5
    for command in commands:
        pairs = re.findall(r"--([\w.]+)[= ](\S+)", " ".join(shlex.split(command)))
        given = dict(pairs)
        if ":" in given.get("process", ":"):
            continue
        names = {
            "process": {"name": given["process"]},
            "sampler": {"name": given.get("sampler", "heun")},
        }
        spec = apply_overrides(names, [(k, v) for k, v in pairs if "." in k])
        for kind in names:
            build(kind, spec[kind])
