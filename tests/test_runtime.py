"""Device, precision and memory: what is chosen, what is refused, and what a container is allowed."""

import pytest
import torch

from virnuc import runtime
from virnuc.errors import UsageError

GPUS = {0: (7, 0), 1: (8, 0)}  # V100, A100


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as far as our own decisions ask torch of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPUS))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # torch counts emulation
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: GPUS[torch.device(device).index or 0])


def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus):
    assert runtime.choose_device("cuda:1").name == "cuda:1"
    with pytest.raises(UsageError, match=r"--device cuda:7: .* this machine has cpu, cuda:0, cuda:1$"):
        runtime.choose_device("cuda:7")


def test_without_a_gpu_the_processor_is_all_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"this machine has cpu$"):
        runtime.choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "mps", "meta"])
def test_other_names_are_no_devices(name):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:N"):
        runtime.choose_device(name)


def test_auto_takes_bf16_only_where_the_chosen_gpu_computes_it(gpus):
    assert [runtime.choose_precision("auto", f"cuda:{index}").name for index in GPUS] == ["fp32", "bf16"]
    assert runtime.choose_precision("auto", "cpu").name == "fp32"


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    whole = runtime.available_memory()
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.stat").write_text("anon 20000000\nfile 25000000\n")
    monkeypatch.setattr(runtime, "_CONTROL_GROUP", tmp_path)
    assert runtime.available_memory() == 30_000_000 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime.available_memory() > 30_000_000
