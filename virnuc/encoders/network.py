"""What all networks share: the mapping from a checkpoint's tensors to their parameters, and how these are filled.

A network is built on torch's meta device, without memory; its names and shapes are compared with those in the file, and
it is then filled module by module, directly in the wanted precision, so that there are never two copies of the weights.
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

from virnuc.encoders.linear import DTYPES, Linear, for_inference
from virnuc.encoders.packing import Packing
from virnuc.encoders.weights import EncoderWeights
from virnuc.errors import EncoderError


@dataclass(frozen=True)
class Slot:
    """Where a checkpoint's tensor goes: into the rows `rows` of `parameter` of the submodule `module`."""

    module: str
    parameter: str
    shape: tuple[int, ...]  # of the checkpoint's tensor
    rows: slice | None = None  # None: all


class Network(nn.Module):
    """An encoder network that takes packed batches, for inference only."""

    dimension: int
    vocabulary: int  # number of token ids
    products: frozenset[tuple[int, int]] = frozenset()  # widths of its linear layers (input, output), once filled
    # A CPU is fastest while a batch's activations stay in its cache; more tokens at once gain nothing there.
    cpu_batch_tokens = 1024

    @abstractmethod
    def slots(self) -> dict[str, Slot]:
        """Return the slot of each tensor that the checkpoint must hold, by its key."""

    @abstractmethod
    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map token ids [tokens] int64 to one vector for each sequence, [sequences, dimension] float32."""

    @abstractmethod
    def flops(self, lengths: np.ndarray) -> int:
        """Return the number of floating-point operations for sequences of `lengths` tokens, [n] integers.

        A multiply-add counts as two.
        """


class Embedding(nn.Module):
    """One vector for each token id.

    `torch.nn.Embedding` draws initial weights even on the meta device and imports torch's compiler for it, which takes
    2 s.
    """

    def __init__(self, count: int, width: int) -> None:
        """Make the layer with weight [count, width]."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ids [tokens] int64 to vectors, [tokens, width]."""
        return functional.embedding(tokens, self.weight)


def linear_slots(key: str, module: str, outputs: int, inputs: int, rows: slice | None = None) -> dict[str, Slot]:
    """Return the slots of a linear layer, whose keys in the checkpoint begin with `key`."""
    return {
        f"{key}.weight": Slot(module, "weight", (outputs, inputs), rows),
        f"{key}.bias": Slot(module, "bias", (outputs,), rows),
    }


def norm_slots(key: str, module: str, width: int) -> dict[str, Slot]:
    """Return the slots of a layer norm, whose keys in the checkpoint begin with `key`."""
    return {f"{key}.{name}": Slot(module, name, (width,)) for name in ("weight", "bias")}


def positive_integers(config: dict[str, Any], names: Sequence[str], origin: str) -> list[int]:
    """Return the sizes `names` of a config.json, which `origin` names in messages.

    Raises:
        EncoderError: one is missing, not a positive integer, or larger than in any existing model.
    """
    for name in names:
        value = config.get(name)
        if type(value) is not int or not 1 <= value <= (1000 if "layers" in name else 1_000_000):
            raise EncoderError(f"{origin}: {name} is {value!r}, but a positive integer is needed")
    return [config[name] for name in names]


def fill(network: Network, checkpoint: EncoderWeights, precision: str, device: str) -> str:
    """Load `checkpoint` into `network`, which is on the meta device; return the SHA-256 of the weights.

    Raises:
        EncoderError: a key is missing or unexpected, a shape differs, or a value is not finite.
    """
    slots = network.slots()
    _compare(slots, checkpoint)
    digest = hashlib.sha256()
    names = [name for name, _ in network.named_modules()]  # names only: modules in a list would stay in memory
    for name in names:
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
            getattr(module, slot.parameter).data[slot.rows or ...].copy_(tensor)
        if isinstance(module, Linear):
            outputs, inputs = module.weight.shape
            network.products |= {(inputs, outputs)}
            network.set_submodule(name, for_inference(module, precision))
    return digest.hexdigest()


def _compare(slots: dict[str, Slot], checkpoint: EncoderWeights) -> None:
    """Raise an EncoderError unless the checkpoint has exactly the keys and shapes of `slots`."""
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
