r"""Edit images with a trained run: fill in, sharpen, colour, blend and vary, without training for it.

Examples:
  python scripts/edit.py inpaint --workdir runs/digits --image data:0,5,7 --mask box:0,0,4,8 --out inpainted.png
  python scripts/edit.py inpaint --workdir runs/digits --image mine.png --mask mask.png --method repaint --num_samples 8
  python scripts/edit.py superres --workdir runs/digits --image data:0,1 --factor 2 --std 0.05
  python scripts/edit.py deblur --workdir runs/digits --image data:3 --width 1.0 --std 0.05
  python scripts/edit.py colorize --workdir runs/cifar10 --image photo.png
  python scripts/edit.py interpolate --workdir runs/digits --image data:0,5 --level 0.6 --num_samples 7
  python scripts/edit.py vary --workdir runs/digits --image data:0,5 --level 0.5

Commands:
  inpaint      fill what --mask hides
  superres     images --factor times as large, from means over blocks
  deblur       undo a Gaussian blur of --width pixels
  colorize     colours for the mean over the channels
  interpolate  between two images, by noising both to --level, or through their latents (--through latent)
  vary         variations: noise to --level and back; 0 is the image, 1 knows nothing of it

The first four measure y = A x + std n of each image and sample x given y; the grid has a row per image: input,
measurement, results. --method is one of dps, moment_matching, pigdm, repaint, replacement (docs/editing.md
compares them). Generation is unconditional; guidance of the config that compares conditions is left out.

--image is a list of files with commas between, cropped and resized as data sets do it, or data:INDICES of the held-out
split. --mask is a picture (white is known, black is filled in) or a .npy file (1 and 0), box:TOP,LEFT,BOTTOM,RIGHT
(hidden, in pixels), or random:SHARE (hidden share of the pixels).
"""

import sys
from pathlib import Path

import _command
from absl import flags

COMMANDS = ("inpaint", "superres", "deblur", "colorize", "interpolate", "vary")

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run whose model is used.")
flags.DEFINE_string("image", None, "Files with commas between, or data:INDICES.")
flags.DEFINE_string("mask", None, "inpaint: a file, box:TOP,LEFT,BOTTOM,RIGHT or random:SHARE.")
flags.DEFINE_integer("factor", 2, "superres: how many times smaller the measurement is.")
flags.DEFINE_float("width", 1.0, "deblur: standard deviation of the Gaussian, in pixels.")
flags.DEFINE_enum("border", "circular", ["circular", "zero"], "deblur: what lies beyond the image.")
flags.DEFINE_string("method", "moment_matching", "How the measurement guides the model.")
flags.DEFINE_float(
    "scale",
    None,
    "Scale of the method, 1 but for dps; 0 ignores the measurement. dps must be tuned.",
)
flags.DEFINE_integer("repeats", 5, "repaint: how often each step is taken.")
flags.DEFINE_float("std", 0.0, "Standard deviation of the noise that is added to the measurement.")
flags.DEFINE_bool(
    "consistent",
    False,
    "Put the measurement back at the end: x + A^+ (y - A x). For measurements without noise, and methods that keep to "
    "them only roughly, such as dps.",
)
flags.DEFINE_float("level", 0.5, "interpolate, vary: share of noise, 0 to 1.")
flags.DEFINE_enum("through", "noise", ["noise", "latent"], "interpolate: where images are mixed.")
flags.DEFINE_integer(
    "num_samples", 4, "Results per image; interpolate: steps from one to the other."
)
flags.DEFINE_integer("seed", 0, "Seed of noise, random masks and results.")
flags.DEFINE_string("sampler", None, "A sampler by name, in place of the config's.")
flags.DEFINE_integer("num_steps", None, "Sampling steps, in place of the config's.")
flags.DEFINE_string("grid", None, "A time grid by name, in place of the config's.")
_command.define_weights()
flags.DEFINE_integer("batch_size", 100, "Examples per compiled call.")
flags.DEFINE_string("out", "edited.png", "The PNG to write.")


def check_flags() -> None:
    """Check what can be checked before anything is loaded."""
    for name in ("workdir", "image"):
        if getattr(FLAGS, name) is None:
            _command.fail(f"--{name} is required. See --help.")
    for name in ("num_samples", "batch_size", "repeats", "factor", "num_steps"):
        if getattr(FLAGS, name) is not None and getattr(FLAGS, name) < 1:
            _command.fail(f"--{name} must be at least 1; got {getattr(FLAGS, name)}.")
    for name in ("seed", "std", "scale"):
        value = getattr(FLAGS, name)
        if value is not None and not 0 <= value < float("inf"):  # NaN fails as well
            _command.fail(f"--{name} must not be negative, nor infinite; got {value}.")
    if not 0 <= FLAGS.level <= 1:
        _command.fail(f"--level is a share of noise, from 0 to 1; got {FLAGS.level}.")
    if Path(FLAGS.out).suffix != ".png":
        _command.fail(f"--out must end in .png; got {FLAGS.out!r}.")
    _command.check_writable(FLAGS.out)


def short_overrides() -> list[tuple[str, str]]:
    """Turn flags into overrides of the sampling sections."""
    given = {
        "sampler.name": FLAGS.sampler,
        "grid.name": FLAGS.grid,
        "grid.num_steps": FLAGS.num_steps,
    }
    return [(path, str(value)) for path, value in given.items() if value is not None]


def edit(command: str, overrides: list[tuple[str, str]]) -> int:
    """Read, check, compute and write."""
    check_flags()
    if command == "inpaint" and FLAGS.mask is None:
        _command.fail("inpaint needs --mask: a file, box:TOP,LEFT,BOTTOM,RIGHT or random:SHARE.")
    if command != "inpaint" and FLAGS.mask is not None:
        _command.fail(f"--mask belongs to inpaint; {command} does not know it.")
    if FLAGS.consistent and (FLAGS.std > 0 or command in ("interpolate", "vary")):
        _command.fail("--consistent is for measurements, and for those without noise (--std 0).")
    _edit = _command.part("_edit")
    from diffusion.run.workdir import Workdir

    workdir = Workdir.of(FLAGS.workdir)
    config = _command.stored_config(workdir, short_overrides() + overrides)
    config["guidance"] = []  # what compares conditions has no meaning here
    inverse = command not in ("interpolate", "vary")
    if inverse:
        _edit.check_method(FLAGS.method)
        if FLAGS.method == "repaint":
            config["sampler"] = _edit.repaint(config, FLAGS.sampler, FLAGS.repeats)
    spec = workdir.read_spec()
    x, names, sizes = _edit.load_images(FLAGS.image, spec, config)
    if command == "interpolate" and len(x) != 2:
        _command.fail(f"interpolate needs two images; --image names {len(x)}.")
    operator = _edit.operator_of(command, FLAGS, x.shape[1:], sizes) if inverse else None
    if FLAGS.consistent and not operator.has_pinv:
        _command.fail(
            "--consistent needs a pseudo-inverse, which a blur with --border zero has not."
        )
    if inverse:
        config["guidance"] = _edit.guidance(FLAGS.method, operator, FLAGS.std, FLAGS.scale)
    total = FLAGS.num_samples * (1 if command == "interpolate" else len(x))
    _command.use_all_cores(min(FLAGS.batch_size, total))
    _command.use_compilation_cache()
    from diffusion.run.workdir import open_run

    run = open_run(workdir, config, FLAGS.ema, FLAGS.step, allow_code=FLAGS.allow_code)
    if inverse:
        panels, said = _edit.invert(run, operator, x, FLAGS)
    else:
        panels, said = getattr(_edit, command)(run, x, FLAGS)
    _edit.write(FLAGS.out, panels, run.experiment.spec, names)
    _command.say(f"wrote {FLAGS.out}: {said}; step {run.step}, weights {run.ema}")
    return 0


def main(overrides: list[tuple[str, str]]) -> int:
    """Find the command and run it."""
    if command is None:
        _command.fail(f"the first word is a command: {', '.join(COMMANDS)}. See --help.")
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        _command.fail(f"unknown command {command!r}.{hint} Commands: {', '.join(COMMANDS)}.")
    return edit(command, overrides)


if __name__ == "__main__":
    command = None
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        command = sys.argv.pop(1)
    _command.run(main, __doc__)
