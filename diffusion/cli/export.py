r"""Export a trained model to a .safetensors file and a JSON file, or import a run from such files.

Examples:
  demolish export --workdir runs/digits --out digits.safetensors
  demolish export --workdir runs/digits --out raw.safetensors --ema raw
  demolish export --from digits.safetensors --workdir runs/imported
  demolish sample --workdir runs/imported --out samples.png

--out writes the weights of the newest complete checkpoint (raw, or one average) and, in a JSON file next to them, the
config, data description, step, average, versions and SHA-256. --from creates a work directory with these weights as
step 0; `sample` and `evaluate` can open it, and `train` continues from it with a new optimizer. No code in the files
is executed; a config that names modules to import ("mymodule:MyProcess") is refused without --allow_code.
"""

import argparse
from pathlib import Path

from diffusion.cli.messages import check_writable, fail, say
from diffusion.cli.parser import Parser, add_weights


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    parser.add_argument("--workdir", help="The run to export, or with --from the folder to create.")
    parser.add_argument("--out", help="File to write the weights to; must end in .safetensors.")
    parser.add_argument("--from", help="Import a run from this file instead of exporting.")
    add_weights(parser)
    return parser


def main(flags: argparse.Namespace) -> int:
    """Export or import a run."""
    if flags.overrides:
        fail("a model is exported as it is: --config.* has no place here.")
    if flags.workdir is None:
        fail("--workdir is required: the run to export, or to make. See --help.")
    source = getattr(flags, "from")
    if (source is None) == (flags.out is None):
        fail("give one of --out, to export, and --from, to import. See --help.")
    path = Path(source or flags.out)
    if path.suffix != ".safetensors":
        fail(f"the file of weights must end in .safetensors; got {str(path)!r}.")
    check_writable(flags.workdir if source else path)
    from diffusion.run.export import export_run, import_run
    from diffusion.run.workdir import Workdir

    workdir = Workdir.of(flags.workdir)
    if source:
        step = import_run(path, workdir, allow_code=flags.allow_code)
        say(f"made {workdir.path} from {path}: the weights of step {step}, as step 0")
    else:
        card = export_run(workdir, path, flags.ema, flags.step, allow_code=flags.allow_code)
        beside = path.with_suffix(".json")
        say(f"wrote {path} and {beside}: step {card['step']}, weights {card['ema']}")
    return 0
