"""The one table of exit codes: every code is documented once, and reached by a real program."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.config.sections import ConfigError
from diffusion.data import MissingDataError
from diffusion.evaluation.shards import ShardsError
from diffusion.runtime import distributed as processes
from diffusion.runtime import exits
from diffusion.runtime import exits as errors
from diffusion.runtime.files import MissingFileError, WriteError

ROOT = Path(__file__).parents[1]

ERRORS = [
    (ValueError("x"), exits.USAGE),
    (KeyError("x"), exits.USAGE),
    (TypeError("x"), exits.USAGE),
    (ConfigError("x"), exits.USAGE),
    (ShardsError("x"), exits.USAGE),
    (RuntimeError("x"), exits.ERROR),
    (ZeroDivisionError("x"), exits.ERROR),
    (errors.DivergedError(1, "x"), exits.DIVERGED),
    (errors.DamageError("size", "x"), exits.CHECKPOINT),
    (MissingDataError("x"), exits.DATA),
    (FileNotFoundError(2, "x", "f"), exits.FILES),
    (MissingFileError("x"), exits.FILES),
    (WriteError("f", OSError(28, "x")), exits.FILES),
    (errors.SaveError("x"), exits.FILES),
    (errors.LockedError("x"), exits.LOCKED),
    (KeyboardInterrupt(), exits.INTERRUPTED),
]


def test_the_table_and_the_numbers_are_the_same():
    numbers = {
        k: v
        for k, v in vars(exits).items()
        if k.isupper() and type(v) is int and k != "MOST_LETTERS"
    }
    assert sorted(numbers.values()) == sorted(exits.MEANING)
    for text in (exits.table(), exits.markdown()):
        assert len(text.splitlines()) >= len(exits.MEANING)
        assert all(meaning in text for meaning in exits.MEANING.values())
    here = {k: getattr(errors, k) for k in numbers if hasattr(errors, k)}
    assert here == {k: numbers[k] for k in here}


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda x: type(x).__name__)
def test_every_error_has_its_code(error, code):
    assert exits.code_of(error) == code
    assert exits.sentence(error)


def test_other_processes_of_a_job_leave_with_the_same_code(monkeypatch):
    """Also where the error of process 0 does not carry its code itself."""
    heard = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    broadcast = lambda found: heard.append(int(found)) or found
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", broadcast)
    for error, code in ERRORS[:-1]:  # an interrupt is no message to the others

        def work(raised=error):
            raise raised

        monkeypatch.setattr(jax, "process_index", lambda: 0)
        with pytest.raises(type(error)):
            processes.first_process(work)
        monkeypatch.setattr(
            processes.multihost_utils, "broadcast_one_to_all", lambda _: np.int32(heard[-1])
        )
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with pytest.raises(processes.FirstProcessError) as told:
            processes.first_process(work)
        assert told.value.exit_code == code
        monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", broadcast)


def test_a_message_is_one_line():
    """Of dozens of lines, such as a compiler's, the first; of an error of the system, file and reason."""
    with pytest.raises(TypeError) as raised:
        jax.jit(lambda x: np.cos(x))(jnp.ones(3))
    said = exits.sentence(raised.value)
    assert "\n" in str(raised.value)
    assert "\n" not in said
    assert "traced array" in said.lower()
    assert exits.one_line("a\n  b\n\nc") == "a b c"
    assert exits.one_line("\n".join("abcdef")) == "a"
    assert len(exits.one_line("word " * 10_000)) <= exits.MOST_LETTERS
    assert exits.one_line("cannot: [Errno 2] No such file") == "cannot: No such file"
    assert exits.sentence(FileNotFoundError(2, "No such file", "f")) == "f: No such file"
    assert exits.sentence(OSError(28, "No space left")) == "No space left"
    assert exits.sentence(RuntimeError()) == "RuntimeError"
    assert exits.sentence(KeyError("no x")) == "no x"


@pytest.mark.programs
@pytest.mark.slow
def test_every_code_is_reached_by_a_real_program(tmp_path):
    command = [sys.executable, "-m", "tests.exits_program", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    wrong = {k: v for k, v in found.items() if v["code"] != v["documented"]}
    assert wrong == {}
    assert {v["code"] for v in found.values()} == set(exits.MEANING)
    for name, case in found.items():
        assert "Traceback" not in case["text"], name
        lines = [line for line in case["text"].splitlines() if line.startswith("error: ")]
        if case["code"] in (exits.OK, exits.LAWS) or case["code"] > 128:
            assert lines == [], name
        else:
            assert len(lines) == 1, (name, case["text"])
            assert "None" not in lines[0], name
            assert len(lines[0]) <= exits.MOST_LETTERS + 40, name
    assert "says what its weights are" in found["weights without a card"]["text"]
    for name in (k for k in found if k.startswith("help")):
        text = " ".join(found[name]["text"].split())
        for code, meaning in exits.MEANING.items():
            assert f"{code} {meaning}" in text, (name, code)


@pytest.mark.programs
@pytest.mark.parametrize("words", [["scripts/check.py", "--list"], ["scripts/data.py", "list"]])
def test_an_output_that_takes_nothing_is_told(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    assert done.returncode == exits.FILES
    assert done.stderr.splitlines() == [
        "error: cannot write to standard output: No space left on device."
    ]
