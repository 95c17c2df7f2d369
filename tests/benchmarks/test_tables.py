"""Tables and pictures from records like those that are measured; nothing is measured here."""

from benchmarks import (
    compiling,
    convolutions,
    data,
    importing,
    memory,
    sampling,
    scaling,
    train,
)
from benchmarks.cases import case_of
from benchmarks.report import distribution

TINY = case_of("unet", "tiny")
VALUES = distribution([1.0, 2.0, 3.0])
FAILED = {"name": "bad", "values": [], "failed": "an error"}


def record(name, **more):
    return {"name": name, "values": [1.0], "seconds": VALUES, "first_seconds": 9.0, **more}


def test_training():
    row = record("ours", parameters=10**6, flops=1e9, flops_xla=2e9, mfu=0.5, images_per_second=2.0,
                 peak_rss=2**30, peak_device=None)  # fmt: skip
    limit = {"flops_per_second": 1e9, "whose": "JAX"}
    told = train.lines({"rows": [row, FAILED], "limit": limit}, TINY)
    assert any("ours" in line and " 50 " in line and "1024" in line for line in told)
    assert "bad: failed: an error" in told


def test_sampling():
    stream = [
        {"name": c.name, "seconds": {"median": s}}
        for c, s in zip(sampling.STREAM, (97, 100), strict=True)
    ]
    rows = [
        record("ours, ddim", microseconds_per_step=VALUES), FAILED,
        record("ours, U-Net", images_per_second=VALUES), *stream,
    ]  # fmt: skip
    told = sampling.lines({"rows": rows, "busy": sampling.busy(rows)}, TINY)
    assert told[-1] == "device busy: 97.0 %"
    assert any("ours, ddim" in line for line in told)
    assert "bad: failed: an error" in told


def test_data_sets():
    row = record("digits, made", batches_per_second=VALUES, share_of_step=0.1)
    told = data.lines({"rows": [row, FAILED]}, TINY)
    assert any("digits, made" in line and " 0.1 " in line for line in told)


def test_compiling():
    row = {"name": "unet, no cache", "values": []} | dict.fromkeys(compiling.PARTS, VALUES)
    empty = FAILED | {key: {} for key in compiling.PARTS}
    told = compiling.lines({"rows": [row, empty]}, TINY)
    assert sum("unet, no cache" in line for line in told) == 1
    assert "bad: failed: an error" in told


def test_imports():
    row = {
        "name": "import jax",
        "values": [],
        "cpu": VALUES,
        "wall": VALUES,
        "rss": VALUES,
        "beyond_jax": 0.0,
    }
    assert any("import jax" in line for line in importing.lines({"rows": [row]}))


def test_growth_and_its_picture(tmp_path):
    cases = scaling.cases_of(case_of("unet"), 2)
    assert set(cases) == set(scaling.EXPECTED)
    rows = [
        record("", quantity=quantity, value=value, flops=1e9) for quantity, of in cases.items() for value, _ in of
    ]  # fmt: skip
    law = {"seconds": 1.0, "flops": 1.0, "expected": "1"}
    found = {"rows": rows, "exponents": dict.fromkeys(cases, law)}
    told = scaling.lines(found, TINY)
    assert sum("batch" in line for line in told) == 3
    scaling.draw(found, str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_memory():
    told = dict(counted={"peak": 110.0}, compiled={"peak": 100.0})
    gflop = dict(counted=9.0, compiled=10.0)
    row = dict(name="unet", batch=4, mib_per_device=told, gflop_per_step_and_device=gflop)
    (line,) = (line for line in memory.lines({"rows": [row]}, TINY) if "batch 4" in line)
    assert " 1.1 " in line
    assert " 0.9 " in line


def test_convolutions():
    row = dict(side=8, channels=4, what="forward", seconds=VALUES, flops=4e9)
    rows = [row | {"way": "compiler"}, row | {"way": "patches", "seconds": distribution([6.0])}]
    told = convolutions.lines({"rows": rows}, TINY)
    assert any("patches" in line and " 3 " in line for line in told)
