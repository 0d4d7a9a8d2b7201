"""A small experiment, recorded by the stages themselves: two encoders, trained, evaluated and compared."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import Run

from entrypoints.benchmark import log
from entrypoints.compare import compare
from entrypoints.evaluate import evaluate
from entrypoints.train import train
from tests.shared import PROJECT
from tests.shared.samples import sample_frames
from virnuc.encoders import load_encoder
from virnuc.evaluation.speed import BenchmarkResult, SideResult, Timing
from virnuc.features.shards import write_shard
from virnuc.runtime import describe_hardware
from virnuc.sequences.frames import FRAME_SCHEMA
from virnuc.settings import (
    BenchmarkSettings,
    CompareSettings,
    EvaluateSettings,
    FeatureSource,
    SplitSettings,
    TrainSettings,
)
from virnuc.splits.assignment import split
from virnuc.storage.manifest import Manifest, describe_shard, read_manifest
from virnuc.tracking import find_finished, tracked_run

DNA, SLOW, FAST = "tetranucleotide", "esm2_tiny_deep", "esm2_tiny"
BASELINE, CANDIDATE = f"models:/virnuc-{SLOW}/1", f"models:/virnuc-{FAST}/1"
QUICK = {"epochs": 3, "lr": 0.01, "hidden_dim": 16, "device": "cpu"}


@dataclass(frozen=True)
class Experiment:
    """The experiment's store and directories."""

    home: Path

    @property
    def frames(self) -> Path:
        """Frames for the benchmark."""
        return self.home / "frames"

    def features(self, protein: str, source: str = "features") -> Path:
        """Return the features of one side; another source gives other vectors."""
        return self.home / source / f"{DNA}+{protein}"

    def use(self, monkeypatch, directory: Path) -> None:
        """Set MLflow to use a copy of the store in a directory of its own; artifacts are shared."""
        uri = f"sqlite:///{shutil.copy(self.home / 'mlflow.db', directory / 'mlflow.db')}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.chdir(directory)
        copy_policy(directory)
        mlflow.set_tracking_uri(uri)

    def trained(self, protein: str, parts: str = "split", made: str = "features", **changed) -> str:
        """Train and evaluate a side; return the URI of its version."""
        source = (FeatureSource(str(self.features(protein, made))),)
        settings = TrainSettings(features=source, split=str(self.home / parts), **(QUICK | {"out": "models"} | changed))
        version = train.run(settings)
        uri = f"models:/{version.name}/{version.version}"
        self.evaluated(uri, protein, parts, made)
        return uri

    def evaluated(self, uri: str, protein: str, parts: str = "split", made: str = "features") -> None:
        """Evaluate a version."""
        source, place = (FeatureSource(str(self.features(protein, made))),), str(self.home / parts)
        evaluate.run(EvaluateSettings(model=uri, features=source, split=place, shuffled=False, device="cpu"))

    def benchmarks(self) -> list[Run]:
        """Return the benchmarks of both encoders, the newest first."""
        return find_finished("benchmark", {"baseline": SLOW, "candidate": FAST})

    def timed(self, runs: int = 5, frames: int = 500, precision: str = "fp32") -> None:
        """Record a benchmark as its stage does, with given times, as those of a busy machine could fail the gate."""
        sides = {}
        for side, name, taken in (("baseline", SLOW, 6.0), ("candidate", FAST, 2.0)):
            provenance = load_encoder(name, device="cpu", precision="fp32").provenance.asdict()
            timings = (Timing(tokenise_s=0.1, embed_s=taken),) * runs
            known = provenance | {"precision": precision}
            sides[side] = SideResult(known, timings, frames, 102 * frames, 10**9, 1e11, 0.5, 2)
        digest = read_manifest(self.frames, "frames").digest
        settings = BenchmarkSettings(baseline=SLOW, candidate=FAST, frames=str(self.frames), device="cpu")
        hardware, names = describe_hardware("cpu"), {"baseline": SLOW, "candidate": FAST}
        result = BenchmarkResult(sides, {}, names, "sample", digest, "cpu", hardware, settings.batch_tokens)
        with tracked_run("benchmark", settings) as tracker:
            log(result, settings, tracker)

    def compared(self, candidate: str = CANDIDATE, baseline: str = BASELINE, **changed) -> dict:
        """Compare; return the verdict document, which must be a pass."""
        return compare.run(CompareSettings(baseline=baseline, candidate=(candidate,), **changed))

    def split(self, name: str, **changed) -> None:
        """Split the features of the slow side."""
        usual = {"test_fraction": 0.5, "source": str(self.features(SLOW)), "out": str(self.home / name)}
        split(SplitSettings(**(usual | changed)))


def build(home: Path, empty_store: Path) -> Experiment:
    """Make the experiment in a new SQLite store, unless another process has done so."""
    made, finished = Experiment(home), home / "finished"
    if finished.exists():
        return made
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.chdir(home)
    copy_policy(home)
    fill(made, f"sqlite:///{shutil.copy(empty_store, home / 'mlflow.db')}")
    finished.touch()
    return made


def copy_policy(directory: Path) -> None:
    """Copy the project's own policy to where compare and promote expect it in a directory."""
    (directory / "model_registry").mkdir()
    shutil.copy(PROJECT / "model_registry" / "policy.yaml", directory / "model_registry")


def fill(made: Experiment, uri: str) -> None:
    """Make the experiment in a store: two versions of the candidate, each compared with the baseline."""
    begin(made, uri)
    made.trained(SLOW)
    made.trained(FAST)
    made.trained(FAST, made="others")
    made.timed()
    for version in (1, 2):
        made.compared(f"models:/virnuc-{FAST}/{version}")


def begin(made: Experiment, uri: str, genomes: int = 120) -> None:
    """Set MLflow to use an empty store; write frames, features and split."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("virnuc", artifact_location=str(made.home / "files")))
    _write_frames(made.frames)
    for name, source, seed in ((SLOW, "features", 1), (FAST, "features", 2), (FAST, "others", 3)):
        _write_features(made, name, genomes, seed, source)
    made.split("split")


def _write_frames(directory: Path, rows: int = 20) -> None:
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    empty = dict.fromkeys(FRAME_SCHEMA.names) | {"label": 1, "group": "viral", "nucleotide": "ACG" * 100}
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=100)) for _ in range(rows)]
    table = [empty | {"frame_id": f"V.1_chunk_{n}F1", "protein": protein} for n, protein in enumerate(proteins)]
    path = directory / "viral-00000.parquet"
    pq.write_table(pa.Table.from_pylist(table, schema=FRAME_SCHEMA), path)
    Manifest("frames", {}, {}, {}, (describe_shard(directory, path, rows),)).write(directory)


def _write_features(made: Experiment, protein: str, genomes: int, seed: int, source: str) -> None:
    """Write features with separable classes, with the provenance of the real encoders."""
    known = {kind: load_encoder(name, device="cpu", precision="fp32").provenance for kind, name in _kinds(protein)}
    widths = {kind: provenance.dimension for kind, provenance in known.items()}
    drawn = sample_frames(genomes=genomes, frames=10, width=sum(widths.values()), seed=seed, apart=0.6)
    directory = made.features(protein, source)
    shards = []
    for label, group in ((1, "viral"), (0, "bacteria")):
        rows = np.flatnonzero(drawn[1] == label)
        path = directory / f"{group}_merged" / "output_00000_merged.pt"
        write_shard(path, [drawn[0][row] for row in rows], drawn[2][rows], label)
        shards.append(describe_shard(directory, path, len(rows)))
    details = {kind: provenance.asdict() for kind, provenance in known.items()}
    details |= {f"{kind}_dim": width for kind, width in widths.items()}
    inputs = {"frames": read_manifest(made.frames, "frames").digest}
    Manifest("features", {}, inputs, {}, tuple(shards), details=details).write(directory)


def _kinds(protein: str) -> tuple[tuple[str, str], ...]:
    return (("dna", DNA), ("protein", protein))
