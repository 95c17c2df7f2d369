"""Training: state, step, device layouts, averages of weights, optimizers, and the loop."""

from diffusion.training import optimizers, schedules
from diffusion.training.ema import Average, make_ema, update_ema
from diffusion.training.guards import SpikeRule
from diffusion.training.loop import Hook, LoopOptions, Monitor, train
from diffusion.training.metrics import Console, JsonLines, TensorBoard, Writer
from diffusion.training.optimizers import Optimizer
from diffusion.training.parallel import Layout, MeshLayout, PmapLayout
from diffusion.training.state import TrainState, init_state
from diffusion.training.step import Reduce, drop_cond, make_train_step

__all__ = [
    "Average",
    "Console",
    "Hook",
    "JsonLines",
    "Layout",
    "LoopOptions",
    "MeshLayout",
    "Monitor",
    "Optimizer",
    "PmapLayout",
    "Reduce",
    "SpikeRule",
    "TensorBoard",
    "TrainState",
    "Writer",
    "drop_cond",
    "init_state",
    "make_ema",
    "make_train_step",
    "optimizers",
    "schedules",
    "train",
    "update_ema",
]
