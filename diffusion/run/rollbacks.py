"""Records of skipped training steps and of rollbacks.

    bad_steps/00000123.json   a skipped step: its examples, and the loss by noise level
    rollbacks.json            pairs of steps: where the run diverged, and where it went back to

After the k-th rollback to step s, the data of the steps from s on have another order:

    seed of step i = seed                if no rollback went to a step <= i
                     hash(seed, k)       k the number of rollbacks to steps <= i

The data of a step are therefore a function of (config, seed, step) and of rollbacks.json.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.config.sections import ConfigError
from diffusion.run.workdir import Workdir
from diffusion.runtime.reading import check_plain, read_json
from diffusion.training.step import LEVEL_EDGES

ROLLBACKS = "rollbacks.json"
MAX_REPORTS = 100  # largest number of report files, so that a failing run does not fill the disk


@dataclass(frozen=True)
class Rollbacks:
    """The rollbacks of a run, oldest first: pairs (left at step, went back to step)."""

    entries: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, workdir: Workdir) -> "Rollbacks":
        """Return the rollbacks of a work directory; none if there is no such file.

        Raises:
            ConfigError: the file is damaged.
        """
        file = workdir.path / ROLLBACKS
        if not check_plain(file):
            return cls()
        try:
            entries = [(int(e["left_at"]), int(e["to"])) for e in read_json(file)]
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ConfigError(
                f"{file}, the order in which the data come, cannot be understood. Restore it, or give --restart."
            ) from None
        return cls(tuple(entries))

    def write(self, workdir: Workdir) -> None:
        """Write the rollbacks to the work directory atomically."""
        workdir.write(ROLLBACKS, [{"left_at": at, "to": to} for at, to in self.entries])

    def and_back(self, left_at: int, to: int) -> "Rollbacks":
        """Return the rollbacks with one more."""
        return dataclasses.replace(self, entries=(*self.entries, (left_at, to)))

    def seed(self, seed: int, step: int) -> int:
        """Return the data seed of the batch after `step` completed steps."""
        count = sum(to <= step for _, to in self.entries)
        if count == 0:
            return seed
        return int(np.random.SeedSequence([seed, count]).generate_state(1)[0])


def report_bad_step(
    workdir: Workdir, step: int, metrics: Mapping[str, Any], index: np.ndarray
) -> bool:
    """Write a report about a skipped step.

    Args:
        workdir: work directory of the run.
        step: number of completed steps, including this one.
        metrics: metrics of the step, on the host.
        index: indices, in the data set, of the examples in its batch.

    Returns:
        Whether the report was written; none is written after MAX_REPORTS files.
    """
    folder = workdir.path / "bad_steps"
    if folder.is_dir() and len(list(folder.iterdir())) >= MAX_REPORTS:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write(f"bad_steps/{step:08d}.json", bad_step(step, metrics, index))
    return True


def bad_step(step: int, metrics: Mapping[str, Any], index: np.ndarray) -> dict[str, Any]:
    """Return the report about a skipped step; see `report_bad_step`."""
    rows = {k: np.asarray(v, np.float64) for k, v in metrics["rows"].items()}
    loss, log_snr, finite = rows["loss"], rows["log_snr"], np.isfinite(rows["loss"])
    example = index[rows["row"].astype(int)]
    order = np.argsort(np.where(finite, -loss, -np.inf), kind="stable")
    listed = [
        {"index": int(example[i]), "log_snr": _number(log_snr[i]), "loss": _number(loss[i])}
        for i in order
    ]
    return {
        "step": step,
        "loss": _number(metrics["loss"]),
        "grad_norm": _number(metrics["grad_norm"]),
        "reason": reason(metrics),
        "examples": len(loss),
        "examples_not_finite": int((~finite).sum()),
        "loss_by_log_snr": _by_level(loss, log_snr, finite),
        "worst_examples_first": listed,
    }


def reason(metrics: Mapping[str, Any]) -> str:
    """Return the reason why a step was skipped."""
    if not np.isfinite(metrics["loss"]):
        return "the loss was not finite"
    if not np.isfinite(metrics["grad_norm"]):
        return "the gradient was not finite"
    return "the gradient was a spike"


def _by_level(loss: np.ndarray, log_snr: np.ndarray, finite: np.ndarray) -> list[dict[str, Any]]:
    """Return, per bin of log-SNR: the numbers of examples and of non-finite losses, and the mean of the others."""
    place = np.searchsorted(LEVEL_EDGES, log_snr)
    found = []
    for k, edges in enumerate(itertools.pairwise((-math.inf, *LEVEL_EDGES, math.inf))):
        here = place == k
        if here.any():
            good = loss[here & finite]
            found.append({
                "log_snr": [_number(e) for e in edges],
                "examples": int(here.sum()),
                "not_finite": int((here & ~finite).sum()),
                "mean_loss": float(good.mean()) if len(good) else None,
            })  # fmt: skip
    return found


def _number(x: Any) -> float | str:
    """Return a finite number, or the name of a non-finite one, for JSON."""
    return float(x) if math.isfinite(x) else str(float(x))
