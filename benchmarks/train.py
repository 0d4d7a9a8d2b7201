"""Speed of `train`'s loop, compared with the same steps without reading and with a loader of single samples.

    python benchmarks/train.py --shards 200 --rows 500 --width 2048

makes seeded synthetic shards and, in each of several rounds, times the same number of batches with

    limit      the loop's own step on one batch in memory
    virnuc     the loop: batches of random frames, read from memory-mapped shards
    5 at once  the same with five replicates in one pass; frames are counted once
    loader 0   a DataLoader over single frames of the same files, with the optimizer's defaults and `.item()` each step
    loader 2   the same with two worker processes

The table has medians over rounds; ratios are taken within a round. `--epoch FRAMES` instead trains on 80 % of that many
frames and validates on 10 %, in a new process on `--device`, and reports the time of the last epoch and the peak of
anonymous memory (`RssAnon`, which no file backs).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from virnuc.features.feature_set import FeatureSet
from virnuc.features.shards import read_shard, write_shard
from virnuc.runtime import available_memory, describe_hardware, silent
from virnuc.settings import SplitSettings, TrainSettings
from virnuc.splits.assignment import Split, split
from virnuc.training.batches import Plan
from virnuc.training.classifier import Classifier
from virnuc.training.data import Subset
from virnuc.training.epochs import Trainer
from virnuc.training.run import train
from virnuc.training.stack import Stack
from virnuc.training.state import Replicate

BATCH = 32


class OneByOne(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Single frames of all shards; a frame's shard is found by a walk through the list, as in VirNucPro's training."""

    def __init__(self, paths: list[Path]) -> None:
        self.shards = [(shard.data, shard.label) for shard in map(read_shard, paths)]

    def __len__(self) -> int:
        return sum(data.size(0) for data, _ in self.shards)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        for data, label in self.shards:
            if index < data.size(0):
                return data[index], torch.tensor(label)
            index -= data.size(0)
        raise IndexError(index)


def make_features(directory: Path, shards: int, rows: int, width: int) -> None:
    """Write seeded synthetic shards in VirNucPro's format; half of the files are viral."""
    generator = torch.Generator().manual_seed(0)
    for number in range(shards):
        label = number % 2
        ids = [f"NC_{number * 20 + row % 20:06d}.1_chunk_{row // 20 + 1}F1" for row in range(rows)]
        data = torch.randn(rows, width, generator=generator) + 0.02 * label
        group = "viral.1.1_merged" if label else "bacteria.1.1_merged"
        write_shard(directory / group / f"output_{number + 1}_merged.pt", ids, data, label)


def new_stack(width: int, replicates: int = 1) -> Stack:
    """Return a stack of classifiers with seeded weights."""
    fresh = [Replicate.begin(seed, TrainSettings(), width, torch.device("cpu")) for seed in range(replicates)]
    return Stack([own.model for own in fresh], [own.optimizer for own in fresh])


def time_limit(features: FeatureSet, steps: int, _: int) -> float:
    """Time the loop's step on one batch."""
    stack = new_stack(features.dimension)
    vectors, labels = features.gather(np.arange(BATCH)), torch.randint(0, 2, (BATCH,))
    for _warm_up in range(10):
        stack.step(vectors, labels)
    started = time.perf_counter()
    for _step in range(steps):
        stack.step(vectors, labels)
    return time.perf_counter() - started


def time_virnuc(features: FeatureSet, steps: int, seed: int, replicates: int = 1) -> float:
    """Time the loop on random frames of all shards."""
    rows = np.random.default_rng(seed).choice(len(features), steps * BATCH, replace=False)
    labels = torch.from_numpy(features.labels[rows].astype(np.int64))
    part = Subset(features, features.columns("merged"), rows, labels)
    own = [
        Replicate.begin(seed, TrainSettings(), features.dimension, torch.device("cpu")) for seed in range(replicates)
    ]
    trainer = Trainer(own, part, Plan.make(part, BATCH, "full"), 1, silent)
    started = time.perf_counter()
    trainer.run(seed, 1)
    return time.perf_counter() - started


def time_loader(features: FeatureSet, steps: int, seed: int, workers: int) -> float:
    """Time plain training with a loader of single frames; the start of its workers is not timed."""
    generator = torch.Generator().manual_seed(seed)
    dataset = OneByOne([shard.path for shard in features.shards])
    loader = iter(DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, generator=generator))
    model = Classifier(features.dimension)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4, momentum=0.9)
    next(loader)
    started = time.perf_counter()
    for _step in range(steps):
        vectors, labels = next(loader)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(vectors), labels)
        loss.backward()
        optimizer.step()
        loss.item()
    return time.perf_counter() - started


LOOPS: dict[str, Callable[[FeatureSet, int, int], float]] = {
    "limit": time_limit,
    "virnuc": time_virnuc,
    "5 at once": lambda features, steps, seed: time_virnuc(features, steps, seed, 5),
    "loader 0": lambda features, steps, seed: time_loader(features, steps, seed, 0),
    "loader 2": lambda features, steps, seed: time_loader(features, steps, seed, 2),
}


def compare_speed(features: FeatureSet, steps: int, rounds: int) -> dict[str, float]:
    """Time all loops in turn, round by round, and print the medians."""
    for loop in LOOPS.values():  # fills the page cache and warms up
        loop(features, min(steps, 20), 0)
    seconds = [{name: loop(features, steps, seed) for name, loop in LOOPS.items()} for seed in range(rounds)]
    result = {}
    print(f"{'':10}{'frames/s':>10}{'of limit':>10}{'virnuc is':>11}")
    for name in LOOPS:
        speed = statistics.median(steps * BATCH / timed[name] for timed in seconds)
        share = statistics.median(timed["limit"] / timed[name] for timed in seconds)
        faster = statistics.median(timed[name] / timed["virnuc"] for timed in seconds)
        print(f"{name:10}{speed:10.0f}{share:10.3f}{faster:10.2f}x")
        result |= {f"{name}/frames_per_s": speed, f"{name}/of_limit": share, f"{name}/virnuc_faster": faster}
    return result


def train_watched(directory: Path, device: str, results: multiprocessing.SimpleQueue[dict[str, float]]) -> None:
    """Train; report times and the peak of anonymous memory, sampled ten times a second."""
    peaks, done = {"start": anonymous_memory()}, threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peaks["peak"] = max(peaks.get("peak", 0), anonymous_memory())

    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    features = FeatureSet.open(directory / "features")
    opened = time.perf_counter()
    settings = TrainSettings(epochs=1 if device == "cpu" else 3, device=device)
    result = train(features, Split.open(directory / "split"), settings, directory / "model")
    done.set()
    last = result.history[-1].metrics
    results.put(
        {
            "anonymous_mib_at_start": peaks["start"] / 2**20,
            "anonymous_mib_at_peak": peaks["peak"] / 2**20,
            "features_gib": sum(shard.path.stat().st_size for shard in features.shards) / 2**30,
            "frames": len(features),
            "scan_s": opened - started,
            "frames_per_s": last["frames_per_s"],
            "epoch_s": last["epoch_s"],
            "shuffle_block": float(result.shuffle == "block"),
        }
    )


def anonymous_memory() -> int:
    """Return this process's anonymous memory in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure_epoch(directory: Path, device: str) -> dict[str, float]:
    """Train on the features in `directory` in a new process."""
    split(SplitSettings(source=str(directory / "features"), out=str(directory / "split")))
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=train_watched, args=(directory, device, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the training process failed")
    result: dict[str, float] = results.get()
    for name, value in result.items():
        print(f"{name:24}{value:14,.1f}")
    return result


def main() -> None:
    """Make the shards, measure, delete them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--rows", type=int, default=500, help="rows a shard")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=300, help="batches timed in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epoch", type=int, default=0, help="frames of which to train whole epochs instead")
    parser.add_argument("--device", default="cpu", help="device of --epoch")
    parser.add_argument("--directory", default=os.environ.get("TMPDIR", "."), help="where the shards may lie")
    options = parser.parse_args()
    rows = options.epoch // options.shards if options.epoch else options.rows
    directory = Path(tempfile.mkdtemp(prefix="train-benchmark-", dir=options.directory))
    try:
        make_features(directory / "features", options.shards, rows, options.width)
        if options.epoch:
            result = measure_epoch(directory, options.device)
        else:
            result = compare_speed(FeatureSet.open(directory / "features"), options.steps, options.rounds)
    finally:
        shutil.rmtree(directory)
    parameters = {name: getattr(options, name) for name in ("shards", "width", "steps", "rounds", "epoch")}
    parameters |= {
        "rows": rows,
        "available_gib": available_memory() / 2**30,
        "hardware": describe_hardware(options.device),
    }
    print(json.dumps({"benchmark": "train", **parameters, **result}))


if __name__ == "__main__":
    main()
