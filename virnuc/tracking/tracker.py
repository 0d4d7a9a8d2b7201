"""What a stage logs to its run, and what comes back from it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
import pandas as pd
import yaml
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.uri import append_to_uri_path

from virnuc.errors import DataError, masked
from virnuc.settings import Settings
from virnuc.storage.files import sha256_file
from virnuc.tracking.store import SAVED_VIEW, raise_if_away, store_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
CONFIG = "config.yaml"  # the artifact that has a run's settings
_DIGEST_LENGTH = 36  # MLflow's limit for a dataset's digest; the whole one is logged as a tag
_METRICS_A_CALL = 1000  # MLflow's limit
_DIGESTS = "artifacts"  # tag of a run: the digests of its artifacts by path, as JSON
_KEPT_OF_SHA256 = 32  # hexadecimal digits: a tag takes 8,000 letters


class Tracker:
    """Logs to one run, which is opened by `start` or by the first thing that is logged.

    Until then a stage checks its inputs, so that a wrong input leaves no run behind. A stage that runs others, or that
    works for long before it logs anything, calls `start` first.
    """

    def __init__(self, run_id: str = "", opening: Callable[[], str] = str) -> None:
        self._run_id, self._opening = run_id, opening
        self.client = MlflowClient()
        self._digests: dict[str, str] | None = None  # of the run's artifacts, once one was logged here

    @property
    def started(self) -> bool:
        """Whether there is a run."""
        return bool(self._run_id)

    @property
    def run_id(self) -> str:
        """The run's id; asking for it opens the run."""
        return self.start()

    def start(self) -> str:
        """Open the run, if it is not open; return its id."""
        if not self._run_id:
            self._run_id = self._opening()
        return self._run_id

    @property
    def ui_path(self) -> str:
        """Path of the experiment's page in the UI's model-training view.

        MLflow 3.17 opens an experiment in its GenAI view unless the address says otherwise, whatever its kind.
        """
        experiment = self.client.get_run(self.run_id).info.experiment_id
        return f"#/experiments/{experiment}/runs?viewStateShareKey={SAVED_VIEW}&workflowType=machine_learning"

    def rename(self, name: str) -> None:
        """Give the run a more telling name than that of its stage; a name given by `mlflow run --run-name` stays."""
        if (tags := self.client.get_run(self.run_id).data.tags)[MLFLOW_RUN_NAME] == tags["virnuc.stage"]:
            self.client.set_tag(self.run_id, MLFLOW_RUN_NAME, name)

    def table(self, table: pd.DataFrame, path: str) -> None:
        """Log a table as a JSON artifact, which the UI shows next to those of other runs."""
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
        document = yaml.safe_dump(settings.document(), sort_keys=False, allow_unicode=True)
        self.client.log_text(self.run_id, masked(document), CONFIG)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log plain values as parameters."""
        mlflow.log_params({name: masked(str(value)) for name, value in values.items()}, run_id=self.run_id)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics in one call."""
        self.history({0: values})

    def history(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Log the metrics of several steps, by step, in as few calls as MLflow allows."""
        now = int(time.time() * 1000)
        entities = [Metric(key, own, now, step) for step, values in metrics.items() for key, own in values.items()]
        for start in range(0, len(entities), _METRICS_A_CALL):
            self.client.log_batch(self.run_id, entities[start : start + _METRICS_A_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags `virnuc.<name>`."""
        tags = [RunTag(name, value) for name, value in prefixed(values).items()]
        if len(tags) == 1:  # in half the time of a batch
            self.client.set_tag(self.run_id, tags[0].key, tags[0].value)
        else:
            self.client.log_batch(self.run_id, tags=tags)

    def weights(self, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the tag with the origin of each encoder's weights, by name."""
        self.tags({"weights": ",".join(f"{encoder['name']}={encoder['weights']}" for encoder in encoders.values())})

    def describe(self, markdown: str) -> None:
        """Set the run's description, which the UI renders."""
        self.client.set_tag(self.run_id, "mlflow.note.content", masked(markdown))

    def figure(self, figure: Figure, path: str) -> None:
        """Log a figure as the artifact `path`."""
        self.client.log_figure(self.run_id, figure, path)

    def json(self, document: dict[str, Any], path: str) -> None:
        """Log plain values as the artifact `path`."""
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / path
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            self.file(file)

    def file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact; the run keeps its SHA-256, which `download` compares."""
        if self._digests is None:
            self._digests = _digests(self.client.get_run(self.run_id))
        self._digests[f"{folder}/{path.name}" if folder else path.name] = sha256_file(path)[:_KEPT_OF_SHA256]
        self.tags({_DIGESTS: json.dumps(self._digests, separators=(",", ":"))})
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
        self.start()  # else MLflow would open one of its own
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


def download(run: Run, path: str, destination: Path) -> Path:
    """Download an artifact of a run; return where it is.

    Raises:
        DataError: the run has no such artifact, or it is not the file that was logged.
    """
    name = f"run {run.info.run_id}"
    uri = append_to_uri_path(run.info.artifact_uri, path)  # for an id MLflow asks the store twice more
    try:
        file = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(destination)))
    except (MlflowException, OSError) as error:
        raise_if_away(error)
        raise DataError(f"{name} has no artifact {path}; it was deleted or never finished") from error
    logged = _digests(run).get(path)  # runs of earlier versions have none
    if logged and sha256_file(file)[:_KEPT_OF_SHA256] != logged:
        raise DataError(f"{name}: its artifact {path} was changed since it was logged; run that stage again")
    return file


def read_artifact(run: Run, path: str, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of an artifact of a run."""
    with tempfile.TemporaryDirectory() as temporary:
        return read(download(run, path, Path(temporary)))


def get_run(run_id: str | None) -> Run:
    """Return a run.

    Raises:
        DataError: the store has no such run.
    """
    try:
        return MlflowClient().get_run(run_id or "")
    except MlflowException as error:
        raise_if_away(error)
        missing = run_id or "behind this version"
        raise DataError(f"the store {store_uri()} has no run {missing}; it was deleted") from error


def _digests(run: Run) -> dict[str, str]:
    return json.loads(run.data.tags.get(f"virnuc.{_DIGESTS}", "{}"))


def prefixed(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as tags `virnuc.<name>`."""
    return {f"virnuc.{name}": masked(str(value)) for name, value in values.items()}
