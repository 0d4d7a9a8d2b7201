"""The path for GPUs: attention over a whole batch in one call, and forward passes that never wait for the device.

This does not show that CUDA works. The passes run on torch's meta device, whose tensors have no values, so that code
that would wait for a value raises an error. The kernels are replaced by functions that compute in float64 what their
documentation says.
"""

import numpy as np
import pytest
import torch

from virnuc.encoders import packing
from virnuc.encoders.esm import EsmNetwork, EsmShape
from virnuc.encoders.fusion import Fused
from virnuc.encoders.mosaicbert import MosaicBertNetwork, MosaicBertShape
from virnuc.encoders.packing import Packing, varlen_is_right

LENGTHS = np.array([9, 9, 7, 3, 3, 1])
ESM = EsmShape(width=64, layers=2, heads=2, inner=128, epsilon=1e-5, token_dropout=True)
MOSAIC = MosaicBertShape(vocabulary=33, width=64, layers=2, heads=2, inner=128, types=2, epsilon=1e-12)


def any_lengths(query, key, value, bounds, slopes=None):
    """Return attention [tokens, heads, width], computed sequence by sequence and head by head."""
    found = torch.empty_like(query, dtype=torch.float64)
    for start, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
        places = torch.arange(end - start)
        for head in range(query.shape[1]):
            q, k, v = (part[start:end, head].double() for part in (query, key, value))
            scores = q @ k.T / q.shape[1] ** 0.5
            if slopes is not None:
                scores -= slopes[head] * (places[:, None] - places).abs()
            found[start:end, head] = scores.softmax(1) @ v
    return found.to(query.dtype)


@pytest.fixture
def kernels(monkeypatch):
    """Replacements for torch's kernels that take the documented arguments."""
    asked = {"slopes": True, "fails": False}

    def flash(query, key, value, q_bounds, k_bounds, q_longest, k_longest, dropout, causal, debug, *, alibi_slopes):
        if asked["fails"]:
            raise RuntimeError("This flash attention build does not support alibi.\nmore")
        assert q_bounds.dtype is torch.int32 and q_longest == k_longest == int(q_bounds.diff().max())
        return (any_lengths(query, key, value, q_bounds, alibi_slopes if asked["slopes"] else None),)

    def efficient(query, key, value, bias, q_bounds, k_bounds, q_longest, k_longest, dropout, mask):
        return (any_lengths(query[0], key[0], value[0], q_bounds)[None],)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alibi", [False, True])
def test_a_batch_at_once_is_the_same_as_run_by_run(kernels, dtype, alibi):
    batch = Packing.of_lengths(LENGTHS, torch.device("cpu"))
    parts = torch.randn(len(batch.positions), 3, 2, 16, generator=torch.Generator().manual_seed(1)).to(dtype).unbind(1)
    slopes = torch.tensor([0.5, 0.1]) if alibi else None
    by_runs = packing._attend_by_runs(*parts, batch, slopes)
    tolerance = 1e-6 if dtype is torch.float32 else 0.02
    torch.testing.assert_close(packing._attend_at_once(*parts, batch, slopes), by_runs, atol=tolerance, rtol=tolerance)


def test_a_kernel_is_used_where_it_is_right_and_left_where_it_is_not(kernels, caplog):
    cpu = torch.device("cpu")
    assert packing._agrees(cpu, torch.bfloat16, 64, alibi=True)
    assert packing._agrees(cpu, torch.float32, 64, alibi=False)
    kernels["slopes"] = False
    assert packing._agrees(cpu, torch.bfloat16, 64, alibi=False)
    assert not packing._agrees(cpu, torch.bfloat16, 64, alibi=True)
    kernels["fails"] = True
    assert not packing._agrees(cpu, torch.float16, 64, alibi=True)
    assert "bfloat16 with ALiBi on cpu goes run by run, as torch's kernel for any lengths differs" in caplog.messages[0]
    assert caplog.messages[1].endswith("This flash attention build does not support alibi.")
    assert not varlen_is_right(cpu, torch.float32, 64, alibi=False)  # torch has these kernels for GPUs only


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", ["esm", "mosaicbert"])
def test_a_forward_pass_never_waits_for_the_device(monkeypatch, network, dtype, at_once):
    monkeypatch.setattr(packing, "varlen_is_right", lambda *about: at_once)
    monkeypatch.setattr(Fused, "_try", lambda self, *tensors: self._plain)  # it compares values
    meta = torch.device("meta")
    made = (EsmNetwork(ESM, 0.88, "layers") if network == "esm" else MosaicBertNetwork(MOSAIC)).to(meta, dtype)
    if network == "esm":  # normally found in the first pass, which waits for the device
        made.rotary.__dict__["_distinct"] = torch.empty(1, 16, device=meta), [0, 0]
    batch = Packing.of_lengths(LENGTHS, meta)
    with torch.inference_mode():
        vectors = made(packing.to_device(np.zeros(int(LENGTHS.sum()), dtype=np.int64), meta), batch)
    assert vectors.device == meta
    assert (vectors.dtype, tuple(vectors.shape)) == (torch.float32, (len(LENGTHS), 64))
