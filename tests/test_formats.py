"""Directories and files that were written in the current formats must stay readable."""

import json
import shutil
import sqlite3
import tarfile
from contextlib import closing

import mlflow
import pytest
import torch

from model_registry.evidence import side_evidence
from model_registry.packaging import download_scorer
from tests.shared import PROJECT
from virnuc.errors import DataError
from virnuc.features.feature_set import FeatureSet
from virnuc.prediction.scorer import check_probe, load_scorer
from virnuc.sequences.frames import chunk_shards, frame_shards, read_chunks, read_frames
from virnuc.splits.assignment import Split
from virnuc.storage.manifest import verified_manifest
from virnuc.training.checkpoint import load_checkpoint

KEPT = PROJECT / "tests" / "data" / "formats"


def test_frames():
    manifest = verified_manifest(KEPT / "frames", "frames")
    rows = [len(read_frames(path)) for path in frame_shards(KEPT / "frames")]
    assert sum(rows) == manifest.counts["out"]["frames"] > 0
    verified_manifest(KEPT / "frames" / "chunks", "chunks")
    chunks = sum(len(read_chunks(path)) for path in chunk_shards(KEPT / "frames"))
    assert chunks == manifest.counts["in"]["chunks"]


def test_features_and_split():
    features, split = FeatureSet.open(KEPT / "features"), Split.open(KEPT / "split")
    assert (len(features), features.dimension, features.dna_dim) == (48, 12, 4)
    assert sorted(features.ids.to_pylist()) == sorted(split.table["frame_id"])
    assert json.loads((KEPT / "split" / "manifest.json").read_text())["inputs"] == {"features": features.digest}


def test_checkpoint_and_scorer():
    checkpoint, scorer = load_checkpoint(KEPT / "model_dipeptide.pth"), load_scorer(KEPT / "scorer")
    assert (checkpoint.epoch, checkpoint.metadata["input_dim"], scorer.chunk_size) == (1, 656, 300)
    assert check_probe(scorer, KEPT / "scorer") == pytest.approx(0, abs=1e-5)


def test_a_newer_checkpoint_and_a_newer_scorer_ask_for_a_newer_virnuc(tmp_path):
    document = torch.load(KEPT / "model_dipeptide.pth", weights_only=True)
    document["metadata"]["checkpoint_version"] = "99.0.0"
    torch.save(document, tmp_path / "model.pth")
    (tmp_path / "scorer.json").write_text('{"format_version": 99}')
    for read, path in ((load_checkpoint, tmp_path / "model.pth"), (load_scorer, tmp_path)):
        with pytest.raises(DataError, match=r"version 99.*newer .*need a newer virnuc"):
            read(path)


def test_a_store_with_a_registered_model_and_its_evaluation(tmp_path, monkeypatch):
    with tarfile.open(KEPT / "store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for path in [tmp_path / "store.sql", *tmp_path.rglob("MLmodel")]:
        path.write_text(path.read_text().replace("/kept", str(tmp_path)))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.executescript((tmp_path / "store.sql").read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(None)
    known = side_evidence("models:/virnuc-dipeptide@challenger")
    right = (known.predictions["score"] >= 0.5) == known.predictions["label"]
    assert (known.version, len(right), known.metrics["test/accuracy"]) == ("1", 31, pytest.approx(right.mean()))
    assert load_scorer(download_scorer("models:/virnuc-dipeptide/1", tmp_path / "scorer")).chunk_size == 300


@pytest.mark.parametrize("name", ["frames", "features", "split"])
def test_a_newer_format_says_which_is_read(tmp_path, name):
    shutil.copytree(KEPT / name, tmp_path / name)
    path = tmp_path / name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match=r"format version 99, newer than \d; install a newer virnuc"):
        verified_manifest(tmp_path / name, name)
