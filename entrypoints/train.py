"""`train`: features and a split to a registered classifier."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import say, stage
from virnuc.errors import UsageError
from virnuc.settings import TrainSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from virnuc.features.feature_set import FeatureSet
    from virnuc.prediction.fallback import CompanionSource
    from virnuc.prediction.scorer import FallbackRecord
    from virnuc.splits.assignment import Split
    from virnuc.tracking import Tracker
    from virnuc.training import TrainingResult

CHECKPOINTS = "checkpoints"  # the artifact folder
ASSUMED_CHUNK_SIZE = 300  # bp, where the features have no record of it


@stage(TrainSettings, tracked=False)
def train(settings: TrainSettings) -> ModelVersion | None:
    """Train the classifier on one feature set and register it as virnuc-<protein encoder>.

    Stopped at any moment, the same command goes on from the last finished epoch, in the same MLflow run, and ends
    with the same bits. The defaults are VirNucPro's published hyperparameters.
    """
    from entrypoints.progress import bar
    from virnuc.features.mixture import open_features
    from virnuc.splits.assignment import Split
    from virnuc.tracking import run_status, versions_of
    from virnuc.training import find_training
    from virnuc.training.checkpoint import model_name

    features = open_features(settings.features, bar("scan", "file"))
    split = Split.open(Path(settings.split))
    name = model_name(features.encoders, settings.modality)
    directory = _directory(settings, features, split, name)
    known = find_training(directory)
    if settings.resume and (known is None or known.run_id != settings.resume):
        found = known.run_id if known else "none"
        raise UsageError(f"--resume {settings.resume}: the training in {directory} is of run {found}")
    if known and known.finished and run_status(known.run_id) == "FINISHED":
        versions = versions_of(f"virnuc-{name}", known.run_id)
        if versions or not settings.register:
            which = f", {versions[0].name} version {versions[0].version}" if versions else ""
            say(f"train      {name} is trained already: run {known.run_id}{which}; delete {directory} to train again")
            return versions[0] if versions else None
    with _run(settings, known.run_id if known else "", name) as tracker:
        return _train(settings, features, split, directory, name, tracker)


def _train(
    settings: TrainSettings, features: FeatureSet, split: Split, directory: Path, name: str, tracker: Tracker
) -> ModelVersion | None:
    from entrypoints.progress import batches, counter
    from virnuc.training import train as train_classifier

    tracker.dataset("features", features.directory, features.digest, "training")
    tracker.dataset("split", split.directory, split.digest, "training")
    weights = {encoder["name"]: encoder["weights"] for encoder in features.encoders.values()}
    tracker.tags({"model": name, "weights": ",".join(f"{k}={v}" for k, v in weights.items())})
    with counter(f"train {name}", "epoch", settings.epochs) as bar:

        def on_epoch(record: Any) -> None:
            if not (record.in_doubt and record.epoch in tracker.logged_steps("val/loss")):
                tracker.metrics(record.metrics, step=record.epoch)
            shown = {key.removeprefix("val/"): record.metrics[key] for key in ("val/loss", "val/accuracy", "lr")}
            bar.set_postfix(shown, refresh=False)
            bar.update(record.epoch - bar.n)

        result = train_classifier(
            features,
            split,
            settings,
            directory,
            on_epoch=on_epoch,
            progress=batches(lambda: f"epoch {bar.n + 1}", "frame"),
            run_id=tracker.run_id,
        )
    _log_result(result, tracker)
    ended = "stopped early" if result.stopped_early else "ran to the last epoch"
    say(
        f"train      {name}: {result.epochs} epochs, {ended}; best was {result.best_epoch}; validation "
        f"loss {result.metrics['val/loss']:.4f}, accuracy {result.metrics['val/accuracy']:.4f}, "
        f"ROC-AUC {result.metrics['val/roc_auc']:.4f}"
    )
    if not settings.register:
        return None
    version = _register(result, settings, features, split, tracker)
    say(f"train      registered {version.name} version {version.version}")
    return version


def _log_result(result: TrainingResult, tracker: Tracker) -> None:
    from virnuc.reports.figures import training_drawings

    logged = tracker.logged_steps("val/loss")
    for record in result.history:  # whatever a lost store has not
        if record.epoch not in logged:
            tracker.metrics(record.metrics, step=record.epoch)
    for path in (result.model, result.last, result.best):
        tracker.file(path, CHECKPOINTS)
    tracker.file(result.log)
    tracker.tags({"checkpoint": f"{CHECKPOINTS}/{result.model.name}", "best_epoch": result.best_epoch})
    history = {key: [record.metrics[key] for record in result.history] for key in result.history[0].metrics}
    for file, drawing in training_drawings(history, result.name).items():
        tracker.figure(drawing.figure, f"figures/{file}.png")
    rows = "".join(f"\n| {key} | {value:.6g} |" for key, value in result.metrics.items())
    tracker.describe(f"**{result.name}**, {result.epochs} epochs\n\n| metric | value |\n|---|---|{rows}")


def _register(
    result: TrainingResult, settings: TrainSettings, features: FeatureSet, split: Split, tracker: Tracker
) -> ModelVersion:
    from model_registry.card import update_card
    from model_registry.packaging import log_scoring_model
    from virnuc.evaluation.calibration import fit_temperature
    from virnuc.evaluation.predictions import margins, predict
    from virnuc.runtime import choose_device
    from virnuc.tracking import version_uri
    from virnuc.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(result.model)
    validation = predict(checkpoint.build(), features, split, "val", checkpoint.columns())
    recorded = features.chunk_size or int(split.table["length"].max())
    if not recorded:
        say(f"train      WARNING: the chunks' length is not recorded; the model will take {ASSUMED_CHUNK_SIZE} bp")
    version = log_scoring_model(
        result.model,
        f"virnuc-{result.name}",
        chunk_size=recorded or ASSUMED_CHUNK_SIZE,
        weights=settings.weights,
        temperature=fit_temperature(validation["label"].to_numpy("int8"), margins(validation)),
        companion=_companion(settings, split, tracker),
        seed=settings.seed,
        device=choose_device(settings.device).name,
        on_fallback=lambda record: _log_fallback(record, result.name, tracker),
    )
    tracker.client.set_registered_model_alias(version.name, "challenger", version.version)
    update_card(version_uri(version))
    return version


def _companion(settings: TrainSettings, split: Split, tracker: Tracker) -> CompanionSource | None:
    """Return the companion to be tried and the chunks to try it on."""
    import pandas as pd

    from model_registry.evidence import read_checkpoint
    from virnuc.prediction.fallback import CompanionSource
    from virnuc.sequences.frames import CHUNK_SCHEMA
    from virnuc.tracking import model_version, version_uri

    if not settings.companion:
        return None
    version = model_version(settings.companion)
    tracker.tags({"companion_run": version.run_id})
    chunks = pd.DataFrame(columns=CHUNK_SCHEMA.names) if split.lacks_chunks else split.uncovered("val")
    return CompanionSource(read_checkpoint(version), version_uri(version), chunks, split.lacks_chunks)


def _log_fallback(record: FallbackRecord, name: str, tracker: Tracker) -> None:
    tracker.tags({"no_open_frame": record.fallback, "no_open_frame_reason": record.reason})
    tracker.metrics({f"val/no_open_frame/accuracy_{fallback}": value for fallback, value in record.accuracy.items()})
    tracker.metrics({"val/no_open_frame/chunks": float(record.chunks)})
    measured = ", ".join(f"{fallback} {value:.4f}" for fallback, value in record.accuracy.items())
    found = record.reason or f"accuracy of {record.chunks:,} validation chunks: {measured}"
    say(f"train      {name}: chunks without an open frame are scored by {record.fallback} ({found})")


def _run(settings: TrainSettings, run_id: str, name: str) -> AbstractContextManager[Tracker]:
    from virnuc.tracking import continued_run, run_status, tracked_run

    if run_status(run_id) not in (None, "FINISHED"):
        say(f"train      {name}: going on with run {run_id}")
        return continued_run(run_id)
    return tracked_run("train", settings, f"train {name}")


def _directory(settings: TrainSettings, features: FeatureSet, split: Split, name: str) -> Path:
    """Return a directory of its own for each training that gives another model."""
    from virnuc.runtime import choose_device

    decisive = settings.decisive() | {"device": choose_device(settings.device).name, "split": split.digest}
    decisive["features"] = features.digest_of(settings.modality)
    key = hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:12]
    return Path(settings.out) / f"{features.encoders['dna']['name']}+{name}" / key


if __name__ == "__main__":
    train.main()
