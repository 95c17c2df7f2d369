"""What went wrong in a run, and what was done about it.

    bad_steps/00000123.json   a step that did not count: its examples, and the loss by noise level
    rollbacks.json            from which step the run went back to which

After the k-th rollback to step s the data of the steps from s on come in another order:

    seed of step i = seed                if no rollback went to a step <= i
                     hash(seed, k)       k the number of rollbacks to steps <= i

So the data of a step remain a function of (config, seed, step) and of this one short file.
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
MAX_REPORTS = 100  # files; a run whose every step goes wrong need not fill the disk


@dataclass(frozen=True)
class Rollbacks:
    """The rollbacks of a run, oldest first: pairs (left at step, went back to step)."""

    entries: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, workdir: Workdir) -> "Rollbacks":
        """Return those of a work directory; none if there is no such file.

        Raises:
            ConfigError: the file cannot be understood.
        """
        file = workdir.path / ROLLBACKS
        if not check_plain(file):
            return cls()
        try:
            entries = [(int(e["left_at"]), int(e["to"])) for e in read_json(file)]
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ConfigError(
                f"{file} cannot be understood; it gives the order of the data. Restore it, or give --restart."
            ) from None
        return cls(tuple(entries))

    def write(self, workdir: Workdir) -> None:
        """Write them, whole or not at all."""
        workdir.write(ROLLBACKS, [{"left_at": at, "to": to} for at, to in self.entries])

    def and_back(self, left_at: int, to: int) -> "Rollbacks":
        """Return these and one more."""
        return dataclasses.replace(self, entries=(*self.entries, (left_at, to)))

    def seed(self, seed: int, step: int) -> int:
        """Return the seed of the data of the batch that follows `step` steps."""
        count = sum(to <= step for _, to in self.entries)
        if count == 0:
            return seed
        return int(np.random.SeedSequence([seed, count]).generate_state(1)[0])


def report_bad_step(
    workdir: Workdir, step: int, metrics: Mapping[str, Any], index: np.ndarray
) -> bool:
    """Write what is known of a step that did not count.

    Args:
        workdir: of the run.
        step: the number of steps done, this one included.
        metrics: of the step, on the host.
        index: which examples of the data set were in its batch, by row.

    Returns:
        Whether it was written; after MAX_REPORTS files nothing is.
    """
    folder = workdir.path / "bad_steps"
    if folder.is_dir() and len(list(folder.iterdir())) >= MAX_REPORTS:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write(f"bad_steps/{step:08d}.json", bad_step(step, metrics, index))
    return True


def bad_step(step: int, metrics: Mapping[str, Any], index: np.ndarray) -> dict[str, Any]:
    """Return the report of a step that did not count; see `report_bad_step`."""
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
    """Say in a few words why a step did not count."""
    if not np.isfinite(metrics["loss"]):
        return "the loss was not finite"
    if not np.isfinite(metrics["grad_norm"]):
        return "the gradient was not finite"
    return "the gradient was a spike"


def _by_level(loss: np.ndarray, log_snr: np.ndarray, finite: np.ndarray) -> list[dict[str, Any]]:
    """Return per bin of log-SNR: how many examples, how many not finite, the mean loss of the others."""
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
    """Return a number that JSON knows, or its name."""
    return float(x) if math.isfinite(x) else str(float(x))
