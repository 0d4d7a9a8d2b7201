"""A training in the store: its replicates are child runs, also after interruptions, and evaluate finds them all."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from entrypoints.evaluate import evaluate
from entrypoints.train import train
from model_registry import packaging
from model_registry.evidence import measured
from tests.shared import PROJECT
from tests.shared.figures import undrawn
from tests.shared.samples import sample_frames, write_features
from virnuc.settings import EvaluateSettings, FeatureSource, SplitSettings, TrainSettings
from virnuc.splits.assignment import split
from virnuc.tracking import download, find_runs, versions_of

SEEDS = (7, 8, 9)


@pytest.fixture
def place(store, tmp_path, monkeypatch):
    undrawn(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "features", *sample_frames(genomes=30, width=2048), manifest=False)
    split(SplitSettings(source="features", out="split", test_fraction=0.3))
    return tmp_path


def settings(**changes):
    given = {"features": (FeatureSource("features"),), "split": "split", "epochs": 4, "hidden_dim": 8, "lr": 0.001}
    return TrainSettings(**given | {"device": "cpu", "seed": 7, "replicates": 3, "readers": 1} | changes)


def children(run_id):
    runs = [run for run in find_runs("replicate", {}) if run.data.tags["mlflow.parentRunId"] == run_id]
    return {int(run.data.tags["virnuc.seed"]): run for run in runs}


def steps(run_id, key="val/loss"):
    return {metric.step: metric.value for metric in MlflowClient().get_metric_history(run_id, key)}


def test_each_replicate_has_a_run_and_evaluate_scores_them_all(place):
    version = train.run(settings(learning_curve=True))
    parent, runs = MlflowClient().get_run(version.run_id), children(version.run_id)
    assert tuple(sorted(runs)) == SEEDS
    losses = {seed: run.data.metrics["val/loss"] for seed, run in runs.items()}
    chosen = int(parent.data.tags["virnuc.seed"])
    assert losses[chosen] == sorted(losses.values())[1] == parent.data.metrics["val/loss"]
    assert parent.data.metrics["val/replicates/loss_mean"] == pytest.approx(sum(losses.values()) / 3)
    assert parent.data.metrics["val/replicates/loss_high"] == max(losses.values())
    assert steps(version.run_id) == steps(runs[chosen].info.run_id)
    for run in runs.values():
        assert run.info.status == "FINISHED" and sorted(steps(run.info.run_id)) == [1, 2, 3, 4]
        assert run.data.metrics.keys() <= parent.data.metrics.keys()
    tags = versions_of(version.name)[0].tags
    assert (tags["virnuc.replicates"], tags["virnuc.replicate_seeds"], tags["virnuc.seed"]) == (
        "3",
        "7,8,9",
        str(chosen),
    )
    assert [float(loss) for loss in tags["virnuc.replicate_val_loss"].split(",")] == pytest.approx(
        [losses[seed] for seed in SEEDS], rel=1e-5
    )
    curve = pd.read_csv(download(parent, "tables/learning_curve.csv", place))
    assert sorted(set(curve["share"])) == [0.125, 0.25, 0.5, 1.0] and len(curve) == 12
    assert curve.loc[curve["share"] == 1, "loss"].tolist() == pytest.approx([losses[seed] for seed in SEEDS])

    run_id = evaluate.run(
        EvaluateSettings(
            model="models:/virnuc-fastesm650@challenger", features=(FeatureSource("features"),), split="split"
        )
    )
    tested = MlflowClient().get_run(run_id)
    scores = pd.read_parquet(download(tested, "predictions/replicates.parquet", place))
    registered = pd.read_parquet(download(tested, "predictions.parquet", place))
    assert list(scores) == ["frame_id", "seed_7", "seed_8", "seed_9"]
    assert scores["frame_id"].tolist() == registered["frame_id"].tolist()
    assert scores[f"seed_{chosen}"].tolist() == registered["score"].tolist()
    metrics = measured(tested)
    right = [((scores[f"seed_{seed}"] >= 0.5) == (registered["label"] == 1)).mean() for seed in SEEDS]
    assert metrics["test/replicates/count"] == 3
    assert metrics["test/replicates/accuracy_mean"] == pytest.approx(sum(right) / 3)
    assert train.run(settings(learning_curve=True)).version == version.version  # trained already


KILLED_IN_EPOCH_3 = """
import json, os, signal, sys
from entrypoints import progress
from virnuc.settings import FeatureSource, TrainSettings
def die(what, done, total):
    if what == "epoch 3":
        os.kill(os.getpid(), signal.SIGKILL)
progress.bars = lambda unit, leave=True: die
from entrypoints.train import train
given = json.loads(sys.argv[1])
train.run(TrainSettings(**given | {"features": (FeatureSource("features"),)}))
"""


@pytest.mark.e2e
def test_killed_and_started_again_it_is_one_training_with_every_epoch_once(place):
    given = {name: value for name, value in vars(settings()).items() if name not in ("features", "weights")}
    killed = subprocess.run(  # not forked: torch may refuse to train in a fork of a process that has trained
        [sys.executable, "-c", KILLED_IN_EPOCH_3, json.dumps(given)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    version = train.run(settings())
    runs = children(version.run_id)
    assert tuple(sorted(runs)) == SEEDS and len(find_runs("replicate", {})) == 3
    for run in runs.values():
        history = MlflowClient().get_metric_history(run.info.run_id, "val/loss")
        assert [metric.step for metric in sorted(history, key=lambda m: m.step)] == [1, 2, 3, 4]
        assert run.info.status == "FINISHED"


def test_one_training_alone_is_its_own_run(place):
    version = train.run(settings(replicates=1, epochs=2))
    assert not find_runs("replicate", {}) and sorted(steps(version.run_id)) == [1, 2]
    assert versions_of(version.name)[0].tags["virnuc.replicates"] == "1"


def test_two_identical_trainings_are_one_version(place):
    same = {"epochs": 1, "replicates": 1}
    first, again, other = (
        train.run(settings(**same | changed)) for changed in ({"out": "a"}, {"out": "b"}, {"seed": 8})
    )
    assert (first.version, again.version) == (1, 1) and first.run_id == again.run_id
    assert train.run(settings(**same, out="b")).version == 1  # which is trained already
    assert (other.version, len(versions_of(first.name))) == (2, 2)


def test_two_identical_trainings_at_once_are_one_version(place, monkeypatch):
    same, seen = {"epochs": 1, "replicates": 1}, Barrier(2)
    train.run(settings(**same, register=False))

    def wait_for_the_other(name):
        """Return what is registered; if that is nothing, wait for the other process to find nothing, too."""
        found = versions_of(name)
        if not found:
            with suppress(BrokenBarrierError):
                seen.wait(0.5)
        return found

    monkeypatch.setattr(packaging, "versions_of", wait_for_the_other)
    with ThreadPoolExecutor() as pool:
        versions = list(pool.map(lambda _: train.run(settings(**same)), range(2)))
    assert [version.version for version in versions] == [1, 1]
    assert len(versions_of(versions[0].name)) == 1
