"""What both families of networks share: how a checkpoint's tensors map onto one, and how it is filled.

A network is built without memory, compared with the names and shapes in the file, and then filled module by
module, straight into the wanted precision: at no time are there two copies of the weights.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from virnuc.encoders.linear import Linear, for_inference
from virnuc.encoders.packing import Packing
from virnuc.encoders.weights import EncoderWeights
from virnuc.errors import EncoderError
from virnuc.runtime import DTYPES


@dataclass(frozen=True)
class Slot:
    """Where a checkpoint's tensor goes: rows `part` of `parameter` of the submodule `module`."""

    module: str
    parameter: str
    shape: tuple[int, ...]
    part: slice | None = None  # None: all


class Network(nn.Module):
    """A packed encoder network, for inference only."""

    dimension: int
    vocabulary: int  # number of token ids
    products: frozenset[tuple[int, int]] = frozenset()  # inputs and outputs of its linear layers, once filled
    # A CPU is fastest while a batch's activations stay in its cache; more tokens at once gain nothing there.
    cpu_batch_tokens = 1024

    @abstractmethod
    def slots(self) -> dict[str, Slot]:
        """Return the place of each tensor that the checkpoint must hold, by its key."""

    @abstractmethod
    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map token ids [tokens] int64 to one vector for each sequence, [sequences, dimension] float32."""

    @abstractmethod
    def flops(self, lengths: np.ndarray) -> int:
        """Return the floating-point operations of sequences of `lengths` tokens, a multiply-add counted as two."""


class Embedding(nn.Module):
    """One vector for each token id.

    torch's own draws its weights even where they have no memory, and imports its compiler for that, which takes 2 s.
    """

    def __init__(self, count: int, width: int) -> None:
        """Make the layer with weight [count, width]."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ids [tokens] to vectors, [tokens, width]."""
        return functional.embedding(tokens, self.weight)


def linear_slots(there: str, here: str, outputs: int, inputs: int, part: slice | None = None) -> dict[str, Slot]:
    """Return the slots of a linear layer: keys `there`, module `here`."""
    return {
        f"{there}.weight": Slot(here, "weight", (outputs, inputs), part),
        f"{there}.bias": Slot(here, "bias", (outputs,), part),
    }


def norm_slots(there: str, here: str, width: int) -> dict[str, Slot]:
    """Return the slots of a layer norm: keys `there`, module `here`."""
    return {f"{there}.{name}": Slot(here, name, (width,)) for name in ("weight", "bias")}


def positive_integers(config: dict[str, Any], names: Sequence[str], origin: str) -> list[int]:
    """Return the sizes that a config.json must give.

    Raises:
        EncoderError: one is missing, not an integer, or larger than that of any existing model.
    """
    for name in names:
        value = config.get(name)
        if type(value) is not int or not 1 <= value <= (1000 if "layers" in name else 1_000_000):
            raise EncoderError(f"{origin}: {name} is {value!r}, but a positive integer is needed")
    return [config[name] for name in names]


def fill(network: Network, checkpoint: EncoderWeights, precision: str, device: str) -> str:
    """Load `checkpoint` into `network`, which is still on the meta device; return the digest of what was used.

    Raises:
        EncoderError: a key is missing or unexpected, a shape differs, or a value is not finite.
    """
    slots = network.slots()
    _compare(slots, checkpoint)
    digest = hashlib.sha256()
    for name in [name for name, _ in network.named_modules()]:  # names only: a list of modules would keep all weights
        module = network.get_submodule(name)
        own = {key: slot for key, slot in slots.items() if slot.module == name}
        if not own:
            continue
        dtype = torch.float32 if name == "rotary" else DTYPES[precision]
        module._apply(lambda tensor, dtype=dtype: torch.empty_like(tensor, dtype=dtype, device=device), recurse=False)
        for key, slot in own.items():
            tensor = checkpoint.read(key)
            _check_finite(key, tensor, checkpoint)
            digest.update(f"{key} {list(tensor.shape)} ".encode())
            digest.update(checkpoint.fingerprint(key, tensor))
            getattr(module, slot.parameter).data[slot.part or ...].copy_(tensor)
        if isinstance(module, Linear):
            outputs, inputs = module.weight.shape
            network.products |= {(inputs, outputs)}
            network.set_submodule(name, for_inference(module, precision))
    return digest.hexdigest()


def _compare(slots: dict[str, Slot], checkpoint: EncoderWeights) -> None:
    missing = sorted(slots.keys() - checkpoint.shapes.keys())
    unexpected = sorted(checkpoint.shapes.keys() - slots.keys())
    if missing or unexpected:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise EncoderError(
            f"{checkpoint.origin}: keys do not fit the architecture of its config.json: {'; '.join(parts)}"
        )
    for key, slot in slots.items():
        if checkpoint.shapes[key] != slot.shape:
            found, wanted = list(checkpoint.shapes[key]), list(slot.shape)
            raise EncoderError(f"{checkpoint.origin}: {key} has shape {found}, but its config.json says {wanted}")


def _check_finite(key: str, tensor: Tensor, checkpoint: EncoderWeights) -> None:
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise EncoderError(f"{checkpoint.origin}: {key} holds values that are not finite numbers; get the file again")
