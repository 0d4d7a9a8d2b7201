"""How much does leakage between training and test raise accuracy? The same frames, split by different units.

For each unit the frames are split in a new process, with its time and memory measured, and what the test part shares
with training is counted. If feature sets are given, the classifier of each is trained several times on each split and
tested on it. As frames and training are the same, differences between units are the effect of leakage. The last column
is the accuracy on test frames without a similar protein in training.

    python -m benchmarks.leakage --frames data/frames --units cluster
    python -m benchmarks.leakage --frames data/frames --features data/features/* --epochs 10 --lr 0.02 \
        --batch-size 128 --step-size 2 --gamma 0.5
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from virnuc.evaluation.predictions import score_replicates
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import describe_hardware
from virnuc.settings import FeatureSource, SplitSettings, TrainSettings
from virnuc.splits.assignment import Split, split
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.run import train

UNITS = ("frame", "record", "genome", "cluster")
SPLIT = {"identity": 0.5, "shared": 0.1, "test_genomes": "", "test_fraction": 0.1, "val_fraction": 0.1}
TRAINING = {"epochs": 10, "lr": 0.02, "batch_size": 128, "step_size": 2, "gamma": 0.5, "patience": 7, "replicates": 5}


def main() -> None:
    """Print the tables and, last, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, required=True, help="directory that prepare wrote")
    parser.add_argument("--features", type=Path, nargs="*", default=[], help="feature sets of these frames")
    parser.add_argument("--units", nargs="+", default=list(UNITS), choices=UNITS)
    for name, value in SPLIT.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="as in split")
    for name, value in TRAINING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    training, chosen = ({name: getattr(options, name) for name in names} for names in (TRAINING, SPLIT))
    splits, tested = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for unit in options.units:
            out = Path(temporary) / unit
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                splits.append(pool.submit(measure_split, options.frames, out, unit, chosen).result())
            print(pd.DataFrame(splits[-1:]).to_string(index=False), flush=True)
            for features in options.features:
                tested.append({"unit": unit, **measure_training(features, Split.open(out), training, out)})
                print(pd.DataFrame(tested[-1:]).to_string(index=False), flush=True)
    print("", pd.DataFrame(splits).T.to_string(header=False), "", sep="\n")
    if tested:
        print(pd.DataFrame(tested).to_string(index=False), "", sep="\n")
    hardware = describe_hardware("cpu")
    print(json.dumps({"leakage": splits, "accuracy": tested, "training": training, "hardware": hardware}))


def measure_split(frames: Path, out: Path, unit: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Split the frames; return time, memory, and what the test part shares with training."""
    started = time.perf_counter()
    done = split(SplitSettings(source=str(frames), out=str(out), unit=unit, **chosen))
    seconds = time.perf_counter() - started
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    leakage = done.metadata["leakage"]
    return {
        "unit": unit,
        "frames": len(done.table),
        "genomes": int(done.table["genome"].nunique()),
        "clusters": done.metadata.get("clusters", {}).get("clusters", ""),
        "test frames": leakage["test_frames"],
        "sharing a genome": leakage["frames_sharing_a_genome"],
        "identical DNA": leakage["frames_with_identical_dna"],
        "identical protein": leakage["frames_with_identical_protein"],
        "similar protein": leakage["frames_with_a_similar_protein"],
        "method": leakage["method"],
        "seconds": round(seconds, 1),
        "peak GiB": round(own / 2**20, 2),  # Linux counts KiB
        "peak GiB of MMseqs2": round(children / 2**20, 2),
    }


def measure_training(directory: Path, parts: Split, training: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train and test the classifier of one feature set on one split; return means over the replicates."""
    features = FeatureSet.open(directory)
    settings = TrainSettings(features=(FeatureSource(str(directory)),), split=str(parts.directory), **training)
    trained = train(features, parts, settings, out / "models" / directory.name)
    models = {own.seed: load_checkpoint(own.model).build() for own in trained.replicates}
    scores = score_replicates(models, features, parts)
    frames = parts.frames("test")
    right = (scores > 0.5).eq(frames["label"] == 1, axis=0)
    relatives = parts.relatives()
    alone = np.ones(len(frames), bool) if relatives is None else (relatives["nearest"] == "").to_numpy()
    return {
        "features": directory.name,
        "accuracy": round(float(right.to_numpy().mean()), 4),
        "SD": round(float(right.mean().std()), 4),
        "ROC-AUC": round(float(np.mean([roc_auc_score(frames["label"], scores[name]) for name in scores])), 4),
        "without a relative": round(float(right[alone].to_numpy().mean()), 4),
    }


if __name__ == "__main__":
    main()
