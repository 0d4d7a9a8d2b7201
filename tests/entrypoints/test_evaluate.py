"""A model for several chunk sizes is tested on each of them."""

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from entrypoints.evaluate import evaluate
from entrypoints.train import train
from model_registry.evidence import measured
from tests.shared.figures import undrawn
from tests.shared.samples import OTHERS, sample_frames, write_features, write_virnucpro
from virnuc.evaluation.evaluation import metrics_of
from virnuc.settings import EvaluateSettings, FeatureSource, SplitSettings, TrainSettings
from virnuc.splits.assignment import split
from virnuc.tracking import download
from virnuc.training.checkpoint import load_checkpoint


@pytest.fixture
def place(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def artifacts(run_id):
    return {item.path for item in MlflowClient().list_artifacts(run_id)}


def test_each_chunk_size_has_predictions_and_metrics_of_its_own(place, capsys):
    sets = {"long": {"genomes": 30, "frames": 8}, "short": {"genomes": 31, "frames": 14, "seed": 5, "apart": 0.1}}
    drawn = {name: sample_frames(width=2048, **given) for name, given in sets.items()}
    for name, sample in drawn.items():
        write_features(place / name, *sample, manifest=False)
    parts = split(SplitSettings(source="long", out="split", test_fraction=0.3))
    both = (FeatureSource("long", 300), FeatureSource("short", 150))
    train.run(TrainSettings(features=both, split="split", epochs=2, hidden_dim=8, lr=0.01, replicates=2, device="cpu"))
    assert "14 frames are left out: no frame of their genomes is in the split" in capsys.readouterr().out
    run_id = evaluate.run(EvaluateSettings(model="models:/virnuc-fastesm650@challenger", features=both, split="split"))
    run = MlflowClient().get_run(run_id)
    metrics, tags = measured(run), run.data.tags
    assert {"test/accuracy", "test/300bp/accuracy", "test/150bp/accuracy"} <= run.data.metrics.keys() < metrics.keys()
    assert {"confusion_matrix.png", "roc.png", "calibration.png", "strata.json"} <= artifacts(run_id)
    (version,) = MlflowClient().search_model_versions("name = 'virnuc-fastesm650'")
    assert (
        version.tags["virnuc.split_digest"] == parts.digest and version.tags["virnuc.protein_encoder"] == "fastesm650"
    )
    assert MlflowClient().get_run(version.run_id).data.tags["virnuc.frames_left_out"] == "14"
    linked = mlflow.get_logged_model(version.source.removeprefix("models:/")).metrics
    tested_on = {(m.key, m.dataset_name): m.value for m in linked}
    assert tested_on["test/accuracy", "split"] == metrics["test/accuracy"]
    assert "it was made from features" in tags["virnuc.no_chunks"]
    assert "test/coverage/accuracy_of_all_chunks" not in metrics
    model = load_checkpoint(next((place / "data").rglob("model_fastesm650.pth"))).build()
    tested = set(parts.frames("test")["genome"])
    for size, name, file in ((300, "long", "predictions"), (150, "short", "predictions_150bp")):
        ids, labels, vectors = drawn[name]
        rows = [row for row, frame in enumerate(ids) if frame.split("_chunk_")[0] in tested]
        right = model(vectors[rows]).argmax(dim=1).numpy() == labels[rows]
        assert metrics[f"test/{size}bp/accuracy"] == pytest.approx(right.mean())
        table = pd.read_parquet(download(run, f"{file}.parquet", place))
        assert set(table["frame_id"]) == {ids[row] for row in rows}
        assert set(table["group"]) == {"viral", "bacteria"}
        counted = metrics_of(table)["test/chunk/mcc"]
        assert metrics[f"test/{size}bp/chunk/mcc"] == pytest.approx(counted)
        assert f"test/{size}bp/interval/accuracy_low" in metrics
    assert metrics["test/accuracy"] == metrics["test/300bp/accuracy"]  # the split's own frames decide
    assert metrics["test/count/frames"] == len(parts.rows["test"])


@pytest.mark.parametrize("unit", ["file", "genome"])
def test_virnucpros_own_files_are_split_trained_on_and_tested(place, monkeypatch, unit):
    """The directory is as features_extract.py and merge_data of VirNucPro leave it."""
    undrawn(monkeypatch)
    write_virnucpro(place / "data_merge", apart=0.2)
    parts = split(SplitSettings(source="data_merge", out="split", unit=unit))
    source = (FeatureSource("data_merge"),)
    train.run(
        TrainSettings(features=source, split="split", epochs=3, hidden_dim=8, lr=0.01, replicates=2, device="cpu")
    )
    run_id = evaluate.run(
        EvaluateSettings(model="models:/virnuc-fastesm650@challenger", features=source, split="split")
    )
    run = MlflowClient().get_run(run_id)
    metrics = measured(run)
    assert metrics["test/count/frames"] == len(parts.rows["test"]) > 150
    assert metrics["test/accuracy"] > 0.9
    table = pd.read_parquet(download(run, "predictions.parquet", place))
    assert sorted(table["frame_id"]) == sorted(parts.frame_ids("test"))
    assert set(table["group"]) == {"viral", *OTHERS}
