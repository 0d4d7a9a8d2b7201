"""The project's files agree with each other."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version

import pytest
import yaml

from entrypoints.command import Stage
from tests.shared import PROJECT
from virnuc import settings
from virnuc.settings import default_of, plain

MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text())
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
STAGES = sorted(MLPROJECT["entry_points"])


def stage_of(name: str) -> Stage:
    return getattr(import_module(f"entrypoints.{name}"), name)


def test_every_module_of_a_stage_is_an_entry_point():
    shared = {"__init__", "cli", "command", "config", "elsewhere", "experiment", "progress"}
    modules = {path.stem for path in (PROJECT / "entrypoints").glob("*.py")} - shared
    assert modules == set(STAGES)


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmarks").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path):
    import_module(f"benchmarks.{path.stem}")


@pytest.mark.parametrize("name", STAGES)
def test_mlproject_and_settings_have_the_same_parameters_and_defaults(name):
    entry = MLPROJECT["entry_points"][name]
    declared = {field.name: plain(default_of(field)) for field in dataclasses.fields(stage_of(name).settings)}
    assert {key: value["default"] for key, value in entry["parameters"].items()} == declared
    expected = " ".join(f"--{key.replace('_', '-')}={{{key}}}" for key in declared)
    assert entry["command"] == f"env MLFLOW_DISABLE_TELEMETRY=true python -m entrypoints.{name} {expected}"


def run_anew(program):
    """Run lines of Python in a new process."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True)


def run_briefly(module, *arguments):
    """Run a module that answers and ends; check that it loaded nothing heavy."""
    return run_anew(
        f"import sys, runpy; sys.argv = ['x', *{arguments!r}]\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)"
    )


@pytest.mark.parametrize("name", STAGES)
def test_help_answers_without_loading_torch_or_mlflow(name):
    done = run_briefly(f"entrypoints.{name}", "--help")
    for field in dataclasses.fields(stage_of(name).settings):
        assert f"--{field.name.replace('_', '-')}" in done.stdout


def test_the_console_command_has_all_stages_and_loads_none_of_them_for_its_help():
    assert set(settings.STAGES) == set(STAGES)
    listed = run_briefly("entrypoints.cli", "--help").stdout
    assert [line.split()[0] for line in listed.partition("Commands:")[2].splitlines() if line.strip()] == [
        *settings.STAGES
    ]
    assert "--dropout" in run_briefly("entrypoints.cli", "train", "--help").stdout


@pytest.mark.e2e
def test_stages_without_tensors_load_no_torch():
    """What prepare (and each of its workers), download and split load, beside what tracks them; seconds and memory."""
    run_anew(
        "import sys\n"
        "from virnuc.sequences import downloading, preparing\n"
        "assert not {'torch', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "from virnuc.splits import assignment\n"
        "assert not {'torch', 'scipy.stats', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
    )


def test_pins_are_in_one_place_and_installed():
    pins = PYPROJECT["project"]["dependencies"]
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    assert conda[0] == "python=3.11.7"
    assert conda[-1]["pip"] == pins
    for pin in [*pins, *PYPROJECT["project"]["optional-dependencies"]["test"]]:
        name, separator, number = pin.partition("==")
        assert separator, f"{pin} is not pinned"
        assert version(name).split("+")[0] == number
    assert not re.search(r"pip install[^\n]*==", (PROJECT / "Makefile").read_text())


@pytest.mark.parametrize(("file", "extras"), [("requirements.lock", ()), ("requirements-test.lock", ("test",))])
def test_the_lock_files_have_every_pin_with_hashes_and_torch_is_left_to_the_machine(file, extras):
    pins = PYPROJECT["project"]["dependencies"] + [
        pin for extra in extras for pin in PYPROJECT["project"]["optional-dependencies"][extra]
    ]
    locked = {}
    for entry in (PROJECT / file).read_text().replace("\\\n", " ").splitlines():
        pin = entry.partition(";")[0].split()[0]
        locked[re.sub(r"[-_.]+", "-", pin.partition("=")[0]).lower()] = pin.partition("==")[2]
        assert "--hash=sha256:" in entry, pin
    assert {name: locked.get(name) for name in pinned(pins)} == pinned(pins) | {"torch": None}
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-", "triton"))]  # a torch for GPUs has them


def test_uv_installs_the_project_as_pip_does():
    assert "uv" not in PYPROJECT["tool"]  # settings for the lock files once hid what torch needs on a GPU


def pinned(pins):
    pairs = (pin.partition("==") for pin in pins)
    return {re.sub(r"[-_.]+", "-", name).lower(): number for name, _, number in pairs}


def test_packages_are_all_installed():
    packages = {
        ".".join(path.parent.relative_to(PROJECT).parts)
        for top in ("virnuc", "entrypoints", "model_registry")
        for path in (PROJECT / top).rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages
