"""The files of scripts/cluster: their words are understood, their parts fit together, and their schedulers are played.

There is no cluster here. Stubs stand for srun, scontrol and gcloud: some record what they are given, one starts two
processes as Slurm would. `bash -n` and, where it is installed, shellcheck read the scripts.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from programs import ROOT
from test_installed import SOURCES

from diffusion.cli import train
from diffusion.cli.commands import COMMANDS
from diffusion.cli.configs import load_config
from diffusion.config.experiment import Experiment
from diffusion.data import DataSpec
from diffusion.runtime import exits
from diffusion.runtime.distributed import VARIABLES

CLUSTER = ROOT / "scripts/cluster"
SLURM, TPU_POD = CLUSTER / "slurm.sh", CLUSTER / "tpu_pod.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, kind="image", bits=8)


def understood(words, devices=1):
    """Have `demolish train` parse these words and build their config, for data of small images."""
    flags = train.command_line().parse_args(words)
    assert flags.workdir, words
    experiment = Experiment.from_config(load_config(flags, flags.overrides), IMAGES)
    assert experiment.batch_size % (devices * experiment.train.accumulate) == 0
    return flags


def write_stubs(folder, **texts):
    """Write programs for PATH; return an environment that finds them first."""
    for name, text in texts.items():
        (folder / name).write_text("#!/usr/bin/env bash\n" + text)
        (folder / name).chmod(0o755)
    known = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "DEMOLISH_"))}
    return known | {"PATH": f"{folder}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}


def called(script, *words, env, cwd, timeout=60):
    return subprocess.run(
        ["bash", str(script), *map(str, words)], cwd=cwd, env=env, capture_output=True,
        text=True, timeout=timeout, check=False,
    )  # fmt: skip


# ---- the shell scripts --------------------------------------------------------------------------


def test_scripts_are_read_without_complaint():
    scripts = sorted(map(str, CLUSTER.glob("*.sh")))
    assert len(scripts) == 2
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def usages():
    """Yield (file, words of `demolish train`) of every line that calls one of the two scripts."""
    for file in (SLURM, TPU_POD, ROOT / "docs/devices.md"):
        for line in file.read_text().replace("\\\n", " ").splitlines():
            found = re.search(
                r"(?:sbatch|bash) .*?scripts/cluster/(?:slurm|tpu_pod)\.sh (--.*)", line
            )
            if found:
                yield file, shlex.split(found[1])


def test_the_usages_are_understood():
    found = list(usages())
    assert {file for file, _ in found} == {SLURM, TPU_POD, ROOT / "docs/devices.md"}
    for _, words in found:
        understood(words)


def test_options_of_slurm_come_before_the_first_command():
    """sbatch reads no others. They ask for one process per node, and for the signal that saves."""
    lines = SLURM.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert options == [w.removeprefix("#SBATCH ") for w in lines[:first] if w.startswith("#SB")]
    assert {"--ntasks-per-node=1", "--signal=TERM@300", "--requeue"} <= set(options)
    given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
    understood(next(usages())[1], int(given["nodes"]) * int(given["gpus-per-node"]))


RECORDING = 'printf "%s\\n" "${JAX_LOCAL_DEVICE_IDS-none}" "$@" > srun.txt; exit "$CODE"'


@pytest.mark.parametrize(
    ("code", "again"),
    [(exits.OK, False), (exits.DIVERGED, False), (exits.HUNG, True), (exits.TERMINATED, True)],
)
def test_a_job_is_queued_again_if_it_was_stopped_or_hung(tmp_path, code, again):
    env = write_stubs(tmp_path, srun=RECORDING, scontrol='echo "$@" > scontrol.txt')
    env |= {"CODE": str(code), "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "8"}
    words = ["--config", "digits", "--workdir", "a folder/$x"]
    assert called(SLURM, *words, env=env, cwd=tmp_path).returncode == code
    devices, *told = (tmp_path / "srun.txt").read_text().splitlines()
    assert devices == "0,1,2,3,4,5,6,7"
    assert told == ["demolish", "train", *words, "--distributed"]
    queued = tmp_path / "scontrol.txt"
    assert queued.exists() == again
    assert not again or queued.read_text() == "requeue 17\n"


def test_without_gpus_jax_chooses_the_devices(tmp_path):
    env = write_stubs(tmp_path, srun=RECORDING) | {"CODE": "0"}
    assert called(SLURM, "--config=digits", env=env, cwd=tmp_path).returncode == 0
    assert (tmp_path / "srun.txt").read_text().startswith("none\n")


@pytest.mark.parametrize("script", [SLURM, TPU_POD], ids=lambda script: script.stem)
def test_a_script_without_words_says_what_it_wants(script, tmp_path):
    env = write_stubs(tmp_path, srun="exit 99", gcloud="exit 99") | {"TPU": "a", "ZONE": "b"}
    done = called(script, env=env, cwd=tmp_path)
    assert done.returncode == exits.USAGE
    assert done.stderr.startswith("error: no words for demolish train")


TWO_TASKS = """
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_LOCALID=0
code=0 tasks=()
for rank in 0 1; do SLURM_PROCID=$rank "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""


@pytest.mark.slow
@pytest.mark.programs
def test_two_processes_find_each_other_through_slurm(tmp_path):
    """JAX reads the variables that srun sets; process 0 alone writes the metrics."""
    demolish = f'exec {shlex.quote(sys.executable)} -m diffusion "$@"'
    env = write_stubs(tmp_path, srun=TWO_TASKS, demolish=demolish)
    env |= {"SLURM_JOB_ID": str(os.getpid()), "PYTHONPATH": str(ROOT)}
    small = ["network.width=8", "network.depth=1", "data.batch_size=32"]
    small += ["train.num_steps=4", "train.log_every=2", "train.sample_every=0"]
    words = ["--config=toy2d", "--workdir=run", *(f"--config.{word}" for word in small)]
    done = called(SLURM, *words, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [2, 4]
    assert json.loads((tmp_path / "run/checkpoints/4/meta.json").read_text())["processes"] == 2


GCLOUD = """
printf "%s\\n" "$@" > gcloud.txt
for word in "$@"; do case "$word" in --command=*) exec bash -c "${word#--command=}";; esac; done
"""


def test_every_host_of_a_slice_gets_the_same_words(tmp_path):
    """The stub carries the command out as the shell of a host would, with a folder and words that need quotes."""
    env = write_stubs(tmp_path, gcloud=GCLOUD)
    (tmp_path / "my code/scripts").mkdir(parents=True)
    (tmp_path / "my code/.venv/bin").mkdir(parents=True)
    (tmp_path / "my code/scripts/setup.sh").write_text('echo "$@" > setup.txt')
    write_stubs(tmp_path / "my code/.venv/bin", demolish='printf "%s\\n" "$@" > told.txt')
    words = ["--config", "digits", "--workdir", "/mnt/a b/$x"]
    assert called(TPU_POD, *words, env=env, cwd=tmp_path).returncode == exits.USAGE
    env |= {"TPU": "pod", "ZONE": "here", "FOLDER": "my code"}
    done = called(TPU_POD, *words, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "gcloud.txt").read_text().splitlines()
    assert asked[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert {"--zone=here", "--worker=all"} <= set(asked)
    told = (tmp_path / "my code/told.txt").read_text().splitlines()
    assert told == ["train", *words, "--distributed"]
    extras = (tmp_path / "my code/setup.txt").read_text().strip().split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


# ---- Kubernetes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests():
    """The headless service and the job."""
    return list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))


def test_the_job_starts_as_many_processes_as_it_tells_them(manifests):
    _, job = manifests
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables.keys() == set(VARIABLES)
    count = variables["DEMOLISH_NUM_PROCESSES"]["value"]
    assert isinstance(count, str)  # the value of a variable is text
    assert spec["completions"] == spec["parallelism"] == int(count)
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables["DEMOLISH_PROCESS"]["valueFrom"] == {"fieldRef": {"fieldPath": index}}
    program, command, *words = container["command"]
    assert (program, command) == ("demolish", "train")
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert understood(words, int(count) * gpus).distributed
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    flags = understood(words)
    for folder in (flags.workdir, flags.data_dir):
        assert any(folder.startswith(f"{path}/") for path in mounted.values()), folder


def test_process_0_is_found_through_the_headless_service(manifests):
    service, job = manifests
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"  # the word: headless
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    coordinator = next(e["value"] for e in container["env"] if e["name"] == "DEMOLISH_COORDINATOR")
    host, _, port = coordinator.partition(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    (of_service,), (of_container,) = service["spec"]["ports"], container["ports"]
    assert of_service["port"] == of_container["containerPort"] == int(port)


# ---- the container ------------------------------------------------------------------------------


def instructions():
    """Return (instruction, its words) of every line of the Dockerfile."""
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_every_instruction_of_the_dockerfile_is_known_and_in_order():
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert names[-2:] == ["ENTRYPOINT", "CMD"]
    assert set(names) == {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}
    version = re.fullmatch(r"python:(3\.\d+)-slim", instructions()[0][1])
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_the_container_has_all_that_a_wheel_is_made_of():
    """The same files from which another test makes and installs one, and the pinned versions."""
    copied = [words.split() for name, words in instructions() if name == "COPY"]
    for *sources, target in copied:
        assert all((ROOT / source).exists() for source in sources), sources
        folders = [source for source in sources if (ROOT / source).is_dir()]
        assert (
            target == "./" if not folders else sources == [target]
        )  # COPY takes what is in a folder
    files = {source for *sources, _ in copied for source in sources}
    assert files == {*SOURCES, "diffusion", "configs", "constraints.txt"}


def test_the_container_installs_extras_that_exist_and_starts_the_program():
    given = dict(instructions())
    (run,) = [words for name, words in instructions() if name == "RUN"]
    assert run == 'pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"'
    text = (CLUSTER / "Dockerfile").read_text()
    extras = [set(words.split(",")) for words in re.findall(r"EXTRAS=([\w,]+)", text)]
    assert len(extras) == 3
    assert all(some <= set(PROJECT["optional-dependencies"]) for some in extras)
    (program,) = json.loads(given["ENTRYPOINT"])
    assert program in PROJECT["scripts"]
    assert json.loads(given["CMD"]) == ["--help"]
    (usage,) = re.findall(r"docker run .*? demolish (.*)", text)
    command, *words = shlex.split(usage)
    assert command in COMMANDS
    understood(words)
