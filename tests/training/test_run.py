"""Training agrees with a plain loop, stops when it should, and refuses data it cannot be trained on."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from tests.shared.samples import DNA_DIM, Dropout, quick, same_weights, sample_frames, write_features
from virnuc.errors import DataError, IncompatibleCheckpointError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import derived_seed
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.run import train
from virnuc.training.state import find_training

METRICS = {
    "train/loss", "val/loss", "val/accuracy", "val/precision", "val/recall", "val/f1", "val/roc_auc", "val/mcc",
    "val/pr_auc", "lr", "epoch_s", "total_s", "frames_per_s",
}  # fmt: skip


def part(sample, name, columns=slice(None)):
    rows = [sample.ids.index(i) for i in sample.split.frame_ids(name)]
    return sample.vectors[rows, columns], torch.tensor(sample.labels[rows])


def plain_training(vectors, labels, epochs, seed=42, lr=0.01, batch=32, step_size=10, gamma=0.85):
    """Run the published training in a dozen lines of PyTorch; return the weights and the losses of each epoch."""
    torch.manual_seed(derived_seed(seed, "weights"))
    hidden, norm, output = nn.Linear(vectors.shape[1], 16), nn.BatchNorm1d(16), nn.Linear(16, 2)
    nn.init.xavier_uniform_(hidden.weight), nn.init.xavier_uniform_(output.weight)
    model = nn.Sequential(hidden, norm, nn.ReLU(), Dropout(0.5), output)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(len(vectors))
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        losses = []
        for rows in torch.tensor(order).split(batch):
            loss = nn.functional.cross_entropy(model(vectors[rows]), labels[rows])
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses += [loss.item()] * len(rows)
        scheduler.step()
        yield {"hidden_layer": hidden, "bn1": norm, "output_layer": output}, np.mean(losses)


def test_matches_a_plain_loop(sample, tmp_path):
    settings = {"step_size": 1, "gamma": 0.5}
    for epochs, (layers, loss) in enumerate(plain_training(*part(sample, "train"), epochs=2, **settings), start=1):
        result = train(sample.features, sample.split, quick(epochs=epochs, **settings), tmp_path / str(epochs))
        state = load_checkpoint(result.last).model_state
        assert result.history[-1].metrics["train/loss"] == pytest.approx(loss, abs=1e-6)
        assert result.history[-1].metrics["lr"] == 0.01 * 0.5 ** (epochs - 1)
        for name, layer in layers.items():
            for key, value in layer.state_dict().items():
                torch.testing.assert_close(state[f"{name}.{key}"], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_shard_size_and_readers_change_no_bit(sample, tmp_path, shuffle):
    first = train(sample.features, sample.split, quick(shuffle=shuffle), tmp_path / "first")
    for rows, readers, manifest in ((3, 1, True), (17, 4, True), (1000, 2, False)):
        directory = write_features(tmp_path / f"{rows}", sample.ids, sample.labels, sample.vectors, rows, manifest)
        settings = quick(shuffle=shuffle, readers=readers)
        again = train(FeatureSet.open(directory), sample.split, settings, tmp_path / f"model{rows}")
        assert same_weights(first.last, again.last)
        assert again.metrics["val/loss"] == first.metrics["val/loss"]


def test_seed_changes_weights(sample, tmp_path):
    one = train(sample.features, sample.split, quick(epochs=1), tmp_path / "1")
    other = train(sample.features, sample.split, quick(epochs=1, seed=7), tmp_path / "2")
    assert not same_weights(one.last, other.last)


def test_metrics_are_those_of_pooled_predictions(sample, tmp_path):
    result = train(sample.features, sample.split, quick(), tmp_path)
    assert all(record.metrics.keys() == METRICS for record in result.history)
    vectors, labels = part(sample, "val")
    viral = load_checkpoint(result.last).build()(vectors).double().softmax(dim=1)[:, 1].numpy()
    metrics = result.history[-1].metrics
    assert metrics["val/loss"] == pytest.approx(log_loss(labels, viral), abs=1e-9)
    assert metrics["val/roc_auc"] == roc_auc_score(labels, viral)
    assert metrics["val/accuracy"] == ((viral > 0.5) == labels.numpy()).mean()


def test_early_stopping_restores_the_best_epoch(sample, tmp_path):
    result = train(sample.features, sample.split, quick(epochs=80, lr=0.1, patience=4, dropout=0.0), tmp_path)
    losses = [record.metrics["val/loss"] for record in result.history]
    assert result.stopped_early and result.epochs == result.best_epoch + 4 < 80
    assert losses[result.best_epoch - 1] == min(losses) < losses[-1]
    vectors, labels = part(sample, "val")
    for path, epoch in (
        (result.model, result.best_epoch),
        (result.best, result.best_epoch),
        (result.last, result.epochs),
    ):
        checkpoint = load_checkpoint(path)
        loss = float(nn.functional.cross_entropy(checkpoint.build()(vectors).double(), labels))
        assert (checkpoint.epoch, loss) == (epoch, losses[epoch - 1])
    assert result.metrics == result.history[result.best_epoch - 1].metrics


@pytest.mark.parametrize("checkpoint", ["final", "best"])
def test_last_epoch_saves_too(sample, tmp_path, checkpoint):
    settings = quick(epochs=14, lr=0.1, patience=14, dropout=0.0, checkpoint=checkpoint)
    result = train(sample.features, sample.split, settings, tmp_path)
    assert not result.stopped_early and result.best_epoch < result.epochs == 14
    assert same_weights(result.model, result.best if checkpoint == "best" else result.last)
    assert not same_weights(result.best, result.last)
    assert len(result.log.read_text().splitlines()) == 14


def test_last_batch_of_one_row(tmp_path):
    ids, labels, vectors = sample_frames(genomes=15, frames=7)
    features = FeatureSet.open(write_features(tmp_path / "f", ids, labels, vectors))
    parts = split(
        SplitSettings(source=str(tmp_path / "f"), out=str(tmp_path / "s"), test_fraction=0.2, val_fraction=0.2)
    )
    rows = len(parts.frame_ids("train"))
    batch = next(size for size in range(2, rows) if rows % size == 1)
    result = train(features, parts, quick(batch_size=batch), tmp_path / "m")
    assert result.epochs == 3
    state = load_checkpoint(result.last).model_state
    assert state["bn1.num_batches_tracked"] == 3 * (rows // batch)


def test_separable_frames_are_learnt(tmp_path):
    ids, labels, vectors = sample_frames(apart=8.0)
    features = FeatureSet.open(write_features(tmp_path / "f", ids, labels, vectors))
    parts = split(
        SplitSettings(source=str(tmp_path / "f"), out=str(tmp_path / "s"), test_fraction=0.2, val_fraction=0.2)
    )
    assert train(features, parts, quick(epochs=20), tmp_path / "m").metrics["val/accuracy"] == 1.0


@pytest.mark.parametrize(
    ("modality", "name", "columns"),
    [("dna", "tetranucleotide_dna", slice(0, DNA_DIM)), ("protein", "esm2_tiny_protein", slice(DNA_DIM, None))],
)
def test_modality_takes_its_columns(sample, tmp_path, modality, name, columns):
    result = train(sample.features, sample.split, quick(epochs=1, modality=modality), tmp_path)
    layers, _ = next(plain_training(*part(sample, "train", columns), epochs=1))
    checkpoint = load_checkpoint(result.model)
    torch.testing.assert_close(checkpoint.model_state["hidden_layer.weight"], layers["hidden_layer"].weight.detach())
    assert (result.name, result.model.name) == (name, f"model_{name}.pth")
    assert sample.vectors[:, checkpoint.columns()].shape[1] == checkpoint.metadata["input_dim"]


def test_same_command_again_trains_nothing(sample, tmp_path):
    reported = []
    first = train(sample.features, sample.split, quick(), tmp_path, on_epoch=reported.append, run_id="r1")
    again = train(sample.features, sample.split, quick(), tmp_path, on_epoch=reported.append)
    assert [record.epoch for record in reported] == [1, 2, 3]
    assert (again.metrics, again.run_id, again.epochs) == (first.metrics, "r1", 3)
    found = find_training(tmp_path)
    assert (found.run_id, found.epoch, found.finished) == ("r1", 3, True)


def test_another_training_is_not_overwritten(sample, tmp_path):
    train(sample.features, sample.split, quick(epochs=1), tmp_path)
    with pytest.raises(IncompatibleCheckpointError, match=r"holds a training with lr 0.01, not 0.5"):
        train(sample.features, sample.split, quick(epochs=1, lr=0.5), tmp_path)
    with pytest.raises(IncompatibleCheckpointError, match="shuffle full, not block"):
        train(sample.features, sample.split, quick(epochs=1, shuffle="block"), tmp_path)


def test_a_loss_that_is_not_finite_stops_training(sample, tmp_path):
    with pytest.raises(UsageError, match=r"training loss became .* lower --lr"):
        train(sample.features, sample.split, quick(lr=1e30), tmp_path)


def features_of(sample, directory, ids=None, labels=None):
    ids, labels = ids or sample.ids, sample.labels if labels is None else labels
    return FeatureSet.open(write_features(directory, ids, labels, sample.vectors[: len(ids)]))


def test_features_of_another_split(sample, tmp_path):
    fewer = features_of(sample, tmp_path / "fewer", sample.ids[:-20], sample.labels[:-20])
    with pytest.raises(DataError, match=r"has 580 frames, but the split .* has 600"):
        train(fewer, sample.split, quick(), tmp_path / "m")
    others = features_of(sample, tmp_path / "others", [f"X{i}" for i in sample.ids])
    with pytest.raises(DataError, match=r"600 of 600 frames are missing, the first is NC_"):
        train(others, sample.split, quick(), tmp_path / "m")
    swapped = features_of(sample, tmp_path / "swapped", labels=1 - sample.labels)
    with pytest.raises(DataError, match="600 frames have one label in"):
        train(swapped, sample.split, quick(), tmp_path / "m")
    assert not (tmp_path / "m").exists()
