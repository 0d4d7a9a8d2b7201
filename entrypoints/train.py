"""`train`: features and a split to a registered classifier."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import TrainSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from virnuc.features.feature_set import FeatureSet
    from virnuc.prediction.scorer import Choices
    from virnuc.splits.assignment import Split
    from virnuc.tracking import Tracker
    from virnuc.training import EpochRecord, TrainedReplicate, TrainingResult

CHECKPOINTS = "checkpoints"  # the artifact folder
LOGGED_EVERY = 5.0  # s
_REGISTERING = ".registering.lock"


@stage(TrainSettings, tracked=False)
def train(settings: TrainSettings) -> ModelVersion | None:
    """Train the classifier on one feature set, several times over, and register it as virnuc-<protein encoder>.

    All trainings (replicates) are made in one pass and differ in the seed alone; each has a run of its own below this
    one's, and the one with the median validation loss is registered.

    After a stop at any moment the same command resumes from the last finished epoch, in the same MLflow run, and ends
    with the same bits. The defaults are VirNucPro's published hyperparameters.
    """
    from entrypoints.progress import bars
    from virnuc.features.mixture import open_features
    from virnuc.splits.assignment import Split
    from virnuc.tracking import TRAINING_TAG, run_status, versions_of
    from virnuc.training.checkpoint import model_name
    from virnuc.training.earlier import find_earlier, training_directory

    features = open_features(settings.features, bars("file"))
    split = Split.open(Path(settings.split))
    name = model_name(features.encoders, settings.modality)
    directory = training_directory(settings, features, split)
    known = find_earlier(settings, directory)
    if known and known.finished and run_status(known.run_id) == "FINISHED":
        same = [one for one in versions_of(f"virnuc-{name}") if one.tags.get(TRAINING_TAG) == directory.name]
        versions = versions_of(f"virnuc-{name}", known.run_id) or same
        if versions or not settings.register:
            which = f", {versions[0].name} version {versions[0].version}" if versions else ""
            say(f"train      {name} is trained already: run {known.run_id}{which}; delete {directory} to train again")
            return versions[0] if versions else None
    with _run(settings, known.run_id if known else "", name) as tracker:
        return _train(settings, features, split, directory, name, tracker)


def _train(
    settings: TrainSettings, features: FeatureSet, split: Split, directory: Path, name: str, tracker: Tracker
) -> ModelVersion | None:
    from entrypoints.progress import bar, bars
    from virnuc.training import train as train_classifiers

    tracker.dataset("features", features.directory, features.digest, "training")
    tracker.dataset("split", split.directory, split.digest, "training")
    tracker.weights(features.encoders)
    tracker.tags({"model": name})
    with (
        _runs_of_replicates(settings, tracker) as runs,
        _EpochLog(runs) as log,
        bar(f"train {name}", "epoch", settings.epochs) as shown,
    ):

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
            _complete(runs[own.seed], own)
            runs[own.seed].file(own.log)
    _log_result(result, tracker)
    if settings.learning_curve:
        _log_learning_curve(settings, features, split, result, directory, tracker)
    ended = "stopped early" if result.stopped_early else "ran to the last epoch"
    which = f"seed {result.seed}, the median of {len(result.replicates)} trainings: " if len(runs) > 1 else ""
    say(
        f"train      {name}: {which}{result.epochs} epochs, {ended}; best was {result.best_epoch}; validation "
        f"loss {result.metrics['val/loss']:.4f}, accuracy {result.metrics['val/accuracy']:.4f}, "
        f"ROC-AUC {result.metrics['val/roc_auc']:.4f}"
    )
    if not settings.register:
        return None
    version = _register(result, settings, features, split, directory, tracker)
    say(f"train      registered {version.name} version {version.version}")
    return version


@contextmanager
def _runs_of_replicates(settings: TrainSettings, tracker: Tracker) -> Iterator[dict[int, Tracker]]:
    """Yield the run of each seed: a child of the training's own, or that itself where there is one training alone."""
    from virnuc.tracking import child_runs

    if settings.replicates == 1:
        yield {settings.seed: tracker}
        return
    seeds = range(settings.seed, settings.seed + settings.replicates)
    with child_runs(tracker, "replicate", {f"seed {seed}": {"seed": seed} for seed in seeds}) as children:
        yield dict(zip(seeds, children, strict=True))


class _EpochLog:
    """Logs epochs to the runs of replicates; many in one call, as each call to a store takes some 0.1 s."""

    def __init__(self, runs: Mapping[int, Tracker]) -> None:
        self._runs = runs
        self._waiting: dict[int, dict[int, dict[str, float]]] = {}  # metrics by seed and epoch
        self._last = -math.inf

    def __enter__(self) -> _EpochLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, record: EpochRecord) -> None:
        """Log an epoch, now or soon."""
        if not (record.in_doubt and record.epoch in self._runs[record.seed].logged_steps("val/loss")):
            self._waiting.setdefault(record.seed, {})[record.epoch] = record.metrics
        if time.monotonic() - self._last > LOGGED_EVERY:
            self.flush()

    def flush(self) -> None:
        """Log what waits."""
        for seed, epochs in self._waiting.items():
            self._runs[seed].history(epochs)
        self._waiting = {}
        self._last = time.monotonic()


def _complete(run: Tracker, replicate: TrainedReplicate) -> None:
    """Log the epochs that a run lacks: those that waited when a process was killed, or that a lost store had."""
    logged = run.logged_steps("val/loss")
    run.history({record.epoch: record.metrics for record in replicate.history if record.epoch not in logged})


def _log_result(result: TrainingResult, tracker: Tracker) -> None:
    from virnuc.reports.figures import training_drawings
    from virnuc.training.checkpoint import REPLICATES

    _complete(tracker, result)
    for path in (result.model, result.last, result.best):
        tracker.file(path, CHECKPOINTS)
    for own in result.replicates:
        if own.seed != result.seed:
            tracker.file(own.model, f"{CHECKPOINTS}/{REPLICATES}/{own.seed}")
    tracker.file(result.log)
    tracker.tags({"checkpoint": f"{CHECKPOINTS}/{result.model.name}", "best_epoch": result.best_epoch})
    tracker.tags(result.described())
    tracker.metrics(result.spread())
    history = {key: [record.metrics[key] for record in result.history] for key in result.history[0].metrics}
    for file, drawing in training_drawings(history, result.name).items():
        tracker.figure(drawing.figure, f"figures/{file}.png")
    rows = "".join(f"\n| {key} | {value:.6g} |" for key, value in result.metrics.items())
    tracker.describe(f"**{result.name}**, {result.epochs} epochs\n\n| metric | value |\n|---|---|{rows}")


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


def _register(
    result: TrainingResult,
    settings: TrainSettings,
    features: FeatureSet,
    split: Split,
    directory: Path,
    tracker: Tracker,
) -> ModelVersion:
    from model_registry.card import update_card
    from model_registry.packaging import companion_source, log_scoring_model
    from virnuc.evaluation.predictions import temperature_of
    from virnuc.runtime import choose_device
    from virnuc.storage.files import exclusive
    from virnuc.tracking import model_version, tag_version, version_uri
    from virnuc.training.checkpoint import load_checkpoint
    from virnuc.training.data import chunk_size_of

    chunk_size, recorded = chunk_size_of(features, split)
    if not recorded:
        say(f"train      WARNING: the chunks' length is not recorded; the model will take {chunk_size} bp")
    companion = companion_source(settings.companion, split) if settings.companion else None
    if companion is not None:
        tracker.tags({"companion_run": model_version(companion.origin).run_id})
    with exclusive(directory / _REGISTERING):  # the same command may run twice at once, and makes one version
        version = log_scoring_model(
            result.model,
            f"virnuc-{result.name}",
            chunk_size=chunk_size,
            weights=settings.weights,
            temperature=temperature_of(load_checkpoint(result.model), features, split),
            companion=companion,
            seed=settings.seed,
            training=directory.name,
            device=choose_device(settings.device).name,
            on_choice=lambda choices: _log_choices(choices, result.name, tracker),
        )
    if version.run_id != tracker.run_id:
        say(f"train      the same model as that of run {version.run_id}")
    tag_version(version, result.described() | _identity(features, split, chunk_size))
    tracker.client.set_registered_model_alias(version.name, "challenger", version.version)
    update_card(version_uri(version))
    return version


def _identity(features: FeatureSet, split: Split, chunk_size: int) -> dict[str, str]:
    """Return what tells a version from others of its name, as tags."""
    encoders = {f"{kind}_encoder": str(encoder["name"]) for kind, encoder in features.encoders.items()}
    precisions = {str(encoder.get("precision", "unknown")) for encoder in features.encoders.values()}
    return {
        **encoders,
        "chunk_size": str(chunk_size),
        "split_digest": split.digest,
        "split_unit": str(split.metadata["unit"]),
        "precision": ",".join(sorted(precisions)),
        "storage": str(features.manifest.details.get("storage", "float32")),
        "features": str(features.directory),
    }


def _log_choices(choices: Choices, name: str, tracker: Tracker) -> None:
    for status, choice in choices.items():
        tracker.tags({f"{status}_by": choice.method, f"{status}_by_reason": choice.reason})
        figures = {"log_loss": choice.log_loss, "accuracy": choice.accuracy, "roc_auc": choice.roc_auc}
        for figure, values in figures.items():
            tracker.metrics({f"val/{status}/{figure}_{method}": value for method, value in values.items()})
        tracker.metrics({f"val/{status}/chunks": float(choice.chunks)})
        measured = ", ".join(
            f"{method} {' '.join(f'{values[method]:.4f}' for values in figures.values())}" for method in choice.log_loss
        )
        found = choice.reason or f"log loss, accuracy, ROC-AUC of {choice.chunks:,} validation chunks: {measured}"
        say(f"train      {name}: chunks of status {status} are scored by {choice.method} ({found})")


def _run(settings: TrainSettings, run_id: str, name: str) -> AbstractContextManager[Tracker]:
    from virnuc.tracking import continued_run, run_status, tracked_run

    if run_status(run_id) not in (None, "FINISHED"):
        say(f"train      {name}: going on with run {run_id}")
        return continued_run(run_id)
    return tracked_run("train", settings, f"{name} train")


if __name__ == "__main__":
    train.main()
