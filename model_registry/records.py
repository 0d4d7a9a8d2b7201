"""What `train` and `evaluate` log to their runs; `evidence` reads it back."""

from __future__ import annotations

import pandas as pd

from model_registry.evidence import AGREEMENT, METRICS, PREDICTIONS, REPLICATE_PREDICTIONS, VALIDATION_PREDICTIONS
from virnuc.evaluation.evaluation import Evaluation
from virnuc.evaluation.sides import agreement
from virnuc.features.feature_set import FeatureSet
from virnuc.reports.figures import evaluation_drawings, training_drawings
from virnuc.tracking import Tracker
from virnuc.tracking.epochs import complete
from virnuc.training.checkpoint import REPLICATES, Checkpoint
from virnuc.training.run import TrainingResult

CHECKPOINTS = "checkpoints"  # the artifact folder
# The metrics logged for comparing; all others are in the artifact metrics.json.
COMPARED = (
    *("accuracy", "precision", "recall", "specificity", "f1", "mcc", "roc_auc", "pr_auc"),
    *("interval/accuracy_low", "interval/accuracy_high", "chunk/accuracy", "calibrated/ece"),
    *("macro/accuracy_by_genome", "macro/accuracy_by_group", "replicates/accuracy_mean", "replicates/accuracy_sd"),
    *("control/shuffled_accuracy", "control/permuted_p", "coverage/accuracy_of_all_chunks"),
    "coverage/roc_auc_of_all_chunks",
    *("leak/frames_sharing_a_genome", "leak/frames_in_pretraining"),
)
SHOWN = ("accuracy", "precision", "recall", "f1", "roc_auc", "mcc")


def log_training(result: TrainingResult, tracker: Tracker) -> None:
    """Log a training: the epochs that are missing, checkpoints, logs, figures and a description."""
    complete(tracker, result.history)
    for path in (result.model, result.last, result.best):
        tracker.file(path, CHECKPOINTS)
    for own in result.replicates:
        if own.seed != result.seed:
            tracker.file(own.model, f"{CHECKPOINTS}/{REPLICATES}/{own.seed}")
    tracker.file(result.log)
    found = {"best_epoch": result.best_epoch, "frames_left_out": result.left_out}
    tracker.tags({"checkpoint": f"{CHECKPOINTS}/{result.model.name}", **found, **result.described()})
    tracker.metrics(result.spread())
    history = {key: [record.metrics[key] for record in result.history] for key in result.history[0].metrics}
    for file, drawing in training_drawings(history, result.name).items():
        tracker.figure(drawing.figure, f"figures/{file}.png")
    rows = "".join(f"\n| {key} | {value:.6g} |" for key, value in result.metrics.items())
    seeds = "".join(
        f"\n| {own.seed} | {own.metrics['val/loss']:.4f} | {own.metrics['val/accuracy']:.4f} |"
        for own in sorted(result.replicates, key=lambda own: own.metrics["val/loss"])
    )
    tracker.describe(
        f"**{result.name}**, {result.epochs} epochs\n\n| seed | val/loss | val/accuracy |\n|---|---|---|{seeds}\n\n"
        f"| metric | value |\n|---|---|{rows}"
    )


def log_evaluation(done: Evaluation, checkpoint: Checkpoint, features: FeatureSet, tracker: Tracker) -> None:
    """Log an evaluation: metrics, predictions, tables, figures and a description."""
    known = {name: value for name, value in done.metrics.items() if value == value}
    tracker.json(known, METRICS)
    tracker.tags({"metrics": METRICS})
    compared = [f"test/{name}" for name in COMPARED] + [f"test/{size}bp/accuracy" for size in done.by_size]
    tracker.metrics({name: known[name] for name in compared if name in known})
    tracker.frame(done.predictions, PREDICTIONS)
    tracker.frame(done.validation, VALIDATION_PREDICTIONS)
    tracker.frame(pd.concat([done.predictions[["frame_id"]], done.replicates], axis=1), REPLICATE_PREDICTIONS)
    for size, table in list(done.by_size.items())[1:]:
        tracker.frame(table, f"predictions_{size}bp.parquet")
    for name, table in done.tables.items():
        tracker.frame(table, f"tables/by_{name}.csv")
    strata = [table.assign(by=name) for name, table in done.tables.items()]
    if strata:
        tracker.table(pd.concat(strata)[["by", *strata[0].columns.drop("by")]], "strata.json")
    tracker.json(agreement(checkpoint.metadata, features), AGREEMENT)
    for name, drawing in evaluation_drawings(done, checkpoint.metadata["model_type"]).items():
        tracker.figure(drawing.figure, f"{name}.png")  # at the root, where the compare page finds it
    rows = [f"| {name} | {done.metrics[f'test/{name}']:.4f} |" for name in SHOWN]
    tracker.describe("\n".join(["| test metric | value |", "|---|---|", *rows]))
