"""The input and the result of a comparison: the evidence of each side, pairs of sides, and all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from virnuc.evaluation.crossed import Drop
from virnuc.evaluation.intervals import Interval
from virnuc.evaluation.speed import BenchmarkResult

if TYPE_CHECKING:
    from virnuc.features.feature_set import FeatureSet


def agreement(checkpoint: Mapping[str, Any], features: FeatureSet) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint's metadata and its test features say about the same facts."""
    found = {
        "model_type": features.encoders["protein"]["name"],
        "dna_dim": features.dna_dim,
        "protein_dim": features.protein_dim,
        "merged_dim": features.dimension,
        "encoders": features.encoders,
        "digest": features.digest,
        "frames_digest": features.manifest.inputs.get("frames"),
    }
    return {"checkpoint": dict(checkpoint), "features": found}


@dataclass(frozen=True)
class SideEvidence:
    """What the registry and the runs say about one model version; unknown values keep their defaults."""

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
    replicates: pd.DataFrame | None = None  # the artifact of its evaluation run: frame_id, and scores as `seed_<n>`
    training: Mapping[str, str] = field(default_factory=dict)  # settings that decide what training gives
    validation: Mapping[str, float] = field(default_factory=dict)  # accuracy of all versions of the side on this split
    unrecorded: str = ""  # why it is not known what it was trained on; empty if it is
    speed: BenchmarkResult | None = None  # of a candidate: the benchmark of its encoder and the baseline's
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)  # epoch metrics of training, by MLflow key
    untested: str = ""  # groups of the training part without a test frame
    unnamed_viruses_of: str = ""  # encoders that may have been trained on a test virus, see `evaluation.seen`
    left_out: str = ""  # why its evaluation has no accuracy over all chunks; empty if it has
    provenance: Mapping[str, str] = field(default_factory=dict)  # run ids, digests, commits: for display
    commands: tuple[str, ...] = ()  # that made it

    @property
    def identity(self) -> str:
        """Name and version, as in the registry."""
        return f"{self.name} v{self.version}" if self.version else self.name

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION, which never moves."""
        return f"models:/{self.name}/{self.version}"

    @property
    def random_weights(self) -> list[str]:
        """Its encoders that have random weights."""
        return [name for name, kind in self.weights.items() if kind == "random"]


@dataclass(frozen=True)
class Side:
    """One model's own figures, computed again from its predictions."""

    evidence: SideEvidence
    metrics: dict[str, dict[str, Interval]]  # by level (frames, chunks) and metric
    tables: dict[str, pd.DataFrame]  # by stratum

    @property
    def validated(self) -> float:
        """Its validation accuracy, by which controls are chosen; -1 where it is not recorded."""
        return self.evidence.validation.get(self.evidence.uri, -1.0)


@dataclass(frozen=True)
class Pair:
    """A candidate against the baseline."""

    candidate: Side
    problems: tuple[str, ...]  # why the two cannot be paired; nothing below is known then
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)  # candidate - baseline
    drop: Drop | None = None  # of accuracy over frames, baseline - candidate
    gain: Drop | None = None  # of accuracy over frames, candidate - strongest control
    mcnemar: dict[str, float] = field(default_factory=dict)
    disagreements: pd.DataFrame | None = None  # by group: frames, only_baseline, only_candidate


@dataclass(frozen=True)
class Comparison:
    """Everything that a verdict and its report are made from."""

    baseline: Side | None
    missing: str  # why there is no baseline; empty if there is one
    pairs: tuple[Pair, ...]
    controls: tuple[Pair, ...]
    seed: int  # of the intervals of single sides; follows from the split

    @property
    def strongest_control(self) -> Pair | None:
        """The control with the highest validation accuracy, of those that can be paired with the baseline."""
        return max(
            (pair for pair in self.controls if pair.drop), key=lambda pair: pair.candidate.validated, default=None
        )

    @property
    def roles(self) -> list[tuple[str, Side]]:
        """All sides with figures, each with its role: baseline, candidate or control."""
        roles = [("candidate", pair.candidate) for pair in self.pairs]
        roles += [("control", pair.candidate) for pair in self.controls]
        return [("baseline", self.baseline), *roles] if self.baseline else roles

    @property
    def sides(self) -> list[Side]:
        """All sides with figures: baseline, candidates, controls."""
        return [side for _, side in self.roles]
