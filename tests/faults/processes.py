"""Programs in forked processes: JAX is imported once, in a parent that never starts a backend.

A program that is started a hundred times would spend most of its time on imports; a fork has them
already. The child is the real command line otherwise: the script itself, its flags, its exit code.
"""

import contextlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import ROOT

FLAGS = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"


def warm_up() -> None:
    """Import what the programs import."""
    import orbax.checkpoint  # noqa: F401
    from jax._src import xla_bridge

    import diffusion.run.runner  # noqa: F401

    if xla_bridge._backends:
        raise RuntimeError("a backend was started: processes cannot be forked any more")


@dataclass
class Ended:
    """A process that has ended.

    Attributes:
        code: its exit code; negative: the signal that killed it.
        text: what it wrote, both streams.
        seconds: how long it ran after it was told to stop, or since its start.
    """

    code: int
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that it wrote."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Program:
    """A running program."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        largest_file: int = 0,
    ):
        """Start it, with both streams to a file; `largest_file` in bytes stands for a full disk."""
        self.log, self.started = log, time.monotonic()
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(argv, log, env or {}, largest_file)

    def send(self, number: int) -> None:
        """Send a signal; the clock starts anew."""
        self.started = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended_within(self, seconds: float) -> bool:
        """Wait this long, or until the program ends; say whether it has."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.002)
        return True

    def wait(self, seconds: float = 120.0) -> Ended:
        """Wait for the end; a process that takes longer is killed, and its code is -9."""
        if not self.ended_within(seconds):
            os.kill(self.pid, signal.SIGKILL)
            self.ended_within(60)
        code = os.waitstatus_to_exitcode(self.status or 0)
        text = self.log.read_text(errors="replace")
        return Ended(code, text, time.monotonic() - self.started)


def run(
    argv: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    largest_file: int = 0,
) -> Ended:
    """Run a program to its end."""
    return Program(argv, log, env, largest_file).wait()


def call(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of its own; it must be JSON.

    Raises:
        RuntimeError: it raised; the message is its traceback.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        try:
            answer = {"answer": function()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        with os.fdopen(send, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        answer = json.load(pipe)
    os.waitpid(pid, 0)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["answer"]


def _become(argv: Sequence[str], log: Path, env: Mapping[str, str], largest_file: int) -> None:
    """Turn this process into a program; never returns."""
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        if largest_file:  # the limit is not for what the program says
            handle = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=handle).stdin.fileno()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(env)
        time.tzset()
        if largest_file:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        os.chdir(ROOT)
        sys.argv = list(argv)
        sys.path.insert(0, str(ROOT / "scripts"))
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)
