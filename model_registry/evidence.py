"""What the registry and its runs say about a model version, as plain values for a comparison.

Nothing is read from other files: checkpoint, predictions, metrics and speed all come from MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from model_registry.origins import command_of, provenance, runs_before
from virnuc.errors import DataError, UsageError
from virnuc.evaluation.calibration import viral_probability
from virnuc.evaluation.comparison import compare
from virnuc.evaluation.predictions import chunk_predictions, labels_of, margins
from virnuc.evaluation.sides import Comparison, SideEvidence
from virnuc.evaluation.speed import BenchmarkResult, unfairness
from virnuc.evaluation.weighted import Floats, Labels
from virnuc.settings import TrainSettings
from virnuc.storage.files import read_json
from virnuc.tracking import Tracker, find_finished, get_run, model_version, read_artifact, version_uri, versions_of
from virnuc.training.checkpoint import REPLICATES, Checkpoint, load_checkpoint

PREDICTIONS = "predictions.parquet"
VALIDATION_PREDICTIONS = "validation_predictions.parquet"
CHUNK_PREDICTIONS = "chunk_predictions.parquet"  # a row for each test chunk, scored as `predict` does
PROMOTED_FROM = "virnuc.promoted_from"  # tag of a version in production: the version that it was copied from
UNPAIRED = "virnuc.unpaired"  # tag of a version that holds metrics from elsewhere instead of a model
REPLICATE_PREDICTIONS = "predictions/replicates.parquet"  # `frame_id` and each training's score, `seed_<n>`
AGREEMENT = "agreement.json"  # metadata of the checkpoint and of the features that it was tested on
METRICS = "metrics.json"  # all metrics of an evaluation, by key
BENCHMARK = "benchmark.json"  # the record of a benchmark, see `virnuc.evaluation.speed`
_NOT_COMPARED = ("companion", "device")  # settings of training that change no score of a frame


def read_checkpoint(version: ModelVersion) -> Checkpoint:
    """Return the classifier that a version was registered from.

    Raises:
        DataError: its training run or the artifact is gone.
    """
    run = get_run(version.run_id)
    path = run.data.tags.get("virnuc.checkpoint")
    if not path:
        raise DataError(f"{version_uri(version)}: its run {version.run_id} has no checkpoint; train it again")
    return read_artifact(run, path, load_checkpoint)


def read_replicates(version: ModelVersion, own: Checkpoint) -> dict[int, Checkpoint]:
    """Return the classifiers of all replicates of a version by seed, including its `own`.

    There are none if the seed is not recorded, as in a classifier from elsewhere.

    Raises:
        DataError: one of them is gone, or was trained on something else.
    """
    training = get_run(version.run_id)
    tags = training.data.tags
    if tags.get("virnuc.stage") == "import_model":  # which imports one checkpoint, even if it had other replicates
        return {own.metadata["seed"]: own} if "seed" in own.metadata else {}
    path = Path(tags.get("virnuc.checkpoint", ""))
    found = {}
    for seed in (record["seed"] for record in own.metadata.get("replicates", ())):
        if seed == own.metadata["seed"]:
            found[seed] = own
            continue
        place = f"{path.parent}/{REPLICATES}/{seed}/{path.name}"
        found[seed] = read_artifact(training, place, load_checkpoint)
        if found[seed].metadata != own.metadata | {"seed": seed}:
            raise DataError(f"{version_uri(version)}: {place} is not a replicate of this model; train it again")
    return found


def side_evidence(uri: str, shown: bool = True) -> SideEvidence:
    """Return all that is known about a version except its speed; missing values keep their defaults.

    What a report shows and no rule needs, epochs and commands, is only read if it is to be `shown`.
    """
    version = model_version(uri)
    training = get_run(version.run_id)
    origin = "import" if training.data.tags.get("virnuc.stage") == "import_model" else "training"
    found = [] if UNPAIRED in version.tags else find_finished("evaluate", {"model": version_uri(version)})
    runs = {origin: training} | ({"evaluation": found[0]} if found else {})
    known: dict[str, Any] = {
        "name": version.name,
        "version": str(version.version),
        "encoder": training.data.tags.get("virnuc.model", version.name),
        "provenance": {name: value for stage, run in runs.items() for name, value in provenance(stage, run).items()},
        "training": _decisive_settings(training) if origin == "training" else {},
        "unrecorded": "" if origin == "training" else "trained elsewhere, so what it has seen is not recorded",
    }
    if shown:
        known["history"] = _history(training)
        known["commands"] = tuple(command_of(run) for run in [*runs_before(training), *runs.values()])
    if UNPAIRED in version.tags:
        return SideEvidence(**known, metrics=measured(training))
    evaluated = _evaluated(found[0], training) if found else {}
    known["provenance"] |= _verifications(evaluated.get("features", {}))
    return SideEvidence(**known | evaluated)


def _verifications(features: Mapping[str, Any]) -> dict[str, str]:
    """Return how the encoders of the features were verified before their first use."""
    verified = {kind: encoder.get("verification") for kind, encoder in features.get("encoders", {}).items()}
    return {f"{kind} encoder verified": str(found["summary"]) for kind, found in verified.items() if found}


def validation_chunks(version: ModelVersion, temperature: float) -> tuple[Labels, Floats]:
    """Return label and viral probability of a version's validation chunks, as `predict` would give them.

    Args:
        version: evaluated itself, or promoted from a version that was.
        temperature: divides the logits.

    Raises:
        DataError: it was never evaluated here.
    """
    uri = version.tags.get(PROMOTED_FROM, version_uri(version))
    runs = find_finished("evaluate", {"model": uri})
    if not runs:
        raise DataError(f"{uri} was never evaluated in this store, so it has no validation predictions; run evaluate")
    frames = read_artifact(runs[0], VALIDATION_PREDICTIONS, pd.read_parquet)
    chunks = chunk_predictions(frames.assign(score=viral_probability(margins(frames) / temperature)))
    return labels_of(chunks), chunks["score"].to_numpy()


def with_speed(
    baseline: SideEvidence, candidates: Sequence[SideEvidence], run_ids: Sequence[str]
) -> list[SideEvidence]:
    """Return the candidates, each with the record of one benchmark run.

    Args:
        baseline: The side whose encoder was timed in the same runs.
        candidates: Without speed.
        run_ids: The runs to take; for a candidate without one, the newest that fits its features.

    Raises:
        DataError: a run of `run_ids` is not there, unfinished, or timed other encoders.
    """
    chosen = {}
    for run in map(get_run, run_ids):
        timed = [run.data.tags.get(f"virnuc.{name}") for name in ("stage", "baseline", "candidate")]
        wanted = [["benchmark", baseline.encoder, candidate.encoder] for candidate in candidates]
        if timed not in wanted or run.info.status != "FINISHED":
            pairs = " or ".join(f"{old} and {new}" for _, old, new in wanted)
            raise DataError(f"run {run.info.run_id} is not a finished benchmark of {pairs}; run benchmark with them")
        chosen[timed[2]] = run
    return [_timed(candidate, chosen.get(candidate.encoder), baseline) for candidate in candidates]


def _timed(candidate: SideEvidence, run: Run | None, baseline: SideEvidence) -> SideEvidence:
    """Return the candidate with the speeds of a benchmark: the one given, or the newest that fits the features.

    If none fits, the newest is taken, so that the verdict says what is wrong with it.
    """
    runs = [run] if run else find_finished("benchmark", {"baseline": baseline.encoder, "candidate": candidate.encoder})
    features = [baseline.features, candidate.features]
    chosen: tuple[Run, BenchmarkResult] | None = None
    for one in runs:
        speed = BenchmarkResult.from_dict(read_artifact(one, BENCHMARK, read_json), one.info.run_id)
        fits = not unfairness(speed, features)
        if fits or chosen is None:
            chosen = one, speed
        if fits:
            break
    if chosen is None:
        return candidate
    run, speed = chosen
    return replace(
        candidate,
        speed=speed,
        provenance={**candidate.provenance, "benchmark run": run.info.run_id},
        commands=(*candidate.commands, command_of(run)),
    )


def _evaluated(run: Run, training: Run) -> dict[str, Any]:
    tags = run.data.tags
    agreement = read_artifact(run, AGREEMENT, read_json)
    pairs = [pair.partition("=") for pair in tags.get("virnuc.weights", "").split(",") if pair]
    split_digest = tags.get("virnuc.split_digest", "")
    found = {
        "predictions": read_artifact(run, PREDICTIONS, pd.read_parquet),
        "replicates": read_artifact(run, REPLICATE_PREDICTIONS, pd.read_parquet),
        "metrics": measured(run),
        "evaluation_version": tags.get("virnuc.evaluation_version", ""),
        "split_digest": split_digest,
        "split_unit": tags.get("virnuc.split_unit", ""),
        "weights": {name: kind for name, _, kind in pairs},
        "checkpoint": agreement["checkpoint"],
        "features": agreement["features"],
        "untested": tags.get("virnuc.untested_groups", ""),
        "unnamed_viruses_of": tags.get("virnuc.unnamed_viruses_of", ""),
        "left_out": tags.get("virnuc.no_chunks", ""),
        "validation": _validation(training.data.tags.get("virnuc.model", ""), split_digest),
    }
    if agreement["checkpoint"].get("split_digest") != split_digest:
        found["unrecorded"] = "its checkpoint does not record that it was trained on the split that it is tested on"
    return found


def _validation(encoder: str, split_digest: str) -> dict[str, float]:
    """Return the validation accuracy of every version of a side that was trained on a split, by its URI.

    It is the mean over replicates. A single training says little about its side, so it has none.
    """
    found = {}
    for version in versions_of(f"virnuc-{encoder}"):
        with suppress(DataError):  # its training was deleted
            run = get_run(version.run_id)
            accuracy = run.data.metrics.get("val/replicates/accuracy_mean")
            if accuracy is not None and run.data.tags.get("virnuc.split_digest") == split_digest:
                found[version_uri(version)] = accuracy
    return found


def _decisive_settings(training: Run) -> dict[str, str]:
    """Return the settings of a training that can change its result, except the data."""
    logged = training.data.params
    names = [f.name for f in fields(TrainSettings) if f.metadata["decisive"] and f.name not in _NOT_COMPARED]
    return {name: logged[f"config/{name}"] for name in names if f"config/{name}" in logged}


def measured(run: Run) -> dict[str, float]:
    """Return all metrics of an evaluation by MLflow key; the run's own values override those of its file."""
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    if run.data.tags.get("virnuc.metrics") != METRICS:  # metrics from elsewhere, or logged by an earlier virnuc
        return found
    return read_artifact(run, METRICS, read_json) | found


def _history(run: Run) -> dict[str, list[float]]:
    """Return the metrics of each epoch, by key, in the order of epochs; nothing for a model from elsewhere."""
    client = Tracker(run.info.run_id).client
    history = {}
    for key in ("train/loss", "val/loss", "val/accuracy"):
        measured = sorted(client.get_metric_history(run.info.run_id, key), key=lambda metric: metric.step)
        history[key] = [metric.value for metric in measured]
    return history if all(history.values()) else {}


def gather(
    baseline: str,
    candidates: Sequence[str],
    controls: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    shown: bool = True,
) -> Comparison:
    """Return the comparison of registered versions, by their URIs, as the store knows them now; see `side_evidence`.

    Raises:
        UsageError: two candidates are the same version.
        DataError: a candidate is not there or was never evaluated, or a record was changed.
    """
    sides = [side_evidence(uri, shown) for uri in candidates]
    if len({side.uri for side in sides}) < len(sides):
        raise UsageError(f"--candidate {','.join(candidates)}: two of them are the same version")
    missing, slow = "", None
    try:
        slow = side_evidence(baseline, shown)
    except DataError as error:
        missing = str(error)
    if slow:
        sides = with_speed(slow, sides, benchmarks)
    return compare(slow, sides, [side_evidence(uri, shown) for uri in controls], missing=missing)
