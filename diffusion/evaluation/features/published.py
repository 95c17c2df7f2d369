"""Published weights of other projects, from a file provided by the user.

The file is .safetensors with the names and shapes of the weights in PyTorch; `demolish convert_features`
makes it from the published .pth. The parameters of our networks are the same up to the order of axes:

    ours                                PyTorch
    kernel (height, width, in, out)     weight (out, in, height, width)
    kernel (in, out)                    weight (out, in)
    scale                               weight
    all others                          the same
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.data import DataSpec, data_root
from diffusion.evaluation import images
from diffusion.numerics import require
from diffusion.runtime.files import MissingFileError
from diffusion.runtime.tensors import read_header

SHOWN = 3  # names of each kind in a message
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network with published weights.

    Args:
        title: name for messages.
        module: a Flax module of one argument.
        size: size of the square input images.
        passed: last part of names that may be in a file and are not needed for inference.
    """

    title: str
    module: Any
    size: int
    passed: str

    @cached_property
    def abstract(self) -> Any:
        """Tree of the shapes of its parameters."""
        x = jax.ShapeDtypeStruct((1, self.size, self.size, 3), np.float32)
        return jax.eval_shape(self.module.init, jax.random.key(0), x)["params"]

    @cached_property
    def wanted(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its parameters in PyTorch, by their PyTorch names."""
        nothing = np.float32(0)
        return {
            published_name(k): to_published(k, np.broadcast_to(nothing, x.shape)).shape
            for k, x in paths_of(self.abstract).items()
        }


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights read from a file.

    Args:
        params: parameters for `module.apply`.
        digest: SHA-256 of names, shapes and values, independent of the layout of the file.
        source: metadata of the converted file: "source" and "source_sha256".
    """

    params: Any
    digest: str
    source: dict[str, str]


def published_name(path: str) -> str:
    """Return the PyTorch name of a parameter from its dotted path in the tree."""
    head, _, last = path.rpartition(".")
    return f"{head}.weight" if last in ("kernel", "scale") else path


def to_published(path: str, x: np.ndarray) -> np.ndarray:
    """Transpose a parameter to the axis order of PyTorch."""
    if not path.endswith(".kernel"):
        return x
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def from_published(path: str, x: np.ndarray) -> np.ndarray:
    """Undo `to_published`."""
    if not path.endswith(".kernel"):
        return x
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def paths_of(params: Any) -> dict[str, Any]:
    """Return the leaves of a tree of parameters by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def params_of(arrays: Mapping[str, np.ndarray], abstract: Any) -> Any:
    """Return published arrays as a tree of parameters with the structure of `abstract`."""
    leaves = [from_published(k, np.asarray(arrays[published_name(k)])) for k in paths_of(abstract)]
    return jax.tree.structure(abstract).unflatten(leaves)


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def disagreement(found: Shapes, wanted: Shapes, passed: str = "") -> str:
    """Return how arrays differ from the wanted ones, with counts and a few names; "" if they fit."""
    extra = [k for k in found if k not in wanted and not (passed and k.endswith(passed))]
    shapes = [
        f"{k} is {list(found[k])}, wanted {list(wanted[k])}"
        for k in wanted
        if k in found and tuple(found[k]) != tuple(wanted[k])
    ]
    kinds = {
        "missing": [k for k in wanted if k not in found],
        "left over": [k[:100] for k in extra],
        "of another shape": shapes,
    }
    wrong = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names]
    return f"of {len(wanted)} arrays {'; '.join(wrong)}" if wrong else ""


def find_weights(weights: str, data_dir: str | None, title: str) -> Path:
    """Return the path of a file of weights: `weights` itself, or in the subfolder `features` of the data folder.

    Raises:
        MissingFileError: there is no such file.
        ValueError: the file is not .safetensors.
    """
    shelf = data_root(data_dir) / "features"
    path = next((p for p in (Path(weights), shelf / weights) if p.is_file()), None)
    if path is None:
        raise MissingFileError(
            f"no weights of {title}: there is no file {weights!r}, neither here nor in {shelf}. They are not "
            "part of this package; docs/features.md says where they are published and how to convert them."
        )
    require(
        path.suffix == ".safetensors",
        f"weights must be .safetensors; `demolish convert_features {path.name} {path.stem}.safetensors` makes them.",
    )
    return path


def read_published(path: Path, architecture: Architecture) -> Published:
    """Read the parameters of a network from a file with their published names.

    Raises:
        ValueError: the file holds the arrays of another network, or numbers that are not finite float32.
    """
    from safetensors import safe_open

    a, header = architecture, read_header(path)
    wanted = a.wanted
    wrong = disagreement({k: shape for k, (shape, _) in header.items()}, wanted, a.passed)
    require(not wrong, f"{path} does not hold the weights of {a.title}: {wrong}.")
    types = {header[k][1] for k in wanted} - {"float32"}
    require(not types, f"{path}: weights of {a.title} are float32; these are {_listed(types)}.")
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in wanted}
        source = {k: v for k, v in (file.metadata() or {}).items() if k.startswith("source")}
    broken = [k for k, x in arrays.items() if not np.isfinite(x).all()]
    broken += [k for k, x in arrays.items() if k.endswith("running_var") and (x < 0).any()]
    require(not broken, f"{path}: {len(broken)} arrays are damaged ({_listed(broken)}).")
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    params = params_of(arrays, a.abstract)
    return Published(params=params, digest=digest.hexdigest(), source=source)


def check_images(spec: DataSpec, what: str) -> None:
    """Raise ValueError unless examples are gray or color images."""
    fits = spec.kind == "image" and len(spec.shape) == 3 and spec.shape[-1] in (1, 3)
    require(
        fits,
        f"features {what} are of images (height, width, 1 or 3); got {spec.kind} {tuple(spec.shape)}. Use pixels.",
    )


def color_levels(x: np.ndarray) -> np.ndarray:
    """Return images in [-1, 1] as 8-bit levels of three channels; gray is repeated."""
    levels = images.to_uint8(x)
    return np.repeat(levels, 3, axis=-1) if x.shape[-1] == 1 else levels
