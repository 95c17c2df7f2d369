r"""Draw a definition before it is trained: its paths, its field, its density, and a film of them.

Examples:
  demolish draw --process vp --data 8gaussians
  demolish draw --process straight_line --process.prior=uniform --process.prior.low=0 --process.prior.high=2 \
      --data_1d 0.5,0.5,1.2,1.7
  demolish draw --process mymodule:MyProcess --data checkerboard --out drawings/mine
  demolish draw --workdir runs/toy2d --out drawings/toy2d

The velocity field is the exact one for a finite data set, without a network; with --workdir it is that of a trained
run. Set fields of the process and the sampler by --process.field=value and --sampler.field=value.

Files written to --out: trajectories.png, field.png, density.png, demolition.gif, and card.json, which records how
they were made. If a definition states no density, the pictures show estimates: paths, histograms, averages.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from diffusion.cli.configs import stored_config
from diffusion.cli.machine import use_compilation_cache
from diffusion.cli.messages import check_writable, fail, say
from diffusion.cli.parser import Parser, add_trust, check_positive, one_of, whole_number


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("process", "sampler", "config"))
    parser.add_argument(
        "--process", help="A registered name, or module:attribute of your own class."
    )
    parser.add_argument(
        "--workdir", help="Draw the field of this trained run, instead of --process."
    )
    parser.add_argument(
        "--ema", default="", help="With --workdir: name of the averaged weights (EMA), or 'raw'."
    )
    add_trust(parser)
    parser.add_argument(
        "--data",
        help="Points in the plane (8gaussians, checkerboard, moons, ...), or the name of a data set of points.",
    )
    parser.add_argument("--data_1d", help="Points on a line instead, such as 0.5,0.5,1.2,1.7.")
    parser.add_argument(
        "--num_points",
        type=whole_number,
        default=512,
        help="Number of examples of --data in the finite data set.",
    )
    parser.add_argument("--sampler", default="heun", help="Sampler that solves the paths, by name.")
    parser.add_argument(
        "--num_steps",
        type=whole_number,
        help="Steps of the sampler, on the default times of the process; by default 64, or 256 for data on a line.",
    )
    parser.add_argument(
        "--num_paths", type=whole_number, default=400, help="Number of paths to solve."
    )
    parser.add_argument("--out", default="drawings", help="The folder to write to.")
    parser.add_argument(
        "--animate",
        type=one_of("gif", "mp4", "none"),
        default="gif",
        help="Format of the animation.",
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="Seed of all random draws.")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Exit with a message if flags contradict each other."""
    if (flags.process is None) == (flags.workdir is None):
        fail("give one of --process and --workdir. See --help.")
    if flags.data is not None and flags.data_1d is not None:
        fail("give one of --data and --data_1d.")
    if flags.ema and flags.workdir is None:
        fail("--ema needs --workdir.")
    check_positive(flags, "num_points", "num_steps", "num_paths")
    if flags.seed < 0:
        fail(f"--seed must not be negative; got {flags.seed}.")
    for path, _ in flags.overrides:
        section = path.partition(".")[0]
        if section not in ("process", "sampler"):
            fail(f"--config.{path}: fields of process and sampler can be set here.")
        if section == "process" and flags.workdir is not None:
            fail(f"--{path}: the process of a trained run is fixed.")
    check_writable(Path(flags.out) / "card.json")


def points_on_a_line(text: str) -> Any:
    """Return the numbers of --data_1d, (n, 1)."""
    import numpy as np

    try:
        points = np.array([float(word) for word in text.split(",")], np.float32)[:, None]
    except ValueError:
        fail(f"--data_1d must be numbers with commas between; got {text!r}.")
    if not np.isfinite(points).all():
        fail(f"--data_1d must be finite numbers; got {text!r}.")
    return points


def load_points(flags: argparse.Namespace, dataset: Any) -> tuple[Any, Any]:
    """Return the finite data set, (n, 1) or (n, 2), and the spec of its source.

    Args:
        flags: parsed command line.
        dataset: data set of the trained run, used if no data is named; or None.
    """
    from diffusion.data.shapes2d import SHAPES
    from diffusion.registry import build, nearest, registered, resolve, spec_of

    if flags.data_1d is not None:
        points = points_on_a_line(flags.data_1d)
        return points, {"name": "points1d", "points": points[:, 0].tolist()}
    name = flags.data or ("8gaussians" if dataset is None else None)
    if name is None:
        made_of = spec_of("dataset", dataset)
    elif name in SHAPES:
        dataset = build("dataset", dict(name="points2d", kind=name))
        made_of = resolve("dataset", dict(name="points2d", kind=name))
    else:
        known = (*SHAPES, *registered("dataset"))
        if name not in known and ":" not in name:
            fail(
                f"--data {name!r} is unknown.{nearest(name, known)} In the plane there are {', '.join(SHAPES)}; "
                "on the line, use --data_1d."
            )
        dataset, made_of = build("dataset", name), resolve("dataset", name)
    found: Any = dataset
    spec = found.spec
    if spec.kind != "points" or spec.shape not in ((1,), (2,)):
        fail(
            f"pictures show one or two dimensions; {name or 'the data of the run'} has {spec.kind} of shape "
            f"{tuple(spec.shape)}."
        )
    count = min(flags.num_points, spec.size or flags.num_points)
    return found.examples(0, count)["data"], made_of


def defined(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the process of --process and the sampler."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.registry import build, resolve

    names = {"process": {"name": flags.process}, "sampler": {"name": flags.sampler}}
    specs = apply_overrides(names, flags.overrides, imports=True)
    built = {kind: build(kind, specs[kind]) for kind in names}
    resolved = {kind: resolve(kind, specs[kind]) for kind in names}
    return built | {"specs": resolved, "model_of": None, "dataset": None, "source": "exact field"}


def trained(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the process, the sampler and the model of the run in --workdir."""
    from diffusion.config.recording import check_contents
    from diffusion.guidance import without_condition
    from diffusion.registry import resolve
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(flags.workdir)
    changes = [("sampler.name", flags.sampler), *flags.overrides]
    config = stored_config(flags, workdir, changes)
    use_compilation_cache()
    run = open_run(workdir, config, flags.ema, allow_code=flags.allow_code)
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


def draw(animate: str, scene: Any, out: Path) -> list[str]:
    """Write all pictures and print a line for each; return their names."""
    from diffusion import drawing

    written = []
    for kind in ("trajectories", "field", "density"):
        getattr(drawing, f"save_{kind}")(out / f"{kind}.png", scene)
        say(f"wrote {out / f'{kind}.png'}")
        written.append(f"{kind}.png")
    return written + film(animate, scene, out)


def film(animate: str, scene: Any, out: Path) -> list[str]:
    """Write the animation in the format of --animate; return its name in a list."""
    from diffusion import drawing

    if animate == "none":
        return []
    frames, durations = drawing.render(scene)
    kind = animate
    if kind == "mp4" and drawing.find_ffmpeg() is None:
        say("MP4 needs the program ffmpeg, which was not found: a GIF instead.")
        kind = "gif"
    save = {"gif": drawing.save_gif, "mp4": drawing.save_mp4}[kind]
    size = save(out / f"demolition.{kind}", frames, durations)
    say(f"wrote {out / f'demolition.{kind}'}: {len(frames)} frames, {size / 1e6:.2f} MB")
    return [f"demolition.{kind}"]


def main(flags: argparse.Namespace) -> int:
    """Draw."""
    check_flags(flags)
    subject = defined(flags) if flags.workdir is None else trained(flags)
    points, data = load_points(flags, subject["dataset"])

    from diffusion import drawing
    from diffusion.runtime.files import write_atomically
    from diffusion.runtime.provenance import provenance

    process, specs = subject["process"], subject["specs"]
    num_steps = flags.num_steps or (64 if points.shape[1] == 2 else 256)
    title = drawing.definition(process, specs["process"])
    say(title)
    scene = drawing.make_scene(
        process, points, sampler=subject["sampler"], num_steps=num_steps, num_paths=flags.num_paths,
        seed=flags.seed, model_of=subject["model_of"], title=title,
    )  # fmt: skip
    source = subject["source"] if scene.velocity is not None else "estimates from draws"
    data_name = flags.data or data.get("kind", data["name"])
    footer = f"{source}; {len(points)} points of {data_name}; seed {flags.seed}"
    if scene.velocity is not None:
        footer += f"; paths by {flags.sampler}, {num_steps} steps"
    say(footer)
    scene = dataclasses.replace(scene, footer=footer)
    for note in scene.notes:
        say(f"note: {note}")
    card = {
        **specs,
        "data": data,
        "num_points": len(points),
        "num_steps": num_steps,
        "num_paths": flags.num_paths,
        "seed": flags.seed,
        "field": source,
        "notes": scene.notes,
        "prior_mismatch_nats": report_mismatch(scene),
        "landed": report_landed(scene),
    }
    out = Path(flags.out)
    card["files"] = draw(flags.animate, scene, out)
    text = json.dumps(card | provenance(), indent=2, default=str) + "\n"
    write_atomically(out / "card.json", text.encode())
    say(f"wrote {out / 'card.json'}")
    return 0


def report_mismatch(scene: Any) -> dict[str, float] | None:
    """Print the divergence of the prior from the noised data at t_max, if it is known."""
    from diffusion import drawing

    found = drawing.prior_mismatch(scene)
    if found is None:
        return None
    value, error = found
    exact = scene.process.exact_prior
    result = "0, by construction" if exact else f"{value:.3g} +- {error:.1g} nats"
    say(f"prior mismatch at t_max, KL(p_T || prior): {result}")
    return {"value": value, "standard_error": error}


def report_landed(scene: Any) -> list[dict[str, float]] | None:
    """Print the fraction of paths that end at each data value, for data on a line."""
    from diffusion import drawing

    found = drawing.landed(scene)
    if found is None:
        return None
    rows: list[dict[str, float]] = [
        dict(zip(("value", "data", "paths"), map(float, row), strict=True))
        for row in zip(*found, strict=True)
    ]
    words = ", ".join(f"{r['value']:g}: {r['paths']:.3f} (data {r['data']:.3f})" for r in rows)
    say(f"fraction of paths that end at each value: {words}")
    return rows
