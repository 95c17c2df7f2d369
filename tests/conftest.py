"""What all tests share."""

import atexit
import os
import shutil
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile thousands of small programs and run each once: compile them quickly, not well. The old
# emitters halve that time; later versions have lost them, and refuse to start with a flag that is gone.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import jax
import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # the folders of whoever runs the tests are left alone
    HOME = tempfile.mkdtemp(prefix="demolish-tests-")
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"], os.environ["XDG_DATA_HOME"] = f"{HOME}/cache", f"{HOME}/share"

COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
MOST_BYTES = 2**30  # of compiled programs; whoever changes much for long starts anew
MOST_MAPS = 4_000  # at about half a megabyte of memory each; Linux allows a process 65,530


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="what is quick, one case of every test")


def pytest_configure(config):
    """Keep compiled programs from run to run, for all workers; the flags of the compiler are part of their keys.

    Whoever runs the fast tests runs them again: all programs are kept. Else those alone that are worth a file.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ and COMPILED.is_dir():
        size = sum(file.stat().st_size for file in COMPILED.iterdir())
        if size > MOST_BYTES:
            shutil.rmtree(COMPILED)
    jax.config.update("jax_compilation_cache_dir", str(COMPILED))
    least = 0.0 if config.getoption("--fast") else 0.3
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """With --fast leave what is neither slow nor starts programs, and of every test one of its cases.

    The name of a test says which: the same in every run, and over many tests every process and sampler.
    """
    if not config.getoption("--fast"):
        return
    cases = {}
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in ("slow", "programs")):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = {found[zlib.crc32(name.encode()) % len(found)] for name, found in cases.items()}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let a worker that is done take tests from another, unless the command line says how to share them."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


def memory_maps():
    """Return how many memory maps this process has; too many where nobody can know."""
    try:
        with open("/proc/self/maps") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return MOST_MAPS + 1


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Drop compiled programs after a file if there are many: thousands exhaust the memory maps of a process."""
    yield
    if memory_maps() > MOST_MAPS:
        jax.clear_caches()
