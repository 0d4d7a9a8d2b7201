"""One run of the whole demo by `mlflow run` in a copy of the project; the tests here examine its results.

`test_demo` works on in this copy; `test_champion` and `test_ui`, in other processes, use copies of the store as it was
after the demo.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from filelock import FileLock
from mlflow.tracking import MlflowClient

from tests.shared import PROJECT, made_once


@dataclass(frozen=True)
class Demo:
    """The project's copy after the demo."""

    directory: Path
    output: str
    database: str = "mlflow.db"

    @property
    def as_made(self) -> "Demo":
        """The demo with its store before any test changed it."""
        return replace(self, database="as_made.db")

    def with_copy(self, database: str) -> "Demo":
        """Return the demo with a copy of that store."""
        shutil.copy(self.directory / self.as_made.database, self.directory / database)
        return replace(self, database=database)

    @property
    def data(self) -> Path:
        """The experiment's directory."""
        return self.directory / "data" / "genomes-500bp-cds-genome-seed42"

    @property
    def reports(self) -> Path:
        """The first run's reports."""
        return self.data / "reports" / self.runs("main")[0].info.run_id

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.directory}/{self.database}"

    @property
    def experiment(self) -> str:
        return self.client.get_experiment_by_name("virnuc").experiment_id

    def runs(self, stage: str) -> list:
        """Return the runs of a stage, the oldest first."""
        condition = f"tags.`virnuc.stage` = '{stage}'"
        return self.client.search_runs([self.experiment], condition, order_by=["attributes.start_time ASC"])

    def trained(self, model: str):
        """Return the demo's run that trained a model; tests may have trained it again since."""
        return next(run for run in self.runs("train") if run.data.tags["virnuc.model"] == model)

    def measured(self, run) -> dict[str, float]:
        """Return all metrics of an evaluation, from its artifact; the run has only the main ones."""
        path = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="metrics.json", tracking_uri=self.store
        )
        return json.loads(Path(path).read_text())

    def run(self, stage: str, *options: str) -> subprocess.CompletedProcess:
        """Run a stage's command in this process, as a new one takes seconds to import torch and MLflow."""
        command, path = getattr(import_module(f"entrypoints.{stage}"), stage).command, list(sys.path)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.directory)
            patch.setenv("MLFLOW_TRACKING_URI", self.store)
            mlflow.set_tracking_uri(self.store)
            done = CliRunner().invoke(command, options)
            mlflow.set_tracking_uri(None)
        sys.path[:] = path  # otherwise a loaded model's copy of the code would come first
        return subprocess.CompletedProcess([stage, *options], done.exit_code, done.stdout, done.stderr)

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Python in the project's copy."""
        return self._run([sys.executable, *arguments])

    def shell(self, commands: str) -> subprocess.CompletedProcess:
        """Run shell commands."""
        return self._run(["bash", "-ec", commands])

    def mlflow(self, stage: str, **parameters: str) -> subprocess.CompletedProcess:
        """Run a stage by `mlflow run`."""
        given = [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")]
        command = ["mlflow", "run", ".", "-e", stage, "--env-manager", "local", "--experiment-name", "virnuc"]
        return self._run([*command, "--run-name", stage, *given])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.directory, env=environment(), text=True, capture_output=True, check=False
        )


def environment() -> dict[str, str]:
    """Return the environment of a user in a new shell, with the virtual environment's programs first in the path.

    There is one thread for each process, as in all tests, since other tests use the other cores.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    directory = made_once(tmp_path_factory, "demo") / "virnuc"
    output = directory / "output.txt"
    with FileLock(f"{directory.parent}.lock"):
        if not output.exists():
            for name in ("entrypoints", "virnuc", "model_registry", "examples"):
                shutil.copytree(PROJECT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("MLproject", "conda.yaml", "pyproject.toml"):
                shutil.copy(PROJECT / name, directory)
            made = Demo(directory, "")
            done = made.mlflow("main")
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.copy(directory / made.database, directory / made.as_made.database)
            output.write_text(done.stdout)
    return Demo(directory, output.read_text())
