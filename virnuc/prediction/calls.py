"""Calls: viral or not, for each chunk and for each sequence from its chunks.

Columns of VirNucPro keep their names and meaning: `Sequence_ID`, `Prediction`, `score1` (non-viral) and `score2`
(viral), and `Modified_ID` and `Is_Virus` in the file that ends in `_highestscore.csv`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from virnuc.prediction.chunks import ANSWERED, STATUSES
from virnuc.settings import PredictSettings

VIRAL, NON_VIRAL = "virus", "others"  # VirNucPro's words
THRESHOLD = PredictSettings.threshold  # lowest viral probability of a virus
_MIN_PROBABILITY = 1e-6  # probabilities are clipped this far from 0 and 1, so that no chunk outweighs all others


def call_chunks(scores: pd.DataFrame, threshold: float = THRESHOLD) -> pd.Series:
    """Return the call of each row of a scorer's table: `virus`, `others`, or empty where there is no score."""
    called = np.where(scores["probability"] >= threshold, VIRAL, NON_VIRAL)
    return pd.Series(np.where(scores["status"].isin(ANSWERED), called, ""), index=scores.index)


def call_sequences(chunks: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Return a row for each sequence: probability, label, status, counts of chunks, strongest chunk and its frame.

    The probability is that of the mean log-odds over the chunks that have a score, which on the validation genomes
    ranks better than the mean probability, the share of viral chunks or the highest chunk; NaN, with an empty label,
    where no chunk has a score. The status is the first in the order of `STATUSES` that any of its chunks has.

    Args:
        chunks: scored chunks with the columns `record`, `chunk` (from 1), `status`, `probability` and `frame`.
        threshold: lowest viral probability of a virus.
    """
    record = chunks["record"]
    counts = pd.DataFrame({status: (chunks["status"] == status).groupby(record).sum() for status in STATUSES})
    answered = counts[list(ANSWERED)].sum(axis=1)
    odds = logit(chunks["probability"].clip(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)).groupby(record).sum()
    table = pd.DataFrame({"probability": expit(odds / answered.where(answered > 0))})
    table["label"] = np.where(answered == 0, "", np.where(table["probability"] >= threshold, VIRAL, NON_VIRAL))
    table["status"] = np.select([counts[status] > 0 for status in STATUSES], STATUSES, "")
    table["chunks"] = record.groupby(record).size()
    table = table.join(counts)
    scored = chunks.dropna(subset="probability")
    best = scored.loc[scored.groupby("record")["probability"].idxmax()].set_index("record")
    table["strongest_chunk"] = best["chunk"].astype("Int64")
    table["frame"] = best["frame"].astype(str)
    return table.fillna({"frame": ""}).reset_index()
