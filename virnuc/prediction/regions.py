"""Viral regions along a sequence: runs of chunks whose summed log-odds outweigh the cost of a region.

Single chunks are misclassified too often to give coordinates. Of all ways to mark parts of a sequence as viral, the
one with the highest sum of log-odds is taken, where each region costs `evidence`: a region appears where the sum over
its chunks exceeds that, and a few chunks with negative log-odds do not interrupt it. Without a cost a region is a run
of chunks called viral. This is the most probable path of a two-state hidden Markov model with equal switching.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from virnuc.prediction.calls import NON_VIRAL, VIRAL
from virnuc.settings import PredictSettings

WITH_REGIONS, NO_VIRUS = "contains viral regions", "no virus"
SHORT = "shorter than the model's chunks"
_MOST = 0.98  # chunks' probabilities are kept between 1 - this and this, so that a region needs several of them
_WHOLE = 0.7  # share of a sequence that its regions must cover for the whole to be called virus


@dataclass(frozen=True)
class RegionRule:
    """What counts as a viral region."""

    threshold: float = PredictSettings.region_threshold  # viral probability that counts neither for nor against
    evidence: float = PredictSettings.region_evidence  # smallest sum of a region's log-odds minus the threshold's
    length: int = PredictSettings.region_length  # bp at least


def mark(evidence: NDArray[np.float64], cost: float) -> NDArray[np.bool_]:
    """Return which of a sequence's chunks are in a region: the marking with the highest sum minus `cost` a region.

    Args:
        evidence: [chunks] log-odds of each chunk minus those of the threshold; 0 if there is no score.
        cost: of each region.
    """
    stay_in, stay_out = np.zeros(len(evidence), dtype=bool), np.zeros(len(evidence), dtype=bool)
    inside, outside, half = -cost / 2, 0.0, cost / 2  # a region costs one half at its start, one at its end
    for place, value in enumerate(evidence.tolist()):
        stay_in[place], stay_out[place] = inside > outside - half, outside >= inside - half
        inside, outside = max(inside, outside - half) + value, max(outside, inside - half)
    marked, current = np.zeros(len(evidence), dtype=bool), inside - half > outside
    for place in range(len(evidence) - 1, -1, -1):
        marked[place] = current
        current = stay_in[place] if current else not stay_out[place]
    return marked


def find_regions(chunks: pd.DataFrame, rule: RegionRule) -> pd.DataFrame:
    """Return a row for each viral region, with the columns of `REGION_COLUMNS`.

    Args:
        chunks: all chunks of some sequences, in order: `record`, `sequence`, `file`, `start`, `end` and `probability`.
        rule: what counts as a region.
    """
    odds = logit(chunks["probability"].clip(1 - _MOST, _MOST).to_numpy())
    evidence = np.nan_to_num(odds - logit(np.clip(rule.threshold, 1e-9, 1 - 1e-9)))
    first = np.flatnonzero(np.diff(chunks["record"].to_numpy(), prepend=-1))
    bounds = np.append(first, len(chunks))
    most = np.add.reduceat(np.maximum(evidence, 0), first) if len(first) else first  # no region can have more
    found = []
    for number in np.flatnonzero(most > rule.evidence):
        low, high = bounds[number], bounds[number + 1]
        edges = np.flatnonzero(np.diff(mark(evidence[low:high], rule.evidence), prepend=False, append=False)) + low
        found += [(a, b) for a, b in edges.reshape(-1, 2)]
    starts, ends = np.array(found, dtype=np.int64).reshape(-1, 2).T
    table = chunks.iloc[starts][["record", "sequence", "file"]].reset_index(drop=True)
    table["start"] = chunks["start"].to_numpy()[starts] + 1
    table["end"] = chunks["end"].to_numpy()[ends - 1]
    table["length"] = table["end"] - table["start"] + 1
    spans = list(zip(starts, ends, strict=True))
    table["probability"] = [expit(np.nanmean(odds[a:b])) for a, b in spans]
    table["evidence"] = [evidence[a:b].sum() for a, b in spans]
    table["chunks"] = ends - starts
    names = [f"{row.sequence}|{row.start}-{row.end}" for row in table.itertuples()]
    table.insert(0, "region", pd.Series(names, dtype=object))
    return table[table["length"] >= rule.length].reset_index(drop=True)


def call_by_regions(sequences: pd.DataFrame, regions: pd.DataFrame, chunk_size: int) -> pd.DataFrame:
    """Return the table of sequences with the columns `regions`, `viral_bases`, `call` and `note`.

    A sequence is `virus` if its own probability reaches the threshold and its regions, if any, cover most of it.

    Args:
        sequences: of `call_sequences`, with `length`.
        regions: of `find_regions`.
        chunk_size: bp of the model's chunks.
    """
    own = regions.groupby("record")["length"].agg(["size", "sum"]).reindex(sequences["record"]).fillna(0).astype(int)
    count, viral = own["size"].to_numpy(), own["sum"].to_numpy()
    whole = (sequences["label"] == VIRAL) & ((count == 0) | (viral >= _WHOLE * sequences["length"]))
    others = np.where(sequences["label"].isin((VIRAL, NON_VIRAL)), NO_VIRUS, "")
    call = np.where(whole, VIRAL, np.where(count > 0, WITH_REGIONS, others))
    note = np.where(sequences["length"] < chunk_size, SHORT, "")
    return sequences.assign(call=call, regions=count, viral_bases=viral, note=note)
