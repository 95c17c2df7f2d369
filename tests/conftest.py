"""What all tests share."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

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


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Drop compiled programs after each file: thousands of them exhaust the memory maps of a process."""
    yield
    jax.clear_caches()
