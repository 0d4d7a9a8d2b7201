"""A checkpoint is read as it was saved, and used only with the data it was trained on."""

import copy
import dataclasses
import os
import pickle

import pytest
import torch

from tests.shared.samples import sample_frames, write_features
from virnuc.errors import DataError, DimensionError, IncompatibleCheckpointError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split
from virnuc.training.checkpoint import Checkpoint, describe_training, load_checkpoint, save_checkpoint
from virnuc.training.classifier import Classifier


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifier")
    features = FeatureSet.open(write_features(directory / "f", *sample_frames()))
    fractions = {"test_fraction": 0.2, "val_fraction": 0.2}
    return features, split(SplitSettings(source=str(directory / "f"), out=str(directory / "s"), **fractions)), directory


@pytest.fixture
def checkpoint(trained_on):
    torch.manual_seed(0)
    model = Classifier(12, hidden_dim=8)
    return Checkpoint(model.state_dict(), describe_training(*trained_on[:2], "merged", model), epoch=3, best_loss=0.5)


def test_forward_is_the_published_architecture():
    torch.manual_seed(0)
    model = Classifier(6, hidden_dim=5).eval()
    model.bn1.running_mean.normal_(), model.bn1.running_var.uniform_(0.5, 2)
    x = torch.randn(7, 6)
    state = {name: value.double() for name, value in model.state_dict().items()}
    hidden = x.double() @ state["hidden_layer.weight"].T + state["hidden_layer.bias"]
    normal = (hidden - state["bn1.running_mean"]) / (state["bn1.running_var"] + 1e-5).sqrt()
    active = (normal * state["bn1.weight"] + state["bn1.bias"]).clamp(min=0)
    expected = active @ state["output_layer.weight"].T + state["output_layer.bias"]
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_xavier_uniform():
    weight = Classifier(2048).hidden_layer.weight
    bound = (6 / (2048 + 512)) ** 0.5
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_wrong_width():
    with pytest.raises(DimensionError, match="takes 2048 values a frame, not 3328"):
        Classifier(2048)(torch.zeros(1, 3328))


def test_round_trip(checkpoint, tmp_path):
    path = tmp_path / "deep" / "model_esm2_tiny.pth"
    save_checkpoint(path, checkpoint)
    again = load_checkpoint(path)
    assert again.metadata == checkpoint.metadata
    assert (again.epoch, again.best_loss) == (3, 0.5)
    model = again.build()
    assert not model.training
    assert all(torch.equal(value, checkpoint.model_state[name]) for name, value in model.state_dict().items())
    document = torch.load(path, weights_only=True)
    assert set(document) == {"epoch", "model_state_dict", "optimizer_state_dict", "best_loss", "metadata"}


def test_own_features_and_split_are_accepted(checkpoint, trained_on):
    checkpoint.check_compatible(*trained_on[:2])
    checkpoint.check_compatible(trained_on[0])


def changed(checkpoint, **changes):
    return dataclasses.replace(checkpoint, metadata=copy.deepcopy(checkpoint.metadata) | changes)


def test_features_of_other_widths(tmp_path, checkpoint):
    ids, labels, _ = sample_frames(genomes=4, frames=2)
    features = FeatureSet.open(write_features(tmp_path / "f", ids, labels, torch.randn(8, 2048), manifest=False))
    large = changed(checkpoint, model_type="esm2_3b", merged_dim=3328, dna_dim=768, protein_dim=2560)
    with pytest.raises(DimensionError, match=r"esm2_3b has merged_dim 3328, but .* has 2048"):
        large.check_compatible(features)
    shifted = changed(checkpoint, model_type="fastesm650", merged_dim=2048, dna_dim=1280, protein_dim=768)
    with pytest.raises(DimensionError, match=r"dna_dim 1280, but .* has 768"):
        shifted.check_compatible(features)


def test_features_of_another_encoder(tmp_path, checkpoint):
    names = ("tetranucleotide", "esm2_tiny_deep")
    other = FeatureSet.open(write_features(tmp_path / "f", *sample_frames(), names=names))
    with pytest.raises(IncompatibleCheckpointError, match=r"protein encoder has name esm2_tiny, but .* esm2_tiny_deep"):
        checkpoint.check_compatible(other)


def test_a_classifier_of_dna_alone_takes_features_with_another_protein_encoder(tmp_path, checkpoint):
    names = ("tetranucleotide", "esm2_tiny_deep")
    other = FeatureSet.open(write_features(tmp_path / "f", *sample_frames(width=20), names=names))
    changed(checkpoint, modality="dna").check_compatible(other)
    with pytest.raises(DimensionError, match="merged_dim"):
        changed(checkpoint, modality="protein").check_compatible(other)
    encoders = {"dna": {"name": "codon_phase"}}
    with pytest.raises(IncompatibleCheckpointError, match="dna encoder has name codon_phase"):
        changed(checkpoint, modality="dna", encoders=encoders).check_compatible(other)


def test_features_of_other_weights(trained_on, checkpoint):
    encoders = copy.deepcopy(checkpoint.metadata["encoders"])
    encoders["dna"]["weight_digest"] = "other"
    with pytest.raises(IncompatibleCheckpointError, match="dna encoder has weight_digest other"):
        changed(checkpoint, encoders=encoders).check_compatible(trained_on[0])


def test_another_split(trained_on, checkpoint):
    features, own, directory = trained_on
    settings = SplitSettings(
        source=str(directory / "f"), out=str(directory / "s7"), seed=7, test_fraction=0.2, val_fraction=0.2
    )
    other = split(settings)
    with pytest.raises(IncompatibleCheckpointError) as caught:
        checkpoint.check_compatible(features, other)
    assert own.digest[:12] in str(caught.value) and other.digest[:12] in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document["metadata"].update(checkpoint_version="3.0.0"), "checkpoint version 3.0.0"),
        (lambda document: document["metadata"].update(input_dim=13), r"has shape \[8, 12\], but .*\[8, 13\]"),
        (lambda document: document["metadata"].pop("hidden_dim"), "lacks hidden_dim"),
        (lambda document: document["metadata"].update(input_dim="12"), "lacks input_dim"),
        (lambda document: document["model_state_dict"].pop("bn1.bias"), "missing or unexpected: bn1.bias"),
        (lambda document: document["model_state_dict"].update(more=torch.zeros(1)), "unexpected: more"),
        (lambda document: document["model_state_dict"]["bn1.bias"].fill_(float("inf")), "bn1.bias holds NaN or inf"),
        (lambda document: document.pop("epoch"), "epoch"),
        (lambda document: document.update(metadata=None), "not a checkpoint"),
    ],
)
def test_wrong_content_is_named(checkpoint, tmp_path, change, words):
    path = tmp_path / "model.pth"
    save_checkpoint(path, checkpoint)
    document = torch.load(path, weights_only=True)
    change(document)
    torch.save(document, path)
    with pytest.raises(DataError, match=words):
        load_checkpoint(path)


def test_damaged_missing_and_hostile(checkpoint, tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(UsageError, match="no such file"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(DataError, match="cut short"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(DataError, match="refused, nothing was run"):
        load_checkpoint(path)
