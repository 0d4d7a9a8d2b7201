import json
import os
import subprocess
import sys

import pytest

from tests.shared import PROJECT

STAGE = """
import json, os, sys
from pathlib import Path
from entrypoints.elsewhere import leave_project
arguments = leave_project(sys.argv[1:], os.environ, Path.cwd())
print(json.dumps([os.getcwd(), arguments, os.environ.get("PYTHONPATH")]))
"""
MLFLOW = """
import subprocess, sys
project, shell, *stage = sys.argv[1:]
subprocess.run(["bash", "-c", shell, "bash", *stage], cwd=project, check=True)
"""
GIVEN = [
    "--source=examples/genomes",
    "--policy=model_registry/none.yaml",
    "--frames=data/frames",
    "--config=examples/own.yaml",
    "--out=x",
]


@pytest.mark.parametrize("shell", ['"$@"', '"$@"; true'], ids=["bash becomes the stage", "bash waits for the stage"])
@pytest.mark.parametrize("called", ["elsewhere", "in the project", "without mlflow"])
def test_a_stage_works_in_the_directory_that_mlflow_was_called_in(tmp_path, shell, called):
    elsewhere, project = tmp_path / "elsewhere", tmp_path / "project"
    for directory in (elsewhere / "examples", project / "examples" / "genomes"):
        directory.mkdir(parents=True)
    for directory in (elsewhere, project):
        (directory / "examples" / "own.yaml").touch()
    environment = {**os.environ, "MLFLOW_RUN_ID": "1", "PYTHONPATH": str(PROJECT)}
    if called == "without mlflow":
        del environment["MLFLOW_RUN_ID"]
    done = subprocess.run(
        [sys.executable, "-c", MLFLOW, project, shell, sys.executable, "-c", STAGE, *GIVEN],
        cwd=project if called == "in the project" else elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    directory, arguments, path = json.loads(done.stdout)
    if called == "elsewhere":
        assert (directory, path) == (str(elsewhere), f"{project}{os.pathsep}{PROJECT}")
        assert arguments == [f"--source={project}/examples/genomes", *GIVEN[1:]]
    else:
        assert (directory, arguments, path) == (str(project), GIVEN, str(PROJECT))
