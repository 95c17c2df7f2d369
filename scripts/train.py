r"""Train what a config describes, or go on where an earlier run in the same work directory stopped.

Examples:
  python scripts/train.py --config configs/digits.py --workdir runs/digits
  python scripts/train.py --config configs/digits.py --workdir runs/edm --config.process.name=edm \
      --config.time.name=log_normal --config.train.num_steps=4000
  python scripts/train.py --config configs/digits.py --workdir runs/mine --config.process.name=mymodule:MyProcess
  python scripts/train.py --config configs/fashion_mnist.py --dry_run

Any field can be set by --config.section.field=value. Swapping a name (--config.network.name=dit) forgets
the other fields that the config file gave to the old one. --data_dir, or the environment variable
DEMOLISH_DATA, says where prepared data sets lie. On several hosts give --distributed.
"""

import json

import _command
from absl import flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file: configs/NAME.py.",
    lock_config=False,
    sys_argv=[],  # _command applies the overrides: they may name fields that the file does not have
)
flags.DEFINE_string("workdir", None, "Where the run lives: checkpoints, metrics, samples.")
flags.DEFINE_string("data_dir", None, "Where prepared data sets lie.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Compile one step, print parameters, memory, FLOPs and the config; train nothing.",
)
flags.DEFINE_bool(
    "restart", False, "Move an earlier run in the work directory aside and begin anew."
)
flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files to WORKDIR/tensorboard.")
flags.DEFINE_bool("distributed", False, "Join the other processes of this job (jax.distributed).")


def main(overrides: list[tuple[str, str]]) -> int:
    """Train."""
    config = _command.load_config(overrides)
    if FLAGS.workdir is None and not FLAGS.dry_run:
        _command.fail("--workdir is required: where the run shall live. See --help.")
    if FLAGS.data_dir is not None:
        config.setdefault("data", {})["data_dir"] = FLAGS.data_dir
    data, training = config.get("data", {}), config.get("train", {})
    rows = data.get("batch_size", 64) if isinstance(data, dict) else 64
    if isinstance(rows, int) and rows > 0 and not training.get("accumulate", 1) > 1:
        _command.use_all_cores(rows)
    from diffusion.config.experiment import Experiment
    from diffusion.run.workdir import Workdir

    if FLAGS.workdir is not None:
        workdir = Workdir.of(FLAGS.workdir)
        _command.check_writable(workdir.path)
        _command.use_compilation_cache()
    if FLAGS.distributed:
        from diffusion.runtime.distributed import initialize_distributed

        initialize_distributed()
    from diffusion.config.recording import continued
    from diffusion.run import runner

    if FLAGS.workdir is not None and not FLAGS.restart:
        config, lines = continued(config, runner.stored_config(workdir))
        for line in lines:
            _command.note(line)
    experiment = Experiment.from_config(config)
    experiment.parallel.check_batch(experiment.batch_size, experiment.train.accumulate)
    if FLAGS.dry_run:
        from diffusion.run.dry_run import dry_run

        for line in runner.describe(experiment):
            _command.say(line)
        _command.say(json.dumps(dry_run(experiment), indent=2))
        return 0
    runner.run(experiment, workdir, tensorboard=FLAGS.tensorboard, restart=FLAGS.restart)
    return 0


if __name__ == "__main__":
    _command.run(main, __doc__)
