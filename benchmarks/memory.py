"""Memory and operations of a training step: counted as by `--dry_run`, and reported by the compiler."""

from typing import Any

from benchmarks.cases import Case
from benchmarks.report import progress, table

HEAD = ("case", "counted, MiB", "compiled, MiB", "ratio", "counted, GFLOP", "compiled, GFLOP", "ratio")  # fmt: skip


def run(case: Case) -> dict[str, Any]:
    """Count and compile a case, and the case with a quarter of the batch."""
    from benchmarks.peers.ours import experiment_of
    from diffusion.run.dry_run import dry_run

    rows = []
    for batch in (case.batch, max(case.batch // 4, 1)):
        progress(f"{case.name}, batch {batch}")
        experiment = experiment_of(case.replaced(batch=batch))
        rows.append({"name": case.name, "batch": batch, **dry_run(experiment)})
    return {"rows": rows}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table."""
    rows = []
    for r in found["rows"]:
        bytes_, flops = (
            [r[key][how] for how in ("counted", "compiled")]
            for key in ("mib_per_device", "gflop_per_step_and_device")
        )
        peaks = [told["peak"] for told in bytes_]
        rows.append((f"{r['name']}, batch {r['batch']}", *peaks, peaks[0] / peaks[1],
                     *flops, flops[0] / flops[1]))  # fmt: skip
    return [f"{case.name}, {case.shape}, {case.dtype}", *table(HEAD, rows)]
