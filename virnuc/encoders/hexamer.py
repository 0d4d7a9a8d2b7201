"""Learned composition: the mean of the embeddings of DNA's hexamers, then a small feed-forward network.

Composition encoders count k-mers; this one learns an embedding of each hexamer, as fastText does of words (Joulin et
al. 2017), one for each of the three codon positions of its first base. In-phase hexamer usage is among the best known
measures of coding DNA (Fickett & Tung 1992). The cost is a lookup and a sum for each base and some 100,000
multiplications for each sequence, next to nothing compared with a transformer.

The phase is counted from the sequence's first base, so the DNA should begin with a codon, as that of a frame does.
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
from virnuc.encoders.interface import Tokens
from virnuc.encoders.linear import Linear
from virnuc.encoders.network import Embedding, Network, Slot, linear_slots, norm_slots, positive_integers
from virnuc.encoders.packing import Packing
from virnuc.encoders.tokens import IUPAC_BASES, encode_letters, letter_table
from virnuc.errors import EncoderError

K = 6
PHASES = 3
# Token of a hexamer with N or another IUPAC code, and of a sequence too short for a hexamer; its embedding is zeros.
UNKNOWN = PHASES * 4**K
MODEL_TYPE = "hexamer"
SIZES = ("embedding_size", "num_hidden_layers", "intermediate_size", "hidden_size")
_OTHER = len(BASES)
_TABLE = letter_table(IUPAC_BASES, [BASES.index(base) if base in BASES else _OTHER for base in IUPAC_BASES])


def tokenise(sequences: Sequence[str], ids: Sequence[str] | None) -> Tokens:
    """Return the hexamers of each sequence; `ids` are the names in error messages.

    A token is 4096 * phase + the bases as digits to base 4 (A 0, C 1, G 2, T 3), the first base highest.

    Raises:
        DataError: a sequence is empty or contains a letter that is no IUPAC code.
    """
    letters = encode_letters([sequence.upper() for sequence in sequences], ids, _TABLE, "a base or IUPAC code")
    return Tokens(*hexamers(letters.flat, letters.starts), letters.ids)


def hexamers(bases: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hexamers of n concatenated sequences, [tokens] int32, and where those of each begin, [n + 1] int64.

    Args:
        bases: [bases] integers, 0 to 3 for A, C, G, T, and 4 for any other letter.
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

    embedded: int  # width of a hexamer's embedding
    layers: int  # number of hidden layers
    inner: int  # width of a hidden layer
    width: int  # of a sequence's vector

    @classmethod
    def from_config(cls, config: dict[str, Any], origin: str) -> HexamerShape:
        """Read and check a config.json; `origin` is its name in messages.

        Raises:
            EncoderError: it is not that of a hexamer model.
        """
        if config.get("model_type") != MODEL_TYPE:
            raise EncoderError(f"{origin}: not of a hexamer model (model_type {MODEL_TYPE})")
        return cls(*positive_integers(config, SIZES, origin))


class HexamerNetwork(Network):
    """Mean of the hexamers' embeddings, layer norm, hidden layers with GELU, projection, layer norm."""

    cpu_batch_tokens = 65_536  # `embedding_bag` keeps only the sums, so that large batches need little memory

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
        """Map hexamers [tokens] int64 to one vector for each sequence, [sequences, width] float32."""
        offsets = (packing.positions == 0).nonzero().squeeze(1)
        states = self.norm(functional.embedding_bag(tokens, self.words.weight, offsets, mode="mean"))
        for layer in self.hidden:
            states = layer(states, gelu=True)
        return self.last_norm(self.down(states))

    def flops(self, lengths: np.ndarray) -> int:
        """Return the number of floating-point operations, a multiply-add counted as two; see `Network.flops`."""
        embedded, inner, width = self.shape.embedded, self.shape.inner, self.shape.width
        products = inner * (embedded + (self.shape.layers - 1) * inner + width)
        return int(lengths.sum()) * embedded + 2 * len(lengths) * products

    def slots(self) -> dict[str, Slot]:
        """Return the slot of each tensor of the checkpoint."""
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
