"""The parameters of each stage: one frozen dataclass a stage, the only place where a default is written.

Nothing heavy is imported here, so that `--help` answers at once. The command-line options are made from these
fields, and a test holds the MLproject file to them. A value that cannot be meant raises a `UsageError` when the
settings are made, before anything is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from virnuc.errors import UsageError, unknown_name


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """Declare a field with its default, its help text and, where only some values are meant, its choices."""
    return field(default=default, metadata={"help": help, "choices": choices})


def parse_weights(text: str) -> dict[str, str]:
    """Read `NAME=DIR,NAME=random` into a mapping from encoder name to the source of its weights."""
    return _parse_pairs(text, "--weights", "NAME=DIR or NAME=random")


def parse_revisions(text: str) -> dict[str, str]:
    """Read `NAME=REVISION,...` into a mapping from encoder name to the revision of its hub repository."""
    return _parse_pairs(text, "--revisions", "NAME=COMMIT, NAME=BRANCH or NAME=TAG")


def _parse_pairs(text: str, what: str, form: str) -> dict[str, str]:
    pairs = {}
    for item in filter(None, text.split(",")):
        name, separator, value = map(str.strip, item.partition("="))
        if not (name and separator and value):
            raise UsageError(f"{what} {item!r}: write {form}, several joined by commas")
        pairs[name] = value
    return pairs


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _check_choices(settings: Any) -> None:
    for name, described in settings.__dataclass_fields__.items():
        choices = described.metadata.get("choices", ())
        if choices and getattr(settings, name) not in choices:
            raise unknown_name(f"value of --{name.replace('_', '-')}", str(getattr(settings, name)), choices)


def _check_chunk_size(chunk_size: int) -> None:
    _check(chunk_size >= 30, f"--chunk-size {chunk_size}: a chunk needs at least 30 bp")


def _check_seed(seed: int) -> None:
    _check(0 <= seed < 2**63, f"--seed {seed}: use 0 or a positive number below 2**63")


PRECISION_HELP = "Precision of the encoder: auto takes what the device does well and says why."
WEIGHTS_HELP = (
    "Where encoders' weights are, as NAME=DIR joined by commas; NAME=random builds the true architecture with "
    "seeded random weights, for timing only. Without it: the hub cache."
)
REVISIONS_HELP = (
    "Commits, branches or tags of encoders' hub repositories, as NAME=REVISION joined by commas, instead of the "
    "table's pinned ones."
)
DEVICE_HELP = "Device to compute on: auto, cpu, cuda or cuda:N."
PRECISION_CHOICES = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class PrepareSettings:
    """Genomes to frames."""

    source: str = option("data/refseq", "Directory of GenBank or FASTA files named <group>.*, plain or gzipped.")
    chunk_size: int = option(300, "Chunk length in bp.")
    evidence: str = option(
        "cds", "cds keeps frames inside annotated coding sequences; open keeps every stop-free frame.", ("cds", "open")
    )
    balance: str = option("no", "yes draws as many frames of the larger class as the smaller one has.", ("no", "yes"))
    seed: int = option(42, "Seed of the draw that --balance makes.")
    out: str = option("data/frames", "Directory for the frames.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check_chunk_size(self.chunk_size)
        _check_seed(self.seed)


@dataclass(frozen=True)
class ExtractSettings:
    """Frames to features."""

    frames: str = option("data/frames", "Directory of frames, as `prepare` writes it.")
    dna_encoder: str = option("dnabert_s", "Encoder of the frames' DNA.")
    protein_encoder: str = option("fastesm650", "Encoder of the frames' proteins.")
    precision: str = option("fp32", PRECISION_HELP, PRECISION_CHOICES)
    batch_tokens: int = option(16384, "Tokens in a batch, padding included; halved when the device's memory is full.")
    device: str = option("auto", DEVICE_HELP)
    engine: str = option("local", "Where to compute: local, this machine.", ("local",))
    weights: str = option("", WEIGHTS_HELP)
    revisions: str = option("", REVISIONS_HELP)
    out: str = option("data/features", "Directory for all feature sets; this one goes into <dna>+<protein>.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check(self.batch_tokens >= 1, f"--batch-tokens {self.batch_tokens}: use at least 1")
        parse_weights(self.weights)
        parse_revisions(self.revisions)


@dataclass(frozen=True)
class SplitSettings:
    """Frames or features to assignments."""

    source: str = option("data/frames", "Directory of frames or of one feature set (VirNucPro's own ones too).")
    test_fraction: float = option(0.1, "Share of the frames for testing.")
    val_fraction: float = option(0.1, "Share of the frames for validation.")
    unit: str = option(
        "genome",
        "What is kept together: genome; file, VirNucPro's way; frame, which leaks and says so.",
        ("genome", "file", "frame"),
    )
    seed: int = option(42, "Seed of the assignment.")
    out: str = option("data/test_set", "Directory for the split.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check_seed(self.seed)
        for name, value in (("--test-fraction", self.test_fraction), ("--val-fraction", self.val_fraction)):
            _check(0 < value < 1, f"{name} {value}: use a share between 0 and 1, both excluded")
        _check(
            self.test_fraction + self.val_fraction < 1,
            f"--test-fraction {self.test_fraction} and --val-fraction {self.val_fraction} leave nothing to train on",
        )


@dataclass(frozen=True)
class TrainSettings:
    """Features and a split to a classifier. The defaults are VirNucPro's published ones."""

    features: str = option(
        "data/features/dnabert_s+fastesm650",
        "Directory of one feature set; several of other chunk sizes may follow, joined by commas (DIR or DIR@BP).",
    )
    split: str = option("data/test_set", "Directory of the split, made from the first feature set or its frames.")
    epochs: int = option(200, "Most epochs to train.")
    patience: int = option(7, "Epochs without a lower validation loss before training stops.")
    batch_size: int = option(32, "Frames in a batch.")
    lr: float = option(0.0002, "Learning rate of SGD at the start.")
    momentum: float = option(0.9, "Momentum of SGD.")
    step_size: int = option(10, "Epochs between two decays of the learning rate.")
    gamma: float = option(0.85, "Factor of each decay.")
    hidden_dim: int = option(512, "Width of the hidden layer.")
    dropout: float = option(0.5, "Dropout probability.")
    modality: str = option("merged", "Which half of the features to use.", ("merged", "dna", "protein"))
    companion: str = option(
        "",
        "Registered model of --modality dna, trained on the same split, as models:/NAME/VERSION. It is tried on "
        "validation chunks without an open frame and scores such chunks where it is the better way.",
    )
    checkpoint: str = option(
        "final",
        "Weights to keep as the model: final, those that training ends with (the last epoch's, or the best epoch's if "
        "it stopped early), or best.",
        ("final", "best"),
    )
    shuffle: str = option(
        "auto",
        "full mixes all frames; block mixes blocks within a window, for features larger than the memory; auto decides.",
        ("auto", "full", "block"),
    )
    readers: int = option(1, "Threads that read ahead; they change nothing in the result.")
    seed: int = option(42, "Seed of initial weights, dropout and order of frames.")
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("", WEIGHTS_HELP)
    register: str = option("yes", "yes registers the model as a version of virnuc-<protein encoder>.", ("no", "yes"))
    resume: str = option("", "Run id of a training run that was stopped; empty finds it by itself.")
    out: str = option("data/models", "Directory for checkpoints and training logs.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check_seed(self.seed)
        for name in ("epochs", "patience", "step_size", "hidden_dim", "readers"):
            _check(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: use at least 1")
        _check(self.batch_size >= 2, f"--batch-size {self.batch_size}: batch normalisation needs at least 2")
        _check(
            not self.companion or self.modality == "merged", f"--companion {self.companion}: needs --modality merged"
        )
        _check(self.lr > 0, f"--lr {self.lr}: use a positive number")
        _check(0 <= self.momentum < 1, f"--momentum {self.momentum}: use a number from 0 to below 1")
        _check(0 < self.gamma <= 1, f"--gamma {self.gamma}: use a number above 0, at most 1")
        _check(0 <= self.dropout < 1, f"--dropout {self.dropout}: use a number from 0 to below 1")


@dataclass(frozen=True)
class ImportModelSettings:
    """A classifier or metrics from elsewhere to a registered baseline."""

    checkpoint: str = option("", "VirNucPro's pickled model, or a model_<encoder>.pth that was trained elsewhere.")
    metrics: str = option("", "JSON object of metrics measured elsewhere, by name: shown, never decisive.")
    encoder: str = option("", "Protein encoder that the metrics are of; a checkpoint names its own.")
    chunk_size: int = option(0, "Chunk length in bp that the classifier takes; 0 takes what its checkpoint records.")
    weights: str = option("", WEIGHTS_HELP)

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check(bool(self.checkpoint) != bool(self.metrics), "give either --checkpoint FILE or --metrics FILE")
        _check(bool(self.metrics) == bool(self.encoder), "--encoder goes with --metrics: a checkpoint names its own")
        if self.chunk_size:
            _check_chunk_size(self.chunk_size)
        parse_weights(self.weights)


@dataclass(frozen=True)
class EvaluateSettings:
    """A registered model and a split's test part to metrics."""

    model: str = option("models:/virnuc-fastesm650@challenger", "models:/NAME@ALIAS or models:/NAME/VERSION.")
    features: str = option(
        "data/features/dnabert_s+fastesm650",
        "Directory of the feature set of the model's encoders; several of other chunk sizes as in train.",
    )
    split: str = option("data/test_set", "Directory of the split.")
    shuffled: str = option("yes", "yes tests on frames with shuffled letters too, as a control.", ("no", "yes"))
    uncovered: int = option(2000, "Most test chunks without a frame to score, drawn by the seed; 0 leaves them out.")
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("", WEIGHTS_HELP)
    seed: int = option(42, "Seed of the bootstrap, of the controls and of that draw.")
    out: str = option("data/evaluations", "Directory for the features of the shuffled frames.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check_seed(self.seed)
        _check(self.uncovered >= 0, f"--uncovered {self.uncovered}: use 0 or more")
        parse_weights(self.weights)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Two encoders and a sample of frames to embedding speed."""

    baseline: str = option("esm2_3b", "Encoder on the slow side.")
    candidate: str = option("fastesm650", "Encoder on the fast side.")
    frames: str = option("data/frames", "Directory of frames, as `prepare` writes it.")
    sample: int = option(1000, "Frames in the sample, drawn with the set's own lengths.")
    runs: int = option(3, "Timed runs of each encoder; the median counts.")
    warmup: int = option(50, "Warm-up batches of each encoder before the first timed run.")
    precision: str = option(
        "same", "same takes one precision for both; PRECISION or BASELINE,CANDIDATE sets it, and differing is marked."
    )
    batch_tokens: int = option(16384, "Tokens in a batch, padding included.")
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("", WEIGHTS_HELP)
    revisions: str = option("", REVISIONS_HELP)
    seed: int = option(42, "Seed of the sample.")
    out: str = option("reports/", "Directory for speed_benchmark.md.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_seed(self.seed)
        for name in ("sample", "runs", "batch_tokens"):
            _check(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: use at least 1")
        _check(self.warmup >= 0, f"--warmup {self.warmup}: use 0 or more")
        for precision in self.precision.split(","):
            if precision not in ("same", *PRECISION_CHOICES):
                raise unknown_name("precision", precision, ("same", *PRECISION_CHOICES))
        parse_weights(self.weights)
        parse_revisions(self.revisions)

    @property
    def key(self) -> str:
        """Digest of what decides a measurement: everything but the places of frames and report."""
        decisive = {name: value for name, value in asdict(self).items() if name not in ("frames", "out")}
        return hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CompareSettings:
    """Registered models to a verdict on each candidate."""

    baseline: str = option("models:/virnuc-esm2_3b@challenger", "The slow side: models:/NAME@ALIAS or /VERSION.")
    candidate: str = option(
        "models:/virnuc-fastesm650@challenger", "The fast side; several, joined by commas, are judged each for itself."
    )
    controls: str = option("", "Models to show beside them, unjudged, by commas: models:/virnuc-dipeptide@challenger.")
    benchmark: str = option(
        "", "Run id of the benchmark to take speeds from, by commas for several candidates; empty takes the newest."
    )
    policy: str = option("model_registry/policy.yaml", "The rules of the gate.")
    seed: int = option(42, "Seed of the bootstrap.")
    out: str = option("reports/", "Directory for validation_report.md, .html and verdict.json.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_seed(self.seed)


@dataclass(frozen=True)
class PromoteSettings:
    """A verdict to a champion."""

    candidate: str = option("", "models:/NAME@ALIAS or /VERSION of the model to promote.")
    alias: str = option("champion", "Alias in the registered model `virnuc` that moves.")
    policy: str = option("model_registry/policy.yaml", "The rules of the gate, as they must still read.")
    override: str = option("", "Reason for promoting against the verdict; recorded on the version for ever.")
    rollback: str = option("no", "yes puts the previous champion back.", ("no", "yes"))

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check(
            (self.rollback == "yes") != bool(self.candidate),
            "give either --candidate models:/NAME/VERSION or --rollback yes",
        )


@dataclass(frozen=True)
class PredictSettings:
    """Sequences and a model to calls."""

    input: str = option("-", "FASTA or FASTQ, plain or gzipped; several joined by commas; - reads standard input.")
    model: str = option("models:/virnuc@champion", "models:/NAME@ALIAS or models:/NAME/VERSION.")
    chunk_size: int = option(0, "Chunk length in bp; 0 takes the model's own.")
    threshold: float = option(0.5, "Lowest viral probability, from 0 to 1, that is called a virus.")
    batch_tokens: int = option(16384, "Tokens in a batch, padding included.")
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("", WEIGHTS_HELP)
    track: str = option("no", "yes logs the prediction as a run.", ("no", "yes"))
    out: str = option("data/calls", "Directory for the calls.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        if self.chunk_size:
            _check_chunk_size(self.chunk_size)
        _check(0 <= self.threshold <= 1, f"--threshold {self.threshold}: use a number from 0 to 1")
        _check(self.batch_tokens >= 1, f"--batch-tokens {self.batch_tokens}: use at least 1")
        parse_weights(self.weights)


@dataclass(frozen=True)
class PipelineSettings:
    """Genomes to verdict, for a baseline, a candidate and the composition control."""

    source: str = option("data/refseq", "Directory of GenBank files named <group>.*, plain or gzipped.")
    chunk_size: int = option(300, "Chunk length in bp.")
    evidence: str = option("cds", "cds or open, see `prepare`.", ("cds", "open"))
    balance: str = option("no", "yes draws as many frames of the larger class as of the smaller.", ("no", "yes"))
    test_fraction: float = option(0.1, "Share of the frames for testing.")
    val_fraction: float = option(0.1, "Share of the frames for validation.")
    unit: str = option("genome", "What the split keeps together, see `split`.", ("genome", "file", "frame"))
    dna_encoder: str = option("dnabert_s", "Encoder of the frames' DNA, the same for both sides.")
    baseline: str = option("esm2_3b", "Protein encoder on the slow side.")
    candidate: str = option("fastesm650", "Protein encoder on the fast side.")
    precision: str = option("fp32", PRECISION_HELP, PRECISION_CHOICES)
    batch_tokens: int = option(16384, "Tokens in a batch, padding included.")
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("", WEIGHTS_HELP)
    revisions: str = option("", REVISIONS_HELP)
    epochs: int = option(200, "Most epochs to train.")
    patience: int = option(7, "Epochs without a lower validation loss before training stops.")
    lr: float = option(0.0002, "Learning rate of SGD at the start.")
    checkpoint: str = option("final", "Which weights to keep as the model, see `train`.", ("final", "best"))
    sample: int = option(1000, "Frames in the benchmark's sample.")
    runs: int = option(3, "Timed runs of each encoder in the benchmark.")
    warmup: int = option(50, "Warm-up batches of each encoder in the benchmark.")
    policy: str = option("model_registry/policy.yaml", "The rules of the gate.")
    promote: str = option(
        "no", "yes promotes the candidate if the gate says PASS; read the report first.", ("no", "yes")
    )
    seed: int = option(42, "The one seed of the whole experiment.")
    data: str = option("data", "Directory for frames, features, split, models and evaluations.")
    out: str = option("reports/", "Directory for the reports.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant; each stage checks its own again."""
        _check_choices(self)
        _check_chunk_size(self.chunk_size)
        _check_seed(self.seed)
        _check(self.epochs >= 1, f"--epochs {self.epochs}: use at least 1")
        _check(self.baseline != self.candidate, f"baseline and candidate are both {self.baseline}")


@dataclass(frozen=True)
class MainSettings(PipelineSettings):
    """The pipeline on the embedded genomes, with the learning rate and epochs that a small set needs."""

    source: str = option("examples/refseq_mini", "Directory of GenBank files named <group>.*, plain or gzipped.")
    dna_encoder: str = option("tetranucleotide", "Encoder of the frames' DNA, the same for both sides.")
    baseline: str = option("esm2_tiny_deep", "Protein encoder on the slow side.")
    candidate: str = option("esm2_tiny", "Protein encoder on the fast side.")
    epochs: int = option(40, "Most epochs to train.")
    lr: float = option(0.002, "Learning rate of SGD at the start.")
    warmup: int = option(3, "Warm-up batches of each encoder in the benchmark.")
    promote: str = option("yes", "yes promotes the candidate if the gate says PASS.", ("no", "yes"))


@dataclass(frozen=True)
class DoctorSettings:
    """Checks of this machine and of the store."""

    encoders: str = option("esm2_tiny_deep,esm2_tiny,tetranucleotide", "Encoders whose weights to look for, by commas.")
    weights: str = option("", WEIGHTS_HELP)
    revisions: str = option("", REVISIONS_HELP)
    device: str = option("auto", DEVICE_HELP)

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        parse_weights(self.weights)
        parse_revisions(self.revisions)


@dataclass(frozen=True)
class RehearseSettings:
    """The real experiment's architectures with random weights on a few real frames."""

    source: str = option("examples/refseq_mini", "Directory of GenBank files named <group>.*, plain or gzipped.")
    chunk_size: int = option(300, "Chunk length in bp.")
    rows: int = option(64, "Frames to rehearse on.")
    frames: int = option(2_000_000, "Frames of the run to come, for the estimate of hours and disk.")
    dna_encoder: str = option("dnabert_s", "Encoder of the frames' DNA, the same for both sides.")
    baseline: str = option("esm2_3b", "Protein encoder on the slow side.")
    candidate: str = option("fastesm650", "Protein encoder on the fast side.")
    precision: str = option("fp32", PRECISION_HELP, PRECISION_CHOICES)
    device: str = option("auto", DEVICE_HELP)
    seed: int = option(42, "The one seed of the rehearsal.")
    data: str = option("data/rehearsal", "Directory for frames, features, split, models and evaluations.")
    out: str = option("reports/rehearsal/", "Directory for the reports.")

    def __post_init__(self) -> None:
        """Raise a UsageError for values that cannot be meant."""
        _check_choices(self)
        _check_chunk_size(self.chunk_size)
        _check_seed(self.seed)
        _check(self.rows >= 16, f"--rows {self.rows}: both classes and three parts need at least 16")
        _check(self.frames >= 1, f"--frames {self.frames}: use at least 1")
