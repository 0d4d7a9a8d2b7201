"""A training that is killed and resumed ends with the same bits, and repeats a report only in doubt."""

import itertools
import json
import multiprocessing
import os
import signal

import pytest
import torch

from tests.shared.samples import quick, same_weights
from virnuc.errors import DataError
from virnuc.features.feature_set import FeatureSet
from virnuc.splits.assignment import Split
from virnuc.training.run import train
from virnuc.training.state import STATE, Replicate, find_training

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["virnuc.training.run", "tests.shared.samples"])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(features, split, out, where, moment):
    """Train until killed: at a batch, or in the report of an epoch, before or after it is recorded."""
    torch.set_num_threads(1)
    batches = itertools.count(1)

    def progress(what, done, total):
        if where == "batch" and next(batches) == moment:
            die()

    def report(record):
        if where == "before" and record.epoch == moment:
            die()
        with (out / "reports.jsonl").open("a") as stream:
            print(json.dumps([record.epoch, record.metrics["val/loss"], record.in_doubt]), file=stream, flush=True)
        if where == "after" and record.epoch == moment:
            die()

    opened = FeatureSet.open(features), Split.open(split)
    train(*opened, quick(epochs=6), out, on_epoch=report, progress=progress, run_id="run")


def run_child(sample, out, where, moment=0):
    arguments = (sample.features.directory, sample.split.directory, out, where, moment)
    child = processes.Process(target=train_and_die, args=arguments)
    child.start()
    child.join()
    return child.exitcode


@pytest.mark.e2e
def test_killed_in_three_epochs(sample, tmp_path):
    undisturbed = train(sample.features, sample.split, quick(epochs=6), tmp_path / "whole")
    out = tmp_path / "killed"
    assert run_child(sample, out, "batch", 15) == -signal.SIGKILL  # in epoch 2
    assert find_training(out).epoch == 1
    assert run_child(sample, out, "before", 3) == -signal.SIGKILL  # finished, not reported
    assert run_child(sample, out, "after", 5) == -signal.SIGKILL  # reported, not recorded
    assert find_training(out).run_id == "run"
    assert run_child(sample, out, "never") == 0
    reports = [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]
    losses = [record.metrics["val/loss"] for record in undisturbed.history]
    certain = [(epoch, loss) for epoch, loss, in_doubt in reports if not in_doubt]
    doubtful = [(epoch, loss) for epoch, loss, in_doubt in reports if in_doubt]
    assert sorted({*certain, *doubtful}) == list(enumerate(losses, start=1))
    assert [epoch for epoch, _ in doubtful] == [3, 5]  # 3 was not reported, 5 was; both are marked as in doubt
    for name in ("model_esm2_tiny.pth", "model_esm2_tiny_last.pth", "model_esm2_tiny_best.pth"):
        assert same_weights(tmp_path / "whole" / name, out / name)
    assert not list(out.glob("*.partial"))


def test_optimizer_and_early_stopping_are_resumed(sample, tmp_path):
    settings = quick(epochs=80, lr=0.1, patience=4, dropout=0.0)
    whole = train(sample.features, sample.split, settings, tmp_path / "whole")
    stopped_at = whole.best_epoch + 2

    def interrupt(record):
        if record.epoch == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(sample.features, sample.split, settings, tmp_path / "stopped", on_epoch=interrupt)
    assert find_training(tmp_path / "stopped").epoch == stopped_at
    told = []
    result = train(sample.features, sample.split, settings, tmp_path / "stopped", on_epoch=told.append)
    assert [record.epoch for record in told] == list(range(stopped_at, whole.epochs + 1))
    assert (result.epochs, result.best_epoch, result.stopped_early) == (whole.epochs, whole.best_epoch, True)
    assert same_weights(whole.last, result.last) and same_weights(whole.model, result.model)


@pytest.mark.parametrize("content", [b"", b"PK", torch.zeros(3)])
def test_damaged_state_is_no_reason_to_start_anew(sample, tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / STATE).write_bytes(content)
    else:
        torch.save(content, tmp_path / STATE)
    with pytest.raises(DataError, match="training_state"):
        train(sample.features, sample.split, quick(), tmp_path)


def test_the_saved_state_holds_copies_alone():
    """On a GPU learning rates are tensors on the device; the file must have tensors on the CPU."""
    own = Replicate.begin(1, quick(), 8, torch.device("cpu"))
    own.optimizer = torch.optim.SGD(own.model.parameters(), lr=torch.tensor(0.1), fused=True)
    own.scheduler = torch.optim.lr_scheduler.StepLR(own.optimizer, 1, 0.5)
    own.stopping.best_epoch = own.epoch  # the best weights are these
    saved = own.state()
    live = [own.optimizer.param_groups[0]["lr"], *own.scheduler.base_lrs, *own.scheduler._last_lr]
    live += own.model.state_dict().values()
    kept = torch.utils._pytree.tree_leaves(saved)
    tensors = [leaf for leaf in kept if isinstance(leaf, torch.Tensor)]
    assert len(tensors) >= len(live)
    assert not {tensor.data_ptr() for tensor in live} & {tensor.data_ptr() for tensor in tensors}
