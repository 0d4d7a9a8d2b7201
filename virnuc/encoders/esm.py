"""The ESM-2 family (Lin et al. 2023): a pre-norm transformer with rotary positions, run on packed batches.

The keys are those of transformers' EsmModel without the prefix `esm.`; FastESM2 is published with the same ones. Rotary
frequencies are read from the file: published values are rounded to float16, and computing them anew would shift the
phase by 0.16 rad at position 1000.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from virnuc.encoders.fusion import Fused
from virnuc.encoders.linear import Linear
from virnuc.encoders.network import Embedding, Network, Slot, linear_slots, norm_slots, positive_integers
from virnuc.encoders.packing import Packing, attend, mean_of_sequences
from virnuc.encoders.tokens import ESM_VOCABULARY
from virnuc.encoders.weights import EncoderWeights
from virnuc.errors import EncoderError

PREFIX = "esm."
SHARED_ROTARY = "rotary_embeddings.inv_freq"  # key in files of transformers >= 5, where all layers share one tensor
TRAINED_MASKING = 0.15 * 0.8  # share of <mask> tokens in training: 15 % of tokens are chosen, 80 % of these masked
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def is_ignored(key: str) -> bool:
    """Return whether embedding does not need a key: those of the heads, and absolute positions, which are not used."""
    return key.startswith(("lm_head.", "contact_head.regression.")) or key in (
        "embeddings.position_embeddings.weight",
        "embeddings.position_ids",
    )


@dataclass(frozen=True)
class EsmShape:
    """The architecture as config.json gives it."""

    width: int
    layers: int
    heads: int
    inner: int  # width of the feed-forward layer
    epsilon: float  # of the layer norms
    token_dropout: bool

    @classmethod
    def from_config(cls, config: dict[str, Any], origin: str) -> EsmShape:
        """Read and check a config.json; `origin` is its name in messages.

        Raises:
            EncoderError: it is not that of an ESM-2 model.
        """
        vocabulary, width, layers, heads, inner = positive_integers(config, _SIZES, origin)
        wanted = {
            "model_type": ("esm", "fast_esm"),
            "position_embedding_type": ("rotary", None),
            "emb_layer_norm_before": (False, None),
            "hidden_act": ("gelu", None),
        }
        for name, values in wanted.items():
            if config.get(name) not in values:
                raise EncoderError(f"{origin}: {name} is {config.get(name)!r}; an ESM-2 model has {values[0]!r}")
        if vocabulary != len(ESM_VOCABULARY) or width % (2 * heads):
            raise EncoderError(f"{origin}: {vocabulary} tokens, {heads} heads in width {width}: not an ESM-2 model")
        dropout = bool(config.get("token_dropout", False))
        return cls(width, layers, heads, inner, float(config.get("layer_norm_eps", 1e-5)), dropout)


class _Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): pairs of values are rotated by angles in proportion to the position."""

    inv_freq: Tensor  # [layers, half] float32; half of a head's width

    def __init__(self, layers: int, half: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.empty(layers, half))

    @cached_property
    def _distinct(self) -> tuple[Tensor, list[int]]:
        """The distinct rows, and the index of each layer's row among them; cached, as this waits for the device."""
        distinct, index = torch.unique(self.inv_freq, dim=0, return_inverse=True)
        return distinct, index.tolist()

    def tables(self, positions: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return cosine and sine for each layer, [tokens, 1, 1, half] of `dtype`; equal layers share tensors."""
        distinct, layers = self._distinct
        angles = [(positions[:, None] * row)[:, None, None] for row in distinct]
        made = [(angle.cos().to(dtype), angle.sin().to(dtype)) for angle in angles]
        return [made[row] for row in layers]


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate queries and keys together, [tokens, 2, heads, head_width], with the fewest copies."""
    first, second = states.chunk(2, dim=-1)
    rotated = torch.empty_like(states, memory_format=torch.contiguous_format)
    low, high = rotated.chunk(2, dim=-1)
    torch.mul(first, cosine, out=low).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=high).addcmul_(first, sine)
    return rotated


def _rotation(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The formula of `_rotate`, for the compiler."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


_rotated = Fused(_rotate, _rotation)


class _Layer(nn.Module):
    def __init__(self, shape: EsmShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.qkv = Linear(shape.width, 3 * shape.width)
        self.out = Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.up = Linear(shape.width, shape.inner)
        self.down = Linear(shape.inner, shape.width)

    def forward(self, states: Tensor, packing: Packing, cosine: Tensor, sine: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(states)).unflatten(1, (3, self.heads, -1))
        query, key = _rotated(qkv[:, :2], cosine, sine).unbind(1)
        states = self.out(attend(query, key, qkv[:, 2], packing), residual=states)
        return self.down(self.up(self.norm(states), gelu=True), residual=states)


class EsmNetwork(Network):
    """An ESM-2 encoder; its output includes the final layer norm, as `last_hidden_state` does."""

    def __init__(self, shape: EsmShape, token_scale: float, rotary: str) -> None:
        """Lay out the network.

        Args:
            shape: its architecture.
            token_scale: factor on the token embeddings; 0.88 if the model was trained with token dropout.
            rotary: where the file has the rotary frequencies, see `rotary_source`.
        """
        super().__init__()
        self.shape, self.token_scale, self.rotary_source = shape, token_scale, rotary
        self.dimension, self.vocabulary = shape.width, len(ESM_VOCABULARY)
        self.words = Embedding(len(ESM_VOCABULARY), shape.width)
        self.rotary = _Rotary(shape.layers, shape.width // shape.heads // 2)
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.last_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map token ids [tokens] int64 to the mean over residues, [sequences, width] float32."""
        states = self.words(tokens) * self.token_scale
        tables = self.rotary.tables(packing.positions, states.dtype)
        for layer, (cosine, sine) in zip(self.layer, tables, strict=True):
            states = layer(states, packing, cosine, sine)
        return mean_of_sequences(self.last_norm(states), packing, skip_ends=True)

    def flops(self, lengths: np.ndarray) -> int:
        """Return the number of floating-point operations, a multiply-add counted as two; see `Network.flops`."""
        width, tokens = self.shape.width, int(lengths.sum())
        linear = 2 * tokens * (4 * width * width + 2 * width * self.shape.inner)
        return self.shape.layers * (linear + 4 * width * int((lengths**2).sum()))

    def slots(self) -> dict[str, Slot]:
        """Return the slot of each tensor of the checkpoint; query, key and value are merged into one matrix."""
        width, inner = self.shape.width, self.shape.inner
        half = self.rotary.inv_freq.shape[1]
        slots = {"embeddings.word_embeddings.weight": Slot("words", "weight", (self.vocabulary, width))}
        slots |= norm_slots("encoder.emb_layer_norm_after", "last_norm", width)
        if self.rotary_source == "shared":
            slots[SHARED_ROTARY] = Slot("rotary", "inv_freq", (half,))
        for index in range(self.shape.layers):
            source, target = f"encoder.layer.{index}", f"layer.{index}"
            for number, name in enumerate(("query", "key", "value")):
                rows = slice(number * width, (number + 1) * width)
                slots |= linear_slots(f"{source}.attention.self.{name}", f"{target}.qkv", width, width, rows)
            slots |= linear_slots(f"{source}.attention.output.dense", f"{target}.out", width, width)
            slots |= linear_slots(f"{source}.intermediate.dense", f"{target}.up", inner, width)
            slots |= linear_slots(f"{source}.output.dense", f"{target}.down", width, inner)
            slots |= norm_slots(f"{source}.attention.LayerNorm", f"{target}.attention_norm", width)
            slots |= norm_slots(f"{source}.LayerNorm", f"{target}.norm", width)
            if self.rotary_source == "layers":
                key = f"{source}.attention.self.rotary_embeddings.inv_freq"
                slots[key] = Slot("rotary", "inv_freq", (half,), slice(index, index + 1))
        return slots


def rotary_source(checkpoint: EncoderWeights) -> str:
    """Return where a checkpoint has rotary frequencies: in its `layers`, `shared` by them, or nowhere: `computed`."""
    if not any(key.endswith("inv_freq") for key in checkpoint.shapes):
        return "computed"
    return "shared" if SHARED_ROTARY in checkpoint.shapes else "layers"
