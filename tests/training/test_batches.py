"""Every epoch has every frame once, in an order that depends on seed and epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from virnuc.training.batches import BLOCK, FULL, Plan, choose_shuffle, read_ahead
from virnuc.training.data import match

plans = st.builds(
    lambda rows, batch, reads, shuffle: Plan(rows, batch, batch * reads, shuffle),
    rows=st.integers(2, 3000),
    batch=st.integers(2, 64),
    reads=st.integers(1, 8),
    shuffle=st.sampled_from([FULL, BLOCK]),
)


@given(plan=plans, seed=st.integers(0, 2**63 - 1), epoch=st.integers(1, 200))
def test_every_frame_once(plan, seed, epoch):
    order = plan.order(seed, epoch)
    assert sorted(order.tolist()) == list(range(plan.rows))
    assert np.array_equal(order, plan.order(seed, epoch))


@given(plan=plans)
def test_no_batch_of_one_row(plan):
    sizes = [b.stop - b.start for read in plan.reads for b in plan.batches(read.stop - read.start)]
    assert sum(sizes) == plan.rows
    assert min(sizes) >= 2 and max(sizes) <= plan.batch + 1
    assert all(size == plan.batch for size in sizes[:-1])


@pytest.mark.parametrize("shuffle", [FULL, BLOCK])
def test_epochs_and_seeds_differ(shuffle):
    plan = Plan(5000, 32, 1024, shuffle)
    orders = {plan.order(seed, epoch).tobytes() for seed in (1, 2) for epoch in (1, 2)}
    assert len(orders) == 4


def test_blocks_stay_within_their_window():
    plan = Plan(10_000, 32, 1024, BLOCK)
    order = plan.order(7, 1)
    for start in range(0, 9 * 1024, 1024):
        window = order[start : start + 1024]
        assert len({position // 256 for position in window}) <= 6
        assert not np.array_equal(window, np.sort(window))
    assert np.abs(np.diff(order // 256)).max() > 20  # blocks come from the whole range


@pytest.mark.parametrize("readers", [1, 3, 8])
def test_reading_ahead_keeps_the_order(sample, readers):
    part = match(sample.features, sample.split, "merged").train
    order = np.random.default_rng(0).permutation(len(part))
    reads = [slice(start, start + 50) for start in range(0, len(part), 50)]
    found = [(vectors, labels) for vectors, labels in read_ahead(part, order, reads, readers)]
    for piece, (vectors, labels) in zip(reads, found, strict=True):
        expected = [sample.ids.index(sample.split.frame_ids("train")[position]) for position in order[piece]]
        assert vectors.tolist() == sample.vectors[expected].tolist()
        assert labels.tolist() == sample.labels[expected].tolist()


def test_shuffle_follows_the_memory(sample, monkeypatch):
    parts = match(sample.features, sample.split, "merged")
    size = (len(parts.train) + len(parts.val)) * sample.features.dimension * 4
    monkeypatch.setattr("virnuc.training.batches.available_memory", lambda: size * 2)
    assert choose_shuffle("auto", parts, torch.device("cpu")).name == FULL
    assert choose_shuffle("block", parts, torch.device("cpu")).name == BLOCK
    monkeypatch.setattr("virnuc.training.batches.available_memory", lambda: size)
    choice = choose_shuffle("auto", parts, torch.device("cpu"))
    assert choice.name == BLOCK and "memory available" in choice.reason


def test_shuffle_is_full_where_a_gpu_holds_the_features(sample, monkeypatch):
    parts, gpu = match(sample.features, sample.split, "merged"), torch.device("cuda:0")
    monkeypatch.setattr("virnuc.training.batches.available_memory", lambda: 0)
    monkeypatch.setattr("virnuc.training.data.available_memory", lambda device: parts.nbytes * 2)
    assert choose_shuffle("auto", parts, gpu).name == FULL
    monkeypatch.setattr("virnuc.training.data.available_memory", lambda device: parts.nbytes)
    assert choose_shuffle("auto", parts, gpu).name == BLOCK
