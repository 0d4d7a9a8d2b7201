"""Where a model fails: accuracy by group, chunk length, lineage and organism, with counts.

A stratum of fewer than `MIN_FRAMES` frames is counted and gets no metric; one of fewer than `MIN_GENOMES` genomes
gets no interval. Most strata hold one class only, so accuracy is then recall (viral) or specificity (non-viral).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from virnuc.evaluation.intervals import draw_genomes
from virnuc.evaluation.weighted import Floats, Labels
from virnuc.runtime import derived_seed

MIN_FRAMES = 30
MIN_GENOMES = 5
LINEAGE_RANKS = 3  # ranks of a lineage that name its stratum
_IDENTITIES = [0, 0.5, 0.7, 0.9, 1.001]  # of the nearest training protein
_IDENTITY_NAMES = ["relative below 50 %", "relative of 50 to 70 %", "relative of 70 to 90 %", "relative of 90 to 100 %"]
_LENGTHS = [0, 150, 300, 500, 1000, np.inf]  # bp; bins where a part has too many chunk lengths to list


def strata(predictions: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """Return a table for each kind of stratum in the predictions, the largest stratum first.

    Columns: `stratum`, `frames`, `genomes`, `viral` (share), `accuracy`, `low`, `high`; NaN if there are too few data.
    """
    codes, names = pd.factorize(predictions["lineage"])  # few, each of many frames
    lineages = pd.Series(names)
    kinds = {
        "group": predictions["group"],
        "length": _length_strata(predictions["length"]),
        "lineage": lineages.map(_lineage_stratum)[codes],
        "family": lineages.str.extract(r"(\w+viridae)\b", expand=False).fillna("")[codes],
        "organism": predictions["organism"],
    }
    if "relative_label" in predictions and (predictions["relative_label"] >= 0).any():
        kinds["relative"] = _relative_strata(predictions)
    return {kind: _table(predictions, names, seed) for kind, names in kinds.items() if (names != "").any()}


def _relative_strata(predictions: pd.DataFrame) -> pd.Series:
    """Return the stratum of each row by the identity of its nearest training protein."""
    bins = pd.cut(predictions["identity"], _IDENTITIES, right=False, labels=_IDENTITY_NAMES).astype(object)
    return bins.where(predictions["relative_label"] >= 0, "no relative in training")


def _table(predictions: pd.DataFrame, names: pd.Series, seed: int) -> pd.DataFrame:
    labels, genomes = predictions["label"].to_numpy(dtype=np.int8), predictions["genome"].to_numpy(dtype=object)
    right = ((predictions["score"].to_numpy() >= 0.5) == (labels == 1)).astype(float)
    rows = [
        _row(name, genomes[chosen], labels[chosen], right[chosen], seed)
        for name, chosen in sorted(names.groupby(names.to_numpy()).indices.items())
        if name
    ]
    return pd.DataFrame(rows).sort_values("frames", ascending=False, kind="stable").reset_index(drop=True)


def _row(name: str, genomes: np.ndarray, labels: Labels, right: Floats, seed: int) -> dict[str, object]:
    count = len(pd.unique(genomes))
    accuracy, low, high = right.mean(), np.nan, np.nan
    if len(labels) < MIN_FRAMES:
        accuracy = np.nan
    elif count >= MIN_GENOMES:
        draws = draw_genomes(genomes, labels, derived_seed(seed, "stratum", name))
        ends = draws.interval(accuracy, draws.means(right))
        low, high = ends.low, ends.high
    counts = {"stratum": name, "frames": len(labels), "genomes": count, "viral": labels.mean()}
    return {**counts, "accuracy": accuracy, "low": low, "high": high}


def _length_strata(lengths: pd.Series) -> pd.Series:
    """Return `N bp` for each row, in bins where there are more than eight lengths; empty where unknown."""
    if lengths.nunique() <= 8:
        return lengths.map(lambda length: f"{length} bp" if length else "")
    bins = pd.cut(lengths, _LENGTHS, right=False).astype(str)
    return (bins.str.replace(r"\[(\d+)\.0, (\w+)(?:\.0)?\)", r"\1 to below \2 bp", regex=True)).where(lengths > 0, "")


def _lineage_stratum(lineage: str) -> str:
    return "; ".join(rank.strip() for rank in lineage.rstrip(".").split(";")[:LINEAGE_RANKS])
