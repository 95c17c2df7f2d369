"""Provenance of results: command, versions, device, commit."""

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

# Packages that results depend on.
PACKAGES = ("demolish", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "numpy")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def provenance(command: list[str] | None = None) -> dict[str, Any]:
    """Return the provenance of results: command, versions, device, commit."""
    import jax

    return {
        "command": command if command is not None else sys.argv,
        "python": platform.python_version(),
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Return the commit of the checkout that contains this package, with "+" if files were changed."""
    package = Path(__file__).parent.parent
    git = lambda *words: subprocess.run(
        ["git", "-C", str(package), *words], capture_output=True, text=True, timeout=10, check=False
    ).stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel") or "/") != package.parent:
            return "unknown"  # the package is installed inside another repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
