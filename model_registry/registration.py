"""Registering a training as a scoring model, with tags that distinguish it from other versions of its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from model_registry.card import SCORER, update_card
from model_registry.packaging import companion_source, log_scoring_model
from virnuc.evaluation.predictions import temperature_of
from virnuc.features.feature_set import FeatureSet
from virnuc.prediction.choosing import add_companion
from virnuc.prediction.scorer import Choices, save_scorer
from virnuc.runtime import choose_device
from virnuc.settings import TrainSettings
from virnuc.splits.assignment import Split
from virnuc.storage.files import exclusive
from virnuc.tracking import TRAINING_TAG, Tracker, model_version, version_uri, versions_of
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.data import chunk_size_of
from virnuc.training.run import TrainingResult
from virnuc.training.state import training_directory

_REGISTERING = ".registering.lock"


def find_registered(name: str, run_id: str, training: str) -> ModelVersion | None:
    """Return the version that a run registered, or one of an identical training; None if there is none."""
    known = versions_of(f"virnuc-{name}")
    own = [version for version in known if version.run_id == run_id]
    same = [version for version in known if version.tags.get(TRAINING_TAG) == training]
    return next(iter(own + same), None)


def register_training(
    result: TrainingResult,
    settings: TrainSettings,
    features: FeatureSet,
    split: Split,
    tracker: Tracker,
    tell: Callable[[str], None],
) -> ModelVersion:
    """Register the replicate with the median validation loss; return its version, or that of an identical training.

    Args:
        result: what was trained.
        settings: of the training.
        features: what it was trained on.
        split: that of the training.
        tracker: the training's run.
        tell: called with a sentence about each decision.
    """
    chunk_size, recorded = chunk_size_of(features, split)
    if not recorded:
        tell(f"WARNING: the chunks' length is not recorded; the model will take {chunk_size} bp")
    checkpoint, directory = load_checkpoint(result.model), training_directory(settings, features, split)
    temperature = temperature_of(checkpoint, features, split)
    # Two identical commands at once make one version.
    with exclusive(directory / _REGISTERING), tempfile.TemporaryDirectory() as temporary:
        scorer = Path(temporary) / SCORER
        save_scorer(checkpoint, scorer, chunk_size, settings.weights, temperature)
        if settings.companion:
            companion, device = companion_source(settings.companion, split), choose_device(settings.device).name
            tracker.tags({"companion_run": model_version(companion.origin).run_id})
            _log_choices(add_companion(scorer, companion, settings.seed, settings.weights, device), tracker, tell)
        described = result.described() | _identity(features, split, chunk_size)
        version = log_scoring_model(scorer, f"virnuc-{result.name}", directory.name, described)
    if version.run_id != tracker.run_id:
        tell(f"the same model as that of run {version.run_id}")
    tracker.client.set_registered_model_alias(version.name, "challenger", version.version)
    update_card(version_uri(version))
    return version


def _identity(features: FeatureSet, split: Split, chunk_size: int) -> dict[str, str]:
    """Return tags that distinguish a version from others of its name."""
    encoders = {f"{kind}_encoder": str(encoder["name"]) for kind, encoder in features.encoders.items()}
    precisions = {str(encoder.get("precision", "unknown")) for encoder in features.encoders.values()}
    return {
        **encoders,
        "chunk_size": str(chunk_size),
        "split_digest": split.digest,
        "split_unit": str(split.metadata["unit"]),
        "precision": ",".join(sorted(precisions)),
        "features": str(features.directory),
    }


def _log_choices(choices: Choices, tracker: Tracker, tell: Callable[[str], None]) -> None:
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
        tell(f"chunks of status {status} are scored by {choice.method} ({found})")
