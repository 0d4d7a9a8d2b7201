"""`predict`: sequences and a registered model to calls."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import say, stage
from virnuc.errors import DataError
from virnuc.settings import PredictSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from virnuc.prediction.scoring import Scorer
    from virnuc.storage.manifest import Manifest
    from virnuc.tracking import NullTracker, Tracker

SHOWN = 5  # sequences and regions on the terminal


@stage(PredictSettings)
def predict(settings: PredictSettings, tracker: Tracker | NullTracker) -> Manifest:
    """Call sequences viral or not with a registered model, in chunks; every chunk is in the output exactly once.

    Chunks are scored by the method that was best on the model's validation chunks; those without an open reading frame
    are marked. A stopped prediction resumes when the same command is given again.
    """
    from entrypoints.progress import bars
    from model_registry.health import about_version, check_alias, describe_version
    from model_registry.packaging import download_scorer
    from virnuc.prediction.prediction import Helpers
    from virnuc.prediction.prediction import predict as predict_sequences
    from virnuc.prediction.reading import check_inputs
    from virnuc.prediction.regions import RegionRule
    from virnuc.prediction.scorer import scorer_digest
    from virnuc.reports.rendering import FIGURES
    from virnuc.runtime import choose_device
    from virnuc.storage.workers import find_workers
    from virnuc.tracking import model_version, open_store, version_uri

    check_inputs(settings.input)
    open_store()
    version = model_version(settings.model)
    check_alias(settings.model, version)
    say(f"predict    with {describe_version(version)}")
    workers = find_workers(settings.engine, settings.workers, settings.device)
    near = Path(settings.out).parent if workers.several else None  # where the workers of other machines see it
    with tempfile.TemporaryDirectory(dir=near, prefix=".model") as temporary:
        directory = download_scorer(version_uri(version), Path(temporary).resolve())
        load = partial(_load, directory, settings)
        scorer = load(choose_device(settings.device).name)
        about = about_version(version, directory)
        threshold = _threshold(settings, version, scorer.temperature)
        manifest = predict_sequences(
            settings.input,
            scorer,
            scorer_digest(directory),
            Path(settings.out),
            about=about,
            threshold=threshold,
            rule=RegionRule(settings.region_threshold, settings.region_evidence, settings.region_length),
            batch_tokens=settings.batch_tokens,
            progress=bars("bp", begun=tracker.start),
            helpers=Helpers(workers, load) if workers.several else None,
        )
    counts = manifest.counts
    _tell(Path(settings.out), counts, threshold, about.chunk_size)
    tracker.tags({"model": version_uri(version)})
    for name in ("summary.html", "summary.md", "sequences.tsv", "regions.tsv"):
        tracker.file(Path(settings.out) / name)
    for path in sorted((Path(settings.out) / FIGURES).glob("*.svg")):
        tracker.file(path, FIGURES)
    tracker.dataset("calls", Path(settings.out), manifest.digest, "output")
    tracker.metrics({f"predict/{key}": float(value) for key, value in counts["out"].items()})
    return manifest


def _load(directory: Path, settings: PredictSettings, device: str) -> Scorer:
    """Return the scorer of a directory on a device, for the chunk size that is wanted."""
    from virnuc.prediction.scorer import load_scorer

    scorer = load_scorer(directory, settings.weights, device)
    return dataclasses.replace(scorer, chunk_size=settings.chunk_size or scorer.chunk_size)


def _threshold(settings: PredictSettings, version: ModelVersion, temperature: float) -> float:
    """Return the threshold that was given, or the one that keeps to the given share of false discoveries."""
    from model_registry.evidence import validation_chunks
    from virnuc.evaluation.calibration import threshold_for

    if not settings.false_discoveries:
        return settings.threshold
    labels, scores = validation_chunks(version, temperature)
    found = threshold_for(labels, scores, settings.prevalence, settings.false_discoveries)
    if not math.isfinite(found):
        raise DataError(
            f"no threshold keeps this model's false discoveries at {settings.false_discoveries:g} if "
            f"{settings.prevalence:g} of the chunks are viral; allow more, or give --threshold"
        )
    say(
        f"predict    threshold {found:.4f}: at most {settings.false_discoveries:.1%} of the validation chunks called "
        f"virus are wrong, if {settings.prevalence:.1%} of all chunks are viral"
    )
    return found


def _tell(out: Path, counts: Mapping[str, Any], threshold: float, chunk_size: int) -> None:
    """Print what was found: sentences, a table of the largest viral regions and sequences, and where everything is."""
    import pandas as pd

    from virnuc.prediction.summary import answer, number_of, short_caveat
    from virnuc.prediction.tables import read_regions
    from virnuc.reports.content import Table
    from virnuc.reports.rendering import aligned

    read, written = counts["in"], counts["out"]
    sequences = pd.read_parquet(
        out / "sequences.parquet", columns=["sequence", "length", "call", "probability", "note"]
    )
    regions = read_regions(out)
    say(
        f"\n{number_of(read['sequences'], 'sequence')} of {read['bases']:,} bp scored in "
        f"{number_of(written['chunks'], 'chunk')}; the threshold is {threshold:g}.\n"
        f"{answer(Counter(sequences['call']))}."
    )
    for caveat in short_caveat(int((sequences["note"] != "").sum()), read["sequences"], chunk_size):
        say(f"WARNING: {caveat}")
    viral = sequences[(sequences["call"] == "virus") & (sequences["note"] == "")].nlargest(SHOWN, "length")
    rows = [(row.sequence, row.call, f"1-{row.length}", f"{row.probability:.3f}") for row in viral.itertuples()]
    inside = regions[regions["sequence"].isin(sequences.loc[sequences["call"] == "contains viral regions", "sequence"])]
    rows += [
        (row.sequence, "viral region", f"{row.start}-{row.end}", f"{row.probability:.3f}")
        for row in inside.nlargest(SHOWN, "length").itertuples()
    ]
    if rows:
        say("\nThe longest:")
        for line in aligned(Table("", ("Sequence", "What", "Bases", "Probability"), tuple(rows))):
            say(f"  {line}")
    say(f"\nOpen {out / 'summary.html'}. Regions are in regions.tsv and .bed, viral DNA is in viral.fna.gz,")
    say("all calls are in sequences.tsv and calls.tsv; columns.tsv explains them.")


if __name__ == "__main__":
    predict.main()
