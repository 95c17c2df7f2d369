"""Imports point one way: each layer knows only the layers below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion"

LAYERS = {  # module or folder -> layer; a file may import lower layers, and its own folder
    "types": 0, "registry": 0, "accounting": 0, "tracing": 0, "programs": 0, "exits": 0, "numerics": 0.1,
    "provenance": 0.1, "contents": 0.1, "files": 0.1, "typed": 0.1, "shapes": 0.2, "networks": 0.5,
    "processes": 1, "operators": 1, "prediction": 2, "time_grids": 2, "time_sampling": 2, "weighting": 2,
    "dynamics": 2, "guidance": 2, "exact_field": 2, "variance": 2, "classifier_losses": 2, "denoiser": 3,
    "samplers": 3, "losses": 3, "likelihood": 3, "classification": 3.1, "posterior": 3.5, "editing": 3.5,
    "testing": 4, "user_folders": 4.9, "options": 4.9, "foreign": 4.9, "identity": 4.91,
    "foreign_arrays": 4.95, "coupling": 5, "data": 5, "training": 5, "compilation": 5, "config": 5,
    "evaluation": 5.5, "trust": 5.8, "compatibility": 5.9, "conditions": 5.9, "notes": 5.92, "assembly": 5.95,
    "recording": 5.95, "experiment": 6, "trained_classifier": 6.05, "vetting": 6.05, "variance_file": 6.05,
    "workdir": 6.1, "earlier": 6.12, "grids": 6.15, "trend": 6.15, "incidents": 6.15, "export": 6.15,
    "lap": 6.18, "dry_run": 6.2, "runner": 6.2, "kinds": 6.9, "__init__": 7,
}  # fmt: skip

PURE = {"jax", "numpy", "jaxtyping", "diffusion"}  # all that layers 0 to 4 may use ...
LAZY = {  # ... except these, inside a function, so that importing stays cheap
    "processes/chain.py": {"scipy"},
    "samplers/adaptive.py": {"diffrax"},
    "samplers/adaptive_sde.py": {"diffrax", "lineax"},  # lineax comes with diffrax
    "likelihood/adaptive.py": {"diffrax"},
}
ALLOWED = {
    "networks": PURE | {"flax", "einops"},
    "experiment": PURE | {"ml_collections", "optax"},
}
HEAVY = {
    "diffrax", "grain", "matplotlib", "orbax", "PIL", "rich", "safetensors", "scipy", "sklearn", "tensorboardX",
    "tensorflow", "tensorflow_datasets",
}  # fmt: skip


def imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules if node.module == "diffusion" else {node.module}
    return names


def top_level(tree: ast.Module) -> ast.Module:
    """The file without the bodies of its functions."""
    body = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return ast.Module(body, [])


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    unit = unit_of(path)
    assert unit in LAYERS, f"give {unit} a layer in this test and in docs/architecture.md"
    tree = ast.parse(path.read_text())
    for name in imports(tree):
        head, *rest = name.split(".")
        if head != "diffusion":
            continue
        target = rest[0] if rest else "__init__"
        if target not in LAYERS:  # a public name of the package itself
            target = "__init__"
        ok = target == unit or LAYERS[target] < LAYERS[unit]
        ok = ok and not (target == "networks" and LAYERS[unit] < 5 and unit != "networks")
        assert ok, f"{path.name} (layer {LAYERS[unit]}) imports {name} (layer {LAYERS[target]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_is_pure(path):
    """Layers 0 to 4 use JAX and NumPy; heavy libraries are imported only where they are used."""
    unit, tree = unit_of(path), ast.parse(path.read_text())
    heads = lambda names: {n.split(".")[0] for n in names} - set(sys.stdlib_module_names)
    assert not heads(imports(top_level(tree))) & HEAVY, (
        "import it inside the function that needs it"
    )
    if LAYERS.get(unit, 9) <= 4:
        allowed = ALLOWED.get(unit, PURE) | LAZY.get(str(path.relative_to(PACKAGE)), set())
        assert heads(imports(tree)) <= allowed


def test_configs_import_ml_collections_only():
    for path in (ROOT / "configs").glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {n.split(".")[0] for n in imports(tree)} - set(sys.stdlib_module_names)
        assert names <= {"ml_collections", "configs"}, path


def test_files_stay_readable():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 350, f"{path} has grown: divide it"


def test_nothing_unpickles_or_evaluates():
    """Nothing that the package loads can run code; the laws pickle an object of their own."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        if path.name != "laws.py":
            assert not imports(tree) & {"pickle", "cloudpickle", "marshal", "shelve"}, path
        calls = {
            n.func.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path


def test_importing_computes_nothing():
    """A pod is joined after the import, and JAX refuses to join once anything has been computed."""
    code = (
        "import pkgutil, importlib, diffusion\n"
        "for m in pkgutil.walk_packages(diffusion.__path__, 'diffusion.'): importlib.import_module(m.name)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
