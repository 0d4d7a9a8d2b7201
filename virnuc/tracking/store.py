"""The store of runs and models: where it is, and that it and the experiment exist."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.entities import Param, Run
from mlflow.tracking import MlflowClient
from mlflow.tracking.default_experiment import DEFAULT_EXPERIMENT_ID

import virnuc
from virnuc.errors import masked, store_cause
from virnuc.storage.files import atomic_path, exclusive

EXPERIMENT = "virnuc"
DEFAULT_STORE = "sqlite:///mlflow.db"
LOCAL_UI = "http://127.0.0.1:5000"  # of `make ui`
CONTINUES = "virnuc.continues"  # tag: the run that this one continues
DISCARDED = "virnuc.discarded"  # tag of an empty run that the next command deletes
SAVED_VIEW = "virnuc"  # of the UI's table of runs, in an experiment's tags and in the address of its page
_MISREAD = re.compile(r"['\"\\]")
_FIGURES = ("accuracy/baseline", "accuracy/candidate", "drop/value", "drop/high", "speedup")
_COLUMNS = ("tags.`virnuc.verdict`", "tags.`virnuc.experiment`", *(f"metrics.`{name}`" for name in _FIGURES))
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # opens the UI in its model-training view
    f"mlflow.sharedViewState.{SAVED_VIEW}": json.dumps({"selectedColumns": _COLUMNS}),
    "mlflow.note.content": (
        "Each run at the top is an experiment: a baseline and a candidate on one split, with the verdict, both "
        "accuracies, the drop (1 is 100 points) and the speed-up. Its stages are the runs below it. The report is its "
        "artifact `validation_report.html`. To see two models side by side, tick their `evaluate` runs, then *Compare*."
    ),
}


def open_store() -> None:
    """Point MLflow to the store and make sure that it and the experiment exist.

    Two processes that make a fresh SQLite store at once would fail, so this happens under a lock.
    """
    if mlflow.active_run() is not None:
        return
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(DEFAULT_STORE)
    with exclusive(Path(".mlflow.lock")):
        _make_database(mlflow.get_tracking_uri())
        client = MlflowClient()
        given = client.get_run(os.environ["MLFLOW_RUN_ID"]) if "MLFLOW_RUN_ID" in os.environ else None
        if given and given.info.experiment_id != DEFAULT_EXPERIMENT_ID:
            experiment = client.get_experiment(given.info.experiment_id)
        else:
            experiment = mlflow.set_experiment(EXPERIMENT)
            if given:
                _move_run(given, experiment.experiment_id)
        for key, value in _EXPERIMENT_TAGS.items():
            if key not in experiment.tags or key == "mlflow.experimentKind":  # always written: doctor tests writing
                client.set_experiment_tag(experiment.experiment_id, key, value)


def ui_address() -> str:
    """Return where the UI shows the store: the server that is the store, or the one that `make ui` starts."""
    return store_uri() if store_uri().startswith("http") else LOCAL_UI


def versions() -> dict[str, str]:
    """Return the versions of virnuc, torch and MLflow."""
    return {"virnuc": virnuc.__version__, **{name: version(name) for name in ("torch", "mlflow")}}


def store_uri() -> str:
    """Return the URI of the store without its password, for messages."""
    return masked(mlflow.get_tracking_uri())


def _move_run(run: Run, experiment_id: str) -> None:
    """Continue, in this experiment, a run that `mlflow run` began in the Default one without --experiment-name."""
    client, data = MlflowClient(), run.data
    tags = {**data.tags, CONTINUES: run.info.run_id}
    moved = client.create_run(experiment_id, tags=tags, run_name=run.info.run_name).info.run_id
    client.log_batch(moved, params=[Param(name, value) for name, value in data.params.items()])
    for name, value in {"virnuc.continued_by": moved, DISCARDED: "yes"}.items():
        client.set_tag(run.info.run_id, name, value)
    os.environ["MLFLOW_RUN_ID"] = moved


def _make_database(uri: str) -> None:
    """Make the SQLite database of a new store, whole or not at all: MLflow cannot use a half-made one."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        with atomic_path(path) as temporary:
            MlflowClient(f"sqlite:///{temporary.absolute()}").search_experiments()


def where(values: Mapping[str, str], condition: str = "") -> str:
    """Return a filter for MLflow; values that would need escaping, which it lacks, are left to the caller."""
    plain = [f"{key} = '{value}'" for key, value in values.items() if not _MISREAD.search(value)]
    return " and ".join(filter(None, [*plain, condition]))


def raise_if_away(error: Exception) -> None:
    """Raise an error that means that the store does not answer; other errors say something about its content."""
    if store_cause(error):
        raise error
