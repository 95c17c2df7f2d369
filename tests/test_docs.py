"""The documentation is true: its Python runs, its commands exist, its links and names lead somewhere.

Python blocks of a page run in order in one namespace, in an empty folder; a block that begins with
"# name.py", or is followed by "Saved as `name.py`", is also written there, so that "name:attribute" can be
used as in the text; one that begins with "# name.py, continued" is added to the file. A block fenced as
```python no-run is not run.
"""

import ast
import importlib
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
from programs import ROOT, run

from diffusion import build, registered
from diffusion.cli import commands as command_line
from diffusion.cli.configs import read_config
from diffusion.config.experiment import Experiment
from diffusion.config.overrides import apply_overrides
from diffusion.data import DataSpec
from diffusion.evaluation.metrics import parse_list
from diffusion.registry import KINDS
from diffusion.runtime import exits

sys.path.append(str(ROOT / "scripts"))
import tables

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SLOW = {"README", "sampling", "training"}  # pages that train or compile much
IMAGES = DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, kind="image", bits=8)


def blocks(page):
    """Return (language and options, first line number, text) of every fenced block."""
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if language is None and line.startswith("```"):
            language, start, lines = line[3:].strip(), number + 1, []
        elif line.startswith("```"):
            found.append((language, start, "\n".join(lines)))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page.name}: the block of line {start - 1} is not closed"
    return found


def pages(wanted=lambda page: True):
    return [pytest.param(p, id=p.stem) for p in PAGES if wanted(p)]


def has_python(page):
    return any(language == "python" for language, _, _ in blocks(page))


def write_modules(page, folder):
    """Write the blocks that say which file they are."""
    block = r"^```python\n((?:(?!^```).)*)^```$"
    flags = re.DOTALL | re.MULTILINE
    saved = re.findall(block + r"\s+Saved as `(\w+)\.py`", page.read_text(), flags)
    texts = [text for language, _, text in blocks(page) if language == "python"]
    begins = r"# (\w+)\.py(?:, continued)?\n"
    named = [(text, name[1]) for text in texts if (name := re.match(begins, text))]
    files = {}
    for text, name in saved + named:
        files[name] = files.get(name, "") + text + "\n"
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty current folder from which modules can be imported; the modules of a page go with it."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DEMOLISH_DATA", str(tmp_path / "data"))
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if name.startswith("page_") or (file and Path(file).parent == tmp_path):
            del sys.modules[name]


def marked(page):
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])


@pytest.mark.parametrize("page", [marked(p) for p in PAGES if has_python(p)])
def test_python_runs(page, workplace):
    write_modules(page, workplace)
    module = types.ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module  # classes of the page are found by dataclasses and pickle
    for language, start, text in blocks(page):
        if language == "python":
            code = compile("\n" * (start - 1) + text, str(page), "exec")  # true line numbers
            exec(code, module.__dict__)


# ---- commands -----------------------------------------------------------------------------------


def commands(page):
    """Return the words of every call of a program, from blocks of shell commands; the first is its file in scripts/."""
    found = []
    for language, _, text in blocks(page):
        if language not in ("bash", "sh", "console", ""):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
            lexer.whitespace_split = True
            words = list(lexer)
            for i, word in enumerate(words):
                rest = words[i + 1 :]
                ends = [k for k, w in enumerate(rest) if set(w) <= set("&|;")]
                rest = rest[: ends[0] if ends else None]
                if word.startswith("scripts/") and i and words[i - 1] in ("python", "bash"):
                    found.append([word, *rest])
                elif word == "demolish" and rest and rest[0] in command_line.COMMANDS:
                    found.append([f"scripts/{rest[0]}.py", *rest[1:]])
    return found


def accepted_flags(script, words, known={}):  # noqa: B006 one call of --help per program
    """Return the flags in the text of --help; data.py has one per command."""
    name = script.removeprefix("scripts/").removesuffix(".py")
    key = (name, *(words[:1] if name == "data" else []))
    if key not in known:
        if name in command_line.COMMANDS:
            text = run(*key, "--help")[1]
        else:
            text = importlib.import_module(name).command_line().format_help()
        known[key] = set(re.findall(r"(?<![\w-])--(\w+)\b", text))
    return known[key]


def options(words):
    """Split words into flags with values and dotted overrides; a flag's value may be the next word."""
    flags, i = [], 0
    while i < len(words):
        if words[i].startswith("--"):
            name, equals, value = words[i][2:].partition("=")
            if not equals and i + 1 < len(words) and not words[i + 1].startswith("--"):
                i += 1
                value = words[i]
            flags.append((name, value))
        i += 1
    return flags


def check_config(flags):
    """Build what a command line would, for data of small images; nothing is loaded or run."""
    given = dict(flags)
    recipe = given.get("config", "digits")
    config = read_config(f"{ROOT}/{recipe}" if "/" in recipe else recipe)
    short = {"sampler": "sampler.name", "grid": "grid.name", "num_steps": "grid.num_steps"}
    changes = [(short[name], value) for name, value in flags if name in short]
    changes += [(n.removeprefix("config."), v) for n, v in flags if n.startswith("config.")]
    experiment = Experiment.from_config(apply_overrides(config, changes), IMAGES)
    experiment.times()
    for spec in parse_list(given.get("metrics", "")):
        build("metric", spec)


@pytest.mark.programs
@pytest.mark.parametrize("page", [p for p in pages() if commands(p.values[0])])
def test_commands_exist(page, workplace):
    write_modules(page, workplace)
    for script, *words in commands(page):
        assert (ROOT / script).is_file(), f"{page.name}: there is no {script}"
        if not script.endswith(".py"):
            continue
        flags = options(words)
        dotted = "process." if script.endswith("check.py") else "config."
        for name, _ in flags:
            known = accepted_flags(script, words)
            assert name in known or name.startswith(dotted), (
                f"{page.name}: {script} has no flag --{name}"
            )
        if script.endswith(("train.py", "sample.py", "evaluate.py")):
            check_config(flags)
        elif script.endswith("check.py") and "process" in dict(flags):
            fields = [(n, v) for n, v in flags if n.startswith("process.")]
            spec = apply_overrides({"process": {"name": dict(flags)["process"]}}, fields)
            build("process", spec["process"])


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in pages() if commands(p.values[0])])
def test_overrides_reach_the_training_program(page, workplace):
    """Without a work directory the program stops once its command line is understood."""
    write_modules(page, workplace)
    lines = {
        tuple(f"--{n}={v}" for n, v in options(words) if n.startswith("config"))
        for script, *words in commands(page)
        if script.endswith("train.py") and "--config" in words
    }
    for line in lines:
        _, _, err = run("train", *line)
        assert "--workdir is required" in err, f"{page.name}: {line}: {err}"


# ---- links and names ----------------------------------------------------------------------------


def broken_link(page, target):
    """Return why a link of a page leads nowhere, or None."""
    file, _, anchor = target.partition("#")
    found = (page.parent / file) if file else page
    if not found.exists():
        return f"{page.name}: {target} does not exist"
    if anchor and found.suffix == ".md":
        titles = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
        if anchor not in slugs:
            return f"{page.name}: {found.name} has no heading {anchor}"
    return None


def test_links_lead_somewhere():
    texts = {p: re.sub(r"```.*?```", "", p.read_text(), flags=re.DOTALL) for p in PAGES}
    targets = [(p, t) for p in PAGES for t in re.findall(r"\]\(([^)\s]+)\)", texts[p])]
    inner = [(p, t) for p, t in targets if not re.match(r"[a-z]+:", t)]
    assert len(inner) > len(PAGES)
    broken = [said for p, t in inner if (said := broken_link(p, t))]
    assert not broken, broken


def unregistered(page):
    """Yield what is wrong in the columns of a page that are headed "`sampler` here", or with another kind."""
    kinds = []
    for line in page.read_text().splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] if line[:1] == "|" else []
        if not cells:
            kinds = []
        elif not kinds:
            kinds = [re.fullmatch(r"`(\w+)` here", c) for c in cells]
        for kind, cell in zip(kinds, cells, strict=True):
            if kind and cell != kind[0] and set(cell) - set("-: "):
                name = re.match(r"`(\w+)", cell)
                if not name:
                    yield f"{page.name}: {cell!r} should begin with a name"
                elif name[1] not in registered(kind[1]):
                    yield f"{page.name}: no {kind[1]} {name[1]!r}"


def test_names_in_tables_are_registered():
    """In a column headed "`sampler` here", every cell begins with a registered sampler, or a dash."""
    wrong = [said for page in PAGES for said in unregistered(page)]
    assert not wrong, wrong


def test_every_registered_name_stands_in_the_documentation():
    """Of every kind, in a table or a sentence: what is new is not forgotten."""
    prose = [re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL) for page in PAGES]
    named = {
        word
        for text in prose
        for code in re.findall(r"`([^`\n]+)`", text)
        for word in re.findall(r"\w+", code)
    }
    missing = [f"{kind} {name}" for kind in KINDS for name in registered(kind) if name not in named]
    assert missing == []


def test_what_is_there_cannot_be_denied(monkeypatch):
    """The tables of other libraries name what is registered, fields too, and do not say "none" of what is."""
    with pytest.raises(ValueError, match="sampler 'langevin'"):
        tables.refuse_false_denials([("Langevin corrector", "none")])
    tables.refuse_false_denials(
        [("`sample_lms`", "none"), ("Langevin corrector", "{sampler:langevin}")]
    )
    for cell, word in (("{sampler:ddmi}", "'ddim'"), ("{sampler:ddim.eta}", "no field 'eta'")):
        with pytest.raises(ValueError, match=word):
            tables.looked_up(cell)
    monkeypatch.setitem(tables.MISSING, "sampler", ("lms", "heun"))
    with pytest.raises(ValueError, match="sampler heun"):
        tables.without_counterpart()


@pytest.mark.parametrize("table", tables.TABLES)
def test_generated_tables_are_up_to_date(table):
    assert tables.around(table)[2] == tables.TABLES[table][1](), "run python scripts/tables.py"


def test_pages_are_short_and_portable():
    texts = {page.name: page.read_text() for page in PAGES}
    assert not [name for name, text in texts.items() if len(text.splitlines()) > 300]
    machine = r"(?<![\w.~])/(home|root|work|tmp|usr/local)/"
    assert not [name for name, text in texts.items() if re.search(machine, text)]


def test_exit_codes_in_pages_are_those_of_the_table():
    """A code that a page or the text of a program speaks of is in the one table, which alone lists them."""
    for page in PAGES:
        text = page.read_text()
        codes = re.findall(r"(?:exit codes?|codes?|leaves? with) (\d+)", text)
        codes += re.findall(r"\(exit code (\d+)\)", text)
        assert {int(c) for c in codes} <= exits.MEANING.keys(), page.name
        assert not re.search(r"exit codes: +\d", text, re.IGNORECASE), (
            f"{page.name} has a table of its own"
        )


def test_no_program_has_codes_of_its_own():
    """Programs leave through the table: no number is given to `fail` or `sys.exit`, and errors name their codes."""
    for path in [*(ROOT / "scripts").glob("*.py"), *(ROOT / "diffusion").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            number = lambda x: isinstance(x, ast.Constant) and type(x.value) is int and x.value
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                leaves = name in ("sys.exit", "os._exit") or name.split(".")[-1] == "fail"
                assert not (leaves and any(map(number, node.args))), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "exit_code":
                assert not number(node.value), f"{path.name}:{node.lineno}"
        text = path.read_text()
        assert path.name == "exits.py" or not re.search(r"Exit codes: +\d", text), path.name
    for path in (ROOT / "scripts").glob("[!_]*.py"):
        if path.name == "diagram.py":
            continue
        command = path.stem in command_line.COMMANDS
        leaves = f'run("{path.stem}")' if command else "sys.exit(run"
        assert leaves in path.read_text(), path.name
