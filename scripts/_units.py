"""The units of diffusion/, the layer of each, and what a file imports: for the test of the layers and the diagram."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffusion"

# Entry at the top of the package -> layer; a file may import lower layers, and its own unit.
LAYERS = {
    "types": 0, "registry": 0,
    "numerics": 1,
    "runtime": 2,
    "processes": 3,
    "models": 4, "guidance": 4, "likelihood": 4,
    "samplers": 5,
    "objectives": 6, "inverse_problems": 6, "editing": 6,
    "classifiers": 7, "testing": 7,
    "networks": 8, "data": 8,
    "training": 9,
    "checkpoints": 10, "evaluation": 10,
    "config": 11, "drawing": 11,
    "run": 12,
    "cli": 13,
    "__init__": 14, "__main__": 14,
}  # fmt: skip

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("diffusion", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): p
    for p in FILES
}


def unit_of(path: Path) -> str:
    """Return the unit that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Return the modules that a file imports, also inside functions; of `from package import module` the module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                names.add(deeper if deeper in MODULES else node.module)
    return names
