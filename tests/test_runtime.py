"""Device, precision and memory: automatic choices, refusals, and a container's limits."""

import pytest
import torch

from virnuc import runtime
from virnuc.encoders import precision
from virnuc.encoders.precision import choose_precision
from virnuc.errors import UsageError

GPUS = {0: (7, 0), 1: (8, 0)}  # V100, A100


@pytest.fixture
def gpus(monkeypatch):
    """Two simulated GPUs; the value lists the devices that were made current."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPUS))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # torch counts emulation
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "V100")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: GPUS[torch.device(device).index or 0])
    return chosen


def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus):
    assert runtime.choose_device("cuda:1").name == "cuda:1"
    with pytest.raises(UsageError, match=r"--device cuda:7: .* this machine has cpu, cuda:0, cuda:1$"):
        runtime.choose_device("cuda:7")


def test_the_chosen_device_is_made_current(gpus):
    for wanted in ("cuda:1", "cuda:1,cuda:0", "cpu"):
        runtime.choose_device(wanted)
    assert gpus == [torch.device("cuda:1")] * 2


def test_float32_is_float32_and_attention_is_not_cudnns():
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(True)
    runtime.choose_device("cpu")
    assert runtime.describe_hardware("cpu")["float32_products"] == "highest"
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_cuda_is_all_visible_gpus_where_several_are_used(gpus):
    assert runtime.choose_devices("cuda") == runtime.choose_devices("auto") == ["cuda:0", "cuda:1"]
    assert runtime.choose_devices("cuda:1, cpu") == ["cuda:1", "cpu"]
    with pytest.raises(UsageError, match="name each device once"):
        runtime.choose_devices("cuda:1,cuda:1")
    with pytest.raises(UsageError, match="no such device"):
        runtime.choose_devices("cuda:0,cuda:2")


def test_torchs_cache_counts_as_free_memory(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert runtime.available_memory("cuda:1") == 50


def test_without_a_gpu_the_processor_is_all_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"this machine has cpu$"):
        runtime.choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "mps", "meta"])
def test_other_names_are_no_devices(name):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:N"):
        runtime.choose_device(name)


def test_auto_takes_bf16_only_where_the_chosen_gpu_computes_it(gpus):
    assert [choose_precision("auto", f"cuda:{index}").name for index in GPUS] == ["fp32", "bf16"]


@pytest.mark.parametrize(("bf16", "chosen"), [(30.0, "fp32"), (140.0, "fp32"), (400.0, "bf16")])
def test_auto_takes_what_this_processor_measures(monkeypatch, bf16, chosen):
    monkeypatch.setattr(precision, "cpu_products", lambda: {"fp32": 100.0, "bf16": bf16, "fp16": 20.0, "int8": 290.0})
    choice = choose_precision("auto", "cpu")
    assert choice.name == chosen
    assert f"fp32 100, bf16 {bf16:.0f}, fp16 20, int8 290 GFLOP/s" in choice.reason


def test_products_are_measured_in_the_layers_that_encoders_use(monkeypatch):
    made, rows = [], []

    class Layer(torch.nn.Module):
        def __init__(self, speed):
            super().__init__()
            self.speed = speed

        def forward(self, states):
            rows.append((self.speed, len(states)))
            clock[0] += len(states) / self.speed

    def layer_of(linear, name):
        made.append((name, linear.weight.dtype, tuple(linear.weight.shape)))
        return Layer({"fp32": 100, "bf16": 500, "fp16": 10, "int8": 290}[name])

    clock = [0.0]
    monkeypatch.setattr(precision, "for_inference", layer_of)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    found = precision.cpu_products.__wrapped__()
    assert [name for name in sorted(found, key=found.get)] == ["fp16", "fp32", "int8", "bf16"]
    assert made[1] == ("bf16", torch.bfloat16, (5120, 1280)) and made[3][:2] == ("int8", torch.float32)
    assert max(size for speed, size in rows if speed == 10) == 16  # slow on few tokens, so not measured on many
    assert max(size for speed, size in rows if speed == 500) == 128


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    whole = runtime.available_memory()
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.stat").write_text("anon 20000000\nfile 25000000\n")
    monkeypatch.setattr(runtime, "_CONTROL_GROUP", tmp_path)
    assert runtime.available_memory() == 30_000_000 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime.available_memory() > 30_000_000
