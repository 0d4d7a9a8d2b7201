"""Registering a training as a scoring model, with tags that distinguish it from other versions of its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mlflow.entities.model_registry import ModelVersion

from model_registry.card import update_card
from model_registry.packaging import companion_source, log_scoring_model
from virnuc.evaluation.predictions import temperature_of
from virnuc.features.feature_set import FeatureSet
from virnuc.prediction.scorer import Choices
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
    companion = companion_source(settings.companion, split) if settings.companion else None
    if companion is not None:
        tracker.tags({"companion_run": model_version(companion.origin).run_id})
    directory = training_directory(settings, features, split)
    with exclusive(directory / _REGISTERING):  # two identical commands at once make one version
        version = log_scoring_model(
            result.model,
            f"virnuc-{result.name}",
            chunk_size=chunk_size,
            weights=settings.weights,
            temperature=temperature_of(load_checkpoint(result.model), features, split),
            companion=companion,
            seed=settings.seed,
            training=directory.name,
            described=result.described() | _identity(features, split, chunk_size),
            device=choose_device(settings.device).name,
            on_choice=partial(_log_choices, tracker=tracker, tell=tell),
        )
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
