"""`train`: features and a split to a registered classifier."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import TrainSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from virnuc.features.feature_set import FeatureSet
    from virnuc.splits.assignment import Split
    from virnuc.tracking import Tracker
    from virnuc.training.run import TrainingResult
    from virnuc.training.state import EpochRecord


@stage(TrainSettings, tracked=False)
def train(settings: TrainSettings) -> ModelVersion | None:
    """Train the classifier on one feature set, several times over, and register it as virnuc-<protein encoder>.

    All trainings (replicates) are made in one pass and differ in the seed alone; each has a child run, and the one with
    the median validation loss is registered.

    To resume a stopped training, give the same command again: it continues after the last finished epoch, in the same
    MLflow run, and ends with the same bits. The defaults are VirNucPro's published hyperparameters.
    """
    from entrypoints.progress import bars
    from model_registry.packaging import companion_source
    from model_registry.registration import find_registered
    from virnuc.encoders import check_encoders
    from virnuc.features.mixture import open_features
    from virnuc.splits.assignment import Split
    from virnuc.tracking import run_status
    from virnuc.training.checkpoint import model_name
    from virnuc.training.state import find_resumed, training_directory

    features = open_features(settings.features, bars("file"))
    split = Split.open(Path(settings.split))
    name = model_name(features.encoders, settings.modality)
    directory = training_directory(settings, features, split)
    known = find_resumed(settings, directory)
    if known and known.finished and run_status(known.run_id) == "FINISHED":
        version = find_registered(name, known.run_id, directory.name)
        if version or not settings.register:
            which = f", {version.name} version {version.version}" if version else ""
            say(f"train      {name} is trained already: run {known.run_id}{which}; delete {directory} to train again")
            return version
    if settings.companion:
        companion_source(settings.companion, split)
    check_encoders({}, settings.weights, {})
    with _run(settings, known.run_id if known else "", name) as tracker:
        return _train(settings, features, split, directory, name, tracker)


def _train(
    settings: TrainSettings, features: FeatureSet, split: Split, directory: Path, name: str, tracker: Tracker
) -> ModelVersion | None:
    from entrypoints.progress import bar, bars
    from model_registry.records import log_training
    from model_registry.registration import register_training
    from virnuc.tracking.epochs import complete, replicate_runs
    from virnuc.training.run import train as train_classifiers

    tracker.dataset("features", features.directory, features.digest, "training")
    tracker.dataset("split", split.directory, split.digest, "training")
    tracker.weights(features.encoders)
    tracker.tags({"model": name})
    with replicate_runs(settings, tracker) as log, bar(f"train {name}", "epoch", settings.epochs) as shown:

        def on_epoch(record: EpochRecord) -> None:
            log.add(record)
            figures = {key.removeprefix("val/"): record.metrics[key] for key in ("val/loss", "val/accuracy", "lr")}
            shown.set_postfix(figures, refresh=False)
            shown.update(record.epoch - shown.n)

        result = train_classifiers(
            features,
            split,
            settings,
            directory,
            on_epoch=on_epoch,
            progress=bars("frame", leave=False),
            run_id=tracker.run_id,
        )
        log.flush()
        for own in result.replicates:
            complete(log.runs[own.seed], own.history)
            log.runs[own.seed].file(own.log)
    log_training(result, tracker)
    if settings.learning_curve:
        _log_learning_curve(settings, features, split, result, directory, tracker)
    ended = "stopped early" if result.stopped_early else "ran to the last epoch"
    trainings = len(result.replicates)
    which = f"seed {result.seed}, the median of {trainings} trainings: " if trainings > 1 else ""
    say(
        f"train      {name}: {which}{result.epochs} epochs, {ended}; best was {result.best_epoch}; validation "
        f"loss {result.metrics['val/loss']:.4f}, accuracy {result.metrics['val/accuracy']:.4f}, "
        f"ROC-AUC {result.metrics['val/roc_auc']:.4f}"
    )
    if result.left_out:
        which = "readings of chunks" if features.of_chunks else "frames"
        say(
            f"train      {name}: WARNING: {result.left_out:,} {which} are left out: no frame of their genomes is in "
            "the split"
        )
    if not settings.register:
        return None
    tell = lambda text: say(f"train      {name}: {text}")  # noqa: E731
    version = register_training(result, settings, features, split, tracker, tell)
    say(f"train      registered {version.name} version {version.version}")
    return version


def _log_learning_curve(
    settings: TrainSettings,
    features: FeatureSet,
    split: Split,
    result: TrainingResult,
    directory: Path,
    tracker: Tracker,
) -> None:
    from entrypoints.progress import bars
    from virnuc.reports import plots
    from virnuc.training.curve import learning_curve

    table = learning_curve(features, split, settings, result, directory, bars("share"))
    tracker.frame(table, "tables/learning_curve.csv")
    drawing = plots.learning_curve(result.name, plots.BASELINE, table.to_dict("records"))
    tracker.figure(drawing.figure, "figures/learning_curve.png")
    means = table.groupby("genomes")["accuracy"].mean()
    shown = ", ".join(f"{genomes:,} genomes {accuracy:.4f}" for genomes, accuracy in means.items())
    say(f"train      {result.name}: validation accuracy with {shown}")


def _run(settings: TrainSettings, run_id: str, name: str) -> AbstractContextManager[Tracker]:
    from virnuc.tracking import continued_run, run_status, tracked_run

    if run_status(run_id) not in (None, "FINISHED"):
        say(f"train      {name}: resuming run {run_id}")
        return continued_run(run_id)
    return tracked_run("train", settings, f"{name} train")


if __name__ == "__main__":
    train.main()
