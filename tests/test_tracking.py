"""Finding runs and versions in a real store, with any characters in tags and names."""

import os
import signal

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tests.shared.processes import forked
from virnuc.errors import DataError, GateRefusal, NoVerdictError, Terminated, UsageError, VirnucError
from virnuc.settings import DoctorSettings, PrepareSettings
from virnuc.tracking import (
    abandoned_runs,
    close_abandoned,
    discard_given_run,
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
    def start_and_die():
        with tracked_run("split", DoctorSettings()) as tracker:
            tracker.start()
            os.kill(os.getpid(), signal.SIGKILL)

    process = forked(start_and_die)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = abandoned_runs()
    with tracked_run("prepare", DoctorSettings()):
        assert [run.info.run_id for run in abandoned_runs()] == [left.info.run_id]  # of another stage, or still running
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
    assert [version.run_id for version in versions_of("virnuc-other")] == [run.info.run_id]
    assert model_version(f"models:/{name}/2").name == name
    with pytest.raises(DataError, match="has the versions"):
        model_version(f"models:/{name}/3")


def statuses() -> list[str]:
    """Return the status of each run that the UI lists."""
    return [run.info.status for run in mlflow.search_runs(search_all_experiments=True, output_format="list")]


@pytest.mark.parametrize(("error", "left"), [(UsageError, []), (DataError, []), (VirnucError, ["FAILED"])])
def test_an_input_at_fault_leaves_no_failed_run_behind(store, tmp_path, monkeypatch, error, left):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error), tracked_run("prepare", PrepareSettings()) as tracker:
        tracker.start()
        raise error("no such directory")
    assert statuses() == left


@pytest.mark.parametrize("answer", [GateRefusal, NoVerdictError])
def test_a_comparison_whose_answer_is_no_is_finished(store, tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(answer), tracked_run("compare", PrepareSettings()) as tracker:
        tracker.tags({"verdict": "FAIL"})
        raise answer("the drop is too large")
    assert statuses() == ["FINISHED"]


@pytest.fixture
def begun_by_mlflow_run(store, tmp_path, monkeypatch):
    """Make a run as `mlflow run` does, by experiment and name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)  # as in a new process

    def make(experiment: str, name: str | None = None) -> str:
        run = MlflowClient().create_run(experiment, tags={"mlflow.project.entryPoint": "prepare"}, run_name=name)
        MlflowClient().log_param(run.info.run_id, "seed", "42")
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        return str(run.info.run_id)

    yield make
    mlflow.set_experiment("tests")


def test_a_run_that_mlflow_run_began_without_an_experiment_goes_on_in_virnucs(begun_by_mlflow_run):
    client, began = MlflowClient(), begun_by_mlflow_run("0")
    with tracked_run("prepare", PrepareSettings()) as tracker:
        tracker.start()
    run = client.get_run(tracker.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "virnuc"
    assert (run.info.run_name, run.data.params["seed"]) == ("prepare", "42")
    assert run.data.tags["mlflow.project.entryPoint"] == "prepare"
    assert client.get_run(began).data.tags["virnuc.continued_by"] == tracker.run_id
    client.set_terminated(began)  # as `mlflow run` does afterwards
    close_abandoned("prepare")
    assert client.search_runs(["0"]) == []


def test_and_is_deleted_there_if_its_inputs_are_at_fault(begun_by_mlflow_run):
    begun_by_mlflow_run("0")
    open_store()
    discard_given_run()
    assert MlflowClient().search_runs([MlflowClient().get_experiment_by_name("virnuc").experiment_id]) == []


def test_a_name_that_mlflow_run_was_given_stays_and_one_that_it_made_up_does_not(begun_by_mlflow_run):
    experiment = MlflowClient().create_experiment("of my own")
    for name, expected in (("my-run-1", "my-run-1"), (None, "a, b"), ("prepare", "a, b")):
        began = begun_by_mlflow_run(experiment, name)
        with tracked_run("prepare", PrepareSettings()) as tracker:
            tracker.rename("a, b")
        assert tracker.run_id == began
        assert MlflowClient().get_run(began).info.run_name == expected


def test_a_run_that_mlflow_run_made_for_a_mistyped_command_goes(begun_by_mlflow_run):
    began = begun_by_mlflow_run(MlflowClient().create_experiment("of my own"))
    discard_given_run()
    close_abandoned("prepare")
    assert MlflowClient().get_run(began).info.lifecycle_stage == "active"  # `mlflow run` will end it, and must find it
    MlflowClient().set_terminated(began, "FAILED")
    close_abandoned("prepare")
    assert MlflowClient().get_run(began).info.lifecycle_stage == "deleted"


def test_a_run_with_work_below_it_stays_whatever_ends_it(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError), tracked_run("pipeline", PrepareSettings()) as parent:
        parent.start()
        with tracked_run("prepare", PrepareSettings()) as child:
            child.metrics({"frames/frames": 1.0})
        raise UsageError("no such directory")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
