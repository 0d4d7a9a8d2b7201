"""Learned composition: the mean of an embedding of DNA's in-phase hexamers, then a small feed-forward network.

Composition encoders count k-mers; this one learns what each hexamer says, as fastText does with words (Joulin et al.
2017), for each of the three places that its first base can have in a codon. Hexamer usage in phase is an old and strong
sign of coding DNA (Fickett & Tung 1992). A lookup and a sum for each base, and some 100,000 products for each sequence:
next to nothing beside a transformer.

The phase is counted from the sequence's first base, so the DNA should begin with a codon, as a frame's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from virnuc.encoders.composition import BASES
from virnuc.encoders.interface import Tokens, name_sequences
from virnuc.encoders.linear import Linear
from virnuc.encoders.network import Embedding, Network, Slot, linear_slots, norm_slots, positive_integers
from virnuc.encoders.packing import Packing
from virnuc.encoders.tokens import IUPAC_BASES, encode_letters, letter_table
from virnuc.errors import EncoderError

K = 6
PHASES = 3
UNKNOWN = (
    PHASES * 4**K
)  # of a hexamer with N or another IUPAC code, and of a sequence too short for one; its row is zeros
MODEL_TYPE = "hexamer"
SIZES = ("embedding_size", "num_hidden_layers", "intermediate_size", "hidden_size")
_OTHER = len(BASES)
_TABLE = letter_table(IUPAC_BASES, [BASES.index(base) if base in BASES else _OTHER for base in IUPAC_BASES])


def tokenise(sequences: Sequence[str], ids: Sequence[str] | None) -> Tokens:
    """Return the hexamer that starts at each base: 4096 * phase + its bases as digits, A 0 to T 3, first base highest.

    Raises:
        DataError: a sequence is empty or holds something other than IUPAC codes.
    """
    names = name_sequences(sequences, ids)
    letters = encode_letters([sequence.upper() for sequence in sequences], names, _TABLE, "a base or IUPAC code")
    return Tokens(*hexamers(letters.flat, letters.starts), names)


def hexamers(bases: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hexamers of sequences that lie end to end, [tokens] int32, and where each sequence's begin, [n + 1].

    Args:
        bases: [bases] of 0 to 3, or 4 for any other letter.
        starts: [n + 1] int64, where each sequence begins in `bases`.
    """
    lengths = np.diff(starts)
    places = np.arange(len(bases)) - np.repeat(starts[:-1], lengths)
    padded = np.concatenate([bases.astype(np.int32), np.full(K - 1, _OTHER, dtype=np.int32)])
    words, unknown = np.zeros(len(bases), dtype=np.int32), np.zeros(len(bases), dtype=bool)
    for offset in range(K):
        digits = padded[offset : offset + len(bases)]
        words = 4 * words + digits
        unknown |= digits == _OTHER
    words += (places % PHASES).astype(np.int32) * 4**K
    counts = np.maximum(lengths - K + 1, 1)
    inside = places < np.repeat(counts, lengths)
    words[unknown | (places > np.repeat(lengths - K, lengths))] = UNKNOWN
    return words[inside], np.concatenate([[0], np.cumsum(counts)])


@dataclass(frozen=True)
class HexamerShape:
    """The architecture as config.json gives it."""

    embedded: int  # values of a hexamer
    layers: int  # hidden ones
    inner: int  # width of each
    width: int  # values of a sequence's vector

    @classmethod
    def from_config(cls, config: dict[str, Any], origin: str) -> HexamerShape:
        """Read and check a config.json.

        Raises:
            EncoderError: it is not of a hexamer model.
        """
        if config.get("model_type") != MODEL_TYPE:
            raise EncoderError(f"{origin}: not of a hexamer model (model_type {MODEL_TYPE})")
        return cls(*positive_integers(config, SIZES, origin))


class HexamerNetwork(Network):
    """The mean of the hexamers' embeddings, normed; hidden layers with GELU; a projection, normed."""

    cpu_batch_tokens = 65_536  # a batch keeps nothing but its sums

    def __init__(self, shape: HexamerShape) -> None:
        """Lay out the network of `shape`."""
        super().__init__()
        self.shape, self.dimension, self.vocabulary = shape, shape.width, UNKNOWN + 1
        self.words = Embedding(self.vocabulary, shape.embedded)
        self.norm = nn.LayerNorm(shape.embedded)
        widths = [shape.embedded, *[shape.inner] * shape.layers]
        self.hidden = nn.ModuleList(Linear(*sizes) for sizes in pairwise(widths))
        self.down = Linear(shape.inner, shape.width)
        self.last_norm = nn.LayerNorm(shape.width)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Map hexamers [tokens] to one vector for each sequence, [sequences, width] float32."""
        offsets = (packing.positions == 0).nonzero().squeeze(1)
        states = self.norm(functional.embedding_bag(tokens, self.words.weight, offsets, mode="mean"))
        for layer in self.hidden:
            states = layer(states, gelu=True)
        return self.last_norm(self.down(states))

    def flops(self, lengths: np.ndarray) -> int:
        """Return the floating-point operations of sequences of `lengths` tokens, a multiply-add counted as two."""
        embedded, inner, width = self.shape.embedded, self.shape.inner, self.shape.width
        products = inner * (embedded + (self.shape.layers - 1) * inner + width)
        return int(lengths.sum()) * embedded + 2 * len(lengths) * products

    def slots(self) -> dict[str, Slot]:
        """Return the place of each tensor of the checkpoint."""
        embedded, inner, width = self.shape.embedded, self.shape.inner, self.shape.width
        slots = {
            "hexamers.weight": Slot("words", "weight", (self.vocabulary, embedded)),
            **norm_slots("hexamers.LayerNorm", "norm", embedded),
            **linear_slots("output.dense", "down", width, inner),
            **norm_slots("output.LayerNorm", "last_norm", width),
        }
        for number in range(self.shape.layers):
            inputs = inner if number else embedded
            slots |= linear_slots(f"intermediate.{number}.dense", f"hidden.{number}", inner, inputs)
        return slots
