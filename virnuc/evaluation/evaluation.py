"""`evaluate`: a classifier's predictions on the test part of a split, and every figure that follows from them.

The steps are: score each frame once; fit temperature and threshold on validation; compute everything else from the
table of predictions alone. The table is kept, so that `metrics_of` can compute the same figures from it again and a
comparison need not trust a logged number. Keys are those of MLflow, in sections that its charts page shows:
`test/` frames, `test/chunk/`, `test/interval/`, `test/calibrated/`, `test/prevalence_05/`, `test/control/` ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from virnuc.evaluation.calibration import (
    at_threshold,
    calibration_error,
    fit_temperature,
    threshold_for,
    viral_probability,
)
from virnuc.evaluation.controls import permuted_labels
from virnuc.evaluation.intervals import Draws, draw_genomes, effective_genomes
from virnuc.evaluation.metrics import METRICS, binary_metrics
from virnuc.evaluation.predictions import (
    Scorer,
    chunk_predictions,
    frame_predictions,
    labels_of,
    margins,
    predict_followers,
    score_replicates,
)
from virnuc.evaluation.seen import CLASSIFIER, relative_metrics, with_seen
from virnuc.evaluation.strata import strata
from virnuc.evaluation.weighted import THRESHOLD, Labels
from virnuc.features.feature_set import FeatureSet
from virnuc.sequences.frames import COVERED, NO_CDS_EVIDENCE, NO_OPEN_FRAME
from virnuc.splits.assignment import Split

EVALUATION_VERSION = "4"  # raised whenever the same predictions would give other figures
PREVALENCES = {"prevalence_05": 0.05, "prevalence_01": 0.01}


@dataclass(frozen=True)
class Evaluation:
    """What is known of one model on one part of a split."""

    metrics: dict[str, float]  # by MLflow key
    predictions: pd.DataFrame  # a row for each frame, in the split's order: PREDICTION_COLUMNS
    validation: pd.DataFrame  # the same for the validation part
    tables: dict[str, pd.DataFrame]  # by stratum: group, length, lineage, organism
    temperature: float
    by_size: dict[int, pd.DataFrame] = field(default_factory=dict)  # for a mixture: predictions by chunk size in bp
    replicates: pd.DataFrame = field(default_factory=pd.DataFrame)  # as `predictions`: scores, `seed_<n>`


def evaluate(
    score: Scorer,
    features: FeatureSet,
    split: Split,
    seed: int = 42,
    columns: slice | None = None,
    shuffled: FeatureSet | None = None,
    chunks: pd.DataFrame | None = None,
    replicates: Mapping[int, Scorer] | None = None,
    pretrained: Mapping[str, set[str]] | None = None,
) -> Evaluation:
    """Score the test frames and return predictions, metrics with intervals, controls and strata.

    Args:
        score: The classifier, in evaluation mode.
        features: The feature set that the classifier was trained on. In a mixture the metrics are those of the first
            member, whose frames the split has; each chunk size also gets its own metrics, such as `test/150bp/`.
        split: The split it was trained on.
        seed: Of the bootstrap and of the permuted labels.
        columns: Which columns of the features the classifier takes (`Checkpoint.columns`); all by default.
        shuffled: Features of the same frames with shuffled sequences, for that control.
        chunks: All test chunks, or a random sample of them, with `label`, `reason` and the viral `probability` that
            `predict` would give them (NaN for no answer).
        replicates: The classifiers of all replicates by their seed, including `score`, in evaluation mode.
        pretrained: The genomes that each encoder was trained on, by its name, if they are recorded.

    Raises:
        DataError: the features lack a frame of the split, or a logit is not finite.
    """
    validation = frame_predictions(score, features, split, "val", columns)
    temperature = fit_temperature(labels_of(validation), margins(validation))
    predictions = with_seen(frame_predictions(score, features, split, "test", columns), split, pretrained or {})
    first, *others = features.members
    further = {other.chunk_size: predict_followers(score, other, split, "test", columns) for other in others}
    for table in (validation, predictions, *further.values()):
        table["calibrated"] = viral_probability(margins(table), temperature)
    metrics = metrics_of(predictions) | intervals_of(predictions, seed)
    metrics |= {"test/calibrated/temperature": temperature} | _threshold_metrics(validation, predictions, seed)
    metrics |= _under("test/calibration", calibration_error(predictions, draws_of(predictions, seed)))
    metrics |= _under("test/control", permuted_labels(predictions, seed))
    if shuffled is not None:
        control = frame_predictions(score, shuffled, split, "test", columns)
        figures = binary_metrics(labels_of(control), control["score"].to_numpy())
        metrics |= {f"test/control/shuffled_{key}": figures[key] for key in ("accuracy", "mcc", "roc_auc")}
    coverage = {name: value for name, value in split.metadata.get("coverage", {}).items() if name != "by_group"}
    if chunks is not None and len(chunks):
        coverage |= _of_chunks(chunks)
    metrics |= _under("test/coverage", coverage)
    by_size = {first.chunk_size: predictions, **further} if further else {}
    for size, table in by_size.items():
        found = metrics_of(table) | intervals_of(table, seed)
        metrics |= {name.replace("test/", f"test/{size}bp/", 1): value for name, value in found.items()}
    scores = score_replicates(replicates or {}, features, split, columns)
    metrics |= replicate_metrics(labels_of(predictions), scores)
    return Evaluation(metrics, predictions, validation, strata(predictions, seed), temperature, by_size, scores)


def metrics_of(predictions: pd.DataFrame) -> dict[str, float]:
    """Return every metric that follows from the table of predictions alone, by MLflow key."""
    labels, scores = labels_of(predictions), predictions["score"].to_numpy()
    chunks = chunk_predictions(predictions)
    metrics = _under("test", binary_metrics(labels, scores))
    metrics |= _under("test/chunk", binary_metrics(labels_of(chunks), chunks["score"].to_numpy()))
    if "calibrated" in predictions:
        calibrated = binary_metrics(labels, predictions["calibrated"].to_numpy())
        metrics |= _under("test/calibrated", {m.key: calibrated[m.key] for m in METRICS if m.calibrated})
    for section, prevalence in PREVALENCES.items():
        shifted = binary_metrics(labels, scores, prevalence)
        metrics |= _under(f"test/{section}", {m.key: shifted[m.key] for m in METRICS if m.shifting})
    metrics |= _under("test/count", _counts(predictions, chunks)) | _under("test/macro", _macro(predictions))
    if "seen" in predictions:
        seen = predictions["seen"]
        pretraining = ((seen != "") & (seen != CLASSIFIER)).sum()
        leaks = {"frames_sharing_a_genome": (seen == CLASSIFIER).sum(), "frames_in_pretraining": pretraining}
        metrics |= _under("test/leak", leaks) | _under("test/relatives", relative_metrics(predictions))
    return metrics


def intervals_of(predictions: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return the ends of the 95 % intervals of frame and chunk metrics, bootstrapped over genomes."""
    found: dict[str, float] = {}
    for section, table in (("test/interval", predictions), ("test/chunk_interval", chunk_predictions(predictions))):
        labels, scores = labels_of(table), table["score"].to_numpy()
        values = binary_metrics(labels, scores)
        draws = draws_of(table, seed)
        for name, drawn in draws.of(labels, scores).items():
            ends = draws.interval(values[name], drawn)
            found |= {f"{section}/{name}_low": ends.low, f"{section}/{name}_high": ends.high}
    return found


def draws_of(table: pd.DataFrame, seed: int) -> Draws:
    """Return the resampled genomes of a table of predictions, of frames or of chunks."""
    return draw_genomes(table["genome"], labels_of(table), seed)


def _under(section: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{section}/{name}": float(value) for name, value in metrics.items()}


def _counts(predictions: pd.DataFrame, chunks: pd.DataFrame) -> dict[str, float]:
    viral, called = predictions["label"] == 1, predictions["score"] >= THRESHOLD
    shares = predictions["genome"].value_counts(normalize=True)
    return {
        "frames": len(predictions),
        "chunks": len(chunks),
        "genomes": predictions["genome"].nunique(),
        "viral_frames": viral.sum(),
        "viral_genomes": predictions.loc[viral, "genome"].nunique(),
        "effective_genomes": min(effective_genomes(own) for _, own in predictions.groupby("label")["genome"]),
        "largest_genome_share": shares.iloc[0],
        "ten_largest_genomes_share": shares.iloc[:10].sum(),
        "true_viral": (viral & called).sum(),
        "false_viral": (~viral & called).sum(),
        "true_nonviral": (~viral & ~called).sum(),
        "false_nonviral": (viral & ~called).sum(),
    }


def replicate_metrics(labels: Labels, scores: pd.DataFrame) -> dict[str, float]:
    """Return mean, range and standard deviation of the replicates' accuracy; a single one has no standard deviation."""
    if scores.empty:
        return {}
    right = ((scores >= 0.5).to_numpy() == (labels == 1)[:, None]).mean(axis=0)  # [replicates]
    spread = {"accuracy_sd": float(right.std(ddof=1))} if len(right) > 1 else {}
    found = {"count": len(right), "accuracy_mean": right.mean(), "accuracy_low": right.min()}
    return _under("test/replicates", found | {"accuracy_high": right.max()} | spread)


def _macro(predictions: pd.DataFrame) -> dict[str, float]:
    """Return accuracies in which each genome, or each group, has the same weight whatever its number of frames."""
    right = (predictions["score"] >= THRESHOLD) == (predictions["label"] == 1)
    return {f"accuracy_by_{unit}": right.groupby(predictions[unit]).mean().mean() for unit in ("genome", "group")}


def _threshold_metrics(validation: pd.DataFrame, predictions: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return, for each stated prevalence, the threshold chosen on validation and what it gives on test."""
    found: dict[str, float] = {}
    draws = draws_of(predictions, seed)
    for section, prevalence in PREVALENCES.items():
        threshold = threshold_for(labels_of(validation), validation["score"].to_numpy(), prevalence)
        given = at_threshold(predictions, threshold, prevalence, draws)
        found |= _under(f"test/{section}/threshold", {"value": threshold} | given)
    return found


def _of_chunks(chunks: pd.DataFrame) -> dict[str, float]:
    """Return accuracy and ROC-AUC over chunks as `predict` scores them, annotated or not.

    A chunk without an answer counts as wrong in the accuracy, and as undecided in the ROC-AUC.
    """
    probability, viral = chunks["probability"], chunks["label"] == 1
    right = probability.notna() & ((probability >= THRESHOLD) == viral)
    kinds = {name: chunks["reason"] == name for name in (COVERED, NO_OPEN_FRAME, NO_CDS_EVIDENCE)}
    kinds |= {"uncovered": ~kinds[COVERED], "all": pd.Series(True, index=chunks.index)}
    found = {f"accuracy_of_{name}_chunks": float(right[own].mean()) for name, own in kinds.items() if own.any()}
    areas = binary_metrics(labels_of(chunks), probability.fillna(THRESHOLD).to_numpy())
    return {"chunks_scored": len(chunks), **found, "roc_auc_of_all_chunks": areas["roc_auc"]}
