"""Laws that every process must obey, with measured numbers.

`check_process` checks them for any process, registered or not, in float64, and returns a report of the laws that
hold, the measured numbers, and advice where a law fails. The bounds follow from the arithmetic: a central
difference of step h has the error h^2 + eps / h, and so on.

A module of laws has a tuple `LAWS` of pairs (class, law): a law is a function of a process of this class that
returns one finding or several. To include a module, add its name to `MODULES`. If one of the laws in `FIRST`
fails there is nothing to measure, and the other laws are skipped.
"""

import importlib
import pickle
from math import isnan

import jax
import numpy as np

from diffusion.numerics import at_least, is_hashable, of_type, on_host
from diffusion.processes import GaussianProcess, Process
from diffusion.testing.report import Finding, Report, findings_of, in_order

__all__ = ["Finding", "Report", "check_process", "prior_mismatch"]

FIRST = ("definition_laws",)
MODULES = ("laws", "process_laws", "affine_laws", "gaussian_laws", "path_laws")


def is_a_value(process: Process) -> Finding:
    """P6: equality, hash, repr and pickle agree."""
    same = is_hashable(process)
    try:
        copy = pickle.loads(pickle.dumps(process))
        same = (
            same and copy == process and hash(copy) == hash(process) and repr(copy) == repr(process)
        )
    except (pickle.PicklingError, AttributeError, TypeError):
        # a class defined inside a function cannot be pickled
        same = same and "<locals>" in type(process).__qualname__
    return Finding(
        "P6", "equality, hash, repr and pickle agree (0 = yes)", 0.0 if same else 1.0, 0.0,
        "@dataclass(frozen=True, kw_only=True) on the class, tuples instead of lists in its fields",
    )  # fmt: skip


LAWS = ((Process, is_a_value),)


def prior_mismatch(
    process: GaussianProcess, data_mean: float = 0.0, data_std: float = 1.0
) -> dict[str, float]:
    """Return the mismatch between the prior and p(x_T) for data with these moments, per dimension.

    The mismatch is KL(N(alpha mean, alpha^2 std^2 + sigma^2) || N(0, sigma^2)) at t_max, in nats.
    """
    alpha, sigma = (float(on_host(f, float(process.t_max))) for f in (process.alpha, process.sigma))
    noise, signal = sigma**2, (alpha * data_std) ** 2
    ratio, shift = signal / noise, (alpha * data_mean) ** 2 / noise
    return {
        "signal left at t_max, alpha std / sigma": alpha * data_std / sigma,
        "prior mismatch, KL(p_T || prior) in nats per dimension": float(
            0.5 * (shift + ratio - np.log1p(ratio))
        ),
    }


def _findings(process: Process, modules: tuple[str, ...]) -> list[Finding]:
    """Apply the laws of these modules that apply to the class of the process, in float64."""
    found: list[Finding] = []
    with jax.enable_x64(True):
        for name in modules:
            for requires, law in importlib.import_module(f"diffusion.testing.{name}").LAWS:
                if isinstance(process, requires):
                    found += findings_of(law, process)
    return found


def check_process(process: Process, *, data_mean: float = 0.0, data_std: float = 1.0) -> Report:
    """Check a process against the laws of its class and return a readable report.

    Args:
        process: an object of kind `process`, registered or not.
        data_mean: mean of the data per dimension, for the mismatch of the prior.
        data_std: standard deviation of the data per dimension.

    Returns:
        A report; `bool(report)` is whether all laws hold, `print(report)` shows the numbers. If the process
        raises an error, the law fails, and the report quotes the error.

    Raises:
        TypeError: `process` is not a process, but for example a class or a name.
        ValueError: data_std is negative.
    """
    of_type(Process, 'build("process", "vp")', process=process)
    at_least(0, data_std=data_std)
    findings = _findings(process, FIRST)
    if not all(f.holds for f in findings):
        return Report(repr(process), in_order(findings), complete=False)
    findings += _findings(process, MODULES)
    facts = {}
    if isinstance(process, GaussianProcess) and not any(isnan(f.measured) for f in findings):
        facts = prior_mismatch(process, data_mean, data_std)
    return Report(repr(process), in_order(findings), facts)
