r"""Draw a definition before it is trained: its paths, its field, its density, and a film of them.

Examples:
  python scripts/draw.py --process vp --data 8gaussians
  python scripts/draw.py --process straight_line --process.prior=uniform --process.prior.low=0 --process.prior.high=2 \
      --data_1d 0.5,0.5,1.2,1.7
  python scripts/draw.py --process mymodule:MyProcess --data checkerboard --out drawings/mine
  python scripts/draw.py --workdir runs/toy2d --out drawings/toy2d

The field is the exact one of a finite data set, without any network; with --workdir it is that of a trained run.
Fields of the process and the sampler are set by --process.field=value and --sampler.field=value.

Written to --out: trajectories.png, field.png, density.png, demolition.gif, and card.json, which says what they
are made of. A definition that states no density is drawn from estimates: paths, histograms, averages.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("process", None, "A registered name, or module:attribute of your own class.")
flags.DEFINE_string("workdir", None, "Draw the field of this trained run, instead of --process.")
flags.DEFINE_string("ema", "", "With --workdir: which average of the weights, or 'raw'.")
_command.define_trust()
flags.DEFINE_string(
    "data",
    None,
    "Points in the plane (8gaussians, checkerboard, moons, ...) or a data set of points by name.",
)
flags.DEFINE_string("data_1d", None, "Points on a line instead, such as 0.5,0.5,1.2,1.7.")
flags.DEFINE_integer("num_points", 512, "How many examples of --data make the finite data set.")
flags.DEFINE_string("sampler", "heun", "Solver of the paths, by name.")
flags.DEFINE_integer(
    "num_steps", None, "Steps of the solver, on the process's natural times; 64, on a line 256."
)
flags.DEFINE_integer("num_paths", 400, "How many paths to solve.")
flags.DEFINE_string("out", "drawings", "The folder to write to.")
flags.DEFINE_enum("animate", "gif", ["gif", "mp4", "none"], "The kind of film.")
flags.DEFINE_integer("seed", 0, "Seed of all draws.")


def undotted(argv: list[str]) -> list[str]:
    """Write --process.field and --sampler.field as overrides of a config."""
    return [re.sub(r"^--(process|sampler)\.", r"--config.\1.", word) for word in argv]


def check_flags(overrides: list[tuple[str, str]]) -> None:
    """Leave with a message for a command line that cannot be meant."""
    if (FLAGS.process is None) == (FLAGS.workdir is None):
        _command.fail("give one of --process and --workdir. See --help.")
    if FLAGS.data is not None and FLAGS.data_1d is not None:
        _command.fail("give one of --data and --data_1d.")
    if FLAGS.ema and FLAGS.workdir is None:
        _command.fail("--ema needs --workdir.")
    for name in ("num_points", "num_steps", "num_paths"):
        if getattr(FLAGS, name) is not None and getattr(FLAGS, name) < 1:
            _command.fail(f"--{name} must be at least 1; got {getattr(FLAGS, name)}.")
    if FLAGS.seed < 0:
        _command.fail(f"--seed must not be negative; got {FLAGS.seed}.")
    for path, _ in overrides:
        section = path.partition(".")[0]
        if section not in ("process", "sampler"):
            _command.fail(f"--config.{path}: fields of process and sampler can be set here.")
        if section == "process" and FLAGS.workdir is not None:
            _command.fail(f"--{path}: the process of a trained run is fixed.")
    _command.check_writable(Path(FLAGS.out) / "card.json")


def points_on_a_line(text: str) -> object:
    """Return the numbers of --data_1d, (n, 1)."""
    import numpy as np

    try:
        points = np.array([float(word) for word in text.split(",")], np.float32)[:, None]
    except ValueError:
        _command.fail(f"--data_1d must be numbers with commas between; got {text!r}.")
    if not np.isfinite(points).all():
        _command.fail(f"--data_1d must be finite numbers; got {text!r}.")
    return points


def load_points(dataset: object | None) -> tuple[object, object]:
    """Return the finite data set, (n, 1) or (n, 2), and the spec it was made from.

    Args:
        dataset: of the trained run, taken where no data is named.
    """
    from diffusion import build
    from diffusion.data.shapes2d import SHAPES
    from diffusion.registry import nearest, registered, resolve, spec_of

    if FLAGS.data_1d is not None:
        points = points_on_a_line(FLAGS.data_1d)
        return points, {"name": "points1d", "points": points[:, 0].tolist()}
    name = FLAGS.data or (None if dataset is not None else "8gaussians")
    if name is None:
        made_of = spec_of("dataset", dataset)
    elif name in SHAPES:
        dataset = build("dataset", dict(name="points2d", kind=name))
        made_of = resolve("dataset", dict(name="points2d", kind=name))
    else:
        known = (*SHAPES, *registered("dataset"))
        if name not in known and ":" not in name:
            _command.fail(
                f"--data {name!r} is unknown.{nearest(name, known)} In the plane there are {', '.join(SHAPES)}; "
                "on the line, use --data_1d."
            )
        dataset, made_of = build("dataset", name), resolve("dataset", name)
    spec = dataset.spec
    if spec.kind != "points" or spec.shape not in ((1,), (2,)):
        _command.fail(
            f"pictures show one or two dimensions; {name or 'the data of the run'} has {spec.kind} of shape "
            f"{tuple(spec.shape)}."
        )
    count = min(FLAGS.num_points, spec.size or FLAGS.num_points)
    return dataset.examples(0, count)["data"], made_of


def defined(overrides: list[tuple[str, str]]) -> dict:
    """Return the definition of --process, with the sampler."""
    from diffusion import build
    from diffusion.config.overrides import apply_overrides
    from diffusion.registry import resolve

    names = {"process": {"name": FLAGS.process}, "sampler": {"name": FLAGS.sampler}}
    specs = apply_overrides(names, overrides, imports=True)
    built = {kind: build(kind, specs[kind]) for kind in names}
    resolved = {kind: resolve(kind, specs[kind]) for kind in names}
    return built | {"specs": resolved, "model_of": None, "dataset": None, "source": "exact field"}


def trained(overrides: list[tuple[str, str]]) -> dict:
    """Return the same of --workdir, with its model."""
    from diffusion.config.recording import check_contents
    from diffusion.guidance import without_condition
    from diffusion.registry import resolve
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    changes = [("sampler.name", FLAGS.sampler), *overrides]
    config = _command.stored_config(workdir, changes)
    _command.use_compilation_cache()
    run = open_run(workdir, config, FLAGS.ema, allow_code=FLAGS.allow_code)
    check_contents(run.experiment)
    guidance = without_condition(run.experiment.guidance)  # drawn without labels
    experiment = run.experiment.replaced(guidance=guidance)
    return {
        "process": experiment.process,
        "sampler": experiment.sampler,
        "specs": {kind: resolve(kind, config[kind]) for kind in ("process", "sampler")},
        "model_of": lambda n: experiment.model(run.params, experiment.conditions(None, n)),
        "dataset": experiment.dataset,
        "source": f"trained run {workdir.path.name}, step {run.step}, weights {run.ema}",
    }


def draw(scene: object, out: Path) -> list[str]:
    """Write all pictures, a line for each; return their names."""
    from diffusion import drawing

    written = []
    for kind in ("trajectories", "field", "density"):
        getattr(drawing, f"save_{kind}")(out / f"{kind}.png", scene)
        _command.say(f"wrote {out / f'{kind}.png'}")
        written.append(f"{kind}.png")
    return written + film(scene, out)


def film(scene: object, out: Path) -> list[str]:
    """Write the animation that --animate asks for; return its name."""
    from diffusion import drawing

    if FLAGS.animate == "none":
        return []
    frames, durations = drawing.render(scene)
    kind = FLAGS.animate
    if kind == "mp4" and drawing.find_ffmpeg() is None:
        _command.say("MP4 needs the program ffmpeg, which was not found: a GIF instead.")
        kind = "gif"
    save = {"gif": drawing.save_gif, "mp4": drawing.save_mp4}[kind]
    size = save(out / f"demolition.{kind}", frames, durations)
    _command.say(f"wrote {out / f'demolition.{kind}'}: {len(frames)} frames, {size / 1e6:.2f} MB")
    return [f"demolition.{kind}"]


def main(overrides: list[tuple[str, str]]) -> int:
    """Draw."""
    check_flags(overrides)
    subject = defined(overrides) if FLAGS.workdir is None else trained(overrides)
    points, data = load_points(subject["dataset"])

    from diffusion import drawing
    from diffusion.runtime.files import write_atomically
    from diffusion.runtime.provenance import provenance

    process, specs = subject["process"], subject["specs"]
    num_steps = FLAGS.num_steps or (64 if points.shape[1] == 2 else 256)
    title = drawing.definition(process, specs["process"])
    _command.say(title)
    scene = drawing.make_scene(
        process, points, sampler=subject["sampler"], num_steps=num_steps, num_paths=FLAGS.num_paths,
        seed=FLAGS.seed, model_of=subject["model_of"], title=title,
    )  # fmt: skip
    source = subject["source"] if scene.velocity is not None else "estimates from draws"
    data_name = FLAGS.data or data.get("kind", data["name"])
    footer = f"{source}; {len(points)} points of {data_name}; seed {FLAGS.seed}"
    if scene.velocity is not None:
        footer += f"; paths by {FLAGS.sampler}, {num_steps} steps"
    _command.say(footer)
    scene = dataclasses.replace(scene, footer=footer)
    for note in scene.notes:
        _command.say(f"note: {note}")
    card = {
        **specs,
        "data": data,
        "num_points": len(points),
        "num_steps": num_steps,
        "num_paths": FLAGS.num_paths,
        "seed": FLAGS.seed,
        "field": source,
        "notes": scene.notes,
        "prior_mismatch_nats": report_mismatch(scene),
        "landed": report_landed(scene),
    }
    out = Path(FLAGS.out)
    card["files"] = draw(scene, out)
    text = json.dumps(card | provenance(), indent=2, default=str) + "\n"
    write_atomically(out / "card.json", text.encode())
    _command.say(f"wrote {out / 'card.json'}")
    return 0


def report_mismatch(scene: object) -> dict | None:
    """Print how far the prior is from what the data becomes at t_max, if that is known."""
    from diffusion import drawing

    found = drawing.prior_mismatch(scene)
    if found is None:
        return None
    value, error = found
    exact = scene.process.exact_prior
    said = "0, by construction" if exact else f"{value:.3g} +- {error:.1g} nats"
    _command.say(f"prior mismatch at t_max, KL(p_T || prior): {said}")
    return {"value": value, "standard_error": error}


def report_landed(scene: object) -> list[dict] | None:
    """Print which share of the paths ended at each value of data on a line."""
    from diffusion import drawing

    found = drawing.landed(scene)
    if found is None:
        return None
    rows = [
        dict(zip(("value", "data", "paths"), map(float, row), strict=True))
        for row in zip(*found, strict=True)
    ]
    words = ", ".join(f"{r['value']:g}: {r['paths']:.3f} (data {r['data']:.3f})" for r in rows)
    _command.say(f"shares of paths that end at each value: {words}")
    return rows


if __name__ == "__main__":
    sys.argv[1:] = undotted(sys.argv[1:])
    _command.run(main, __doc__)
