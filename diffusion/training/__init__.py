"""Training: state, step, layouts on devices, averages, optimizers, checkpoints, the loop."""

from diffusion.training import exits, optimizers, schedules
from diffusion.training.checkpoint import Checkpoints
from diffusion.training.ema import Average, make_ema, update_ema
from diffusion.training.exits import (
    CheckpointError,
    DamageError,
    DivergedError,
    LockedError,
    SaveError,
    Stopped,
)
from diffusion.training.guards import SpikeRule
from diffusion.training.loop import Hook, LoopOptions, train
from diffusion.training.metrics import Console, JsonLines, TensorBoard, Writer
from diffusion.training.optimizers import Optimizer
from diffusion.training.parallel import Layout, MeshLayout, PmapLayout
from diffusion.training.processes import initialize_distributed, select_rows
from diffusion.training.progress import Progress, Terminal, heartbeat
from diffusion.training.reader import CheckpointReader
from diffusion.training.state import TrainState, init_state
from diffusion.training.step import Reduce, drop_cond, make_train_step
from diffusion.training.stop import StopFlag

__all__ = [
    "Average",
    "CheckpointError",
    "CheckpointReader",
    "Checkpoints",
    "Console",
    "DamageError",
    "DivergedError",
    "Hook",
    "JsonLines",
    "Layout",
    "LockedError",
    "LoopOptions",
    "MeshLayout",
    "Optimizer",
    "PmapLayout",
    "Progress",
    "Reduce",
    "SaveError",
    "SpikeRule",
    "StopFlag",
    "Stopped",
    "TensorBoard",
    "Terminal",
    "TrainState",
    "Writer",
    "drop_cond",
    "exits",
    "heartbeat",
    "init_state",
    "initialize_distributed",
    "make_ema",
    "make_train_step",
    "optimizers",
    "schedules",
    "select_rows",
    "train",
    "update_ema",
]
