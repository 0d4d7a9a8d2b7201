"""When a captured graph counts as equal to plain steps; the graph itself needs a GPU, see test_gpu."""

import torch

from virnuc.settings import TrainSettings
from virnuc.training import graphs
from virnuc.training.batches import Plan
from virnuc.training.data import match
from virnuc.training.graphs import change_alike
from virnuc.training.stack import Stack
from virnuc.training.state import Replicate


def trained(sample, batches, dropout_seed=0):
    """Return the state of a classifier before and after steps on random batches."""
    own = Replicate.begin(1, TrainSettings(hidden_dim=16), sample.features.dimension, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in own.model.state_dict().items()}
    stack = Stack([own.model], [own.optimizer])
    stack.seed_dropout([dropout_seed])
    labels = torch.from_numpy(sample.features.labels.astype("int64"))
    for rows in batches:
        stack.step(sample.features.gather(rows.numpy()), labels[rows])
    return before, {name: tensor.clone() for name, tensor in own.model.state_dict().items()}


def test_only_the_same_steps_count_as_alike(sample):
    rows = torch.randperm(len(sample.features), generator=torch.Generator().manual_seed(0))
    batches, others = rows[:128].split(32), rows[128:256].split(32)
    before, plain = trained(sample, batches)
    assert change_alike(before, plain, trained(sample, [batch.flip(0) for batch in batches], 0)[1]) is False  # dropout
    assert change_alike(before, plain, trained(sample, batches)[1])
    assert not change_alike(before, plain, before)  # an empty graph
    assert not change_alike(before, plain, trained(sample, others)[1])
    assert not change_alike(before, plain, trained(sample, batches[:1] * 4)[1])  # a counter that does not advance
    assert not change_alike(before, plain, trained(sample, batches, dropout_seed=1)[1])


def test_a_graph_that_cannot_be_captured_leaves_the_training_as_it_was(sample, monkeypatch, caplog):
    part = match(sample.features, sample.split, "merged").train.place(torch.device("cpu"))
    own = Replicate.begin(1, TrainSettings(hidden_dim=16), part.width, torch.device("cpu"))
    stack, plan = Stack([own.model], [own.optimizer]), Plan.make(part, 32, "full")
    before, generators = {name: tensor.clone() for name, tensor in own.model.state_dict().items()}, stack.generators

    def steps_and_fails(self):
        stack.step(*part.read(plan.order(1, 1)[:32]))
        raise RuntimeError("operation not permitted when stream is capturing\nlater lines")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: type("Graph", (), {"register_generator_state": id})())
    monkeypatch.setattr(graphs.GraphedSteps, "_capture", steps_and_fails)
    assert graphs.graphed_steps(stack, part, plan) is None
    assert caplog.messages == [
        "training continues without a CUDA graph: operation not permitted when stream is capturing"
    ]
    assert all(torch.equal(before[name], now) for name, now in own.model.state_dict().items())
    assert not any(state["momentum_buffer"].any() for state in own.optimizer.state.values())
    assert stack.generators[0] is not generators[0]  # a failed capture does not release the old ones
