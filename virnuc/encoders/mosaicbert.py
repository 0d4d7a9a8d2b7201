"""The MosaicBERT family (Portes et al. 2023; DNABERT-2, DNABERT-S): post-norm, gated feed-forward, ALiBi.

The published code uses a Triton kernel in float16 that fails on CPUs and with newer versions of Triton; this is the
same network with torch's own attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from virnuc.encoders.fusion import Fused
from virnuc.encoders.linear import Linear
from virnuc.encoders.network import Embedding, Network, Slot, linear_slots, norm_slots, positive_integers
from virnuc.encoders.packing import Packing, attend, mean_of_sequences
from virnuc.errors import EncoderError

PREFIX = "bert."
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "type_vocab_size",
)


def is_ignored(key: str) -> bool:
    """Return whether embedding does not need a key: those of the heads and the pooler."""
    return key.startswith(("cls.", "pooler."))


@dataclass(frozen=True)
class MosaicBertShape:
    """The architecture as config.json gives it."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int  # width of the feed-forward layer
    types: int  # rows of the token-type table; only the first is used
    epsilon: float  # of the layer norms

    @classmethod
    def from_config(cls, config: dict[str, Any], origin: str) -> MosaicBertShape:
        """Read and check a config.json; `origin` is its name in messages.

        Raises:
            EncoderError: it is not that of a MosaicBERT model.
        """
        vocabulary, width, layers, heads, inner, types = positive_integers(config, _SIZES, origin)
        if config.get("model_type", "bert") != "bert" or config.get("hidden_act", "gelu") != "gelu" or width % heads:
            raise EncoderError(f"{origin}: not of a MosaicBERT model (bert, gelu, width a multiple of the heads)")
        return cls(vocabulary, width, layers, heads, inner, types, float(config.get("layer_norm_eps", 1e-12)))


def alibi_slopes(heads: int) -> list[float]:
    """Return ALiBi's slope of each head (Press et al. 2022).

    A geometric series for the largest power of two; further heads take every second value of the next finer series.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    finer = [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)]
    return slopes + finer[: heads - power]


class _Layer(nn.Module):
    def __init__(self, shape: MosaicBertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = Linear(shape.width, 3 * shape.width)
        self.out = Linear(shape.width, shape.width)
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.gated = Linear(shape.width, 2 * shape.inner, bias=False)
        self.down = Linear(shape.inner, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)

    def forward(self, states: Tensor, packing: Packing, slopes: Tensor) -> Tensor:
        query, key, value = self.qkv(states).unflatten(1, (3, self.heads, -1)).unbind(1)
        states = self.attention_norm(self.out(attend(query, key, value, packing, slopes), residual=states))
        gate, inner = self.gated(states).chunk(2, dim=1)
        return self.norm(self.down(_gated(gate, inner), residual=states))


def _gate(gate: Tensor, inner: Tensor) -> Tensor:
    """The formula of the gated activation, for the compiler."""
    return functional.gelu(gate) * inner


_gated = Fused(lambda gate, inner: functional.gelu(gate).mul_(inner), _gate)


class MosaicBertNetwork(Network):
    """A MosaicBERT encoder whose output is the mean over all tokens, [CLS] and [SEP] included."""

    def __init__(self, shape: MosaicBertShape) -> None:
        """Lay out the network of `shape`."""
        super().__init__()
        self.shape, self.dimension, self.vocabulary = shape, shape.width, shape.vocabulary
        self.words = Embedding(shape.vocabulary, shape.width)
        self.types = Embedding(shape.types, shape.width)
        self.first_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self._slopes: Tensor | None = None  # [heads] float32 on the device, made with the first batch

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map token ids [tokens] int64 to the mean over tokens, [sequences, width] float32."""
        states = self.first_norm(self.words(tokens) + self.types.weight[0])
        if self._slopes is None:
            self._slopes = torch.tensor(alibi_slopes(self.shape.heads), device=states.device)
        for layer in self.layer:
            states = layer(states, packing, self._slopes)
        return mean_of_sequences(states, packing, skip_ends=False)

    def flops(self, lengths: np.ndarray) -> int:
        """Return the number of floating-point operations, a multiply-add counted as two; see `Network.flops`."""
        width, tokens = self.shape.width, int(lengths.sum())
        linear = 2 * tokens * (4 * width * width + 3 * width * self.shape.inner)
        return self.shape.layers * (linear + 4 * width * int((lengths**2).sum()))

    def slots(self) -> dict[str, Slot]:
        """Return the slot of each tensor of the checkpoint."""
        width, inner = self.shape.width, self.shape.inner
        slots = {
            "embeddings.word_embeddings.weight": Slot("words", "weight", (self.vocabulary, width)),
            "embeddings.token_type_embeddings.weight": Slot("types", "weight", (self.shape.types, width)),
            **norm_slots("embeddings.LayerNorm", "first_norm", width),
        }
        for index in range(self.shape.layers):
            source, target = f"encoder.layer.{index}", f"layer.{index}"
            slots |= linear_slots(f"{source}.attention.self.Wqkv", f"{target}.qkv", 3 * width, width)
            slots |= linear_slots(f"{source}.attention.output.dense", f"{target}.out", width, width)
            slots |= norm_slots(f"{source}.attention.output.LayerNorm", f"{target}.attention_norm", width)
            slots[f"{source}.mlp.gated_layers.weight"] = Slot(f"{target}.gated", "weight", (2 * inner, width))
            slots |= linear_slots(f"{source}.mlp.wo", f"{target}.down", width, inner)
            slots |= norm_slots(f"{source}.mlp.layernorm", f"{target}.norm", width)
        return slots
