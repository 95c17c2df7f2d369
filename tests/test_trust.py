"""Whose code runs: names in stored configs, the current folder, the folders that are believed."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest

from diffusion import build
from diffusion.config.sections import ConfigError
from diffusion.registry import KINDS, lookup, registry
from diffusion.registry.kinds import CLASSES
from diffusion.registry.names import load, place_of
from diffusion.run.trust import code_in, refuse_code, remember_code
from diffusion.run.workdir import Workdir, open_classifier, open_run
from diffusion.runtime import compilation
from diffusion.runtime.user_folders import user_folder

CONFIG = {
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 8},
    "train": {"num_steps": 5},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("XDG_DATA_HOME")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder, which the search path does not name."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(path))])
    return path


def module(folder: Path, name: str, text: str = "") -> Path:
    """Write a module that leaves a mark when it is imported."""
    file = folder / f"{name}.py"
    file.write_text(
        f"from pathlib import Path\nPath({str(folder / 'canary')!r}).touch()\n"
        "from diffusion.samplers import DDIM\nfrom diffusion.networks import FlaxNetwork, MLP\n"
        + text
    )
    return file


# ---- kinds --------------------------------------------------------------------------------------


def test_every_registered_name_makes_objects_of_its_kind():
    assert set(CLASSES) == set(KINDS)
    for kind in KINDS:
        for name in registry.registered(kind):
            assert registry._makes(kind, lookup(kind, name)), (kind, name)


@pytest.mark.programs
@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_no_part_of_a_model_is_no_object_of_a_kind(kind):
    for made in (subprocess.Popen, tempfile.TemporaryDirectory, dict, str, Path):
        assert not registry.is_of(kind, made)


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "os:mkdir", "subprocess:run", "subprocess:Popen", "shutil:rmtree", "builtins:exec",
        "pathlib:Path", "numpy:save", "numpy:memmap", "absl.app:run", "jax.numpy:save", "jax:jit",
        "diffusion.run.export:import_run", "diffusion.run.runner:run", "diffusion.processes:VariancePreserving",
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_refused_before_it_is_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("sampler", "dataset", "network", "guidance"):
        with pytest.raises((KeyError, TypeError), match=r"makes no|Python's own library"):
            build(
                kind, {"name": name, "command": "touch canary", "path": "canary", "file": "canary"}
            )
    assert list(tmp_path.iterdir()) == []


def test_makers_of_ones_own_are_taken(here):
    module(here, "mine", (
        "class Mine(DDIM): pass\n"
        "class Duck:\n    def init(self): pass\n    def apply(self): pass\n"
        "def layers(width: int = 8): return FlaxNetwork(MLP(width=width))\n"
        "def said(width: int = 8) -> FlaxNetwork: return layers(width)\n"
        "def wrong(): return 7\n"
        "def other() -> int: return open('called', 'w') and 7\n"
    ))  # fmt: skip
    assert type(build("sampler", "mine:Mine")).__name__ == "Mine"
    assert type(build("network", "mine:Duck")).__name__ == "Duck"
    assert build("network", dict(name="mine:layers", width=6)) == build(
        "network", "mine:said", width=6
    )
    for name in ("mine:wrong", "mine:other", "mine:Duck"):
        with pytest.raises(TypeError, match="makes no sampler"):
            build("sampler", name)
    assert not (here / "called").exists()


# ---- the current folder -------------------------------------------------------------------------


def test_the_current_folder_is_searched_last_and_only_for_such_names(here, tmp_path):
    module(here, "optax")
    module(here, "a_name")
    (tmp_path / "elsewhere" / "a_name").mkdir(
        parents=True
    )  # a folder is a package too, the last of all
    sys.path.append(str(tmp_path / "elsewhere"))
    before = list(sys.path)
    with pytest.raises(TypeError, match="makes no sampler"):
        lookup("sampler", "optax:adam")  # the installed one
    with pytest.raises(KeyError, match="No module"):
        load("no_such_module:x")
    assert not (here / "canary").exists()
    assert place_of("optax:adam") != str(here / "optax.py")
    assert place_of("a_name:x") == str(here / "a_name.py")
    module(
        here, "mine_here", "import helper_here, optax\nclass Mine(DDIM): pass\nadam = optax.adam\n"
    )
    (here / "helper_here.py").write_text("")
    assert lookup("sampler", "mine_here:Mine")
    assert load("mine_here:adam").__module__.startswith("optax")
    assert sys.path == before
    with pytest.raises(ModuleNotFoundError):
        import helper_too  # noqa: F401  # pyright: ignore[reportMissingImports]


def test_what_a_module_adds_to_the_search_path_stays(here, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    module(
        here, "adding", "import sys\nsys.path.append('/from/a/module')\nclass Mine(DDIM): pass\n"
    )
    lookup("sampler", "adding:Mine")
    assert "/from/a/module" in sys.path
    assert str(here) not in sys.path


def test_a_current_folder_that_is_gone_does_no_harm(here):
    here.rmdir()
    assert load("diffusion.samplers:DDIM")
    with pytest.raises(KeyError, match="No module"):
        load("no_such_module_xyz:Thing")


# ---- stored configs -----------------------------------------------------------------------------


def test_names_of_code_are_found_at_any_depth():
    config = {
        "process": {"name": "linear_sde", "drift_fn": "a:drift"},
        "sampler": {"name": "churn", "inner": {"name": "b.c:S"}},
        "guidance": [
            {"name": "interval", "inner": {"name": "similarity", "measure": "d:m"}},
            "e:G",
        ],
        "evaluate": {
            "metrics": ["frechet[f:F,size=3]", {"name": "kid", "features": "g-h:F"}, "i:M"]
        },
        "data": {
            "name": "folder",
            "path": "/data/a:b",
            "data_dir": "gs://bucket/x",
            "note": "12:30",
        },
        "weight": "j:W",
    }
    assert code_in(config) == [
        "a:drift", "b.c:S", "d:m", "e:G", "f:F", "g-h:F", "i:M", "j:W",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "metric",
    [
        "frechet[mod:D]",
        " frechet [ mod:D , size=3 ] ",
        "mod:D",
        "mod:D[pixels]",
        "frechet[classifier,dataset=mod:D]",
        "frechet[classifier,dataset='mod:D']",
        r"frechet[classifier,dataset='m\x6fd\x3aD']",
        "frechet[classifier,dataset='mod' ':D']",
        "frechet[classifier,dataset='mod:' 'D']",
        "frechet[classifier,dataset={'name': 'mo' 'd:D'}]",
        "frechet[classifier,frechet.features='mod:' 'D']",
    ],
)
def test_no_spelling_of_a_metric_hides_a_name(metric):
    assert "mod:D" in code_in({"evaluate": {"metrics": [metric]}})


HOSTILE = {
    "a sampler": {"sampler": {"name": "os:system", "command": "touch canary"}},
    "a short name": {"sampler": "stranger:S"},
    "a list": {"guidance": ["stranger:G"]},
    "inside another": {"sampler": {"name": "churn", "inner": {"name": "stranger:S"}}},
    "a function": {"process": {"name": "linear_sde", "drift_fn": "stranger:f"}},
    "a metric": {"evaluate": {"metrics": ["frechet[stranger:F]"]}},
    "the data": {"data": {"name": "stranger:D"}},
    "the network": {"network": {"name": "stranger:N"}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_work_directory_that_names_code_is_refused(change, here, home):
    """In the folder itself, where the module of the stranger lies too."""
    module(here, "stranger")
    workdir = Workdir.of(here)
    workdir.write("config.json", CONFIG | change)
    workdir.write("data.json", {"shape": [2], "kind": "points"})
    with pytest.raises(ConfigError, match=r"names code.*--allow_code"):
        open_run(workdir, workdir.read_config())
    workdir.write("config.json", CONFIG | change | {"task": "classifier"})
    with pytest.raises(ConfigError, match=r"names code.*--allow_code"):
        open_classifier(here)
    assert not (here / "canary").exists()


def test_what_the_user_puts_in_the_place_of_a_name_counts(here, home):
    stored = CONFIG | {"sampler": {"name": "stranger:S"}}
    refuse_code(stored, "x", used=CONFIG | {"sampler": {"name": "ddim"}})
    refuse_code(stored, "x", used=CONFIG | {"sampler": {"name": "mine:S"}})  # typed, not stored
    with pytest.raises(ConfigError, match="stranger:S"):
        refuse_code(stored, "x", used=CONFIG | {"sampler": {"name": "stranger:S", "more": 1}})


def test_ones_own_training_is_remembered(here, home):
    module(here, "own_module")
    config = CONFIG | {"sampler": {"name": "own_module:S"}, "grid": {"rho": float("nan")}}
    said = []
    remember_code(config, said.append)
    assert said == []
    stored = json.loads(json.dumps(config))
    refuse_code(stored, "x")
    with pytest.raises(ConfigError, match="names code"):
        refuse_code(stored | {"seed": 1}, "x")
    with pytest.raises(ConfigError, match="names code"):
        refuse_code(stored | {"time": "own_module:T"}, "x")
    assert not (here / "canary").exists()
    folder = home / ".local/share/demolish/own_code"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="names code"):
        refuse_code(stored, "x")


def test_a_module_of_the_same_name_elsewhere_is_not_ones_own(here, home, tmp_path, monkeypatch):
    """The stranger hands over a run like one of mine, with a module that is called like mine."""
    file = module(here, "same_module")
    config = CONFIG | {"sampler": {"name": "same_module:S"}}
    remember_code(config, lambda text: pytest.fail(text))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    module(theirs, "same_module")
    monkeypatch.chdir(theirs)
    with pytest.raises(
        ConfigError, match=f"When you trained it, that was {file}; here it is {theirs}"
    ):
        refuse_code(config, "x")
    refuse_code(config, "x", allow_code=True)
    (theirs / "same_module.py").unlink()
    refuse_code(config, "x")  # not there at all: `load` says so
    monkeypatch.chdir(here)
    refuse_code(config, "x")


def test_without_a_home_nothing_is_remembered_and_it_is_said(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/self/none")
    said = []
    remember_code(CONFIG, said.append)
    assert said == []  # there is nothing to remember
    remember_code(CONFIG | {"sampler": "mine:S"}, said.append)
    assert len(said) == 1
    assert "--allow_code" in said[0]


def calls_of(file: Path) -> list[tuple[str, str]]:
    """Return (name, source) of every call in a file."""
    tree = ast.parse(file.read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [(ast.unparse(n.func).rpartition(".")[2], ast.unparse(n)) for n in calls]


def test_every_program_asks_whose_code_it_is():
    """Configs are read where names are refused; what opens a run is told what the flag says."""
    reads = {
        "configs.py",
        "guidance_flags.py",
        "results.py",
    }  # the second looks at the task, the third writes a page
    opens = ("open_run", "open_classifier", "export_run", "import_run")
    found = 0
    for file in (Path(__file__).parent.parent / "diffusion/cli").glob("*.py"):
        for name, source in calls_of(file):
            assert name != "read_config" or file.name in reads, file
            assert name not in opens or "allow_code=flags.allow_code" in source, (file, source)
            found += name in opens
    assert found >= 8


@pytest.mark.programs
def test_a_study_finds_installed_packages_before_the_current_folder(tmp_path):
    for package in ("experiments", "benchmarks"):
        folder = tmp_path / package
        folder.mkdir()
        shutil.copy(Path(__file__).parent.parent / package / "__init__.py", folder)
        (folder / "__main__.py").write_text("import einops\nprint(einops.__file__)\n")
        (tmp_path / "einops.py").write_text("raise SystemExit('the stranger runs')\n")
        command = [sys.executable, "-m", package]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "site-packages" in done.stdout


# ---- folders that are believed ------------------------------------------------------------------


def test_folders_of_the_user_are_private(home):
    path = user_folder("cache", "compiled")
    assert path == home / ".cache/demolish/compiled"
    assert path.stat().st_mode & 0o777 == 0o700
    assert user_folder("cache", "compiled") == path
    for mode in (0o755, 0o770, 0o702):
        path.chmod(mode)
        with pytest.raises(OSError, match="open to other users"):
            user_folder("cache", "compiled")
    path.rmdir()
    path.symlink_to(home)
    with pytest.raises(OSError, match="is no folder"):
        user_folder("cache", "compiled")
    path.unlink()
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(OSError, match="another user"):
            user_folder("cache", "compiled")


@pytest.mark.parametrize("home", ["", "relative", "/nonexistent/home", "/proc/self"])
def test_no_home_is_no_cache_and_one_line(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME")
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    said = []
    try:
        compilation.use_compilation_cache(say=said.append)
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(said) == 1
    assert "\n" not in said[0]
    assert "not kept" in said[0]
    assert not Path("/nonexistent").exists()


def test_the_cache_is_pruned_oldest_first(tmp_path):
    for age in range(10):
        (tmp_path / f"{age}-cache").write_bytes(b"x" * 10)
        os.utime(tmp_path / f"{age}-cache", (1000 - age, 1000 - age))
    compilation._prune(tmp_path, 100)
    assert len(list(tmp_path.iterdir())) == 10
    compilation._prune(tmp_path, 99)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{age}-cache" for age in range(4)]
