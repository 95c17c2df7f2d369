r"""Train a model from a config, or resume an earlier run in the same work directory.

Examples:
  demolish train --config digits --workdir runs/digits
  demolish train --config digits --workdir runs/edm --config.process.name=edm \
      --config.time.name=log_normal --config.train.num_steps=4000
  demolish train --config digits --workdir runs/mine --config.process.name=mymodule:MyProcess
  demolish train --config fashion_mnist --dry_run

--config.section.field=value sets any field of the config. Replacing a name (--config.network.name=dit) discards the
other fields that the config file sets for the old one. Prepared data sets are read from --data_dir, else from the
folder in the environment variable DEMOLISH_DATA, else from ~/.cache/demolish. On several hosts use --distributed.
"""

import argparse
import json

from diffusion.cli.configs import add_config, load_config
from diffusion.cli.machine import use_all_cores, use_compilation_cache
from diffusion.cli.messages import check_writable, fail, note, say
from diffusion.cli.parser import Parser


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    add_config(parser, "The config to train")
    parser.add_argument("--workdir", help="Folder of the run: checkpoints, metrics, samples.")
    parser.add_argument("--data_dir", help="Folder of prepared data sets.")
    parser.switch(
        "dry_run",
        "Compile one step and print parameters, memory, FLOPs and the config, without training.",
    )
    parser.switch(
        "restart", "Move an earlier run in the work directory aside and start from step 0."
    )
    parser.switch("tensorboard", "Write TensorBoard event files to WORKDIR/tensorboard.")
    parser.switch("distributed", "Join the other processes of this job (jax.distributed).")
    return parser


def main(flags: argparse.Namespace) -> int:
    """Train, or do a dry run; return the exit code."""
    config = load_config(flags, flags.overrides)
    if flags.workdir is None and not flags.dry_run:
        fail("--workdir is required: the folder of the run. See --help.")
    if flags.data_dir is not None:
        config.setdefault("data", {})["data_dir"] = flags.data_dir
    data, training = config.get("data", {}), config.get("train", {})
    rows = data.get("batch_size", 64) if isinstance(data, dict) else 64
    if isinstance(rows, int) and rows > 0 and not training.get("accumulate", 1) > 1:
        use_all_cores(rows)
    from diffusion.config.experiment import Experiment
    from diffusion.run.workdir import Workdir

    workdir = None if flags.workdir is None else Workdir.of(flags.workdir)
    if workdir is not None:
        check_writable(workdir.path)
        use_compilation_cache()
    if flags.distributed:
        from diffusion.runtime.distributed import initialize_distributed

        initialize_distributed()
    from diffusion.config.recording import continued
    from diffusion.run import runner

    if workdir is not None and not flags.restart:
        config, lines = continued(config, runner.stored_config(workdir))
        for line in lines:
            note(line)
    experiment = Experiment.from_config(config)
    experiment.parallel.check_batch(experiment.batch_size, experiment.train.accumulate)
    if flags.dry_run or workdir is None:
        from diffusion.run.dry_run import dry_run

        for line in runner.describe(experiment):
            say(line)
        say(json.dumps(dry_run(experiment), indent=2))
        return 0
    runner.run(experiment, workdir, tensorboard=flags.tensorboard, restart=flags.restart)
    return 0
