"""Memory and operations of a training step: counted by `--dry_run`'s rules, beside what the compiler reports."""

from typing import Any

from benchmarks.cases import Case
from benchmarks.report import progress, table

HEAD = ("case", "counted, MiB", "compiled, MiB", "ratio", "counted, GFLOP", "compiled, GFLOP", "ratio")  # fmt: skip


def run(cases: list[Case]) -> dict[str, Any]:
    """Count and compile every case on one device."""
    from benchmarks.peers.ours import experiment_of
    from diffusion.dry_run import dry_run

    rows = []
    for case in cases:
        progress(f"{case.name}, batch {case.batch}")
        rows.append({"name": case.name, "batch": case.batch, **dry_run(experiment_of(case))})
    return {"rows": rows}


def lines(found: dict[str, Any]) -> list[str]:
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
    return table(HEAD, rows)
