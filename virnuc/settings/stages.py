"""The parameters of the stages that do one thing each: declarations alone, which are read best in one file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from virnuc.errors import UsageError, unknown_name
from virnuc.settings.options import (
    PRECISIONS,
    REFSEQ_DIVISIONS,
    FeatureSource,
    Settings,
    batch_tokens,
    chunk_size,
    device,
    engine,
    option,
    out,
    precision,
    revisions,
    seed,
    weights,
    workers,
)

_REAL_FEATURES = (FeatureSource("data/features/dnabert_s+fastesm650"),)
_POLICY = "model_registry/policy.yaml"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True)
class DownloadSettings(Settings):
    """A RefSeq release to files, and encoders to the hub's cache."""

    divisions: tuple[str, ...] = option(
        REFSEQ_DIVISIONS, "RefSeq divisions, joined by commas; empty for encoders alone.", choices=REFSEQ_DIVISIONS
    )
    files: Mapping[str, str] = option(
        {"viral": "all", "invertebrate": "10", "plant": "10", "vertebrate_mammalian": "10", "vertebrate_other": "10"},
        "Number of files to draw from each division, as DIVISION=N or DIVISION=all, joined by commas; 1 of all others.",
    )
    mirror: str = option(
        "https://ftp.ncbi.nlm.nih.gov/refseq/release", "URL of the release's directory.", decisive=False
    )
    connections: int = option(3, "Files downloaded at the same time.", minimum=1, maximum=8, decisive=False)
    encoders: tuple[str, ...] = option((), "Encoders, joined by commas, whose weights go to the hub's cache.")
    revisions: Mapping[str, str] = revisions()
    seed: int = seed("Seed of the draw of files.")
    out: str = out("data/refseq", "Directory for the files.")

    def __post_init__(self) -> None:
        """Check that there is something to fetch, and each number of files."""
        super().__post_init__()
        _check(bool(self.divisions or self.encoders), "give --divisions, --encoders or both")
        for division, number in self.files.items():
            if division not in REFSEQ_DIVISIONS:
                raise unknown_name("RefSeq division", division, REFSEQ_DIVISIONS)
            _check(
                number == "all" or (number.isdecimal() and int(number) > 0), f"--files {division}={number}: N or all"
            )


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """Genomes to frames."""

    source: str = option("data/refseq", "Directory of GenBank or FASTA files named <group>.*, plain or gzipped.")
    chunk_size: int = chunk_size(300, "Chunk length in bp.")
    evidence: str = option(
        "cds",
        "cds keeps frames inside annotated coding sequences; open keeps every stop-free frame.",
        choices=("cds", "open"),
    )
    balance: bool = option(
        False, "Sample the larger class down to the size of the smaller one, the same number from each of its groups."
    )
    taxonomy: str = option(
        "", "Directory with NCBI's nodes.dmp and names.dmp, for the lineage of GenBank records that give none."
    )
    engine: str = engine()
    workers: int = option(1, "Processes, each reading one file at a time; 0 uses all cores.", minimum=0, decisive=False)
    seed: int = seed("Seed of the draw that --balance makes.")
    out: str = out("data/frames", "Directory for the frames.")


@dataclass(frozen=True)
class ExtractSettings(Settings):
    """Frames to features."""

    frames: str = option("data/frames", "Directory of frames, as `prepare` writes it.")
    dna_encoder: str = option("dnabert_s", "Encoder of the frames' DNA.")
    protein_encoder: str = option("fastesm650", "Encoder of the frames' proteins.")
    shifted: bool = option(
        False,
        "With chunks, also embed those halfway between neighbours: twice the training data for a companion.",
    )
    precision: str = precision()
    storage: str = option(
        "float32", "Type of the values on disk; float16 takes half the space.", choices=("float32", "float16")
    )
    batch_tokens: int = batch_tokens()
    device: str = device(
        help="Devices to compute on, with a process for each: auto, cpu, cuda (all visible GPUs), or cuda:N,cuda:M."
    )
    engine: str = engine()
    workers: int = workers()
    weights: Mapping[str, str] = weights()
    revisions: Mapping[str, str] = revisions()
    out: str = out("data/features", "Directory for all feature sets; this one goes into <dna>+<protein>.")


@dataclass(frozen=True)
class SplitSettings(Settings):
    """Frames or features to assignments."""

    source: str = option("data/frames", "Directory of frames or of one feature set (VirNucPro's own ones too).")
    test_fraction: float = option(0.1, "Share of the frames for testing.", above=0, below=1)
    val_fraction: float = option(0.1, "Share of the frames for validation.", above=0, below=1)
    unit: str = option(
        "genome",
        "What is kept together: genome; cluster: genomes with similar sequences; lineage: a clade, or everything after "
        "a date, is held out for testing; file: as in VirNucPro; record and frame, which leak and give a warning.",
        choices=("genome", "cluster", "lineage", "file", "record", "frame"),
    )
    clade: str = option("", "Name of the organism or taxon that unit lineage holds out for testing.")
    after: str = option("", "Unit lineage holds out genomes deposited after this date (YYYY-MM-DD) for testing.")
    identity: float = option(
        0.5, "Sequence identity from which unit cluster treats two sequences as similar.", above=0, maximum=1
    )
    coverage: float = option(
        0.5, "Share of both sequences that an alignment must cover for unit cluster.", above=0, maximum=1
    )
    shared: float = option(
        0.1,
        "Unit cluster joins two genomes if at least this share of the frames of one are similar to frames of the "
        "other. With 0 a single similar frame is enough; conserved genes then join almost all genomes.",
        minimum=0,
        maximum=1,
    )
    straddling: str = option(
        "drop",
        "With unit file: drop leaves out training frames whose genome is also in a test file; keep keeps them.",
        choices=("drop", "keep"),
    )
    genomes: str = option(
        "",
        "Table of records and their genomes (genomes.tsv), for features, or to correct what frames say.",
        decisive=False,  # its digest is
    )
    test_genomes: str = option(
        "",
        "Table (genomes.tsv) of the only genomes to use for validation and testing, such as those that no encoder was "
        "trained on; all others are for training. Default: any genome.",
        decisive=False,  # its digest is
    )
    seed: int = seed("Seed of the assignment.")
    out: str = out("data/test_set", "Directory for the split.")

    def __post_init__(self) -> None:
        """Check that something is left to train on, and that unit lineage has a clade or a date."""
        super().__post_init__()
        _check(
            self.test_fraction + self.val_fraction < 1,
            f"--test-fraction {self.test_fraction} and --val-fraction {self.val_fraction} leave nothing to train on",
        )
        _check(
            bool(self.clade) + bool(self.after) == (self.unit == "lineage"),
            "--unit lineage goes with either --clade NAME or --after DATE, other units with neither",
        )
        _check(
            not self.after or re.fullmatch(r"\d{4}-\d\d-\d\d", self.after) is not None,
            f"--after {self.after}: write the date as YYYY-MM-DD",
        )


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Features and a split to a classifier. The defaults are VirNucPro's published ones."""

    features: tuple[FeatureSource, ...] = option(
        _REAL_FEATURES,
        "Directory of a feature set, or several with different chunk sizes, joined by commas (DIR or DIR@BP).",
        decisive=False,  # their digest is
    )
    split: str = option(
        "data/test_set",
        "Directory of the split, made from the first feature set or its frames.",
        decisive=False,  # its digest is
    )
    epochs: int = option(200, "Maximum number of epochs.", minimum=1)
    patience: int = option(7, "Epochs without a lower validation loss before training stops.", minimum=1)
    batch_size: int = option(32, "Frames in a batch; batch normalisation needs 2.", minimum=2)
    lr: float = option(0.0002, "Learning rate of SGD at the start.", above=0)
    momentum: float = option(0.9, "Momentum of SGD.", minimum=0, below=1)
    step_size: int = option(10, "Epochs between two decays of the learning rate.", minimum=1)
    gamma: float = option(0.85, "Factor of each decay.", above=0, maximum=1)
    hidden_dim: int = option(512, "Width of the hidden layer.", minimum=1)
    dropout: float = option(0.5, "Dropout probability.", minimum=0, below=1)
    modality: str = option("merged", "Which half of the features to use.", choices=("merged", "dna", "protein"))
    companion: str = option(
        "",
        "Registered model with --modality dna, trained on the same split, as models:/NAME/VERSION. It scores chunks, "
        "alone or together with their frames, if that lowers the log loss on validation chunks by at least 1 %.",
    )
    checkpoint: str = option(
        "final",
        "Weights of the model: best takes the best epoch; final takes the last epoch, or the best one if training "
        "stopped early.",
        choices=("final", "best"),
    )
    shuffle: str = option(
        "auto",
        "full shuffles all frames; block shuffles blocks within a window, for features larger than memory; auto "
        "chooses.",
        choices=("auto", "full", "block"),
    )
    replicates: int = option(
        5,
        "Trainings that differ only in their seed, made together. The one with the median validation loss is "
        "registered; 1 is the published single training.",
        minimum=1,
    )
    learning_curve: bool = option(
        False, "Also train on 1/8, 1/4 and 1/2 of the training genomes, and draw the learning curve.", decisive=False
    )
    readers: int = option(1, "Threads that read ahead; the result does not depend on it.", minimum=1, decisive=False)
    seed: int = seed("Seed of initial weights, dropout and order of frames; replicates use the numbers that follow.")
    device: str = device()
    weights: Mapping[str, str] = weights(decisive=False)  # the features were made with theirs
    register: bool = option(True, "Register the model as a version of virnuc-<protein encoder>.", decisive=False)
    resume: str = option("", "Run id of a stopped training; if empty, it is looked up.", decisive=False)
    out: str = out("data/models", "Directory for checkpoints and training logs.")

    def __post_init__(self) -> None:
        """Check that a companion is not asked for where it would not be used."""
        super().__post_init__()
        _check(
            not self.companion or self.modality == "merged", f"--companion {self.companion}: needs --modality merged"
        )


@dataclass(frozen=True)
class ImportModelSettings(Settings):
    """A classifier or metrics from elsewhere, registered as a baseline."""

    checkpoint: str = option("", "VirNucPro's pickled model, or a model_<encoder>.pth that was trained elsewhere.")
    metrics: str = option("", "JSON object of metrics measured elsewhere, by name; they are shown but decide nothing.")
    encoder: str = option("", "Protein encoder of the metrics; a checkpoint names its own.")
    chunk_size: int = chunk_size(
        0, "Chunk length in bp that the classifier was trained on; 0 uses the length recorded in its checkpoint."
    )
    weights: Mapping[str, str] = weights()

    def __post_init__(self) -> None:
        """Check that it is either a checkpoint or metrics of a named encoder."""
        super().__post_init__()
        _check(bool(self.checkpoint) != bool(self.metrics), "give either --checkpoint FILE or --metrics FILE")
        _check(bool(self.metrics) == bool(self.encoder), "--encoder goes with --metrics: a checkpoint names its own")


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """A registered model and a split's test part to metrics."""

    model: str = option("models:/virnuc-fastesm650@challenger", "models:/NAME@ALIAS or models:/NAME/VERSION.")
    features: tuple[FeatureSource, ...] = option(
        _REAL_FEATURES,
        "Directory of a feature set of the model's encoders, or several with different chunk sizes, as in train.",
    )
    split: str = option("data/test_set", "Directory of the split.")
    shuffled: bool = option(True, "Also test on frames with shuffled letters, as a control.")
    chunks: int = option(
        4000, "Maximum number of test chunks to score as predict does, drawn by the seed; 0 leaves them out.", minimum=0
    )
    device: str = device()
    weights: Mapping[str, str] = weights()
    seed: int = seed("Seed of the bootstrap, of the controls and of the sample of chunks.")
    out: str = out("data/evaluations", "Directory for the features of the shuffled frames.")


@dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """Two encoders and a sample of frames to embedding speed."""

    baseline: str = option("esm2_3b", "Encoder on the slow side.")
    candidate: str = option("fastesm650", "Encoder on the fast side.")
    frames: str = option(
        "data/frames",
        "Directory of frames, as `prepare` writes it.",
        decisive=False,  # their digest is
    )
    sample: int = option(1000, "Frames in the sample, drawn evenly from all frames.", minimum=1)
    runs: int = option(5, "Timed runs of each encoder, alternating; the lower bound of their ratios counts.", minimum=1)
    seconds: int = option(
        0,
        "Approximate length of a run in s; the sample is cut or repeated for it. 0: each run is the sample once.",
        minimum=0,
    )
    warmup: int = option(50, "Warm-up batches of each encoder before the first timed run.", minimum=0)
    precision: tuple[str, ...] = option(
        ("same",),
        "PRECISION for both; same: a fast one for both; BASELINE,CANDIDATE: the result is marked if they differ.",
        choices=("same", *PRECISIONS),
    )
    batch_tokens: int = batch_tokens(decisive=True)
    device: str = device()
    weights: Mapping[str, str] = weights()
    revisions: Mapping[str, str] = revisions()
    seed: int = seed("Seed of the sample.")
    out: str = out("reports/", "Directory for speed_benchmark.html and .md.")

    def __post_init__(self) -> None:
        """Check that there is a precision for each side."""
        super().__post_init__()
        _check(
            len(self.precision) in (1, 2), f"--precision {','.join(self.precision)}: give one, or BASELINE,CANDIDATE"
        )

    @property
    def key(self) -> str:
        """Digest of the parameters that decide a measurement."""
        return hashlib.sha256(repr(sorted(self.decisive().items())).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CompareSettings(Settings):
    """Registered models to a verdict on each candidate."""

    baseline: str = option("models:/virnuc-esm2_3b@challenger", "The slow side: models:/NAME@ALIAS or /VERSION.")
    candidate: tuple[str, ...] = option(
        ("models:/virnuc-fastesm650@challenger",),
        "The fast side; several, joined by commas, are judged one by one.",
    )
    controls: tuple[str, ...] = option(
        (), "Models to show next to them, without a verdict, joined by commas: models:/virnuc-dipeptide@challenger."
    )
    benchmark: tuple[str, ...] = option(
        (), "Run ids of the benchmarks to take speeds from, joined by commas; if empty, the newest."
    )
    policy: str = option(_POLICY, "The rules of the gate.")
    out: str = out("reports/", "Directory for validation_report.md, .html and verdict.json.")

    def __post_init__(self) -> None:
        """Check that there are candidates, each named once."""
        super().__post_init__()
        _check(
            0 < len(self.candidate) == len(set(self.candidate)),
            f"--candidate {','.join(self.candidate)!r}: name one or several versions, each once",
        )


@dataclass(frozen=True)
class PromoteSettings(Settings):
    """A verdict to a champion."""

    candidate: str = option("", "models:/NAME@ALIAS or /VERSION of the model to promote.")
    alias: str = option("champion", "Alias of the registered model `virnuc` to move.")
    policy: str = option(_POLICY, "The rules of the gate.")
    override: str = option("", "Reason to promote against the verdict; it stays on the version permanently.")
    rollback: bool = option(False, "Put the previous champion back.")

    def __post_init__(self) -> None:
        """Check that it is either a promotion or a rollback."""
        super().__post_init__()
        _check(self.rollback != bool(self.candidate), "give either --candidate models:/NAME/VERSION or --rollback yes")
        usable = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,99}", self.alias) and self.alias.lower() != "latest"
        _check(
            bool(usable) and not self.alias.startswith("previous"),
            f"--alias {self.alias!r}: choose another name",
        )


@dataclass(frozen=True)
class PredictSettings(Settings):
    """Sequences and a model to calls."""

    input: tuple[str, ...] = option(
        ("-",), "FASTA or FASTQ, plain or gzipped; several joined by commas; - reads standard input."
    )
    model: str = option("models:/virnuc@champion", "models:/NAME@ALIAS or models:/NAME/VERSION.")
    chunk_size: int = chunk_size(0, "Chunk length in bp; 0 takes the model's own.")
    threshold: float = option(0.5, "Lowest viral probability that is called virus.", minimum=0, maximum=1)
    false_discoveries: float = option(
        0.0,
        "Share of the chunks called virus that may be wrong; the threshold for it is chosen on the model's validation "
        "chunks. 0 uses --threshold.",
        minimum=0,
        below=1,
    )
    prevalence: float = option(0.05, "Share of viral chunks that --false-discoveries assumes.", above=0, below=1)
    region_threshold: float = option(
        0.5, "Viral probability at which a chunk counts neither for nor against a viral region.", above=0, below=1
    )
    region_evidence: float = option(
        12.0,
        "Smallest sum of log-odds over the chunks of a viral region. Smaller values give more and shorter regions; 0 "
        "gives every run of viral chunks.",
        minimum=0,
    )
    region_length: int = option(1500, "Length of the shortest viral region, in bp.", minimum=0)
    batch_tokens: int = batch_tokens()
    device: str = device()
    engine: str = engine()
    workers: int = workers()
    weights: Mapping[str, str] = weights()
    track: bool = option(False, "Log the prediction as a run.", decisive=False)
    out: str = out("data/calls", "Directory for the calls.")


@dataclass(frozen=True)
class DoctorSettings(Settings):
    """Checks of this machine and of the store."""

    encoders: tuple[str, ...] = option(
        ("esm2_tiny_deep", "esm2_tiny", "hexamer_tiny"), "Encoders to check, joined by commas."
    )
    verify: tuple[str, ...] = option(
        (),
        "Encoders, joined by commas, whose embeddings of real sequences are compared with those of a second "
        "implementation that reads the same weights.",
    )
    weights: Mapping[str, str] = weights()
    revisions: Mapping[str, str] = revisions()
    device: str = device()
    data: str = option(
        "data", "Directory to list: what it holds, and what deleting each part would cost.", decisive=False
    )
