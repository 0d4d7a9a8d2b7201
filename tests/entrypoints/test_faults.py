"""Faults of the machine or the store end in one line with a cause and a next step, and without secrets."""

import errno
import json
import signal
import sqlite3
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from entrypoints.command import say, stage
from virnuc.errors import DataError, masked
from virnuc.settings import DoctorSettings
from virnuc.tracking import (
    child_runs,
    close_abandoned,
    download,
    get_run,
    model_version,
    run_is_active,
    run_status,
    tracked_run,
)

SECRET = "postgresql://virnuc:hunter2secret@db.example.org/mlflow"


def ended(raised):
    """Run a stage that raises; return its exit code and what it printed."""

    def faulty(settings):
        """Raise."""
        say(f"store {SECRET}")
        raise raised

    return ran(faulty)


def ran(function):
    """Run a function as a stage; return its exit code and what it printed."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(stage(DoctorSettings, tracked=False)(function).command, [])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return done.exit_code, done.output


def locked():
    """Return an error as MLflow raises it, with the database's error as its cause."""
    error = MlflowException("(sqlite3.OperationalError) database is locked")
    error.__cause__ = RuntimeError(f"in {SECRET}")
    return error


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: the disk is full; make room"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "/data/x: the disk is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: a file is where a directory is needed"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), "a: a file is where a directory is needed"),
        (locked(), "another process holds the store's database; try again"),
        (MlflowException("Max retries exceeded with url: /api"), "the store's server does not answer; start it"),
    ],
)
def test_a_fault_outside_has_a_cause_and_a_next_step(raised, words):
    code, output = ended(raised)
    assert code == 1
    assert words in output.splitlines()[-1]
    assert "Traceback" not in output and "please report it" not in output


def test_a_store_that_another_process_holds_is_one_line(store):
    def ask(settings):
        """Ask the store."""
        MlflowClient().search_registered_models()

    def wait_less(connection, cursor, statement, parameters, *_):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 10"), parameters

    MlflowClient().search_registered_models()  # which opens the database
    event.listen(Engine, "before_cursor_execute", wait_less, retval=True)
    holder = sqlite3.connect(mlflow.get_tracking_uri().removeprefix("sqlite:///"), isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        code, output = ran(ask)
    finally:
        holder.close()
        event.remove(Engine, "before_cursor_execute", wait_less)
    assert (code, output) == (1, "ask: another process holds the store's database; try again when it has ended\n")


def test_a_run_is_not_ended_in_a_store_that_does_not_answer_but_by_the_next_of_its_stage(store, monkeypatch):
    with (
        pytest.raises(MlflowException),
        tracked_run("doctor", DoctorSettings()) as tracker,
        child_runs(tracker, "replicate", {"seed 1": {}}) as (child,),
    ):
        raise locked()
    assert mlflow.active_run() is None  # which MLflow would end as FINISHED when Python ends
    left = [child.run_id, tracker.run_id]
    assert [run_status(run) for run in left] == ["RUNNING", "RUNNING"]
    monkeypatch.setattr("virnuc.tracking.runs.has_ended", lambda process: True)
    close_abandoned("doctor")
    assert [run_status(run) for run in left] == ["KILLED", "KILLED"]


def test_a_run_that_ends_while_the_store_is_asked_is_not_abandoned(store, monkeypatch):
    client = MlflowClient()
    run = client.create_run("0", tags={"virnuc.stage": "doctor", "virnuc.process": "another"}).info.run_id

    def ends_just_now(process):
        client.set_terminated(run, "FINISHED")
        return True

    monkeypatch.setattr("virnuc.tracking.runs.has_ended", ends_just_now)
    close_abandoned("doctor")
    assert run_status(run) == "FINISHED"


@pytest.mark.parametrize("ask", [run_status, run_is_active, get_run, lambda name: model_version(f"models:/{name}/1")])
def test_what_a_store_that_does_not_answer_has_is_not_said_to_be_missing(store, monkeypatch, ask):
    def away(*args, **kwargs):
        raise locked()

    for name in ("get_run", "get_model_version"):
        monkeypatch.setattr(MlflowClient, name, away)
    with pytest.raises(MlflowException, match="database is locked"):
        ask("a")


def test_an_artifact_that_was_changed_since_it_was_logged_is_refused(store, tmp_path):
    with tracked_run("doctor", DoctorSettings()) as tracker:
        tracker.json({"a": 1}, "kept.json")
        tracker.frame(pd.DataFrame({"a": [1]}), "tables/changed.csv")
    run = mlflow.get_run(tracker.run_id)
    assert json.loads(download(run, "kept.json", tmp_path).read_text()) == {"a": 1}
    (Path(run.info.artifact_uri) / "tables" / "changed.csv").write_text("a\n2\n")
    with pytest.raises(DataError, match=r"tables/changed\.csv was changed since it was logged"):
        download(run, "tables/changed.csv", tmp_path)


@pytest.mark.parametrize("raised", [DataError(f"no run in {SECRET}"), RuntimeError(f"cannot open {SECRET}")])
def test_a_password_is_in_no_message_and_no_traceback(raised):
    code, output = ended(raised)
    assert code in (1, 4)
    assert "hunter2secret" not in output
    assert "postgresql://virnuc:***@db.example.org/mlflow" in output


def test_a_password_is_in_no_tag_parameter_or_description(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    with pytest.raises(DataError), tracked_run("doctor", DoctorSettings()) as tracker:
        tracker.describe(f"see {SECRET}")
        tracker.parameters({"mirror": SECRET})
        raise DataError(f"{SECRET} said: correct-horse, password=other&x=1")
    data = MlflowClient().get_run(tracker.run_id).data
    kept = str(data.tags) + str(data.params)
    assert "virnuc:***@db.example.org" in kept and "password=***&x=1" in kept
    assert not any(secret in kept for secret in ("hunter2secret", "correct-horse", "other"))


def test_a_store_is_named_without_its_password(store, monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: SECRET)
    with pytest.raises(DataError, match=r"registered in postgresql://virnuc:\*\*\*@db"):
        model_version("models:/nothing/1")


@pytest.mark.parametrize("text", ["models:/virnuc@champion", "http://host:80/path", "a@b.org: c", "token of 5 letters"])
def test_what_is_no_secret_stays(text):
    assert masked(text) == text
