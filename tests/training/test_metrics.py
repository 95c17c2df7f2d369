"""Writers: the file of JSON lines is the truth, also after a resume or a crash."""

import json
import random

import numpy as np
import pytest

from diffusion.evaluation.report import training_curves
from diffusion.training import Console, JsonLines, TensorBoard
from diffusion.training.metrics import read_jsonl


def write(path, steps, start=0):
    writer = JsonLines(path, start)
    for step in steps:
        writer.scalars(step, {"loss": np.float32(1 / step), "bad_steps": 0})
    writer.close()


def test_lines_are_numbers(tmp_path):
    write(tmp_path / "new" / "log.jsonl", [1, 2])
    assert read_jsonl(tmp_path / "new" / "log.jsonl") == [
        {"step": 1, "loss": 1.0, "bad_steps": 0.0},
        {"step": 2, "loss": 0.5, "bad_steps": 0.0},
    ]


def test_a_resumed_run_continues_where_it_was_restored(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, [10, 20, 30, 40])
    write(path, [30, 40, 50], start=20)
    assert [r["step"] for r in read_jsonl(path)] == [10, 20, 30, 40, 50]
    write(path, [10], start=0)  # from the beginning: an empty file
    assert [r["step"] for r in read_jsonl(path)] == [10]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, [10, 20])
    with path.open("a") as file:
        file.write('{"step": 30, "lo')
    assert [r["step"] for r in read_jsonl(path)] == [10, 20]
    write(path, [30], start=25)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]


@pytest.fixture
def log(tmp_path):
    """A log of sixty lines, and its content."""
    path, chance = tmp_path / "log.jsonl", random.Random(0)
    with JsonLines(path) as writer:
        for step in range(10, 610, 10):
            values = {"loss": chance.random(), "grad_norm": 1e-7 * step, "loss_log_snr/-2..0": 0.5}
            writer.scalars(step, values)
    return path, path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_costs_at_most_its_own_line(log, seed):
    path, content = log
    chance, lines = random.Random(seed), content.splitlines()
    ends = [i for i, byte in enumerate(content) if byte == 10]
    for number in range(150):
        place = chance.choice(ends) if number % 5 == 0 else chance.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        said = []
        found = read_jsonl(path, said.append)
        assert len(found) == (60 if place in ends else 60 - len(said))
        training_curves(found)  # whatever a changed name or number says, the page is drawn
        said.clear()
        JsonLines(path, 600, said.append).close()
        kept, aside = path.read_bytes().splitlines(), path.with_name("log.jsonl.damaged")
        harmed = content[:place].count(b"\n")
        assert all(line in kept for i, line in enumerate(lines) if i != harmed)
        assert place not in ends or kept == lines
        if said:
            assert said == [f"{path}: a damaged line is now in log.jsonl.damaged; the others stay"]
            (bad,) = aside.read_bytes().splitlines()
            assert bad in bytes(changed).splitlines()
            aside.unlink()
        again = []
        assert len(read_jsonl(path, again.append)) == len(kept)
        assert again == []
        assert not aside.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\0" * 300, b"[1]", b"7", b"{}", b'{"stfp": 10}', b'{"step": "10"}', b'{"step": 1.5}',
        b'{"step": true}', b'{"step": null}', b"[" * 10**5, b'{"step": ' + b"1" * 5000 + b"}",
        b'{"step": 10, "l\xf6ss": 1}', b'{"step": 10, "loss": }',
    ],
)  # fmt: skip
def test_a_line_that_is_none_does_no_harm(log, line):
    path, content = log
    head, tail = content[: len(content) // 2], content[len(content) // 2 :]
    cut = head.rfind(b"\n") + 1
    path.write_bytes(head[:cut] + line + b"\n" + head[cut:] + tail)
    said = []
    JsonLines(path, 300, said.append).close()
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:30])
    assert len(said) == 1
    assert path.with_name("log.jsonl.damaged").read_bytes() == line + b"\n"


def test_numbers_that_no_float_holds_do_not_stop_a_resume(log):
    path, content = log
    path.write_bytes(content.replace(b"e-06", b"e+999"))
    JsonLines(path, 600).close()
    assert len(read_jsonl(path)) == 60


def test_what_is_not_finite_is_null(tmp_path):
    writer = JsonLines(tmp_path / "log.jsonl")
    writer.scalars(1, {"loss": float("nan"), "grad_norm": float("inf")})
    writer.close()
    assert read_jsonl(tmp_path / "log.jsonl") == [{"step": 1, "loss": None, "grad_norm": None}]


def test_the_console_is_a_function():
    lines = []
    console = Console(lines.append)
    console.scalars(5, {"loss": 0.25, "other": 1.0})
    console.close()
    assert lines == ["step 5  loss 0.25"]


def test_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path, step=3)
    board.scalars(4, {"loss": 0.5, "nothing": float("nan")})
    board.close()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert b"loss" in content
    assert b"nothing" not in content
