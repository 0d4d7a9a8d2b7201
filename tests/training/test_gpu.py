"""On a GPU: training by a CUDA graph agrees with plain steps, whether or not the features fit into its memory."""

import pytest
import torch

from tests.shared.samples import quick, same_weights
from virnuc.training import data
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_graph_matches_plain_steps(sample, tmp_path, monkeypatch):
    settings = quick(device="cuda", dropout=0.0, step_size=1, batch_size=31)  # 360 = 11 x 31 + 19
    graphed = train(sample.features, sample.split, settings, tmp_path / "graph")
    monkeypatch.setattr(data, "_DEVICE_SHARE", 0.0)
    streamed = train(sample.features, sample.split, settings, tmp_path / "stream")
    one, other = load_checkpoint(graphed.last).model_state, load_checkpoint(streamed.last).model_state
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_same_seed_and_resumed(sample, tmp_path):
    def interrupt(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    settings = quick(device="cuda", epochs=5, step_size=2)
    whole = train(sample.features, sample.split, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(sample.features, sample.split, settings, tmp_path / "stopped", on_epoch=interrupt)
    resumed = train(sample.features, sample.split, settings, tmp_path / "stopped")
    assert same_weights(whole.last, resumed.last)
    assert [r.metrics["lr"] for r in resumed.history] == [r.metrics["lr"] for r in whole.history]
