"""Runs: opening, continuing and ending them, and finding those of earlier stages.

A run ends as FINISHED, FAILED or, after SIGTERM or Ctrl-C, KILLED.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.fluent import _active_run_stack
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from virnuc.errors import DataError, GateRefusal, NoVerdictError, Terminated, UsageError, store_cause
from virnuc.settings import Settings
from virnuc.storage.processes import has_ended, this_process
from virnuc.tracking.store import CONTINUES, DISCARDED, open_store, where
from virnuc.tracking.tracker import Tracker, get_run, prefixed

# The code that decides a result; other files in the checkout do not make it another version.
_CODE = tuple(
    f":/{name}" for name in ("virnuc", "entrypoints", "model_registry", "examples", "MLproject", "conda.yaml")
)
_PROCESS = "virnuc.process"
_MADE_BY_MLFLOW_RUN = "mlflow.project.entryPoint"  # a tag


@contextmanager
def tracked_run(stage: str, settings: Settings, name: str | None = None) -> Iterator[Tracker]:
    """Yield the tracker of a stage's run: the one that `mlflow run` made, a child of the active one, or a new one."""
    open_store()
    close_abandoned(stage)

    def opening() -> str:
        nested = mlflow.active_run() is not None
        given = None if nested else os.environ.get("MLFLOW_RUN_ID")
        named = given and not _is_made_up(get_run(given).info.run_name)
        tags = prefixed({"stage": stage, "process": this_process(), **_code_version()})
        run = mlflow.start_run(nested=nested, run_name=None if named else name or stage, tags=tags)
        Tracker(run.info.run_id).settings(settings)
        return str(run.info.run_id)

    tracker = Tracker(opening=opening)
    with _ending_run(tracker):
        yield tracker
        tracker.start()  # that of a stage which had nothing to log


@contextmanager
def continued_run(run_id: str) -> Iterator[Tracker]:
    """Continue a run that was stopped, as the active run; a run that `mlflow run` made for it is marked."""
    open_store()
    made = os.environ.pop("MLFLOW_RUN_ID", None) if mlflow.active_run() is None else None
    if made and made != run_id:
        Tracker(made).tags({"continues": run_id})
        Tracker(made).describe(f"Continues the training of run `{run_id}`, which has the metrics.")
    mlflow.start_run(run_id=run_id, nested=mlflow.active_run() is not None)
    tracker = Tracker(run_id)
    with _ending_run(tracker):
        tracker.tags({"process": this_process()})
        yield tracker


@contextmanager
def child_runs(parent: Tracker, stage: str, tags: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Tracker]]:
    """Yield a run below `parent` for each name in `tags`: one from before an interruption, or a new one.

    They end as the block does: FINISHED, FAILED, or KILLED after SIGTERM or Ctrl-C.
    """
    client, experiment = parent.client, parent.client.get_run(parent.run_id).info.experiment_id
    known = client.search_runs([experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}'")
    children = {run.info.run_name: Tracker(run.info.run_id) for run in known}
    for name in tags.keys() - children.keys():
        own = prefixed({"stage": stage, "process": this_process(), **tags[name]}) | {
            MLFLOW_PARENT_RUN_ID: parent.run_id
        }
        children[name] = Tracker(client.create_run(experiment, tags=own, run_name=name).info.run_id)
    for name in tags.keys() & {run.info.run_name for run in known}:
        children[name].tags({"process": this_process()})
    status = "FAILED"
    try:
        yield [children[name] for name in tags]
        status = "FINISHED"
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        raise
    except Exception as error:
        status = "" if store_cause(error) else status
        raise
    finally:
        for name in tags if status else ():
            client.set_terminated(children[name].run_id, status)


def abandoned_runs() -> list[Run]:
    """Return the runs that are RUNNING in the store while their process has ended."""
    query = "attributes.status = 'RUNNING'"
    found = mlflow.search_runs(filter_string=query, search_all_experiments=True, output_format="list")
    ended = [run for run in found if _PROCESS in run.data.tags and has_ended(run.data.tags[_PROCESS])]
    # One may have ended well since the store was asked; its process has written so by now.
    return [run for run in ended if run_status(run.info.run_id) == "RUNNING"]


def close_abandoned(stage: str) -> None:
    """End as KILLED the runs of this stage, and those below them, whose process was killed and left them RUNNING.

    Runs that were discarded while `mlflow run` still needed them are deleted.
    """
    ended = f"tags.`{DISCARDED}` = 'yes' and attributes.status != 'RUNNING'"
    for run in mlflow.search_runs(filter_string=ended, search_all_experiments=True, output_format="list"):
        MlflowClient().delete_run(run.info.run_id)
    left = abandoned_runs()
    killed = {run.data.tags[_PROCESS] for run in left if run.data.tags.get("virnuc.stage") == stage}
    for run in left:
        if run.data.tags[_PROCESS] in killed:
            MlflowClient().set_terminated(run.info.run_id, "KILLED")


def find_runs(stage: str, tags: Mapping[str, str], condition: str = "") -> list[Run]:
    """Return the runs of a stage that have all of the tags `virnuc.<name>`, in any experiment, the newest first."""
    wanted = {f"virnuc.{name}": value for name, value in {"stage": stage, **tags}.items()}
    query = where({f"tags.`{name}`": value for name, value in wanted.items()}, condition)
    newest = ["attributes.start_time DESC"]
    found = mlflow.search_runs(filter_string=query, search_all_experiments=True, order_by=newest, output_format="list")
    return [run for run in found if wanted.items() <= run.data.tags.items()]


def find_finished(stage: str, tags: Mapping[str, str], condition: str = "") -> list[Run]:
    """Return the finished ones of `find_runs`."""
    return find_runs(stage, tags, " and ".join(filter(None, ["attributes.status = 'FINISHED'", condition])))


def run_status(run_id: str) -> str | None:
    """Return FINISHED, FAILED, KILLED or RUNNING; None if the store has no such run."""
    open_store()
    with suppress(DataError):
        return str(get_run(run_id).info.status)
    return None


def run_is_active(run_id: str) -> bool:
    """Return whether the store has a run that was not deleted."""
    with suppress(DataError):
        return str(get_run(run_id).info.lifecycle_stage) == "active"
    return False


def discard_given_run() -> None:
    """Discard the run that `mlflow run` made for a stage that refused its inputs."""
    with suppress(MlflowException):  # of a store that does not answer: the stage's own error is what counts
        _discard(os.environ["MLFLOW_RUN_ID"])


def _discard(run_id: str) -> None:
    """Delete an empty run; one that `mlflow run` still needs is left to the next command."""
    client = MlflowClient()
    tags = client.get_run(run_id).data.tags
    if _MADE_BY_MLFLOW_RUN in tags and CONTINUES not in tags:
        client.set_tag(run_id, DISCARDED, "yes")
    else:
        client.delete_run(run_id)


def _is_made_up(name: str) -> bool:
    """Return whether MLflow made up the name of a run, such as `bold-ant-123`."""
    words = name.split("-")
    return len(words) == 3 and words[0] in _GENERATOR_PREDICATES and words[1] in _GENERATOR_NOUNS


@contextmanager
def _ending_run(tracker: Tracker) -> Iterator[None]:
    """End the run as the block ends, if it was started."""
    try:
        yield
    except BaseException as error:
        if tracker.started:
            _end(tracker, error)
        raise
    mlflow.end_run("FINISHED")


def _end(tracker: Tracker, error: BaseException) -> None:
    """End a run that an error has stopped."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        mlflow.end_run("KILLED")
    elif isinstance(error, GateRefusal | NoVerdictError):  # the work is finished, and its answer is no
        mlflow.end_run("FINISHED")
    elif store_cause(error):  # waiting for it again would double the time; the next run of the stage ends this one
        _active_run_stack.get().pop()
    else:
        tracker.tags({"error": f"{type(error).__name__}: {error}"[:500]})
        mlflow.end_run("FAILED")
        if isinstance(error, UsageError | DataError) and _is_empty(tracker):  # it did nothing but refuse an input
            _discard(tracker.run_id)


def _is_empty(tracker: Tracker) -> bool:
    """Return whether a run has measured nothing, read nothing and has no run below it."""
    run = tracker.client.get_run(tracker.run_id)
    below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{tracker.run_id}'"
    children = tracker.client.search_runs([run.info.experiment_id], below, max_results=1)
    return not (run.data.metrics or (run.inputs and run.inputs.dataset_inputs) or children)


def _code_version() -> dict[str, str]:
    """Return the commit and whether the code in the working tree differs from it."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if commit.returncode:
        return {"commit": os.environ.get("VIRNUC_COMMIT", "unknown"), "dirty": "unknown"}  # an image has no repository
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", *_CODE], cwd=here, capture_output=True, text=True, check=False
    )
    return {"commit": commit.stdout.strip(), "dirty": str(bool(status.stdout.strip())).lower()}
