"""The only module of this package that knows MLflow: where the store is, runs, and models by their URI.

A stage hands plain values to a `Tracker`. A run ends as FINISHED, FAILED or, after SIGTERM or Ctrl-C, KILLED. It is
longer than other files because no other module of this package may import mlflow.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from matplotlib.figure import Figure
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.fluent import _active_run_stack
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

import virnuc
from virnuc.errors import DataError, GateRefusal, Terminated, UsageError, masked, store_cause
from virnuc.settings import Settings
from virnuc.storage.files import atomic_path, exclusive, sha256_file
from virnuc.storage.processes import has_ended, this_process

EXPERIMENT = "virnuc"
CONFIG = "config.yaml"  # the artifact that has a run's settings
DEFAULT_STORE = "sqlite:///mlflow.db"
LOCAL_UI = "http://127.0.0.1:5000"  # of `make ui`
_DIGEST_LENGTH = 36  # MLflow's limit for a dataset's digest; the whole one is logged as a tag
_METRICS_A_CALL = 1000  # MLflow's limit
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_MISREAD = re.compile(r"['\"\\]")
# What decides a result, from the top of the checkout; files of users beside it do not make it another version.
_CODE = tuple(
    f":/{name}" for name in ("virnuc", "entrypoints", "model_registry", "examples", "MLproject", "conda.yaml")
)
_SAVED_VIEW = "virnuc"  # of the UI's table of runs, in an experiment's tags and in the address of its page
_COLUMNS = (
    *(f"tags.`virnuc.{name}`" for name in ("verdict", "experiment")),
    *(
        f"metrics.`{name}`"
        for name in ("accuracy/baseline", "accuracy/candidate", "drop/value", "drop/high", "speedup")
    ),
)
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # opens the UI in its model-training view
    f"mlflow.sharedViewState.{_SAVED_VIEW}": json.dumps({"selectedColumns": _COLUMNS}),
    "mlflow.note.content": (
        "Each run at the top is an experiment: a baseline and a candidate on one split, with the verdict, both "
        "accuracies, the drop (1 is 100 points) and the speed-up. Its stages are the runs below it. The report is its "
        "artifact `validation_report.html`. To see two models side by side, tick their `evaluate` runs, then *Compare*."
    ),
}
_PROCESS = "virnuc.process"
TRAINING_TAG = "virnuc.training"  # of a version: the name of its training's directory, the same for an identical one
_DIGESTS = "artifacts"  # tag of a run: the digests of its artifacts by path, as JSON
_KEPT_OF_SHA256 = 32  # hexadecimal digits: a tag takes 8,000 letters


class Tracker:
    """Logs to one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.client = MlflowClient()

    @property
    def ui_path(self) -> str:
        """Path of the experiment's page in the UI's model-training view.

        MLflow 3.17 opens an experiment in its GenAI view unless the address says otherwise, whatever its kind.
        """
        experiment = self.client.get_run(self.run_id).info.experiment_id
        return f"#/experiments/{experiment}/runs?viewStateShareKey={_SAVED_VIEW}&workflowType=machine_learning"

    def rename(self, name: str) -> None:
        """Name the run by what differs, unless `mlflow run` named it."""
        if os.environ.get("MLFLOW_RUN_ID") != self.run_id:
            self.client.set_tag(self.run_id, MLFLOW_RUN_NAME, name)

    def table(self, table: pd.DataFrame, path: str) -> None:
        """Log a table as a JSON artifact, which the UI shows as a table and puts beside those of other runs."""
        self.client.log_table(self.run_id, table, path)

    def of_model(self, version: ModelVersion, metrics: Mapping[str, float], dataset: MetaDataset) -> None:
        """Link metrics, and the dataset that they were measured on, to the logged model behind a version."""
        model_id = str(version.source).removeprefix("models:/")
        if model_id.startswith("m-"):  # a version of metrics from elsewhere has no model
            mlflow.log_metrics(dict(metrics), run_id=self.run_id, model_id=model_id, dataset=dataset)

    def settings(self, settings: Settings) -> None:
        """Log a stage's settings as parameters, apart from those that `mlflow run` logs itself, and as a file.

        The parameters are `config/<name>`; the file is `config.yaml`, which repeats the run when given as `--config`.
        """
        self.parameters({f"config/{name}": value for name, value in settings.plain().items()})
        self.text(yaml.safe_dump(settings.document(), sort_keys=False, allow_unicode=True), CONFIG)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log plain values as parameters."""
        mlflow.log_params({name: masked(str(value)) for name, value in values.items()}, run_id=self.run_id)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics in one call."""
        mlflow.log_metrics(dict(values), step=step, run_id=self.run_id)

    def history(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Log the metrics of several steps, by step, in as few calls as MLflow allows."""
        now = int(time.time() * 1000)
        entities = [Metric(key, own, now, step) for step, values in metrics.items() for key, own in values.items()]
        for start in range(0, len(entities), _METRICS_A_CALL):
            self.client.log_batch(self.run_id, entities[start : start + _METRICS_A_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags `virnuc.<name>`."""
        for name, value in _tags(values).items():
            self.client.set_tag(self.run_id, name, value)

    def weights(self, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the tag that says of each encoder where its weights are from, by name."""
        self.tags({"weights": ",".join(f"{encoder['name']}={encoder['weights']}" for encoder in encoders.values())})

    def describe(self, markdown: str) -> None:
        """Set the run's description, which the UI renders."""
        self.client.set_tag(self.run_id, "mlflow.note.content", masked(markdown))

    def figure(self, figure: Figure, path: str) -> None:
        """Log a figure as the artifact `path`."""
        self.client.log_figure(self.run_id, figure, path)

    def text(self, text: str, path: str) -> None:
        """Log a text as the artifact `path`."""
        self.client.log_text(self.run_id, masked(text), path)

    def json(self, document: dict[str, Any], path: str) -> None:
        """Log plain values as the artifact `path`."""
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / path
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            self.file(file)

    def file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact; the run keeps its SHA-256, which `download` compares."""
        kept = _digests(self.client.get_run(self.run_id))
        kept[f"{folder}/{path.name}" if folder else path.name] = sha256_file(path)[:_KEPT_OF_SHA256]
        self.tags({_DIGESTS: json.dumps(kept, separators=(",", ":"))})
        self.client.log_artifact(self.run_id, str(path), folder)

    def frame(self, table: pd.DataFrame, path: str) -> None:
        """Log a table as the artifact `path`, a Parquet or CSV file by its suffix."""
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / Path(path).name
            table.to_parquet(file, index=False) if path.endswith(".parquet") else table.to_csv(file, index=False)
            self.file(file, str(Path(path).parent) if Path(path).parent.name else None)

    def logged_steps(self, key: str) -> set[int]:
        """Return the steps at which a metric was logged."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, key)}

    def dataset(self, name: str, directory: Path, digest: str, context: str) -> MetaDataset:
        """Log a directory as an input of the active run, with the digest of its manifest; return the dataset."""
        source = resolve_dataset_source(str(directory))
        dataset = MetaDataset(source, name=name, digest=digest[:_DIGEST_LENGTH])  # type: ignore[abstract]
        mlflow.log_input(dataset, context=context)
        self.tags({f"{name}_digest": digest})
        return dataset


class NullTracker:
    """Has the methods of a `Tracker` and logs nothing."""

    run_id = ""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values, **named: None


@contextmanager
def child_runs(parent: Tracker, stage: str, tags: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Tracker]]:
    """Yield a run below `parent` for each name in `tags`: one from before an interruption, or a new one.

    They end as the block does: FINISHED, FAILED, or KILLED after SIGTERM or Ctrl-C.
    """
    client, experiment = parent.client, parent.client.get_run(parent.run_id).info.experiment_id
    known = client.search_runs([experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}'")
    children = {run.info.run_name: Tracker(run.info.run_id) for run in known}
    for name in tags.keys() - children.keys():
        own = {MLFLOW_PARENT_RUN_ID: parent.run_id, **_tags({"stage": stage, "process": this_process(), **tags[name]})}
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


@contextmanager
def tracked_run(stage: str, settings: Settings, name: str | None = None) -> Iterator[Tracker]:
    """Open the run of a stage: the one that `mlflow run` made, a child of the active one, or a new one."""
    open_store()
    close_abandoned(stage)
    nested = mlflow.active_run() is not None
    given = os.environ.get("MLFLOW_RUN_ID")
    tags = _tags({"stage": stage, "process": this_process(), **_code_version()})
    run = mlflow.start_run(nested=nested, run_name=None if given and not nested else name or stage, tags=tags)
    tracker = Tracker(run.info.run_id)
    with _ending_run(tracker):
        tracker.settings(settings)
        yield tracker


def run_status(run_id: str) -> str | None:
    """Return FINISHED, FAILED, KILLED or RUNNING; None if the store has no such run."""
    open_store()
    try:
        return str(MlflowClient().get_run(run_id).info.status) if run_id else None
    except MlflowException as error:
        _raise_if_away(error)
        return None


@contextmanager
def continued_run(run_id: str) -> Iterator[Tracker]:
    """Go on with a run that was stopped, as the active run; a run that `mlflow run` made for it is marked."""
    open_store()
    made = os.environ.pop("MLFLOW_RUN_ID", None) if mlflow.active_run() is None else None
    if made and made != run_id:
        Tracker(made).tags({"continues": run_id})
        Tracker(made).describe(f"Goes on with the training of run `{run_id}`; its metrics are there.")
    mlflow.start_run(run_id=run_id, nested=mlflow.active_run() is not None)
    tracker = Tracker(run_id)
    with _ending_run(tracker):
        tracker.tags({"process": this_process()})
        yield tracker


def abandoned_runs() -> list[Run]:
    """Return the runs that are RUNNING in the store while their process has ended."""
    query = "attributes.status = 'RUNNING'"
    found = mlflow.search_runs(filter_string=query, search_all_experiments=True, output_format="list")
    return [run for run in found if _PROCESS in run.data.tags and has_ended(run.data.tags[_PROCESS])]


def close_abandoned(stage: str) -> None:
    """End as KILLED what processes left RUNNING that were killed in a run of this stage: it, and runs below it."""
    left = abandoned_runs()
    killed = {run.data.tags[_PROCESS] for run in left if run.data.tags.get("virnuc.stage") == stage}
    for run in left:
        if run.data.tags[_PROCESS] in killed:
            MlflowClient().set_terminated(run.info.run_id, "KILLED")


def find_runs(stage: str, tags: Mapping[str, str], condition: str = "") -> list[Run]:
    """Return the runs of a stage that have all of the tags `virnuc.<name>`, in any experiment, the newest first."""
    wanted = {f"virnuc.{name}": value for name, value in {"stage": stage, **tags}.items()}
    query = _where({f"tags.`{name}`": value for name, value in wanted.items()}, condition)
    newest = ["attributes.start_time DESC"]
    found = mlflow.search_runs(filter_string=query, search_all_experiments=True, order_by=newest, output_format="list")
    return [run for run in found if wanted.items() <= run.data.tags.items()]


def run_is_active(run_id: str) -> bool:
    """Return whether the store has a run that was not deleted."""
    try:
        return str(MlflowClient().get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException as error:
        _raise_if_away(error)
        return False


def find_finished(stage: str, tags: Mapping[str, str], condition: str = "") -> list[Run]:
    """Return the finished ones of `find_runs`."""
    return find_runs(stage, tags, " and ".join(filter(None, ["attributes.status = 'FINISHED'", condition])))


def model_version(uri: str) -> ModelVersion:
    """Return the registered version that a URI names.

    Raises:
        UsageError: the URI is not models:/NAME@ALIAS or models:/NAME/VERSION.
        DataError: no model has that name, or it has no such alias or version.
    """
    match = _MODEL_URI.fullmatch(uri)
    if not match:
        raise UsageError(f"{uri!r} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    client, name = MlflowClient(), match["name"]
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        _raise_if_away(error)
        known = [model.name for model in client.search_registered_models()]
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "run train first"
        raise DataError(f"{uri}: no model of that name is registered in {_store()}; {hint}") from error
    try:
        if match["alias"]:
            return client.get_model_version_by_alias(name, match["alias"])
        return client.get_model_version(name, match["version"])
    except MlflowException as error:
        _raise_if_away(error)
        versions = ", ".join(str(version.version) for version in versions_of(name))
        raise DataError(f"{uri}: no such alias or version; {name} has the versions {versions or 'none'}") from error


def tag_version(version: ModelVersion, values: Mapping[str, Any]) -> None:
    """Set tags `virnuc.<name>` of a model version."""
    for name, value in values.items():
        MlflowClient().set_model_version_tag(version.name, version.version, f"virnuc.{name}", str(value))


def ensure_registered(name: str, description: str = "") -> None:
    """Make the registered model `name` if there is none."""
    try:
        MlflowClient().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def versions_of(name: str, run_id: str | None = None) -> list[ModelVersion]:
    """Return the versions of one registered model, or those of them that come from a run."""
    query = _where({"name": name, "run_id": run_id} if run_id else {"name": name})
    return [version for version in MlflowClient().search_model_versions(query) if version.name == name]


def version_uri(version: ModelVersion) -> str:
    """Return models:/NAME/VERSION, which never moves."""
    return f"models:/{version.name}/{version.version}"


def store_is_writable() -> str:
    """Open the store, which writes a tag of the experiment, and return its URI."""
    open_store()
    return _store()


def get_run(run_id: str | None) -> Run:
    """Return a run.

    Raises:
        DataError: the store has no such run.
    """
    try:
        return MlflowClient().get_run(run_id or "")
    except MlflowException as error:
        _raise_if_away(error)
        raise DataError(f"the store {_store()} has no run {run_id or 'behind this version'}; it was deleted") from error


def download(run_id: str, path: str, destination: Path) -> Path:
    """Download an artifact of a run; return where it is.

    Raises:
        DataError: the run has no such artifact, or it is not the file that was logged.
    """
    run = get_run(run_id)
    try:
        file = Path(MlflowClient().download_artifacts(run_id, path, str(destination)))
    except (MlflowException, OSError) as error:
        _raise_if_away(error)
        raise DataError(f"run {run_id} has no artifact {path}; it was deleted or never finished") from error
    logged = _digests(run).get(path)  # runs of earlier versions have none
    if logged and sha256_file(file)[:_KEPT_OF_SHA256] != logged:
        raise DataError(f"run {run_id}: its artifact {path} was changed since it was logged; run that stage again")
    return file


def _digests(run: Run) -> dict[str, str]:
    return json.loads(run.data.tags.get(f"virnuc.{_DIGESTS}", "{}"))


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {f"virnuc.{name}": masked(str(value)) for name, value in values.items()}


def _raise_if_away(error: Exception) -> None:
    """Raise an error of a store that does not answer, which says nothing of what is in it."""
    if store_cause(error):
        raise error


def _store() -> str:
    """Return the URI of the store without its password, for messages."""
    return masked(mlflow.get_tracking_uri())


def ui_address() -> str:
    """Return where the UI shows the store: the server that is the store, or the one that `make ui` starts."""
    return _store() if _store().startswith("http") else LOCAL_UI


def versions() -> dict[str, str]:
    """Return the versions of virnuc and of what it computes and logs with."""
    return {"virnuc": virnuc.__version__, **{name: version(name) for name in ("torch", "mlflow")}}


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
        if "MLFLOW_RUN_ID" in os.environ:
            experiment_id = client.get_run(os.environ["MLFLOW_RUN_ID"]).info.experiment_id
        else:
            experiment_id = mlflow.set_experiment(EXPERIMENT).experiment_id
        known = client.get_experiment(experiment_id).tags
        for key, value in _EXPERIMENT_TAGS.items():
            if key not in known or key == "mlflow.experimentKind":  # written each time, so that doctor sees that it can
                client.set_experiment_tag(experiment_id, key, value)


def _make_database(uri: str) -> None:
    """Make the SQLite database of a new store, whole or not at all: MLflow cannot go on with one that is half made."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        with atomic_path(path) as temporary:
            MlflowClient(f"sqlite:///{temporary.absolute()}").search_experiments()


def _where(values: Mapping[str, str], condition: str = "") -> str:
    """Return a filter for MLflow, which can escape nothing: values that it would misread are left to the caller."""
    plain = [f"{key} = '{value}'" for key, value in values.items() if not _MISREAD.search(value)]
    return " and ".join(filter(None, [*plain, condition]))


@contextmanager
def _ending_run(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        mlflow.end_run("KILLED")
        raise
    except GateRefusal:  # a finished piece of work whose answer is no
        mlflow.end_run("FINISHED")
        raise
    except BaseException as error:
        if store_cause(error):  # waiting for it again would double the time; the next run of the stage ends this one
            _active_run_stack.get().pop()
            raise
        tracker.tags({"error": f"{type(error).__name__}: {error}"[:500]})
        mlflow.end_run("FAILED")
        if isinstance(error, UsageError) and _is_empty(tracker):  # a mistyped value or path leaves no red run behind
            tracker.client.delete_run(tracker.run_id)
        raise
    mlflow.end_run("FINISHED")


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
        return {"commit": "unknown", "dirty": "unknown"}
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", *_CODE], cwd=here, capture_output=True, text=True, check=False
    )
    return {"commit": commit.stdout.strip(), "dirty": str(bool(status.stdout.strip())).lower()}
