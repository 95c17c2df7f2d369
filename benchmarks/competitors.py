"""Competitors of the benchmarks: names, modules, required packages, and interpreters that have these."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Competitor:
    """One row of a table.

    Attributes:
        name: name in the table.
        module: module of benchmarks.peers.
        needs: import names of the modules that have to be installed.
        variant: variant of the computation.
        families: supported families of networks.
        one_device: whether it runs on one virtual device only.
        asked: whether it takes part only if it is named on the command line.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    variant: str = ""
    families: tuple[str, ...] = ("unet",)
    one_device: bool = True
    asked: bool = False


OURS = ("diffusion", "jax", "flax", "optax")
FLAX = ("jax", "flax", "optax")
BOTH = ("unet", "dit")

TRAIN = (
    Competitor("ours", "ours", OURS, families=BOTH, one_device=False),
    Competitor("ours, one device", "ours", OURS, families=BOTH),
    Competitor("ours, with the data", "ours", OURS, "pipeline", BOTH, one_device=False),
    Competitor(
        "ours, four steps per dispatch", "ours", OURS, "many", BOTH, one_device=False, asked=True
    ),
    Competitor("ours, on patches of 2x2", "ours", OURS, "patches", one_device=False, asked=True),
    Competitor("plain Flax", "plain_flax", FLAX, families=BOTH),
    Competitor("plain PyTorch", "plain_torch", ("torch",), families=BOTH),
    Competitor("plain PyTorch, compiled", "plain_torch", ("torch",), "compile", BOTH),
    Competitor("plain PyTorch, compiled, channels last", "plain_torch", ("torch",), "compile+channels_last"),
    Competitor("diffusers", "diffusers", ("torch", "diffusers")),
    Competitor("diffusers, channels last", "diffusers", ("torch", "diffusers"), "channels_last"),
    Competitor("diffusers, compiled", "diffusers", ("torch", "diffusers"), "compile"),
    Competitor(
        "denoising-diffusion-pytorch", "denoising_diffusion_pytorch",
        ("torch", "denoising_diffusion_pytorch"),
    ),
    Competitor(
        "denoising-diffusion-pytorch, compiled", "denoising_diffusion_pytorch",
        ("torch", "denoising_diffusion_pytorch"), "compile",
    ),
    Competitor("azula", "azula", ("torch", "azula")),
    Competitor("azula, compiled", "azula", ("torch", "azula"), "compile"),
    Competitor("k-diffusion", "k_diffusion", ("torch", "k_diffusion")),
    Competitor("plain Flax, dewml's JAX", "plain_flax", (*FLAX, "dew"), families=BOTH),
    Competitor("dewml", "dewml", ("dew", "jax", "flax", "optax")),
    Competitor("hackable_diffusion", "hackable_diffusion", ("hackable_diffusion", "jax", "flax", "optax")),
)  # fmt: skip

TORCH_SAMPLERS = {
    "k-diffusion": ("k_diffusion", ("euler", "heun", "euler_ancestral", "dpmpp_2m")),
    "diffusers": ("diffusers", ("DDIM", "DDPM")),
    "azula": ("azula", ("DDIM", "Euler", "Heun")),
}

OUR_SAMPLERS = ("ddim", "euler", "heun", "ancestral", "dpm_solver_pp_2m")
HACKABLE = ("hackable_diffusion", "jax", "flax", "optax")
DEW = ("dew", "jax", "flax", "optax")

OVERHEAD = (
    *(Competitor(f"ours, {name}", "ours", OURS, name) for name in OUR_SAMPLERS),
    Competitor("ours, ddim, inside jax.jit", "ours", OURS, "ddim:jit"),
    *(Competitor(f"{library}, {name}", "torch_samplers", ("torch", module), f"{library}:{name}")
      for library, (module, names) in TORCH_SAMPLERS.items() for name in names),
    *(Competitor(f"dewml, {name}, inside jax.jit", "dewml", DEW, name)
      for name in ("DDIM", "Euler", "Heun", "EulerAncestral", "UniPC")),
    Competitor("dewml, DDIM", "dewml", DEW, "DDIM:eager"),
    *(Competitor(f"hackable_diffusion, {name}, inside jax.jit", "hackable_diffusion", HACKABLE, name)
      for name in ("DDIM", "SDE")),
    Competitor("hackable_diffusion, DDIM", "hackable_diffusion", HACKABLE, "DDIM:eager"),
)  # fmt: skip

DRAW = (
    Competitor("ours, U-Net", "ours", OURS, one_device=False),
    Competitor("ours, U-Net, one device", "ours", OURS),
    Competitor("plain Flax, U-Net", "plain_flax", FLAX),
    Competitor("diffusers, U-Net", "diffusers", ("torch", "diffusers")),
    Competitor("diffusers, U-Net, compiled", "diffusers", ("torch", "diffusers"), "compile"),
)

STREAM = (
    Competitor("ours, one block", "ours", OURS, "one", one_device=False),
    Competitor("ours, a stream of blocks", "ours", OURS, "many", one_device=False),
)

_PROBE = """
import importlib.util, json, sys
print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n) is not None]))
"""


def installed(python: str, names: Sequence[str]) -> set[str]:
    """Return the modules among `names` that an interpreter finds; nothing is imported.

    Raises:
        ValueError: there is no such interpreter.
    """
    try:
        told = subprocess.run(
            [python, "-c", _PROBE, *names], capture_output=True, text=True, timeout=60
        )
        return set(json.loads(told.stdout))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--peer_python {python} cannot be run: {error}") from None


@dataclass(frozen=True)
class Interpreters:
    """The interpreter of this process and those of the peers, with the modules that each finds."""

    found: dict[str, set[str]]

    @classmethod
    def of(cls, pythons: Sequence[str], competitors: Sequence[Competitor]) -> "Interpreters":
        """Look for the modules of all competitors."""
        names = sorted({name for c in competitors for name in c.needs})
        return cls({python: installed(python, names) for python in (sys.executable, *pythons)})

    def of_competitor(self, competitor: Competitor) -> str | None:
        """Return the first interpreter that has all modules that a competitor needs."""
        needs = set(competitor.needs)
        return next((p for p, names in self.found.items() if needs <= names), None)

    def missing(self, competitor: Competitor) -> dict[str, Any]:
        """Return the record of a competitor that no interpreter can run."""
        absent = [
            n for n in competitor.needs if not any(n in names for names in self.found.values())
        ]
        what = f" ({', '.join(absent)})" if absent else ""
        return {"name": competitor.name, "missing": f"not installed{what} in any interpreter"}


def chosen(competitors: Sequence[Competitor], only: Sequence[str]) -> list[Competitor]:
    """Return the competitors whose names begin with one of these words.

    Without words, these are all competitors except those that must be named explicitly.

    Raises:
        ValueError: a word matches no name.
    """
    names = [c.name for c in competitors]
    wanted: set[str] = set()
    for word in only:
        fits = {word} if word in names else {n for n in names if n.startswith(word)}
        if not fits:
            raise ValueError(
                f"--only {word!r} fits nobody; there are {', '.join(map(repr, names))}."
            )
        wanted |= fits
    return [c for c in competitors if c.name in wanted or not (only or c.asked)]
