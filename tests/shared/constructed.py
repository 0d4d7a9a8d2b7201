"""Evidence with known answers: test frames whose calls, and so whose accuracies and drops, are chosen one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from virnuc.evaluation.comparison import SideEvidence, SpeedEvidence
from virnuc.evaluation.evaluation import EVALUATION_VERSION, metrics_of
from virnuc.evaluation.predictions import predictions_table

GROUPS = ("bacteria", "fungi", "plant", "vertebrate_other")


def frames_table(genomes: int = 10, frames: int = 100) -> pd.DataFrame:
    """Rows of a split: every second genome is viral, each chunk has two frames."""
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
    """Predictions that are wrong exactly on the frames marked in `wrong`."""
    strength = 1 + np.random.default_rng(seed).random(len(table))
    margin = np.where((table["label"] == 1) ^ wrong, strength, -strength)
    predictions = predictions_table(table, np.stack([-margin / 2, margin / 2], axis=1))
    predictions["calibrated"] = predictions["score"]
    return predictions


def side(name: str, predictions: pd.DataFrame, seconds: float = 10.0, **changed: object) -> SideEvidence:
    """Evidence for a registered model as the store would hold it, with nothing wrong."""
    sizes = {"model_type": name, "dna_dim": 256, "protein_dim": 64, "merged_dim": 320}
    encoders = {"dna": {"weight_digest": "d1"}, "protein": {"weight_digest": f"weights of {name}"}}
    place = (1000, "fp32", "cpu", "one machine", "5a" * 32, "hub", f"benchmark of {name}")
    evidence = SideEvidence(
        name=f"virnuc-{name}",
        version="1",
        encoder=name,
        predictions=predictions,
        metrics=metrics_of(predictions),
        evaluation_version=EVALUATION_VERSION,
        split_digest="ab" * 32,
        split_unit="genome",
        weights={name: "hub", "dnabert_s": "hub"},
        checkpoint={"checkpoint_version": "2.0.0", "encoders": encoders, **sizes},
        features={"encoders": encoders, **sizes},
        speed=SpeedEvidence(name, seconds, (seconds,) * 3, *place),
        baseline_speed=SpeedEvidence("slow", 10.0, (10.0,) * 3, *place),
        provenance={"Evaluation run": f"run of {name}"},
        commands=(f"mlflow run . -e evaluate -P model=models:/virnuc-{name}/1",),
    )
    return replace(evidence, **changed)


def sides(
    lost: int = 0, genomes: int = 10, frames: int = 100, speedup: float = 4.0
) -> tuple[SideEvidence, SideEvidence]:
    """A baseline wrong on 10 % of each genome's frames, and a candidate wrong on `lost` more frames of each genome."""
    table = frames_table(genomes, frames)
    place = np.tile(np.arange(frames), genomes)
    slow = side("slow", predicted(table, place < frames // 10), speed=None, baseline_speed=None)
    return slow, side("fast", predicted(table, place < frames // 10 + lost, seed=1), 10.0 / speedup)
