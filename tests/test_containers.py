"""Containerfile and cluster files agree with the project; fresh_machine.py runs them in a container engine."""

import json
import re
import shutil
import subprocess

import yaml

from tests.shared import PROJECT


def test_the_containerfile_has_the_projects_python_and_copies_what_is_there():
    lines = (PROJECT / "Containerfile").read_text()
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    assert re.search(r"^FROM \S*/python:([\d.]+)-slim", lines, re.M)[1] == conda[0].removeprefix("python=")
    for copied in re.findall(r"^COPY (\S+) \.$", lines, re.M):
        assert (PROJECT / copied).exists()
    ignored = (PROJECT / ".dockerignore").read_text().split()
    assert not {"examples", "virnuc", "entrypoints", "model_registry", "MLproject"} & set(ignored)


def test_the_pins_that_the_image_installs_are_the_projects(tmp_path):
    program = re.search(r'python -c "(.*?)" > /tmp/pins', (PROJECT / "Containerfile").read_text())[1]
    done = subprocess.run(
        ["sh", "-c", f'python -c "{program}"'], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    assert done.stdout.split() == conda[-1]["pip"]


def test_the_commands_of_the_page_make_a_project_that_runs_in_the_image(tmp_path):
    page = (PROJECT / "docs" / "containers.md").read_text()
    (tmp_path / "MLproject").write_text((PROJECT / "MLproject").read_text())
    subprocess.run(["sh", "-c", re.search(r"^sed .*$", page, re.M)[0]], cwd=tmp_path, check=True)
    before, after = (yaml.safe_load((place / "MLproject").read_text()) for place in (PROJECT, tmp_path))
    assert before.pop("conda_env")
    assert after.pop("docker_env") == {"image": "virnuc"}
    assert before == after
    for entry in after["entry_points"].values():  # no shell starts the command in a container
        assert shutil.which(entry["command"].split()[0])


def test_the_job_is_one_that_mlflow_can_fill_in():
    config = json.loads((PROJECT / "containers" / "kubernetes.json").read_text())
    assert set(config) == {"kube-context", "repository-uri", "kube-job-template-path"}
    job = yaml.safe_load((PROJECT / config["kube-job-template-path"]).read_text())
    assert job["kind"] == "Job"
    assert {"name", "namespace"} <= set(job["metadata"])
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert {"name", "image", "command", "env"} <= set(container)
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]
    }


def test_the_slurm_script_gives_a_command_that_the_stage_takes():
    from entrypoints.extract import extract

    script = (PROJECT / "containers" / "extract.slurm").read_text()
    subprocess.run(["bash", "-n", PROJECT / "containers" / "extract.slurm"], check=True)
    words = re.sub(r'"\$\{\d:-(\w+)\}"', r"\1", script).partition("virnuc extract ")[2].split()
    context = extract.command.make_context("extract", words)
    assert (context.params["protein_encoder"], context.params["dna_encoder"]) == ("fastesm650", "dnabert_s")
    assert context.params["out"] == "data/features"
