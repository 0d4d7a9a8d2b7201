"""Evidence with known results: calls on test frames, hence accuracies and drops, are chosen one by one."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from virnuc.evaluation.evaluation import EVALUATION_VERSION, metrics_of, replicate_metrics
from virnuc.evaluation.intervals import draw_genomes
from virnuc.evaluation.predictions import labels_of, predictions_table
from virnuc.evaluation.sides import SideEvidence
from virnuc.evaluation.speed import BenchmarkResult, SideResult, Timing

GROUPS = ("bacteria", "fungi", "plant", "vertebrate_other")


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals of metrics from 200 draws of genomes, for tests of other things; those of the drop are as ever."""
    monkeypatch.setattr(draw_genomes, "__defaults__", (200,))


def frames_table(genomes: int = 40, frames: int = 100) -> pd.DataFrame:
    """Return rows of a split in which every second genome is viral and each chunk has two frames."""
    rows = []
    for number in range(genomes):
        viral = number % 2
        group = "viral" if viral else GROUPS[number // 2 % len(GROUPS)]
        for frame in range(frames):
            rows.append(
                {
                    "frame_id": f"G{number}_chunk_{frame // 2 + 1}{('F1', 'R2')[frame % 2]}",
                    "record": f"G{number}",
                    "genome": f"G{number}",
                    "organism": f"Organism {number}",
                    "lineage": "Viruses; Riboviria" if viral else f"Cellular; {group}",
                    "group": group,
                    "label": viral,
                    "length": 300,
                }
            )
    return pd.DataFrame(rows).astype({"label": "int8"})


def predicted(table: pd.DataFrame, wrong: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Return predictions that are wrong exactly on the frames marked in `wrong`."""
    strength = 1 + np.random.default_rng(seed).random(len(table))
    margin = np.where((table["label"] == 1) ^ wrong, strength, -strength)
    predictions = predictions_table(table, np.stack([-margin / 2, margin / 2], axis=1))
    predictions["calibrated"] = predictions["score"]
    return predictions.assign(seen="", identity=np.nan, relative_label=np.int8(-1))


def timed(
    seconds: float, baseline: float = 10.0, name: str = "fast", runs: int = 5, **changed: object
) -> BenchmarkResult:
    """Return a benchmark in which a run takes `baseline` seconds for the baseline and `seconds` for the candidate."""
    sides = {}
    for role, encoder, time in (("baseline", "slow", baseline), ("candidate", name, seconds)):
        provenance = {"name": encoder, "kind": "protein", "precision": "fp32", "weights": "hub", "dimension": 64}
        provenance |= {"weight_digest": f"weights of {encoder}", "revision": None}
        times = (Timing(0.0, time),) * runs
        sides[role] = SideResult(provenance, times, 1000, 100_000, 10**12, 1e12, 1.5, 2)
    names = {"baseline": "slow", "candidate": name}
    hardware = {"processor": "one machine", "threads": "2"}
    result = BenchmarkResult(sides, {}, names, "5a" * 32, "frames", "cpu", hardware, 16384, f"benchmark of {name}")
    return replace(result, **changed)


def replicated(predictions: pd.DataFrame, replicates: int = 5) -> pd.DataFrame:
    """Return trainings that make the same calls."""
    scores = {f"seed_{seed}": predictions["score"] for seed in range(replicates)}
    return pd.DataFrame({"frame_id": predictions["frame_id"], **scores})


def side(name: str, predictions: pd.DataFrame, seconds: float = 10.0, **changed: object) -> SideEvidence:
    """Return the evidence for a registered model as a store has it, without faults."""
    sizes = {"model_type": name, "dna_dim": 256, "protein_dim": 64, "merged_dim": 320}
    protein = {"weight_digest": f"weights of {name}", "precision": "fp32"}
    encoders = {"dna": {"weight_digest": "d1", "precision": "fp32"}, "protein": protein}
    replicates = replicated(predictions)
    metrics = metrics_of(predictions)
    metrics |= replicate_metrics(labels_of(predictions), replicates.drop(columns="frame_id"))
    evidence = SideEvidence(
        name=f"virnuc-{name}",
        version="1",
        encoder=name,
        predictions=predictions,
        metrics=metrics,
        evaluation_version=EVALUATION_VERSION,
        split_digest="ab" * 32,
        split_unit="genome",
        weights={name: "hub", "dnabert_s": "hub"},
        checkpoint={"checkpoint_version": "2.0.0", "encoders": encoders, **sizes},
        features={"encoders": encoders, "frames_digest": "frames", **sizes},
        replicates=replicates,
        training={"epochs": "200", "lr": "0.0002", "seed": "0"},
        validation={f"models:/virnuc-{name}/1": 0.9},
        speed=timed(seconds, name=name),
        provenance={"Evaluation run": f"run of {name}"},
        commands=(f"mlflow run . -e evaluate -P model=models:/virnuc-{name}/1",),
    )
    return replace(evidence, **changed)


@functools.cache
def sides(
    lost: int = 0, genomes: int = 40, frames: int = 100, speedup: float = 4.0
) -> tuple[SideEvidence, SideEvidence]:
    """Return a baseline wrong on 10 % of each genome's frames, and a candidate wrong on `lost` more of each genome."""
    table = frames_table(genomes, frames)
    place = np.tile(np.arange(frames), genomes)
    slow = side("slow", predicted(table, place < frames // 10), speed=None)
    return slow, side("fast", predicted(table, place < frames // 10 + lost, seed=1), 10.0 / speedup)
