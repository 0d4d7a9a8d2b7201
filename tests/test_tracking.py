"""Finding runs and versions in a real store, whatever letters their tags and names have."""

import subprocess
import sys

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from virnuc.errors import DataError, Terminated, UsageError
from virnuc.settings import DoctorSettings, PrepareSettings
from virnuc.tracking import (
    abandoned_runs,
    find_finished,
    find_runs,
    model_version,
    open_store,
    tracked_run,
    versions_of,
)

ODD = [
    "esm:/data/O'Brien/esm2",
    'esm:/data/the "big" one',
    """esm:/data/O'Brien's "big" one""",
    "esm:C:\\models\\",
    "esm:/data/100 % (new); it is -- here",
    "esm:/data/größer `x`",
]


@pytest.mark.parametrize("value", ODD)
def test_runs_are_found_by_tags_with_any_letters(store, value):
    ids = {}
    for name in (value, value.upper(), value + "2"):
        with mlflow.start_run(tags={"virnuc.stage": "benchmark", "virnuc.baseline": name}) as run:
            ids[name] = run.info.run_id
    assert [run.info.run_id for run in find_finished("benchmark", {"baseline": value})] == [ids[value]]
    assert find_finished("extract", {"baseline": value}) == []


def test_runs_come_from_every_experiment_newest_first_and_only_finished_ones_if_wanted(store):
    ids = []
    for number, status in enumerate(("FINISHED", "FAILED", "FINISHED")):
        experiment = MlflowClient().create_experiment(f"experiment {number}")
        run = mlflow.start_run(experiment_id=experiment, tags={"virnuc.stage": "evaluate", "virnuc.model": "m"})
        mlflow.end_run(status)
        ids.append(run.info.run_id)
    assert [run.info.run_id for run in find_runs("evaluate", {"model": "m"})] == ids[::-1]
    assert [run.info.run_id for run in find_finished("evaluate", {"model": "m"})] == [ids[2], ids[0]]


def test_the_run_of_a_killed_process_is_listed_and_ended_by_the_next_of_its_stage(store):
    code = (
        "import os; from virnuc.settings import DoctorSettings; from virnuc.tracking import tracked_run; "
        "held = tracked_run('split', DoctorSettings()); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (left,) = abandoned_runs()
    with tracked_run("prepare", DoctorSettings()):
        assert [run.info.run_id for run in abandoned_runs()] == [left.info.run_id]  # of another stage, or going on
    with tracked_run("split", DoctorSettings()):
        assert MlflowClient().get_run(left.info.run_id).info.status == "KILLED"
    assert abandoned_runs() == []


def test_a_store_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(client):
        raise Terminated

    monkeypatch.setattr(MlflowClient, "search_experiments", killed)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "as above")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Terminated):
        open_store()
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.lock"]


def test_versions_are_found_by_names_with_any_letters(store):
    client = MlflowClient()
    name = "virnuc-O'Brien's \"big\" one"
    for registered in (name, "virnuc-other"):
        client.create_registered_model(registered)
        with mlflow.start_run() as run:
            client.create_model_version(registered, source="files:/nowhere", run_id=run.info.run_id)
    client.create_model_version(name, source="files:/nowhere")
    assert {version.name for version in versions_of(name)} == {name}
    assert len(versions_of(name)) == 2
    assert versions_of(name, run.info.run_id) == []
    assert len(versions_of("virnuc-other", run.info.run_id)) == 1
    assert model_version(f"models:/{name}/2").name == name
    with pytest.raises(DataError, match="has the versions"):
        model_version(f"models:/{name}/3")


@pytest.mark.parametrize(("error", "left"), [(UsageError, 0), (DataError, 1)])
def test_a_mistyped_value_leaves_no_failed_run_behind(store, tmp_path, monkeypatch, error, left):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error), tracked_run("prepare", PrepareSettings()):
        raise error("no such directory")
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == left


def test_a_run_with_work_below_it_stays_whatever_ends_it(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError), tracked_run("pipeline", PrepareSettings()):
        with tracked_run("prepare", PrepareSettings()) as child:
            child.metrics({"frames/frames": 1.0})
        raise UsageError("no such directory")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
