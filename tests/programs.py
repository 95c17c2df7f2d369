"""The programs for tests: in this process, where their work is tested, or in one of their own, where the process is."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax

from diffusion import cli

ROOT = Path(__file__).parents[1]
CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def environment_of(data_dir=None, **changes):
    """Return the environment of a program."""
    data = {} if data_dir is None else {"DEMOLISH_DATA": str(data_dir)}
    return dict(os.environ, JAX_PLATFORMS="cpu") | data | changes


def name_of(name):
    """Return the command of a program that is named by its file."""
    return name.removesuffix(".py")


def run(*words, cwd=ROOT, data_dir=None, **changes):
    """Run a program in this process, the first word; return (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with _as_found(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(cwd)
        os.environ.update(environment_of(data_dir, **changes))
        code = cli.main(
            [name_of(str(word)) if i == 0 else str(word) for i, word in enumerate(words)]
        )
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _as_found():
    """Leave the folder, the environment, the warnings, the modules and JAX's cache as they were found."""
    here, environment, path = os.getcwd(), dict(os.environ), list(sys.path)
    modules, cache = set(sys.modules), {name: getattr(jax.config, name) for name in CACHE}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for name, value in cache.items():
            jax.config.update(name, value)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if "site-packages" not in file and not file.startswith((str(ROOT), sys.base_prefix)):
                del sys.modules[name]  # a module that a test has written


def start(name, *words, cwd=ROOT, data_dir=None, **changes):
    """Run a program in a process of its own; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name_of(name)}.py"), *map(str, words)],
        capture_output=True, text=True, timeout=600, cwd=cwd, env=environment_of(data_dir, **changes),
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def error_of(*words, by=run, **options):
    """Run a program that must fail; return its exit code and the one line that it says."""
    code, _, err = by(*words, **options)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return code, lines[0]
