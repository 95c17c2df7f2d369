"""Writers: the file of JSON lines is the truth, also after a resume or a crash."""

import json

import numpy as np
import pytest

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


def test_what_is_not_finite_is_null(tmp_path):
    writer = JsonLines(tmp_path / "log.jsonl")
    writer.scalars(1, {"loss": float("nan"), "grad_norm": float("inf")})
    writer.images(1, {"samples": np.zeros((2, 2, 3), np.uint8)})
    writer.close()
    assert read_jsonl(tmp_path / "log.jsonl") == [{"step": 1, "loss": None, "grad_norm": None}]


def test_the_console_is_a_function():
    lines = []
    console = Console(lines.append)
    console.scalars(5, {"loss": 0.25, "other": 1.0})
    console.images(5, {"samples": np.zeros((2, 2, 3), np.uint8)})
    console.close()
    assert lines == ["step 5  loss 0.25", "step 5  pictures: samples"]


def test_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path, step=3)
    board.scalars(4, {"loss": 0.5, "nothing": float("nan")})
    board.images(4, {"samples": np.zeros((8, 8, 3), np.uint8)})
    board.close()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert b"loss" in content
    assert b"samples" in content
    assert b"nothing" not in content
