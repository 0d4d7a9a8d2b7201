"""Models and metrics from elsewhere: which become baselines, which are only shown, which are refused."""

import json
import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow.tracking import MlflowClient

from entrypoints.compare import compare
from entrypoints.evaluate import evaluate
from entrypoints.import_model import import_model
from entrypoints.promote import promote
from entrypoints.train import train
from model_registry.evidence import measured
from tests.entrypoints.test_command import refused
from tests.shared.figures import undrawn
from tests.shared.samples import MLPClassifier, sample_frames, write_features
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.settings import (
    CompareSettings,
    EvaluateSettings,
    FeatureSource,
    ImportModelSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)
from virnuc.splits.assignment import split
from virnuc.training.checkpoint import load_checkpoint, save_checkpoint

POLICY = str(Path(__file__).parents[2] / "model_registry" / "policy.yaml")


@pytest.fixture(scope="module")
def virnucpro(tmp_path_factory):
    """The same frames embedded by both encoder pairs of VirNucPro, in its format, with a split."""
    directory = tmp_path_factory.mktemp("virnucpro")
    for name, width in (("slow", 3328), ("fast", 2048)):
        ids, labels, vectors = sample_frames(genomes=30, frames=8, width=width)
        write_features(directory / name, ids, labels, vectors, manifest=False)
    parts = split(SplitSettings(source=str(directory / "slow"), out=str(directory / "split"), test_fraction=0.3))
    return SimpleNamespace(slow=directory / "slow", fast=directory / "fast", split=parts, ids=ids, labels=labels)


@pytest.fixture
def place(store, tmp_path, monkeypatch):
    undrawn(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pickled(place, monkeypatch):
    """A model of VirNucPro and its file, pickled with a class in `train`."""
    home = types.ModuleType("train")
    home.MLPClassifier = MLPClassifier
    monkeypatch.setitem(sys.modules, "train", home)
    monkeypatch.setattr(MLPClassifier, "__module__", "train")
    torch.manual_seed(3)
    model = MLPClassifier(3328, 8, 2)
    torch.save(model, place / "virnucpro.pth")
    return model.eval()


def evaluated(model, features, virnucpro):
    settings = EvaluateSettings(
        model=model, features=(FeatureSource(str(features)),), split=str(virnucpro.split.directory)
    )
    return MlflowClient().get_run(evaluate.run(settings))


def trained(virnucpro, place):
    """The candidate: trained on VirNucPro's features and evaluated."""
    settings = TrainSettings(
        features=(FeatureSource(str(virnucpro.fast)),),
        split=str(virnucpro.split.directory),
        epochs=1,
        hidden_dim=8,
        replicates=2,
        device="cpu",
    )
    version = train.run(settings)
    evaluated("models:/virnuc-fastesm650@challenger", virnucpro.fast, virnucpro)
    return version


def verdict(place):
    return json.loads((place / "reports" / "verdict.json").read_text())


def test_a_pickled_model_becomes_a_paired_baseline(virnucpro, place, pickled):
    version = import_model.run(ImportModelSettings(checkpoint="virnucpro.pth"))
    assert (version.name, int(version.version)) == ("virnuc-esm2_3b", 1)
    run = evaluated("models:/virnuc-esm2_3b@challenger", virnucpro.slow, virnucpro)
    _, labels, vectors = sample_frames(genomes=30, frames=8, width=3328)
    rows = [virnucpro.ids.index(frame) for frame in virnucpro.split.frame_ids("test")]
    right = pickled(vectors[rows]).argmax(dim=1).numpy() == labels[rows]
    assert run.data.metrics["test/accuracy"] == pytest.approx(right.mean())
    trained(virnucpro, place)
    with pytest.raises(GateRefusal, match="speed-up"):  # no benchmark was run
        compare.run(CompareSettings(policy=POLICY))
    told = verdict(place)
    assert told["verdicts"][0]["problems"] == []
    assert told["verdicts"][0]["drop"]["value"] == pytest.approx(
        right.mean() - told["sides"][1]["metrics"]["frames"]["accuracy"]["value"]
    )
    assert any("virnuc-esm2_3b v1: its checkpoint does not record" in caveat for caveat in told["caveats"])


def test_a_checkpoint_of_another_machine_scores_as_there(virnucpro, place):
    own = trained(virnucpro, place)
    path = next((place / "data" / "models").rglob("model_fastesm650.pth"))
    version = import_model.run(ImportModelSettings(checkpoint=str(path), chunk_size=300))
    assert (version.name, int(version.version)) == (own.name, int(own.version) + 1)
    again = evaluated(f"models:/{version.name}/{version.version}", virnucpro.fast, virnucpro)
    first = MlflowClient().search_runs([again.info.experiment_id], "tags.`virnuc.model` LIKE '%/1'")[0]
    # The other replicates stayed on the other machine.
    own_metrics = [{k: v for k, v in measured(run).items() if "/replicates/" not in k} for run in (again, first)]
    assert own_metrics[0] == own_metrics[1]
    assert measured(again)["test/replicates/count"] == 1


def test_one_file_imported_twice_is_one_version(place):
    (place / "metrics.json").write_text('{"accuracy": 0.9321}')
    settings = ImportModelSettings(metrics="metrics.json", encoder="esm2_3b")
    first, again = import_model.run(settings), import_model.run(settings)
    assert (first.name, first.version) == (again.name, again.version)
    (place / "metrics.json").write_text('{"accuracy": 0.9}')
    assert int(import_model.run(settings).version) == int(first.version) + 1


def test_a_negative_variance_is_refused_before_anything_is_registered(place, pickled):
    pickled.bn1.running_var[2] = -1.0
    torch.save(pickled, place / "virnucpro.pth")
    with pytest.raises(DataError, match=r"bn1\.running_var holds negative variances"):
        import_model.run(ImportModelSettings(checkpoint="virnucpro.pth"))
    assert not MlflowClient().search_registered_models()


def test_metrics_from_elsewhere_are_shown_and_decide_nothing(virnucpro, place):
    (place / "metrics.json").write_text('{"accuracy": 0.9321, "mcc": 0.8642}')
    import_model.run(ImportModelSettings(metrics="metrics.json", encoder="esm2_3b"))
    trained(virnucpro, place)
    with pytest.raises(DataError, match=r"no verdict: .*virnuc-esm2_3b v1 has metrics but no predictions"):
        compare.run(CompareSettings(baseline="models:/virnuc-esm2_3b@unpaired", policy=POLICY))
    told = verdict(place)
    assert told["outcome"] == "NO VERDICT"
    assert told["sides"][0]["metrics"]["frames"]["accuracy"] == {"value": 0.9321, "low": None, "high": None}
    assert told["verdicts"][0]["drop"] is None
    assert "0.932" in (place / "reports" / "validation_report.md").read_text()
    with pytest.raises(GateRefusal, match="no evaluation of the baseline"):
        promote.run(PromoteSettings(candidate="models:/virnuc-fastesm650@challenger", policy=POLICY))
    with pytest.raises(DataError, match="but no model"):
        promote.run(PromoteSettings(candidate="models:/virnuc-esm2_3b@unpaired", policy=POLICY, override="try"))


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(place, pickled):
    pickled.extra = Command()
    torch.save(pickled, place / "virnucpro.pth")
    code, line = refused("import_model", place, "--checkpoint", "virnucpro.pth")
    assert code == 4
    assert "refused, nothing was run" in line
    assert not (place / "ran").exists()
    assert not MlflowClient().search_registered_models()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoders": {"dna": {"name": "dnabert_s"}}}, "does not say what it was trained on"),
        ({"encoders": {"dna": {"name": "../x"}, "protein": {"name": "fastesm650"}}}, "names that are not possible"),
        ({"model_type": "esm2_3b"}, "contradicts itself"),
        ({"modality": "dna"}, "contradicts itself"),
        ({"chunk_sizes": [-500]}, "chunk sizes that are not possible"),
        ({"dropout": "much"}, "a dropout that are not possible"),
        ({"replicates": [{"seed": "x"}]}, "seeds or a dropout"),
        ({"replicates": 5}, "does not say what it was trained on"),
    ],
)
def test_a_checkpoint_that_contradicts_itself(experiment, changes, words):
    checkpoint = load_checkpoint(next((experiment.home / "models").rglob("model_esm2_tiny.pth")))
    checkpoint.metadata.update(changes)
    save_checkpoint(Path("changed.pth"), checkpoint)
    with pytest.raises(DataError, match=words):
        import_model.run(ImportModelSettings(checkpoint="changed.pth"))


def test_wrong_values(place):
    for wrong in ({}, {"checkpoint": "a", "metrics": "b"}, {"metrics": "b"}, {"checkpoint": "a", "encoder": "esm2_3b"}):
        with pytest.raises(UsageError):
            ImportModelSettings(**wrong)
    with pytest.raises(UsageError, match="did you mean 'esm2_3b'"):
        import_model.run(ImportModelSettings(metrics="m.json", encoder="esm2-3b"))
