"""Copies to the host wait for the right device; torch.cuda is replaced, so this does not show that CUDA works."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from virnuc.encoders import timing
from virnuc.encoders.batching import HostCopy


@pytest.fixture
def recorded(monkeypatch):
    """The devices on whose streams events were recorded; cuda:0 where no stream was given."""
    streams = []

    def event(enable_timing=False):
        recording = lambda stream="cuda:0": streams.append(stream)  # noqa: E731
        return SimpleNamespace(record=recording, synchronize=lambda: None, elapsed_time=lambda other: 500.0)

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: str(device))
    return streams


def test_a_copy_is_waited_for_on_its_own_device_whichever_is_current(recorded):
    with FakeTensorMode():
        HostCopy(torch.ones(3, device="cuda:1")).wait()
    assert recorded == ["cuda:1"]


def test_launches_are_timed_on_the_device_that_runs_them(recorded):
    launched = []
    assert timing._fastest(lambda: launched.append(1), "cuda:1") == 500.0 / 1000 / 50
    assert (set(recorded), len(launched)) == ({"cuda:1"}, 150)
