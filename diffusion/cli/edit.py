r"""Edit images with a trained run, without further training: inpaint, sharpen, colorize, blend and vary.

Examples:
  demolish edit inpaint --workdir runs/digits --image data:0,5,7 --mask box:0,0,4,8 --out inpainted.png
  demolish edit inpaint --workdir runs/digits --image mine.png --mask mask.png --method repaint --num_samples 8
  demolish edit superres --workdir runs/digits --image data:0,1 --factor 2 --std 0.05
  demolish edit deblur --workdir runs/digits --image data:3 --width 1.0 --std 0.05
  demolish edit colorize --workdir runs/cifar10 --image photo.png
  demolish edit interpolate --workdir runs/digits --image data:0,5 --level 0.6 --num_samples 7
  demolish edit vary --workdir runs/digits --image data:0,5 --level 0.5

Commands:
  inpaint      fill in the pixels that --mask hides
  superres     reconstruct images from means over blocks of --factor x --factor pixels
  deblur       undo a Gaussian blur of --width pixels
  colorize     reconstruct colors from the mean over the channels
  interpolate  between two images, by noising both to --level, or through their latents (--through latent)
  vary         make variations: add noise up to --level and denoise; 0 returns the image, 1 ignores it

The first four simulate a measurement y = A x + std n of each image x and sample from p(x | y); the output grid has one
row per image: input, measurement, results. --method is one of dps, moment_matching, pigdm, repaint, replacement
(docs/editing.md compares them). Generation is unconditional; entries of the config's guidance that compare conditions
are ignored.

--image is a comma-separated list of files, cropped and resized as training data is, or data:INDICES of the held-out
split. --mask is a picture (white is known, black is filled in), a .npy file (1 is known, 0 is filled in),
box:TOP,LEFT,BOTTOM,RIGHT (hidden box, in pixels), or random:FRACTION (hidden fraction of the pixels).
"""

import argparse
from pathlib import Path

from diffusion.cli.configs import stored_config
from diffusion.cli.machine import use_all_cores, use_compilation_cache
from diffusion.cli.messages import check_writable, fail, say
from diffusion.cli.parser import (
    Parser,
    add_weights,
    check_positive,
    one_of,
    real_number,
    unknown,
    whole_number,
)

COMMANDS = ("inpaint", "superres", "deblur", "colorize", "interpolate", "vary")


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    parser.add_argument("command", nargs="?", metavar="COMMAND")
    parser.add_argument("--workdir", help="Work directory of the trained run.")
    parser.add_argument("--image", help="Comma-separated files, or data:INDICES.")
    parser.add_argument(
        "--mask", help="inpaint: a file, box:TOP,LEFT,BOTTOM,RIGHT or random:FRACTION."
    )
    parser.add_argument(
        "--factor",
        type=whole_number,
        default=2,
        help="superres: factor by which height and width of the measurement are smaller.",
    )
    parser.add_argument(
        "--width",
        type=real_number,
        default=1.0,
        help="deblur: standard deviation of the Gaussian, in pixels.",
    )
    parser.add_argument(
        "--border",
        type=one_of("circular", "zero"),
        default="circular",
        help="deblur: padding beyond the border of the image.",
    )
    parser.add_argument(
        "--method", default="moment_matching", help="How the measurement guides the model."
    )
    parser.add_argument(
        "--scale",
        type=real_number,
        help="Scale of the method; 0 ignores the measurement. Usually 1; for dps it must be tuned.",
    )
    parser.add_argument(
        "--repeats",
        type=whole_number,
        default=5,
        help="repaint: number of times each step is repeated.",
    )
    parser.add_argument(
        "--std",
        type=real_number,
        default=0.0,
        help="Standard deviation of the noise that is added to the measurement.",
    )
    parser.switch(
        "consistent",
        "Project the results onto the measurement at the end: x + A^+ (y - A x). For measurements without noise, and "
        "methods that match them only approximately, such as dps.",
    )
    parser.add_argument(
        "--level",
        type=real_number,
        default=0.5,
        help="interpolate, vary: noise level, from 0 (none) to 1 (only noise).",
    )
    parser.add_argument(
        "--through",
        type=one_of("noise", "latent"),
        default="noise",
        help="interpolate: the space in which the images are mixed.",
    )
    parser.add_argument(
        "--num_samples",
        type=whole_number,
        default=4,
        help="Results per image; interpolate: number of interpolated images.",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        help="Seed of the noise, the random masks and the results.",
    )
    parser.add_argument("--sampler", help="A sampler by name, in place of the config's.")
    parser.add_argument(
        "--num_steps", type=whole_number, help="Sampling steps, in place of the config's."
    )
    parser.add_argument("--grid", help="A time grid by name, in place of the config's.")
    add_weights(parser)
    parser.add_argument(
        "--batch_size", type=whole_number, default=100, help="Examples per compiled call."
    )
    parser.add_argument("--out", default="edited.png", help="The PNG to write.")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Exit with a message if a flag is invalid, before anything is loaded."""
    for name in ("workdir", "image"):
        if getattr(flags, name) is None:
            fail(f"--{name} is required. See --help.")
    check_positive(flags, "num_samples", "batch_size", "repeats", "factor", "num_steps")
    for name in ("seed", "std", "scale"):
        value = getattr(flags, name)
        if value is not None and not 0 <= value < float("inf"):  # NaN fails as well
            fail(f"--{name} must not be negative, nor infinite; got {value}.")
    if not 0 <= flags.level <= 1:
        fail(f"--level is a fraction of noise, from 0 to 1; got {flags.level}.")
    if Path(flags.out).suffix != ".png":
        fail(f"--out must end in .png; got {flags.out!r}.")
    check_writable(flags.out)


def short_overrides(flags: argparse.Namespace) -> list[tuple[str, str]]:
    """Turn flags into overrides of the sampling sections."""
    given = {
        "sampler.name": flags.sampler,
        "grid.name": flags.grid,
        "grid.num_steps": flags.num_steps,
    }
    return [(path, str(value)) for path, value in given.items() if value is not None]


def edit(command: str, flags: argparse.Namespace) -> int:
    """Run an editing command; return the exit code."""
    check_flags(flags)
    if command == "inpaint" and flags.mask is None:
        fail("inpaint needs --mask: a file, box:TOP,LEFT,BOTTOM,RIGHT or random:FRACTION.")
    if command != "inpaint" and flags.mask is not None:
        fail(f"--mask belongs to inpaint; {command} does not know it.")
    if flags.consistent and (flags.std > 0 or command in ("interpolate", "vary")):
        fail("--consistent is for measurements, and for those without noise (--std 0).")
    from diffusion.cli import edit_inputs, edit_results
    from diffusion.run.workdir import Workdir

    workdir = Workdir.of(flags.workdir)
    config = stored_config(flags, workdir, short_overrides(flags) + flags.overrides)
    config[
        "guidance"
    ] = []  # generation is unconditional here, so guidance by conditions has no meaning
    inverse = command not in ("interpolate", "vary")
    if inverse:
        edit_inputs.check_method(flags.method)
        if flags.method == "repaint":
            config["sampler"] = edit_inputs.repaint(config, flags.sampler, flags.repeats)
    spec = workdir.read_spec()
    x, names, sizes = edit_inputs.load_images(flags.image, spec, config)
    if command == "interpolate" and len(x) != 2:
        fail(f"interpolate needs two images; --image names {len(x)}.")
    operator = None
    if inverse:
        operator = edit_inputs.operator_of(command, flags, x.shape[1:], sizes)
        if flags.consistent and not operator.has_pinv:
            fail("--consistent needs a pseudo-inverse, which a blur with --border zero has not.")
        config["guidance"] = edit_inputs.guidance(flags.method, operator, flags.std, flags.scale)
    total = flags.num_samples * (1 if command == "interpolate" else len(x))
    use_all_cores(min(flags.batch_size, total))
    use_compilation_cache()
    from diffusion.run.workdir import open_run

    run = open_run(workdir, config, flags.ema, flags.step, allow_code=flags.allow_code)
    if operator is not None:
        panels, said = edit_results.invert(run, operator, x, flags)
    else:
        panels, said = getattr(edit_results, command)(run, x, flags)
    edit_results.write(flags.out, panels, run.experiment.spec, names)
    say(f"wrote {flags.out}: {said}; step {run.step}, weights {run.ema}")
    return 0


def main(flags: argparse.Namespace) -> int:
    """Check the command name and run it."""
    command = flags.command
    if command is None:
        fail(f"the first word is a command: {', '.join(COMMANDS)}. See --help.")
    if command not in COMMANDS:
        fail(unknown(f"command {command!r}", command, COMMANDS, "Commands"))
    return edit(command, flags)
