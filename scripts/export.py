r"""Write a trained model to a .safetensors file with a JSON file beside it, or make a run from such files.

Examples:
  python scripts/export.py --workdir runs/digits --out digits.safetensors
  python scripts/export.py --workdir runs/digits --out raw.safetensors --ema raw
  python scripts/export.py --from digits.safetensors --workdir runs/imported
  python scripts/sample.py --workdir runs/imported --out samples.png

The first form writes the weights of the newest whole checkpoint, one average of them, and beside them config, data,
step, average, versions and SHA-256. The second makes a work directory that holds these weights as step 0:
sample.py and evaluate.py open it, and train.py goes on from it, with a new optimizer. Nothing in the files is
executed; a config that names modules to import ("mymodule:MyProcess") is refused without --allow_code.
"""

from pathlib import Path

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run to export, or the folder to make with --from.")
flags.DEFINE_string("out", None, "Where to write the weights: a file that ends in .safetensors.")
flags.DEFINE_string("from", None, "Make a run from this file instead.")
_command.define_weights()


def main(overrides: list[tuple[str, str]]) -> int:
    """Write files from a run, or a run from files."""
    if overrides:
        _command.fail("a model is exported as it is: --config.* has no place here.")
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: the run to export, or to make. See --help.")
    source = FLAGS["from"].value
    if (source is None) == (FLAGS.out is None):
        _command.fail("give one of --out, to export, and --from, to import. See --help.")
    path = Path(source or FLAGS.out)
    if path.suffix != ".safetensors":
        _command.fail(f"the file of weights must end in .safetensors; got {str(path)!r}.")
    _command.check_writable(FLAGS.workdir if source else path)
    from diffusion.run.export import export_run, import_run
    from diffusion.run.workdir import Workdir

    workdir = Workdir.of(FLAGS.workdir)
    if source:
        step = import_run(path, workdir, allow_code=FLAGS.allow_code)
        _command.say(f"made {workdir.path} from {path}: the weights of step {step}, as step 0")
    else:
        card = export_run(workdir, path, FLAGS.ema, FLAGS.step, allow_code=FLAGS.allow_code)
        beside = path.with_suffix(".json")
        _command.say(f"wrote {path} and {beside}: step {card['step']}, weights {card['ema']}")
    return 0


if __name__ == "__main__":
    _command.run(main, __doc__)
