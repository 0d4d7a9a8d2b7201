"""`compare`: two or more evaluated models, frame by frame, on the same test frames.

The evidence consists of plain values that were read from the runs of registered models. First every logged metric
is computed again from the logged predictions; then the sides are checked for whether they can be paired at all;
then all sides are resampled with the same draws of genomes, so that the intervals of differences are paired.
Whatever the evidence does not allow is left empty, and `Pair.problems` says why and how to repair it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from virnuc.errors import DataError
from virnuc.evaluation.crossed import Drop, crossed_drop
from virnuc.evaluation.evaluation import EVALUATION_VERSION, draws_of, metrics_of, replicate_metrics
from virnuc.evaluation.intervals import Draws, Interval
from virnuc.evaluation.metrics import KEYS, binary_metrics, mcnemar
from virnuc.evaluation.predictions import chunk_predictions, labels_of
from virnuc.evaluation.sides import Comparison, Pair, Side, SideEvidence
from virnuc.evaluation.strata import strata
from virnuc.evaluation.weighted import THRESHOLD, Floats

_TOLERANCE = 1e-9  # between a logged metric and the one computed again; storing a float64 costs none of it
LEVELS = ("frames", "chunks")
_REGISTERED = "registered"  # name of the only replicate where there are no others
_UNPAIRED = "has metrics but no predictions: they were measured elsewhere, so nothing can be paired with them"
_UNTESTED = "was never evaluated; run evaluate with it first"


def compare(
    baseline: SideEvidence | None,
    candidates: Sequence[SideEvidence],
    controls: Sequence[SideEvidence] = (),
    *,
    missing: str = "",
) -> Comparison:
    """Compare each candidate and each control with the baseline.

    Args:
        baseline: The slow side; None if there is none to compare with.
        candidates: At least one; each needs its predictions.
        controls: Models without a protein language model, which are shown but not judged.
        missing: Why there is no baseline, as the report says it.

    Raises:
        DataError: a logged metric is not what its predictions give, or a candidate was never evaluated.
    """
    if baseline is not None and baseline.predictions is None:
        missing = missing or f"{baseline.identity} {_UNPAIRED if baseline.metrics else _UNTESTED}"
    for evidence in filter(None, [baseline, *candidates, *controls]):
        check_metrics(evidence)
    seed = _seed_of(candidates[0].split_digest)
    usable = _Sampled(baseline, seed) if baseline is not None and baseline.predictions is not None else None
    if usable is None:
        missing = missing or "no baseline is registered"
    sampled = [_Sampled(evidence, seed) for evidence in candidates]
    against = [_Sampled(evidence, seed) for evidence in controls]
    found = Comparison(
        usable.side if usable else _unpaired(baseline),
        missing,
        tuple(_pair(usable, missing, one) for one in sampled),
        tuple(_pair(usable, missing, one) for one in against),
        seed,
    )
    strongest = found.strongest_control
    beaten = next((one for one in against if strongest and one.side is strongest.candidate), None)
    if beaten is None:
        return found
    pairs = zip(found.pairs, sampled, strict=True)
    return replace(found, pairs=tuple(p if p.problems else replace(p, gain=own.drop_to(beaten)) for p, own in pairs))


def check_metrics(evidence: SideEvidence) -> None:
    """Compute the metrics of `evidence` again from its predictions and compare the logged ones with them.

    Raises:
        DataError: one is missing or differs: the store or the artifact was changed by hand.
    """
    if evidence.predictions is None:
        return
    expected = metrics_of(evidence.predictions)
    if evidence.replicates is not None:
        scores = evidence.replicates.set_index("frame_id").loc[evidence.predictions["frame_id"]]
        expected |= replicate_metrics(labels_of(evidence.predictions), scores)
    for key, value in expected.items():
        logged = evidence.metrics.get(key, np.nan)
        if not np.isclose(logged, value, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise DataError(
                f"{evidence.identity}: the logged {key} is {logged:.6f}, but its predictions give {value:.6f}; "
                "one of the two was changed; run evaluate again"
            )


def _seed_of(split_digest: str, *used: bytes) -> int:
    """Return a seed that is determined by the data compared, so that nobody can choose it."""
    parts = [hashlib.sha256(part).digest() for part in (split_digest.encode(), *used)]
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:7])


class _Sampled:
    """A side with its rows in order of frame id and each metric's bootstrap draws."""

    def __init__(self, evidence: SideEvidence, seed: int) -> None:
        if evidence.predictions is None:
            raise DataError(f"{evidence.identity} {_UNTESTED}")
        self.frames = evidence.predictions.sort_values("frame_id", ignore_index=True)
        chunks = chunk_predictions(self.frames)
        self.draws: dict[str, Draws] = {}
        self.drawn: dict[str, dict[str, Floats]] = {}
        values: dict[str, dict[str, Interval]] = {}
        for level, table in zip(LEVELS, (self.frames, chunks), strict=True):
            labels, scores = table["label"].to_numpy(dtype=np.int8), table["score"].to_numpy()
            self.draws[level] = draws_of(table, seed)
            self.drawn[level] = self.draws[level].of(labels, scores)
            values[level] = {
                name: self.draws[level].interval(value, self._drawn(level, name))
                for name, value in binary_metrics(labels, scores).items()
            }
        self.side = Side(evidence, values, strata(self.frames, seed))

        # Whether the registered training classifies each frame correctly, bool [n].
        self.right = ((self.frames["score"] >= THRESHOLD) == (self.frames["label"] == 1)).to_numpy()
        self.scores = self.frames[["score"]].rename(columns={"score": _REGISTERED})
        if evidence.replicates is not None and len(evidence.replicates.columns) > 1:
            scores = evidence.replicates.set_index("frame_id").loc[self.frames["frame_id"]]
            self.scores = scores.reset_index(drop=True)

    def right_by_replicate(self, names: Sequence[str]) -> pd.DataFrame:
        """Return 1 where a replicate classifies a frame correctly, else 0; a column for each replicate."""
        viral = (self.frames["label"] == 1).to_numpy()[:, None]
        scores = self.scores[list(names)] if set(names) <= set(self.scores) else self.frames[["score"]]
        return pd.DataFrame(((scores >= THRESHOLD).to_numpy() == viral).astype(int), columns=list(names))

    def _drawn(self, level: str, name: str) -> Floats:
        """Return a metric's draws; none if it cannot be resampled."""
        return self.drawn[level].get(name, np.empty(0))

    def minus(self, other: _Sampled, level: str, name: str) -> Interval:
        """Return the paired difference of one metric, self - other, from the draws that both share."""
        value = self.side.metrics[level][name].value - other.side.metrics[level][name].value
        return self.draws[level].interval(value, self._drawn(level, name) - other._drawn(level, name))

    def drop_to(self, candidate: _Sampled) -> Drop:
        """Return the drop of accuracy to the candidate, over the seeds that both were trained with."""
        shared = [name for name in self.scores if name in candidate.scores]
        names = shared or [_REGISTERED]  # without a common seed only the registered trainings are paired
        lost = self.right_by_replicate(names) - candidate.right_by_replicate(names)
        used = [self.frames["frame_id"].str.cat(sep="\n").encode(), lost.to_numpy(dtype=np.int8).tobytes()]
        seed = _seed_of(self.side.evidence.split_digest, *used)
        return crossed_drop(self.frames["genome"], labels_of(self.frames), lost, seed)


def _unpaired(baseline: SideEvidence | None) -> Side | None:
    """Return a baseline with nothing but metrics measured elsewhere: it is shown but never paired."""
    if baseline is None:
        return None
    known = {name: baseline.metrics.get(f"test/{name}", np.nan) for name in KEYS}
    return Side(baseline, {"frames": {name: Interval(value, np.nan, np.nan) for name, value in known.items()}}, {})


def _pair(baseline: _Sampled | None, missing: str, candidate: _Sampled) -> Pair:
    if baseline is None:
        return Pair(candidate.side, (missing,))
    if problems := _problems(baseline, candidate):
        return Pair(candidate.side, problems)
    differences = {level: {name: candidate.minus(baseline, level, name) for name in KEYS} for level in LEVELS}
    return Pair(
        candidate.side,
        (),
        differences,
        baseline.drop_to(candidate),
        mcnemar=mcnemar(baseline.right, candidate.right),
        disagreements=_disagreements(baseline, candidate),
    )


def _problems(baseline: _Sampled, candidate: _Sampled) -> tuple[str, ...]:
    """Return why two sides cannot be paired, and how to repair each problem."""
    old, new = baseline.side.evidence, candidate.side.evidence
    repair = f"run evaluate with {new.identity} on the split of {old.identity}"
    if old.split_digest != new.split_digest:
        return (
            f"tested on different splits: {old.identity} on {old.split_digest[:12] or 'an unknown one'}, "
            f"{new.identity} on {new.split_digest[:12] or 'an unknown one'}; train both on one split, then {repair}",
        )
    stale = [side.identity for side in (old, new) if side.evaluation_version != EVALUATION_VERSION]
    if stale:
        return (
            f"evaluated by another version of the evaluation code than {EVALUATION_VERSION}: {', '.join(stale)}; "
            "run evaluate again",
        )
    return _frame_problems(baseline.frames, candidate.frames, repair)


def _frame_problems(baseline: pd.DataFrame, candidate: pd.DataFrame, repair: str) -> tuple[str, ...]:
    only = sorted(set(baseline["frame_id"]) ^ set(candidate["frame_id"]))
    if only:
        return (f"tested on different frames: {len(only)} only on one side, the first is {only[0]}; {repair}",)
    for column in ("label", "genome"):
        other = np.flatnonzero(baseline[column].to_numpy() != candidate[column].to_numpy())
        if len(other):
            frame = baseline["frame_id"].iloc[other[0]]
            return (f"the two sides give {len(other)} frames another {column}, the first is {frame}; {repair}",)
    return ()


def _disagreements(baseline: _Sampled, candidate: _Sampled) -> pd.DataFrame:
    """Return, by group, how many frames only one of the two classifies correctly."""
    table = pd.DataFrame(
        {
            "group": baseline.frames["group"],
            "frames": 1,
            "only_baseline": baseline.right & ~candidate.right,
            "only_candidate": ~baseline.right & candidate.right,
        }
    )
    return table.groupby("group", sort=True).sum().astype(int).reset_index()
