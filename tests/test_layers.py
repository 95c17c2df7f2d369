"""Imports point one way: each unit imports lower units only, and no file is part of a cycle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from _units import FILES, LAYERS, MODULES, PACKAGE, ROOT, imports, unit_of

CORE = 7  # the mathematics: up to here JAX, NumPy and SciPy's spline are all there is

PURE = {"jax", "numpy", "jaxtyping", "diffusion"}
LAZY = {  # inside a function, so that importing stays cheap
    "processes/chain.py": {"scipy"},
    "samplers/adaptive.py": {"diffrax"},
    "samplers/adaptive_sde.py": {"diffrax", "lineax"},  # lineax comes with diffrax
    "likelihood/adaptive.py": {"diffrax"},
    "objectives/coupling.py": {"scipy"},
    "runtime/tensors.py": {"ml_dtypes", "safetensors"},
    "runtime/progress.py": {"rich"},
}
HEAVY = {
    "diffrax", "grain", "matplotlib", "orbax", "PIL", "rich", "safetensors", "scipy", "sklearn", "tensorboardX",
    "tensorflow", "tensorflow_datasets",
}  # fmt: skip

TREES = {path: ast.parse(path.read_text()) for path in FILES}


def top_level(tree: ast.Module) -> ast.Module:
    """The file without the bodies of its functions."""
    body = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return ast.Module(body, [])


def heads(names: set[str]) -> set[str]:
    return {n.split(".")[0] for n in names} - set(sys.stdlib_module_names)


def test_every_unit_has_a_layer():
    assert {unit_of(path) for path in FILES} <= LAYERS.keys(), (
        "give it a layer in scripts/_units.py and docs/architecture.md"
    )


def test_imports_point_down():
    wrong = []
    for path in FILES:
        unit = unit_of(path)
        if unit == "__init__":
            continue
        for name in imports(TREES[path]):
            head, *rest = name.split(".")
            if head != "diffusion":
                continue
            target = rest[0] if rest else "__init__"
            if target != unit and LAYERS.get(target, 99) >= LAYERS[unit]:
                wrong.append(
                    f"{path.relative_to(ROOT)} (layer {LAYERS[unit]}) imports {name} (layer {LAYERS.get(target)})"
                )
    assert not wrong, wrong


def test_no_file_is_part_of_a_circle():
    edges = {
        module: {n for n in imports(TREES[path]) if n in MODULES and n != module}
        for module, path in MODULES.items()
        if module != "diffusion"
    }
    while True:  # take away what needs nothing that is left, and what nothing that is left needs
        needed = set().union(*edges.values())
        kept = {m: needs & edges.keys() for m, needs in edges.items() if needs & edges.keys()}
        kept = {m: needs for m, needs in kept.items() if m in needed}
        if kept == edges:
            break
        edges = kept
    assert not edges, edges


def test_the_core_is_pure():
    """The mathematics uses JAX and NumPy; heavy libraries are imported only where they are used."""
    wrong = []
    for path in FILES:
        name, tree = str(path.relative_to(PACKAGE)), TREES[path]
        if eager := heads(imports(top_level(tree))) & HEAVY:
            wrong.append(f"{name} imports {eager}: import it inside the function that needs it")
        allowed = PURE | LAZY.get(name, set())
        if LAYERS[unit_of(path)] <= CORE and (other := heads(imports(tree)) - allowed):
            wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


def test_networks_know_arrays_alone():
    wrong = []
    for path in FILES:
        if unit_of(path) == "networks":
            names = imports(TREES[path])
            own = {n.split(".")[1] for n in names if n.startswith("diffusion.")}
            if not own <= {"types", "registry", "numerics", "networks"}:
                wrong.append((path.name, own))
            if not heads(names) <= PURE | {"flax", "einops"}:
                wrong.append((path.name, heads(names)))
    assert not wrong, wrong


def test_evaluation_is_free_of_training():
    measured = [path for path in FILES if unit_of(path) in ("evaluation", "drawing")]
    assert not [
        p.name
        for p in measured
        if any(n.startswith("diffusion.training") for n in imports(TREES[p]))
    ]


def test_configs_import_ml_collections_only():
    for path in (ROOT / "configs").glob("*.py"):
        assert heads(imports(ast.parse(path.read_text()))) <= {"ml_collections", "configs"}, path


def test_files_stay_readable():
    long = {
        str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 350
    }
    assert not long, f"these have grown, divide them: {long}"


def test_nothing_unpickles_or_evaluates():
    """Nothing that the package loads can run code; the laws pickle an object of their own."""
    for path in FILES:
        if path.name != "laws.py":
            assert not imports(TREES[path]) & {"pickle", "cloudpickle", "marshal", "shelve"}, path
        calls = {
            n.func.id
            for n in ast.walk(TREES[path])
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path


@pytest.mark.programs
def test_importing_computes_nothing():
    """A pod is joined after the import, and JAX refuses to join once anything has been computed."""
    code = (
        "import pkgutil, importlib, sys, diffusion\n"
        "assert 'jax' not in sys.modules  # the name alone costs nothing\n"
        "skipped = ('diffusion.__main__',)\n"
        "for m in pkgutil.walk_packages(diffusion.__path__, 'diffusion.'):\n"
        "    if m.name not in skipped: importlib.import_module(m.name)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_face_is_what_it_says():
    import diffusion

    assert set(diffusion.__all__) == set(diffusion._HOMES)
    for name in diffusion.__all__:
        assert getattr(diffusion, name) is not None
    assert set(diffusion.__all__) <= set(dir(diffusion))
