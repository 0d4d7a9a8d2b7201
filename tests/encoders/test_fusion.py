"""The choice between plain and compiled elementwise operations; that the latter are fast needs a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from virnuc.encoders.esm import _rotate, _rotation
from virnuc.encoders.fusion import Fused
from virnuc.encoders.mosaicbert import _gate, _gated


def double(values):
    return values * 2


def test_a_cpu_takes_the_plain_steps(monkeypatch):
    monkeypatch.delattr(torch, "compile")
    assert Fused(double, lambda values: values * 3)(torch.ones(1)).tolist() == [2]


@pytest.mark.parametrize(
    ("compiled", "words"),
    [
        (lambda values: values * 2.01, None),
        (lambda values: values * 3, "it differs by 5.0e-01"),
        (lambda values: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_compiled_form_is_taken_where_it_is_right(monkeypatch, caplog, compiled, words):
    monkeypatch.setattr(torch, "compile", lambda formula, dynamic: compiled)
    chosen = Fused(double, double)._try(torch.ones(2))
    assert chosen is (double if words else compiled)
    assert caplog.messages == ([f"double is not fused on cpu: {words}"] if words else [])


def test_full_memory_is_not_a_fault_of_the_compiler(monkeypatch):
    def full(values):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda formula, dynamic: full)
    with pytest.raises(torch.OutOfMemoryError):
        Fused(double, double)._try(torch.ones(2))


def test_each_device_and_type_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(Fused, "_try", lambda self, values: tried.append(values.device) or double)
    with FakeTensorMode():
        one, two = torch.ones(3, 2, 1024, device="cuda:0"), torch.ones(3, 2, 1024, device="cuda:1")
        narrow = torch.ones(3, 2, 160, device="cuda:0")
        steps = Fused(double, double)
        for values in (narrow, one, two, one):
            assert steps(values).device == values.device
    assert tried == [one.device, two.device]


def test_both_forms_are_the_same_function():
    states, angles = torch.randn(5, 3, 2, 8)[:, :2], torch.randn(5, 1, 1, 4)
    tables = angles.cos(), angles.sin()
    torch.testing.assert_close(_rotation(states, *tables), _rotate(states, *tables))
    gate, inner = torch.randn(5, 8).chunk(2, dim=1)
    torch.testing.assert_close(_gate(gate, inner), _gated(gate, inner))
