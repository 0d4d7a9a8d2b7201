"""Replicates trained in one pass equal those of a plain loop; the median one represents them."""

import math
import statistics

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.shared.samples import Dropout, quick, same_weights
from virnuc.errors import UsageError
from virnuc.runtime import derived_seed
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.classifier import Classifier
from virnuc.training.data import match
from virnuc.training.run import median_seed, train
from virnuc.training.stack import Stack
from virnuc.training.state import find_training

HIDDEN = 512


def rows_of(sample, name):
    rows = [sample.ids.index(i) for i in sample.split.frame_ids(name)]
    return sample.vectors[rows], torch.tensor(sample.labels[rows])


def trained_alone(sample, seed, first, epochs, patience, lr, dropout=0.5):
    """Train one replicate in plain PyTorch: rows in the order of the first seed, weights and dropout by its own."""
    vectors, labels = rows_of(sample, "train")
    held_out, truth = rows_of(sample, "val")
    torch.manual_seed(derived_seed(seed, "weights"))
    hidden, norm, output = nn.Linear(vectors.shape[1], HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, 2)
    nn.init.xavier_uniform_(hidden.weight), nn.init.xavier_uniform_(output.weight)
    model = nn.Sequential(hidden, norm, nn.ReLU(), Dropout(dropout), output)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.85)
    best, waited, losses = (float("inf"), None), 0, []
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng(derived_seed(first, "order", epoch)).permutation(len(vectors))
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        model.train()
        for rows in torch.tensor(order).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(vectors[rows]), labels[rows]).backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        losses.append(nn.functional.cross_entropy(model(held_out).double(), truth).item())
        state = {
            f"{name}.{key}": value.clone()
            for name, layer in (("hidden_layer", hidden), ("bn1", norm), ("output_layer", output))
            for key, value in layer.state_dict().items()
        }
        waited = 0 if losses[-1] < best[0] else waited + 1
        best = min(best, (losses[-1], state), key=lambda kept: kept[0])
        if waited == patience:
            return best[1], losses
    return state, losses


@pytest.fixture(scope="module")
def settings():
    """Settings for five trainings of which some stop early, at different epochs."""
    return quick(replicates=5, seed=3, epochs=14, patience=3, lr=0.003, hidden_dim=HIDDEN)


@pytest.fixture(scope="module")
def five(sample, settings, tmp_path_factory):
    return train(sample.features, sample.split, settings, tmp_path_factory.mktemp("five"))


def test_five_at_once_equal_five_plain_trainings(sample, five, settings):
    assert [own.seed for own in five.replicates] == [3, 4, 5, 6, 7]
    lengths = [own.epochs for own in five.replicates]
    assert min(lengths) < max(lengths)  # a finished one leaves the pass while others go on
    for own in five.replicates:
        state, losses = trained_alone(sample, own.seed, 3, settings.epochs, settings.patience, settings.lr)
        assert own.epochs == len(losses)
        assert [record.metrics["val/loss"] for record in own.history] == pytest.approx(losses, abs=1e-5)
        found = load_checkpoint(own.model).model_state
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_the_median_represents_all_and_every_checkpoint_lists_the_others(five):
    losses = {own.seed: own.metrics["val/loss"] for own in five.replicates}
    assert losses[five.seed] == statistics.median(losses.values())
    place = five.model.parent
    assert five.model.name == "model_esm2_tiny.pth" and five.log.parent == place
    for own in five.replicates:
        folder = place if own.seed == five.seed else place / "replicates" / str(own.seed)
        assert (own.model, own.log) == (folder / "model_esm2_tiny.pth", folder / "training_log_esm2_tiny.txt")
        assert len(own.log.read_text().splitlines()) == own.epochs
        metadata = load_checkpoint(own.model).metadata
        assert metadata["seed"] == own.seed
        assert {record["seed"]: record["val_loss"] for record in metadata["replicates"]} == losses
        assert metadata["replicates"][own.seed - 3]["val_roc_auc"] == own.metrics["val/roc_auc"]
    assert same_weights(five.model, five.best if five.stopped_early else five.last)


def test_of_an_even_number_the_lower_one_in_the_middle():
    assert median_seed({1: 0.4, 2: 0.1, 3: 0.3, 4: 0.2}) == 4
    assert median_seed({9: 0.5, 8: 0.5}) == 8


def test_interrupted_anywhere_the_same_bits(sample, five, settings, tmp_path):
    reported = []

    def interrupt(record):
        reported.append((record.seed, record.epoch, record.in_doubt))
        if len(reported) in (2, 13, 31):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(sample.features, sample.split, settings, tmp_path, on_epoch=interrupt, run_id="r")
        assert not find_training(tmp_path).finished
    resumed = train(sample.features, sample.split, settings, tmp_path, on_epoch=interrupt)
    for one, other in zip(five.replicates, resumed.replicates, strict=True):
        assert same_weights(one.model, other.model)
        first, second = load_checkpoint(one.model), load_checkpoint(other.model)
        assert (first.epoch, first.best_loss) == (second.epoch, second.best_loss)
        momentum = [c.optimizer_state["state"][0]["momentum_buffer"] for c in (first, second)]
        assert torch.equal(*momentum)
    every = {(own.seed, record.epoch) for own in five.replicates for record in own.history}
    assert {(seed, epoch) for seed, epoch, _ in reported} == every
    certain = [(seed, epoch) for seed, epoch, in_doubt in reported if not in_doubt]
    assert len(certain) == len(set(certain))


def test_a_checkpoint_holds_one_replicate_alone(five):
    """Saved views of the stack would bring all replicates into each file."""
    sizes = [own.model.stat().st_size for own in five.replicates]
    values = sum(tensor.numel() for tensor in load_checkpoint(five.model).model_state.values())
    assert max(sizes) < 2 * 4 * values + 16_000  # weights and momentum


def test_replicates_whose_loss_is_not_finite_stop(sample, tmp_path):
    with pytest.raises(UsageError, match="lower --lr"):
        train(sample.features, sample.split, quick(lr=1e30, replicates=2), tmp_path)


@hypothesis.settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 4),
    rows=st.integers(2, 9),
    width=st.integers(1, 7),
    hidden=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_step_of_the_stack_is_each_classifiers_own_step(count, rows, width, hidden, seed):
    torch.manual_seed(seed)
    alone = [Classifier(width, hidden, dropout=0.0).double() for _ in range(count)]
    stacked = [Classifier(width, hidden, dropout=0.0).double() for _ in range(count)]
    for one, other in zip(alone, stacked, strict=True):
        other.load_state_dict(one.state_dict())
    vectors, labels = torch.randn(rows, width).double(), torch.randint(0, 2, (rows,))
    own = [
        [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models] for models in (alone, stacked)
    ]
    stack = Stack(stacked, own[1])
    for _ in range(2):
        losses = stack.step(vectors, labels)
        for model, optimizer, loss in zip(alone, own[0], losses, strict=True):
            optimizer.zero_grad()
            expected = nn.functional.cross_entropy(model(vectors), labels)
            expected.backward()
            optimizer.step()
            torch.testing.assert_close(loss, expected.detach())
    logits = stack.logits(vectors)
    stack.release()
    for number, (one, other) in enumerate(zip(alone, stacked, strict=True)):
        torch.testing.assert_close(logits[number], one.eval()(vectors).detach())
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value)
            storage = other.state_dict()[name].untyped_storage()
            assert storage.nbytes() == value.untyped_storage().nbytes()


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5])
def test_a_share_of_the_genomes_is_nested_balanced_and_leaves_validation_alone(sample, share):
    whole, some, more = (match(sample.features, sample.split, "merged", s, seed=1) for s in (1.0, share, 2 * share))
    ids = sample.features.ids.to_pylist()
    parts = {"whole": whole, "some": some, "more": more}
    genomes = {name: {ids[row].split("_chunk_")[0] for row in part.train.rows} for name, part in parts.items()}
    assert some.train.genomes == len(genomes["some"])
    assert genomes["some"] < genomes["more"] <= genomes["whole"]
    for label in (0, 1):
        counted = [sum(int(g[3:7]) % 2 == 1 - label for g in genomes[name]) for name in ("some", "whole")]
        assert counted[0] == math.ceil(counted[1] * share)
    assert some.val.rows.tolist() == whole.val.rows.tolist()
    assert match(sample.features, sample.split, "merged", share, seed=2).train.rows.tolist() != some.train.rows.tolist()
