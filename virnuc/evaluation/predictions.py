"""Predictions: a row for each frame with its logits and viral probability, and for each chunk of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from virnuc.errors import DataError
from virnuc.evaluation.calibration import fit_temperature, viral_probability
from virnuc.evaluation.weighted import Labels
from virnuc.features.feature_set import FeatureSet
from virnuc.splits.assignment import Split
from virnuc.training.checkpoint import Checkpoint
from virnuc.training.classifier import AT_ONCE, classify
from virnuc.training.data import follow

IDENTITY = ("frame_id", "chunk", "genome", "organism", "lineage", "group", "label", "length")
PREDICTION_COLUMNS = (*IDENTITY, "logit_nonviral", "logit_viral", "score", "calibrated")

Scorer = Callable[[Tensor], Tensor]  # features [n, d] float32 to logits [n, 2]: non-viral, viral


def frame_predictions(
    score: Scorer, features: FeatureSet, split: Split, part: str, columns: slice | None = None
) -> pd.DataFrame:
    """Return the uncalibrated predictions of one part, a row for each frame in the order of the split.

    With features of chunks there is a row for each reading, in the order of their ids.

    Raises:
        DataError: the features lack a frame of the split or give it another label, or a logit is not finite.
    """
    if features.of_chunks:
        return predict_followers(score, features, split, part, columns)
    frames = split.frames(part)
    return predictions_table(frames, _logits(score, features, _rows_of(frames, features), columns))


def temperature_of(checkpoint: Checkpoint, features: FeatureSet, split: Split) -> float:
    """Return the temperature that calibrates a classifier on the validation frames."""
    validation = frame_predictions(checkpoint.build(), features, split, "val", checkpoint.columns())
    return fit_temperature(labels_of(validation), margins(validation))


def score_replicates(
    replicates: Mapping[int, Scorer], features: FeatureSet, split: Split, columns: slice | None = None
) -> pd.DataFrame:
    """Return the viral score of each test frame by each replicate, in one pass over the features.

    Returns:
        A row a frame in the order of the split, a column `seed_<n>` for each replicate.

    Raises:
        DataError: as `frame_predictions`.
    """
    frames = split.frames("test")
    if not replicates:
        return pd.DataFrame(index=range(len(frames)))

    def score_all(vectors: Tensor) -> Tensor:
        return torch.stack([score(vectors) for score in replicates.values()], dim=1)  # [n, replicates, 2]

    logits = _logits(score_all, features, _rows_of(frames, features), columns)
    names = [f"seed_{seed}" for seed in replicates]
    tables = [predictions_table(frames, logits[:, number]) for number in range(len(names))]
    return pd.DataFrame({name: table["score"] for name, table in zip(names, tables, strict=True)})


def _rows_of(frames: pd.DataFrame, features: FeatureSet) -> np.ndarray:
    """Return the row of each frame in the features, which must give it the label that the split gives it."""
    rows = features.locate(frames["frame_id"].tolist())
    other = np.flatnonzero(features.labels[rows] != frames["label"].to_numpy())
    if len(other):
        raise DataError(
            f"{features.directory}: frame {frames['frame_id'].iloc[other[0]]} has another label than in the split; "
            "features and split were not made from the same frames"
        )
    return rows


def _logits(score: Scorer, features: FeatureSet, rows: np.ndarray, columns: slice | None) -> np.ndarray:
    """Return what `score` gives for some rows of `features`, float64 on the CPU."""
    batches = (features.gather(rows[start : start + AT_ONCE], columns) for start in range(0, len(rows), AT_ONCE))
    return classify(score, batches, len(rows)).numpy()


def predict_followers(
    score: Scorer, features: FeatureSet, split: Split, part: str, columns: slice | None
) -> pd.DataFrame:
    """Return the uncalibrated predictions on frames of another chunk size whose genomes are in `part`."""
    known = follow(features, split)
    frames = known[known["part"] == part].reset_index(drop=True)
    if frames.empty:
        raise DataError(f"{features.directory} has no frame of a genome in the {part} part of {split.directory}")
    genomes = split.frames(part).drop_duplicates("genome").set_index("genome")[["organism", "lineage", "group"]]
    frames = frames.join(genomes, on="genome").assign(length=features.chunk_size)
    return predictions_table(frames, _logits(score, features, frames["row"].to_numpy(), columns))


def predictions_table(frames: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """Return the table of predictions for `frames` (rows of a split's table) and their logits [n, 2] float64.

    Raises:
        DataError: a logit is not finite, or a frame id is not one.
    """
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise DataError(f"frame {frames['frame_id'].iloc[wrong[0]]}: the classifier gives a logit that is not finite")
    table = frames.assign(chunk=chunk_ids(frames["frame_id"]))[list(IDENTITY)]
    table["logit_nonviral"], table["logit_viral"] = logits.T
    table["score"] = viral_probability(margins(table))
    return table.reset_index(drop=True)


def chunk_ids(frame_ids: pd.Series) -> pd.Series:
    """Return the chunk of each frame id: `ACCESSION_chunk_KF1` and `ACCESSION_chunk_KR2` are of `ACCESSION_chunk_K`.

    Raises:
        DataError: an id has another form.
    """
    chunks = frame_ids.str.extract(r"^(.+_chunk_\d+)[FR][123]$", expand=False)
    if chunks.isna().any():
        raise DataError(f"frame id {frame_ids[chunks.isna()].iloc[0]!r} is not ACCESSION_chunk_K and F1..F3 or R1..R3")
    return chunks


def chunk_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each chunk, in order of first appearance, with VirNucPro's rule as its score.

    A chunk is viral if its highest viral score is at least its highest non-viral score. `score` is 0.5 plus half of
    their difference, so that a score of at least 0.5 is equivalent to the rule.
    """
    by_chunk = predictions.groupby("chunk", sort=False)
    chunks = by_chunk[["genome", "organism", "lineage", "group", "label", "length"]].first()
    viral = by_chunk["score"].max().to_numpy()
    nonviral = (1 - predictions["score"]).groupby(predictions["chunk"], sort=False).max().to_numpy()
    score = 0.5 + (viral - nonviral) / 2
    chunks["score"] = np.where(viral >= nonviral, np.maximum(score, 0.5), np.minimum(score, np.nextafter(0.5, 0)))
    return chunks.reset_index()


def margins(predictions: pd.DataFrame) -> np.ndarray:
    """Return viral logit - non-viral logit of each row, float64 [n]."""
    return (predictions["logit_viral"] - predictions["logit_nonviral"]).to_numpy(dtype=float)


def labels_of(table: pd.DataFrame) -> Labels:
    """Return the label of each row, int8 [n]: 1 viral, 0 non-viral."""
    return table["label"].to_numpy(dtype=np.int8)
