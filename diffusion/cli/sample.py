r"""Generate examples from a trained run.

Examples:
  demolish sample --workdir runs/digits --out samples.png
  demolish sample --workdir runs/digits --num_samples 64 --sampler ddim --num_steps 50 \
      --guidance 2.0 --labels 0,1,2 --seed 0 --out samples.png
  demolish sample --workdir runs/digits --num_samples 50000 --out samples.npz
  demolish sample --workdir runs/digits --sampler ancestral --config.sampler.eta=0.5
  demolish sample --workdir runs/digits --guidance 3 --guidance_interval=-2,2.5
  demolish sample --workdir runs/digits --guidance 0 --classifier runs/digits_classifier
  demolish sample --workdir runs/digits --guidance 2 --guide runs/digits_small

Flags replace the sections sampler, grid and guidance of the run's config; --config.section.field=value sets any of
their fields. Example i depends only on the seed and on i, not on the batch size or the number of devices (--block is
the number of examples that a device computes at once). Guidance scale 1 is the conditional model, 0 the unconditional
model, and above 1 extrapolates (omega = scale - 1). Without --labels, a model of labeled data cycles through all
classes.

--out is a .png (a grid), a .npz (arrays x and label), or a folder (one PNG per example).

A folder, or more than --shard_size examples, are generated in shards of that size, kept in FOLDER/.shards or OUT.parts.
After an interruption the same command continues from the last complete shard. Damaged shards are generated again; a
folder that belongs to another command is refused.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from diffusion.cli import guidance_flags, outputs
from diffusion.cli.configs import stored_config
from diffusion.cli.machine import use_all_cores, use_compilation_cache, use_fixed_sums
from diffusion.cli.messages import check_writable, fail, note, progress, say
from diffusion.cli.parser import Parser, add_weights, check_positive, whole_number
from diffusion.cli.plan import Plan, has_conditions


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    parser.add_argument("--workdir", help="Work directory of the run to sample from.")
    parser.add_argument("--num_samples", type=whole_number, default=64, help="Number of examples.")
    parser.add_argument("--sampler", help="Name of a sampler, instead of the config's.")
    parser.add_argument(
        "--num_steps", type=whole_number, help="Number of sampling steps, instead of the config's."
    )
    parser.add_argument("--grid", help="Name of a time grid, instead of the config's.")
    guidance_flags.add_flags(parser)
    parser.add_argument(
        "--labels",
        help="Comma-separated labels, by name or number, which the examples cycle through; ':' separates several "
        "attributes of an example, '+' joins the active classes of a multi-hot label; 'none' is unconditional.",
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="Seed of the examples.")
    parser.add_argument("--out", default="samples.png", help="Output: .png, .npz or a folder.")
    add_weights(parser)
    parser.add_argument(
        "--batch_size",
        type=whole_number,
        default=100,
        help="Examples generated between checks for signals; does not change the results.",
    )
    parser.add_argument(
        "--block",
        type=whole_number,
        help="Examples that a device computes at once; by default 32, or 256 if examples are small.",
    )
    parser.add_argument(
        "--shard_size",
        type=whole_number,
        default=1000,
        help="Examples per shard when many are generated.",
    )
    parser.add_argument(
        "--start", type=whole_number, default=0, help="Global index of the first example."
    )
    parser.add_argument(
        "--trajectory",
        help="Also draw trajectories of a few examples, from noise to data, to this PNG.",
    )
    parser.add_argument("--gif", help="Also write an animation of these trajectories to this GIF.")
    return parser


def sampling_overrides(flags: argparse.Namespace) -> list[tuple[str, str]]:
    """Translate flags into config overrides, which --config.* overrides follow."""
    short = []
    if flags.sampler is not None:
        short.append(("sampler.name", flags.sampler))
    if flags.grid is not None:
        short.append(("grid.name", flags.grid))
    if flags.num_steps is not None:
        short.append(("grid.num_steps", str(flags.num_steps)))
    return short + flags.overrides


def check_flags(flags: argparse.Namespace) -> Path:
    """Exit with a message if a flag is invalid, before anything is loaded; return the output path."""
    if flags.workdir is None:
        fail("--workdir is required: the run to sample from. See --help.")
    check_positive(flags, "num_samples", "batch_size", "block", "shard_size", "num_steps")
    if flags.start < 0 or flags.seed < 0:
        fail(f"--start and --seed must not be negative; got {flags.start} and {flags.seed}.")
    out = Path(flags.out)
    outputs.check(out)
    for path in filter(None, (flags.trajectory, flags.gif)):
        check_writable(path)
    return out


def labels_of(flags: argparse.Namespace, label_source: Any) -> Any:
    """Return the array of labels that examples cycle through, or None for unconditional generation."""
    import numpy as np

    from diffusion.data.conditions import parse_labels

    spec = label_source.spec
    if flags.labels is not None:
        return parse_labels(flags.labels, spec)
    one = isinstance(spec.num_classes, int) and spec.num_classes
    return np.arange(spec.num_classes) if one else None


def main(flags: argparse.Namespace) -> int:
    """Generate examples and write them."""
    out = check_flags(flags)
    guidance_flags.check_flags(flags)
    from diffusion.config.checks import SAMPLING, notes
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(flags.workdir)
    config = stored_config(flags, workdir, sampling_overrides(flags))
    config["guidance"] = guidance_flags.section(flags, config.get("guidance", []))
    use_fixed_sums()
    use_all_cores(blocks=-(-flags.num_samples // (flags.block or 32)))
    use_compilation_cache()
    from diffusion.runtime.stop import StopFlag

    with StopFlag() as stop:
        run = open_run(workdir, config, flags.ema, flags.step, allow_code=flags.allow_code)
        helpers = guidance_flags.open_helpers(flags, run.experiment)
        labels = labels_of(flags, helpers.label_source)
        guidance_flags.check_labels(
            flags, run.experiment, has_conditions(flags, labels, helpers.label_source)
        )
        plan = Plan(flags, run, helpers, labels)
        for text in notes(plan.experiment, SAMPLING):
            note(text)
        done = made(out, plan, {**made_of(flags, run, config), **helpers.card}, stop)
        if stop.received is not None and done < flags.num_samples:
            return stopped(flags, out, done, stop.received)
        save_ways(plan)
    written = ", ".join(filter(None, (flags.out, flags.trajectory, flags.gif)))
    say(f"wrote {written}: {done} examples of step {run.step}, weights {run.ema}")
    return 0


def stopped(flags: argparse.Namespace, out: Path, done: int, number: signal.Signals) -> int:
    """Print how to continue; return the exit code of the signal."""
    from diffusion.runtime.progress import Terminal

    folder = outputs.kept_in(out)
    kept = (
        f"{done} of {flags.num_samples} examples are kept in {folder}; the same command goes on from there"
        if folder.is_dir()
        else "so few examples are not kept; the same command begins again"
    )
    Terminal(sys.stderr).say(f"stopped by {number.name}: {kept}.")
    return 128 + number


def made(out: Path, plan: Plan, card: dict[str, Any], stop: Any) -> int:
    """Generate and write all examples, or stop at a signal; return the number that was generated."""
    import numpy as np

    flags = plan.flags
    labels = None if plan.labels is None else plan.labels[plan.indices % len(plan.labels)]
    first, end = flags.start, flags.start + flags.num_samples
    stopping = lambda: stop.received is not None
    if out.suffix and flags.num_samples <= flags.shard_size:
        show, parts = progress("sampling", flags.num_samples), []
        batches = plan.batches(first, flags.num_samples)
        while not stopping() and (x := next(batches, None)) is not None:
            parts.append(x)
            show(sum(map(len, parts)))
        done = sum(map(len, parts))
        if done == flags.num_samples:
            outputs.write(out, np.concatenate(parts), labels, plan.spec, card)
        return done
    if not out.suffix and plan.spec.kind != "image":
        fail(
            f"--out names a folder of images, but this data is of kind {plan.spec.kind}: use .npz."
        )
    size = -(-flags.shard_size // plan.block) * plan.block  # whole blocks: none is computed twice
    with outputs.shards_of(out, plan.manifest(), size).opened() as shards:
        there = flags.num_samples - sum(b - a for a, b in shards.missing(first, end))
        if there:
            say(f"{there} of {flags.num_samples} examples are there already")
        show = progress("sampling", flags.num_samples, there)
        done = shards.fill(first, end, plan.batches, stopping, show)
        if done == flags.num_samples:
            outputs.finish(out, shards, first, end, plan.spec, labels, card)
    return done


def save_ways(plan: Plan) -> None:
    """Write the trajectories of a few examples, if --trajectory or --gif is set."""
    flags = plan.flags
    if not flags.trajectory and not flags.gif:
        return
    import numpy as np

    from diffusion.evaluation import generate_batch, pictures

    rows = 8 if plan.labels is None else min(len(plan.labels), 10)
    few = plan.indices[: rows if plan.spec.pictured else 1000]
    e = plan.experiment
    states = generate_batch(
        e.sampler, e.process, plan.model_of, flags.seed, few, plan.spec.shape, e.times(),
        plan.cond_of(few), save=True,
    ).trajectory  # fmt: skip
    states = np.asarray(states, np.float32)
    if flags.trajectory:
        pictures.save_trajectory(flags.trajectory, states, plan.spec)
    if flags.gif:
        pictures.save_animation(flags.gif, states, plan.spec, columns=len(few))


def made_of(flags: argparse.Namespace, run: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the card of the examples: the model, the seed, the sampling sections and the environment."""
    from diffusion.runtime.provenance import provenance

    sections = {k: config.get(k) for k in ("process", "sampler", "grid", "guidance")}
    if names := run.experiment.spec.class_names:
        sections["class_names"] = names
    return {"step": run.step, "ema": run.ema, "seed": flags.seed, **sections, **provenance()}
