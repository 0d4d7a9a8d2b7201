"""Calls: viral or not, for each chunk and for each sequence from its chunks.

Columns of VirNucPro keep their names and meaning: `Sequence_ID`, `Prediction`, `score1` (non-viral) and `score2`
(viral), and `Modified_ID` and `Is_Virus` in the file that ends in `_highestscore.csv`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from virnuc.prediction.chunks import AMBIGUOUS, ANSWERED, NO_OPEN_FRAME, SCORED, STATUSES, TOO_SHORT
from virnuc.settings import PredictSettings

VIRAL, NON_VIRAL = "virus", "others"  # VirNucPro's words
THRESHOLD = PredictSettings.threshold  # lowest viral probability of a virus
_MIN_PROBABILITY = 1e-6  # probabilities are clipped this far from 0 and 1, so that no chunk outweighs all others
BY_PRECEDENCE = (
    SCORED,
    NO_OPEN_FRAME,
    AMBIGUOUS,
    TOO_SHORT,
)  # a sequence has the first of these that any of its chunks has


def call_chunks(scores: pd.DataFrame, threshold: float = THRESHOLD) -> pd.Series:
    """Return the call of each row of a scorer's table: `virus`, `others`, or empty where there is no score."""
    called = np.where(scores["probability"] >= threshold, VIRAL, NON_VIRAL)
    return pd.Series(np.where(scores["status"].isin(ANSWERED), called, ""), index=scores.index)


def partial_sums(chunks: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each sequence with sums over its chunks, which `combine` can add up.

    Args:
        chunks: scored chunks with the columns `record`, `chunk` (from 1), `status`, `probability` and `frame`.
    """
    grouped = chunks.groupby("record", sort=True)
    sums = pd.DataFrame({"chunks": grouped.size()})
    for status in STATUSES:
        sums[status] = (chunks["status"] == status).groupby(chunks["record"]).sum()
    sums["log_odds"] = (
        logit(chunks["probability"].clip(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)).groupby(chunks["record"]).sum()
    )
    answered = chunks.dropna(subset="probability")
    best = answered.loc[answered.groupby("record")["probability"].idxmax()].set_index("record")
    sums["highest"] = best["probability"]
    sums["strongest_chunk"] = best["chunk"]
    sums["frame"] = best["frame"]
    return sums.reset_index()


def combine(parts: pd.DataFrame) -> pd.DataFrame:
    """Add up partial sums that belong to the same sequence."""
    grouped = parts.groupby("record", sort=True)
    sums = grouped[["chunks", *STATUSES, "log_odds"]].sum()
    answered = parts.dropna(subset="highest").reset_index(drop=True)
    best = answered.loc[answered.groupby("record")["highest"].idxmax()].set_index("record")
    return sums.join(best[["highest", "strongest_chunk", "frame"]]).reset_index()


def call_sequences(sums: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Return a row for each sequence: probability, label, status, counts of chunks, strongest chunk and its frame.

    The probability is that of the mean log-odds over the chunks that have a score, which on the validation genomes
    ranks better than the mean probability, the share of viral chunks or the highest chunk; NaN, with an empty label,
    where no chunk has a score.
    """
    answered = sums[list(ANSWERED)].sum(axis=1)
    probability = expit(sums["log_odds"] / answered.where(answered > 0))
    table = pd.DataFrame({"record": sums["record"], "probability": probability})
    table["label"] = np.where(answered == 0, "", np.where(table["probability"] >= threshold, VIRAL, NON_VIRAL))
    table["status"] = np.select([sums[status] > 0 for status in BY_PRECEDENCE], BY_PRECEDENCE, TOO_SHORT)
    for name in ("chunks", *STATUSES):
        table[name] = sums[name].astype("int64")
    table["strongest_chunk"] = sums["strongest_chunk"].astype("Int64")
    table["frame"] = sums["frame"].fillna("").astype(str)
    return table
