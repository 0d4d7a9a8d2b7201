"""The parameters of the stages that run other stages; they have the same names as in those stages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from virnuc.errors import UsageError, unknown_name
from virnuc.settings.options import (
    Settings,
    batch_tokens,
    default_of,
    device,
    like,
    option,
    out,
    parse,
    plain,
    precision,
    revisions,
    seed,
    weights,
)
from virnuc.settings.stages import (
    BenchmarkSettings,
    CompareSettings,
    EvaluateSettings,
    ExtractSettings,
    PrepareSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)

S = TypeVar("S", bound=Settings)
PIPELINE_STAGES: dict[str, type[Settings]] = {
    "prepare": PrepareSettings,
    "extract": ExtractSettings,
    "split": SplitSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "benchmark": BenchmarkSettings,
    "compare": CompareSettings,
    "promote": PromoteSettings,
}
# Parameters that the pipeline itself passes from stage to stage.
_HANDED_ON = {
    *("source", "frames", "features", "split", "model", "dna_encoder", "protein_encoder", "baseline", "candidate"),
    *("controls", "benchmark", "modality", "companion", "register", "resume", "rollback", "override", "out"),
}


# What a classifier can do without a protein language model: the composition of the DNA and of the protein.
CONTROLS = (("codon_phase", "dipeptide"),)
_MAKING_DATA = ("prepare", "extract", "split")
LATEST = "latest"  # link to the newest experiment, and to the newest of an experiment's reports


@dataclass(frozen=True)
class PipelineSettings(Settings):
    """Genomes to verdict, for a baseline, a candidate and the controls."""

    source: str = like(PrepareSettings, "source", help="Directory of GenBank files named <group>.*, plain or gzipped.")
    chunk_size: int = like(PrepareSettings, "chunk_size")
    evidence: str = like(PrepareSettings, "evidence")
    balance: bool = like(PrepareSettings, "balance")
    test_fraction: float = like(SplitSettings, "test_fraction")
    val_fraction: float = like(SplitSettings, "val_fraction")
    unit: str = like(SplitSettings, "unit")
    dna_encoder: str = option("dnabert_s", "Encoder of the frames' DNA, the same for both sides.")
    baseline: str = option("esm2_3b", "Protein encoder on the slow side.")
    candidate: str = option("fastesm650", "Protein encoder on the fast side.")
    precision: str = precision()
    batch_tokens: int = batch_tokens()
    device: str = device()
    weights: Mapping[str, str] = weights()
    revisions: Mapping[str, str] = revisions()
    epochs: int = like(TrainSettings, "epochs")
    patience: int = like(TrainSettings, "patience")
    lr: float = like(TrainSettings, "lr")
    checkpoint: str = like(TrainSettings, "checkpoint")
    replicates: int = like(TrainSettings, "replicates")
    learning_curve: bool = like(TrainSettings, "learning_curve")
    sample: int = like(BenchmarkSettings, "sample", help="Frames in the benchmark's sample.")
    runs: int = like(BenchmarkSettings, "runs", help="Timed runs of each encoder in the benchmark.")
    warmup: int = like(BenchmarkSettings, "warmup", help="Warm-up batches of each encoder in the benchmark.")
    policy: str = like(CompareSettings, "policy")
    promote: bool = option(False, "Promote the candidate if the gate says PASS; read the report first.")
    seed: int = seed("Seed of the whole experiment.")
    overrides: Mapping[str, str] = option(
        {}, "Parameters of single stages, as STAGE.NAME=VALUE joined by commas: train.hidden_dim=256."
    )
    data: str = out("data", "Directory of experiments.")
    experiment: str = out(
        "",
        "Name of the directory in --data for frames, features, split, models and reports. Default: made from the "
        "parameters that determine the data, so that different experiments never share a directory.",
    )

    def __post_init__(self) -> None:
        """Check that there are two sides, and each stage's parameters."""
        super().__post_init__()
        if self.experiment == LATEST or not re.fullmatch(r"([\w][\w.+-]*)?", self.experiment):
            raise UsageError(f"--experiment {self.experiment!r}: use letters, digits and - _ . +, and not {LATEST!r}")
        if self.baseline == self.candidate:
            raise UsageError(f"baseline and candidate are both {self.baseline}")
        for key in self.overrides:
            stage, _, name = key.partition(".")
            if stage not in PIPELINE_STAGES:
                raise unknown_name("stage of the pipeline", stage, PIPELINE_STAGES)
            known = PIPELINE_STAGES[stage].__dataclass_fields__
            if name in _HANDED_ON:
                raise UsageError(f"{key}: the pipeline sets it itself")
            if name not in known:
                raise unknown_name(f"parameter of {stage}", name, known.keys() - _HANDED_ON)
        for stage in PIPELINE_STAGES.keys() - {"promote"}:
            self.of_stage(PIPELINE_STAGES[stage])

    @property
    def home(self) -> Path:
        """The experiment's directory; a digest ends its name if more parameters of the data are not the default."""
        return Path(self.data) / (self.experiment or self._name())

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """The DNA and protein encoder of baseline, candidate and each control, in this order."""
        compared = ((self.dna_encoder, self.baseline), (self.dna_encoder, self.candidate))
        return tuple(dict.fromkeys((*compared, *CONTROLS)))

    def _name(self) -> str:
        name = f"{Path(self.source).resolve().name}-{self.chunk_size}bp-{self.evidence}-{self.unit}-seed{self.seed}"
        values, declared = self.plain(), PipelineSettings.__dataclass_fields__
        others = ("balance", "test_fraction", "val_fraction", "precision", "revisions")
        deciding = [f"{key}={values[key]}" for key in others if values[key] != plain(default_of(declared[key]))]
        own = [f"{key}={text}" for key, text in self.overrides.items() if key.partition(".")[0] in _MAKING_DATA]
        digest = hashlib.sha256(repr(sorted(deciding + own)).encode()).hexdigest()[:6]
        return f"{name}-{digest}" if deciding or own else name

    def of_stage(self, stage: type[S], **own: Any) -> S:
        """Return a stage's settings: those it shares with the pipeline by name, `own`, and its overrides.

        Raises:
            UsageError: one of them is wrong.
        """
        declared = stage.__dataclass_fields__
        shared = {name: getattr(self, name) for name in declared.keys() & vars(self).keys() - _HANDED_ON}
        if "precision" in shared and stage is BenchmarkSettings:
            shared["precision"] = (self.precision,)  # which has one for each side
        for key, text in self.overrides.items():
            name = key.partition(".")[2]
            if PIPELINE_STAGES[key.partition(".")[0]] is stage:
                own[name] = parse(declared[name], text)
        return stage(**shared | own)


@dataclass(frozen=True)
class MainSettings(PipelineSettings):
    """The pipeline on the embedded genomes, with the learning rate and epochs that a small set needs."""

    source: str = like(PipelineSettings, "source", "examples/genomes")
    chunk_size: int = like(PipelineSettings, "chunk_size", 500)
    dna_encoder: str = like(PipelineSettings, "dna_encoder", "hexamer_tiny")
    baseline: str = like(PipelineSettings, "baseline", "esm2_tiny_deep")
    candidate: str = like(PipelineSettings, "candidate", "esm2_tiny")
    epochs: int = like(PipelineSettings, "epochs", 10)
    lr: float = like(PipelineSettings, "lr", 0.02)
    sample: int = like(PipelineSettings, "sample", 500)
    warmup: int = like(PipelineSettings, "warmup", 3)
    overrides: Mapping[str, str] = like(
        PipelineSettings, "overrides", {"train.batch_size": "128", "train.step_size": "2", "train.gamma": "0.5"}
    )
    promote: bool = like(PipelineSettings, "promote", True, "Promote the candidate if the gate says PASS.")


@dataclass(frozen=True)
class RehearseSettings(Settings):
    """The real experiment's architectures with random weights on a few real frames."""

    source: str = like(MainSettings, "source")
    chunk_size: int = like(PrepareSettings, "chunk_size")
    rows: int = option(64, "Frames to rehearse on; two classes in three parts need at least 16.", minimum=16)
    frames: int = option(2_000_000, "Frames of the real run, for the estimate of hours and disk.", minimum=1)
    dna_encoder: str = like(PipelineSettings, "dna_encoder")
    baseline: str = like(PipelineSettings, "baseline")
    candidate: str = like(PipelineSettings, "candidate")
    precision: str = precision()
    device: str = device()
    seed: int = seed("Seed of the whole rehearsal.")
    data: str = like(PipelineSettings, "data", "data/rehearsals")
    experiment: str = like(PipelineSettings, "experiment")
