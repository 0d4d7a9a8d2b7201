"""`predict`: sequences and a registered model to calls."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import PredictSettings

if TYPE_CHECKING:
    from virnuc.storage.manifest import Manifest
    from virnuc.tracking import NullTracker, Tracker


@stage(PredictSettings)
def predict(settings: PredictSettings, tracker: Tracker | NullTracker) -> Manifest:
    """Call sequences viral or not with a registered model, in chunks; every chunk comes out exactly once.

    Chunks without an open reading frame are scored by the fallback that was best on the model's validation chunks, and
    are marked. A stopped prediction resumes when the same command is given again.
    """
    from entrypoints.progress import bars
    from model_registry.health import about_version, check_alias, describe_version
    from model_registry.packaging import download_scorer
    from virnuc.prediction.prediction import predict as predict_sequences
    from virnuc.prediction.scorer import load_scorer, scorer_digest
    from virnuc.reports.rendering import FIGURES
    from virnuc.runtime import choose_device
    from virnuc.tracking import model_version, open_store, version_uri

    open_store()
    version = model_version(settings.model)
    check_alias(settings.model, version)
    say(f"predict    with {describe_version(version)}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = download_scorer(version_uri(version), Path(temporary))
        device = choose_device(settings.device).name
        scorer = load_scorer(directory, settings.weights, device)
        if settings.chunk_size:
            scorer = dataclasses.replace(scorer, chunk_size=settings.chunk_size)
        manifest = predict_sequences(
            settings.input,
            scorer,
            scorer_digest(directory),
            Path(settings.out),
            about=about_version(version, directory),
            threshold=settings.threshold,
            batch_tokens=settings.batch_tokens,
            progress=bars("bp"),
        )
    counts = manifest.counts
    say(f"predict    {counts['in']} in, {counts['out']} out; calls in {settings.out}, see summary.html")
    tracker.tags({"model": version_uri(version)})
    for name in ("summary.html", "summary.md", "sequences.tsv"):
        tracker.file(Path(settings.out) / name)
    for path in sorted((Path(settings.out) / FIGURES).glob("*.svg")):
        tracker.file(path, FIGURES)
    tracker.dataset("calls", Path(settings.out), manifest.digest, "output")
    tracker.metrics({f"predict/{key}": float(value) for key, value in counts["out"].items()})
    return manifest


if __name__ == "__main__":
    predict.main()
