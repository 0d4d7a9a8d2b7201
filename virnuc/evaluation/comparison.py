"""`compare`: two or more evaluated models, frame by frame, on the same test frames.

The evidence comes in as plain values that were read from the runs of registered models. First every logged metric
is computed again from the predictions that lie beside it; then it is settled whether the sides can be paired at all;
then all sides are resampled with the same draws of genomes, so that a difference's interval is that of the pairs.
What the evidence does not allow stays empty, and `Pair.problems` says why and how to repair it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from virnuc.errors import DataError
from virnuc.evaluation.evaluation import EVALUATION_VERSION, draws_of, metrics_of
from virnuc.evaluation.intervals import Draws, Interval
from virnuc.evaluation.metrics import KEYS, Floats, binary_metrics, mcnemar
from virnuc.evaluation.predictions import chunk_predictions
from virnuc.evaluation.strata import strata

_TOLERANCE = 1e-9  # between a logged metric and the one computed again; storing a float64 costs none of it
LEVELS = ("frames", "chunks")
_UNPAIRED = "has metrics but no predictions: they were measured elsewhere, so nothing can be paired with them"
_UNTESTED = "was never evaluated; run evaluate with it first"


@dataclass(frozen=True)
class SpeedEvidence:
    """One encoder's part of a benchmark run."""

    encoder: str
    seconds: float  # median over timed runs, for the whole sample, tokenising included
    runs: tuple[float, ...]  # s, each timed run
    frames: int  # in the sample
    precision: str
    device: str
    hardware: str  # what the report shows of the machine
    sample_digest: str
    weights: str  # hub, local, shipped, none or random: random weights are good for timing
    run_id: str = ""
    peak_memory: float = float("nan")  # bytes


@dataclass(frozen=True)
class SideEvidence:
    """What the registry and the runs behind one model version say. What they lack is left at its default."""

    name: str  # registered model
    version: str
    encoder: str  # name of the protein encoder, or of the pair for a control
    predictions: pd.DataFrame | None = None  # the artifact of its evaluation run
    metrics: Mapping[str, float] = field(default_factory=dict)  # logged by its evaluation run
    evaluation_version: str = ""
    split_digest: str = ""
    split_unit: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)  # kind of weights by encoder name
    checkpoint: Mapping[str, Any] = field(default_factory=dict)  # AGREEING keys and checkpoint_version
    features: Mapping[str, Any] = field(default_factory=dict)  # AGREEING keys, of the features it was evaluated on
    speed: SpeedEvidence | None = None  # of a candidate
    baseline_speed: SpeedEvidence | None = None  # the baseline's part of the same benchmark run
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)  # epoch metrics of training, by MLflow key
    left_out: str = ""  # why its evaluation has no accuracy over all chunks; empty if it has
    provenance: Mapping[str, str] = field(default_factory=dict)  # run ids, digests, commits: shown as they are
    commands: tuple[str, ...] = ()  # that made it

    @property
    def identity(self) -> str:
        """Name and version, as they stand in the registry."""
        return f"{self.name} v{self.version}" if self.version else self.name

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION, which never moves."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Side:
    """One model's own figures, computed again from its predictions."""

    evidence: SideEvidence
    metrics: dict[str, dict[str, Interval]]  # by level (frames, chunks) and metric
    tables: dict[str, pd.DataFrame]  # by stratum


@dataclass(frozen=True)
class Pair:
    """A candidate against the baseline."""

    candidate: Side
    problems: tuple[str, ...]  # why the two cannot be paired; nothing below is known then
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)  # candidate - baseline
    drop: Interval | None = None  # of accuracy over frames, baseline - candidate
    mcnemar: dict[str, float] = field(default_factory=dict)
    disagreements: pd.DataFrame | None = None  # by group: frames, only_baseline, only_candidate


@dataclass(frozen=True)
class Comparison:
    """Everything that a verdict and its report are made from."""

    baseline: Side | None
    missing: str  # why there is no baseline; empty if there is one
    pairs: tuple[Pair, ...]
    controls: tuple[Pair, ...]
    seed: int

    @property
    def sides(self) -> list[Side]:
        """All sides with figures: baseline, candidates, controls."""
        first = [self.baseline] if self.baseline else []
        return first + [pair.candidate for pair in (*self.pairs, *self.controls)]


def compare(
    baseline: SideEvidence | None,
    candidates: Sequence[SideEvidence],
    controls: Sequence[SideEvidence] = (),
    *,
    seed: int = 42,
    missing: str = "",
) -> Comparison:
    """Compare each candidate and each control with the baseline.

    Args:
        baseline: The slow side; None if there is none to compare with.
        candidates: At least one; each needs its predictions.
        controls: Composition encoders and the like, shown beside the sides and never judged.
        seed: Of the bootstrap.
        missing: Why there is no baseline, in words for the report.

    Raises:
        DataError: a logged metric is not what its predictions give, or a candidate was never evaluated.
    """
    if baseline is not None and baseline.predictions is None:
        missing = missing or f"{baseline.identity} {_UNPAIRED if baseline.metrics else _UNTESTED}"
    for evidence in filter(None, [baseline, *candidates, *controls]):
        check_metrics(evidence)
    usable = _Sampled(baseline, seed) if baseline is not None and baseline.predictions is not None else None
    if usable is None:
        missing = missing or "no baseline is registered"
    return Comparison(
        usable.side if usable else _unpaired(baseline),
        missing,
        tuple(_pair(usable, missing, _Sampled(evidence, seed)) for evidence in candidates),
        tuple(_pair(usable, missing, _Sampled(evidence, seed)) for evidence in controls),
        seed,
    )


def check_metrics(evidence: SideEvidence) -> None:
    """Compute the metrics of `evidence` again from its predictions and hold the logged ones to them.

    Raises:
        DataError: one is missing or differs: the store or the artifact was changed by hand.
    """
    if evidence.predictions is None:
        return
    for key, value in metrics_of(evidence.predictions).items():
        logged = evidence.metrics.get(key, np.nan)
        if not np.isclose(logged, value, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise DataError(
                f"{evidence.identity}: the logged {key} is {logged:.6f}, but its predictions give {value:.6f}; "
                "one of the two was changed; run evaluate again"
            )


def speedup(baseline: SpeedEvidence, candidate: SpeedEvidence) -> tuple[float, tuple[str, ...]]:
    """Return baseline time / candidate time, and what makes the ratio unfair."""
    unlike = [
        f"{name} {old!r} against {new!r}"
        for name, old, new in (
            ("precision", baseline.precision, candidate.precision),
            ("device", baseline.device, candidate.device),
            ("hardware", baseline.hardware, candidate.hardware),
            ("sample", baseline.sample_digest[:12], candidate.sample_digest[:12]),
        )
        if old != new
    ]
    return baseline.seconds / candidate.seconds, tuple(unlike)


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

    @property
    def right(self) -> np.ndarray:
        """Whether each frame is called rightly, bool [n]."""
        return ((self.frames["score"] >= 0.5) == (self.frames["label"] == 1)).to_numpy()

    def _drawn(self, level: str, name: str) -> Floats:
        """Return a metric's draws; there are none of one that cannot be resampled."""
        return self.drawn[level].get(name, np.empty(0))

    def minus(self, other: _Sampled, level: str, name: str) -> Interval:
        """Return the paired difference of one metric, self - other, from the draws that both share."""
        value = self.side.metrics[level][name].value - other.side.metrics[level][name].value
        return self.draws[level].interval(value, self._drawn(level, name) - other._drawn(level, name))

    def drop_to(self, candidate: _Sampled) -> Interval:
        """Return the drop of accuracy to the candidate; counted, so that a drop of just the limit is just that."""
        paired = self.minus(candidate, "frames", "accuracy")
        lost = int(self.right.sum()) - int(candidate.right.sum())
        return Interval(lost / len(self.frames), paired.low, paired.high)


def _unpaired(baseline: SideEvidence | None) -> Side | None:
    """Return a baseline of which only metrics are known, measured elsewhere: shown, never paired."""
    if baseline is None:
        return None
    known = {name: baseline.metrics.get(f"test/{name}", np.nan) for name in KEYS}
    return Side(baseline, {"frames": {name: Interval(value, np.nan, np.nan) for name, value in known.items()}}, {})


def _pair(baseline: _Sampled | None, missing: str, candidate: _Sampled) -> Pair:
    if baseline is None:
        return Pair(candidate.side, (missing,))
    problems = _problems(baseline, candidate)
    if problems:
        return Pair(candidate.side, problems)
    differences = {level: {name: candidate.minus(baseline, level, name) for name in KEYS} for level in LEVELS}
    return Pair(
        candidate.side,
        (),
        differences,
        baseline.drop_to(candidate),
        mcnemar(baseline.right, candidate.right),
        _disagreements(baseline, candidate),
    )


def _problems(baseline: _Sampled, candidate: _Sampled) -> tuple[str, ...]:
    """Return why two sides cannot be paired, each with the way to repair it."""
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
    """Return by group how many frames only one of the two gets right."""
    table = pd.DataFrame(
        {
            "group": baseline.frames["group"],
            "frames": 1,
            "only_baseline": baseline.right & ~candidate.right,
            "only_candidate": ~baseline.right & candidate.right,
        }
    )
    return table.groupby("group", sort=True).sum().astype(int).reset_index()
