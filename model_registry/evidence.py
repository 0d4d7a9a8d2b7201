"""What the registry and the runs behind it say of a model version, as plain values for a comparison.

Nothing is read from loose files: checkpoint, predictions, metrics and speed all come from MLflow.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from virnuc.classifier import Checkpoint, load_checkpoint
from virnuc.comparison import SideEvidence, SpeedEvidence
from virnuc.errors import DataError
from virnuc.tracking import Tracker, download, find_finished, get_run, model_version, version_uri

PREDICTIONS = "predictions.parquet"
VALIDATION_PREDICTIONS = "validation_predictions.parquet"
UNPAIRED = "virnuc.unpaired"  # tag of a version that holds metrics from elsewhere instead of a model
AGREEMENT = "agreement.json"  # the checkpoint's metadata beside those of the features it was tested on
_DIGESTS = ("features_digest", "split_digest", "commit", "dirty")


def read_checkpoint(version: ModelVersion) -> Checkpoint:
    """Return the classifier that a version was registered from.

    Raises:
        DataError: its training run or the artifact is gone.
    """
    run = get_run(version.run_id)
    path = run.data.tags.get("virnuc.checkpoint")
    if not path:
        raise DataError(f"{version_uri(version)}: its run {version.run_id} has no checkpoint; train it again")
    with tempfile.TemporaryDirectory() as temporary:
        return load_checkpoint(download(run.info.run_id, path, Path(temporary)))


def side_evidence(uri: str, speed: SpeedEvidence | None = None) -> SideEvidence:
    """Return all that is known of the version that `uri` names; what is missing stays at its default."""
    version = model_version(uri)
    training = get_run(version.run_id)
    origin = "import" if training.data.tags.get("virnuc.stage") == "import_model" else "training"
    evaluations = find_finished("evaluate", {"model": version_uri(version)})
    known: dict[str, Any] = {
        "name": version.name,
        "version": str(version.version),
        "encoder": training.data.tags.get("virnuc.model", version.name),
        "speed": speed,
        "history": _history(training),
        "provenance": _provenance(origin, training),
        "commands": (_command(training),),
    }
    if UNPAIRED in version.tags:
        known["metrics"] = _test_metrics(training)
    elif evaluations:
        known |= _evaluated(evaluations[0])
        known["provenance"] |= _provenance("evaluation", evaluations[0])
        known["commands"] = (_command(training), _command(evaluations[0]))
    return SideEvidence(**known)


def speed_evidence(baseline: str, candidate: str) -> tuple[SpeedEvidence | None, SpeedEvidence | None]:
    """Return both encoders' parts of the newest benchmark run that timed them; None for a side that it lacks."""
    runs = find_finished("benchmark", {"baseline": baseline, "candidate": candidate})
    if not runs:
        return None, None
    return _speed(runs[0], "baseline"), _speed(runs[0], "candidate")


def evaluation_run(uri: str) -> str:
    """Return the id of the newest evaluation of a version; empty if there is none."""
    runs = find_finished("evaluate", {"model": uri})
    return str(runs[0].info.run_id) if runs else ""


def _evaluated(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    with tempfile.TemporaryDirectory() as temporary:
        predictions = pd.read_parquet(download(run.info.run_id, PREDICTIONS, Path(temporary)))
        agreement = json.loads(download(run.info.run_id, AGREEMENT, Path(temporary)).read_text(encoding="utf-8"))
    pairs = [pair.partition("=") for pair in tags.get("virnuc.weights", "").split(",") if pair]
    return {
        "predictions": predictions,
        "metrics": _test_metrics(run),
        "evaluation_version": tags.get("virnuc.evaluation_version", ""),
        "split_digest": tags.get("virnuc.split_digest", ""),
        "split_unit": tags.get("virnuc.split_unit", ""),
        "weights": {name: kind for name, _, kind in pairs},
        "checkpoint": agreement["checkpoint"],
        "features": agreement["features"],
    }


def _test_metrics(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}


def _speed(run: Run, side: str) -> SpeedEvidence | None:
    metrics, parameters = run.data.metrics, run.data.params
    if f"bench/{side}_s" not in metrics:
        return None
    timed = sorted(name for name in metrics if name.startswith(f"bench/{side}_run"))
    hardware = [parameters.get(f"bench/{name}", "") for name in ("gpu", "processor", "threads")]
    return SpeedEvidence(
        encoder=parameters[f"bench/{side}"],
        seconds=metrics[f"bench/{side}_s"],
        runs=tuple(metrics[name] for name in timed),
        frames=int(parameters[f"bench/{side}_frames"]),
        precision=parameters[f"bench/{side}_precision"],
        device=parameters["bench/device"],
        hardware=", ".join(filter(None, hardware[:2])) + f", {hardware[2]} threads",
        sample_digest=parameters["bench/sample_digest"],
        weights=parameters[f"bench/{side}_weights"],
        run_id=run.info.run_id,
        peak_memory=metrics.get(f"bench/{side}_peak_memory_gb", float("nan")) * 1e9,
    )


def _history(run: Run) -> dict[str, list[float]]:
    """Return the metrics of each epoch, by key, in the order of epochs; nothing of a model from elsewhere."""
    client = Tracker(run.info.run_id).client
    history = {}
    for key in ("train/loss", "val/loss", "val/accuracy"):
        measured = sorted(client.get_metric_history(run.info.run_id, key), key=lambda metric: metric.step)
        history[key] = [metric.value for metric in measured]
    return history if all(history.values()) else {}


def _provenance(stage: str, run: Run) -> dict[str, str]:
    tags = run.data.tags
    found = {f"{stage} run": run.info.run_id}
    return found | {f"{stage} {name}": tags[f"virnuc.{name}"] for name in _DIGESTS if f"virnuc.{name}" in tags}


def _command(run: Run) -> str:
    """Return the command that makes a run again, from the settings that it logged."""
    stage = run.data.tags.get("virnuc.stage", "")
    settings = {name: value for name, value in run.data.params.items() if name.startswith("config/")}
    options = [
        f"--{name.removeprefix('config/').replace('_', '-')}={value}" for name, value in settings.items() if value
    ]
    return f"python -m entrypoints.{stage} {' '.join(options)}"
