"""The command line of every program: help without JAX, wrong words, spellings of flags, recipes by name."""

import signal
import subprocess
import sys

import pytest
from programs import ROOT, error_of

from diffusion import cli
from diffusion.cli import configs, data, evaluate, messages, sample
from diffusion.cli.commands import COMMANDS
from diffusion.runtime import exits

HEAVY = (
    "heavy = {'jax', 'flax', 'numpy', 'optax', 'matplotlib', 'ml_collections'} & set(sys.modules)\n"
)


@pytest.mark.programs
def test_help_answers_without_jax():
    """Of the whole and of every command: it ends well, shows an example, and imports nothing heavy."""
    code = (
        "import sys\n"
        "from diffusion.cli import main\n"
        "from diffusion.cli.commands import COMMANDS\n"
        "for words in ([], ['-h'], ['--version'], *([c, '--help'] for c in COMMANDS), ['data', 'inspect', '-h']):\n"
        "    assert main(words or ['--help']) == 0, words\n"
        f"{HEAVY}"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
        assert f"demolish {name} " in done.stdout
    for word in ("inpaint", "superres", "deblur", "colorize", "interpolate", "vary", "--mask"):
        assert word in done.stdout


@pytest.mark.programs
def test_every_command_has_a_script_that_hides_its_folder(tmp_path):
    """A module of the user's may be called like a script."""
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "for script in sys.argv[1:]:\n"
        "    sys.argv = [script, '--help']\n"
        "    try:\n"
        "        runpy.run_path(script, run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, end.code\n"
        f"{HEAVY}"
        "assert not heavy, heavy\n"
        "import sample\n"
    )
    (tmp_path / "sample.py").write_text("print('the sample of the user')")
    scripts = [ROOT / "scripts" / f"{name}.py" for name in COMMANDS]
    scripts.append(ROOT / "scripts" / "demo_picture.py")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, scripts)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the sample of the user\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the first word is a command: train, sample"),
        (["trian", "--config=digits"], "unknown command 'trian'. Did you mean 'train'? Commands: train, sample"),
        (["--config=digits"], "unknown flag '--config=digits'. Commands: train"),
        (["data", "prepair"], "unknown command 'prepair'. Did you mean 'prepare'? Commands: list, prepare, inspect."),
        (["train", "--config=digit", "--workdir=x"], "unknown recipe 'digit'. Did you mean 'digits'? Recipes: celeb_a"),
        (["train", "--config=digits", "--nodebug=1"], "Unknown command line flag 'nodebug'"),
        (["train", "--config=digits", "--debug=maybe"], "--debug must be true or false; got 'maybe'"),
        (["train", "--config=digits", "--config.seed"], "--config.seed needs a value: --config.seed=VALUE."),
        (["sample", "--seed"], "--seed needs a value"),
        (["sample", "--seed=1.5"], "--seed must be a whole number; got '1.5'"),
        (["sample", "--guidance", "much"], "--guidance must be a number; got 'much'"),
        (["sample", "more"], "unexpected argument 'more'"),
        (["draw", "--animate=avi"], "--animate must be one of gif, mp4, none; got 'avi'"),
        (["check", "--process.beta_max", "--list"], "--process.beta_max needs a value"),
        (["evaluate", "--compare", "a"], "--compare takes two results: --compare A B; got 1."),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_explained(words, said, tmp_path):
    code, message = error_of(*words, cwd=tmp_path)
    assert code == exits.USAGE
    assert said in message


def test_flags_are_spelled_as_one_likes():
    """With one or two dashes; a value after `=` or in the next word; a switch alone, with `no`, a value; last wins."""
    words = [
        "-workdir",
        "a",
        "--num_samples",
        "0x10",
        "--seed=3",
        "--seed",
        "4",
        "--guidance_interval",
        "-2,2.5",
    ]
    words += [
        "--config.sampler.eta",
        "-0.5",
        "--config.grid.name=karras",
        "--allow_code",
        "--nodebug",
    ]
    flags = sample.command_line().parse_args(words)
    assert (flags.workdir, flags.num_samples, flags.seed) == ("a", 16, 4)
    assert flags.guidance_interval == "-2,2.5"
    assert flags.overrides == [("sampler.eta", "-0.5"), ("grid.name", "karras")]
    assert flags.allow_code is True
    assert flags.debug is False
    assert sample.command_line().parse_args(["--allow_code=f", "--debug"]).debug is True
    assert sample.command_line().parse_args(["--allow_code", "--noallow_code"]).allow_code is False
    compare = evaluate.command_line().parse_args(["--compare", "a", "b", "--compare=c"]).compare
    assert compare == ["a", "b", "c"]
    found = data.command_line().parse_args(
        ["--debug", "inspect", "digits", "--set", "a=-1", "--dup=x"]
    )
    assert (found.debug, found.name, found.set, found.duplicates) == (True, "digits", ["a=-1"], "x")


def test_recipes_are_found_by_name_and_files_by_their_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(configs.recipes()) == {p.stem for p in (ROOT / "configs").glob("*.py")}
    assert configs.read_config("toy2d:moons")["data"]["kind"] == "moons"
    assert configs.read_config("toy2d") == configs.read_config(f"{ROOT}/configs/toy2d.py")
    (tmp_path / "digits").mkdir()  # such as a work directory
    assert configs.read_config("digits")["data"]["name"] == "digits"
    head = "from ml_collections import ConfigDict\n"
    mine = head + "def get_config(word='none'):\n    return ConfigDict({'seed': word})\n"
    (tmp_path / "toy2d").write_text(mine)
    assert configs.read_config("toy2d") == {"seed": "none"}
    assert configs.read_config("./toy2d:3") == {"seed": "3"}


def test_a_missing_extra_is_named(capsys):
    error = ModuleNotFoundError("No module named 'orbax.checkpoint'", name="orbax.checkpoint")
    assert messages.tell(error) == exits.USAGE
    assert (
        "orbax is not installed; this needs the extra `train`: pip install 'demolish[train]'."
        in capsys.readouterr().err
    )
    assert messages.tell(ModuleNotFoundError("No module named 'mine'", name="mine")) == exits.ERROR


def test_a_program_leaves_the_process_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGTERM), list(sys.argv)
    assert cli.main(["check", "--process", "vpp"]) == exits.USAGE
    assert (signal.getsignal(signal.SIGTERM), sys.argv) == before
