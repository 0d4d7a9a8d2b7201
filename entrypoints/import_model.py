"""`import_model`: a classifier or metrics from elsewhere to a registered baseline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.errors import unknown_name
from virnuc.settings import ImportModelSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from virnuc.tracking import Tracker


@stage(ImportModelSettings)
def import_model(settings: ImportModelSettings, tracker: Tracker) -> ModelVersion:
    """Register a classifier that was trained elsewhere, or metrics that were measured elsewhere.

    VirNucPro's own pickled model is converted without running its pickle. A classifier becomes
    virnuc-<protein encoder>@challenger, as after train, and is to be evaluated next. Metrics become
    virnuc-<encoder>@unpaired: a comparison shows them and gives no verdict.
    """
    from virnuc.storage.files import sha256_file

    path = Path(settings.metrics or settings.checkpoint)
    imported = {
        "imported_sha256": sha256_file(path) if path.is_file() else "",
        "imported_as": f"{settings.encoder} {settings.chunk_size}",
    }
    if before := _imported_before(imported):
        say(f"import     this file is already registered: {before.name} version {before.version}")
        return before
    version = _register_metrics(settings, tracker) if settings.metrics else _register_model(settings, tracker)
    tracker.tags(imported)
    return version


def _imported_before(imported: dict[str, str]) -> ModelVersion | None:
    """Return the version that an earlier import of the same file made; None if there is none, or no longer."""
    from mlflow.tracking import MlflowClient

    from virnuc.tracking import find_finished

    for run in find_finished("import_model", imported):
        for version in MlflowClient().search_model_versions(f"run_id = '{run.info.run_id}'"):
            return version
    return None


def _register_model(settings: ImportModelSettings, tracker: Tracker) -> ModelVersion:
    from model_registry.card import SCORER, update_card
    from model_registry.packaging import log_scoring_model
    from model_registry.records import CHECKPOINTS
    from virnuc.prediction.scorer import save_scorer
    from virnuc.tracking import version_uri
    from virnuc.training.checkpoint import model_name, save_checkpoint
    from virnuc.training.data import ASSUMED_CHUNK_SIZE
    from virnuc.training.virnucpro import read_model

    checkpoint = read_model(Path(settings.checkpoint))
    name = model_name(checkpoint.metadata["encoders"], checkpoint.metadata["modality"])
    chunk_size = settings.chunk_size or next(iter(checkpoint.metadata.get("chunk_sizes", ())), 0)
    if not chunk_size:
        say(f"import     WARNING: the chunks' length is not recorded; the model will take {ASSUMED_CHUNK_SIZE} bp")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"model_{name}.pth"
        save_checkpoint(path, checkpoint)
        tracker.file(path, CHECKPOINTS)
        tracker.tags({"model": name, "checkpoint": f"{CHECKPOINTS}/{path.name}"})
        scorer = Path(temporary) / SCORER
        save_scorer(checkpoint, scorer, chunk_size or ASSUMED_CHUNK_SIZE, settings.weights)
        version = log_scoring_model(scorer, f"virnuc-{name}")
    tracker.client.set_registered_model_alias(version.name, "challenger", version.version)
    update_card(version_uri(version))
    say(f"import     registered {version.name} version {version.version}; run evaluate with it next")
    return version


def _register_metrics(settings: ImportModelSettings, tracker: Tracker) -> ModelVersion:
    from model_registry.evidence import UNPAIRED
    from virnuc.encoders import ENCODERS
    from virnuc.evaluation.metrics import KEYS
    from virnuc.tracking import ensure_registered, get_run
    from virnuc.training.virnucpro import read_external_metrics

    if settings.encoder not in ENCODERS:
        raise unknown_name("encoder", settings.encoder, ENCODERS)
    metrics = read_external_metrics(Path(settings.metrics), KEYS)
    tracker.metrics({f"test/{name}": value for name, value in metrics.items()})
    tracker.file(Path(settings.metrics))
    tracker.tags({"model": settings.encoder})
    name = f"virnuc-{settings.encoder}"
    ensure_registered(name)
    version = tracker.client.create_model_version(
        name,
        source=get_run(tracker.run_id).info.artifact_uri,
        run_id=tracker.run_id,
        tags={UNPAIRED: "measured elsewhere"},
        description="Metrics that were measured elsewhere, without a model: they can be shown but decide nothing.",
    )
    tracker.client.set_registered_model_alias(name, "unpaired", version.version)
    say(f"import     registered {name} version {version.version}, metrics alone: {', '.join(metrics)}")
    return version


if __name__ == "__main__":
    import_model.main()
