"""The interface of encoders: `embed` turns sequences into vectors; the provenance says what those vectors depend on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from virnuc.runtime import Progress, silent
from virnuc.settings import ExtractSettings

DEFAULT_BATCH_TOKENS = ExtractSettings.batch_tokens


@dataclass(frozen=True)
class EncoderProvenance:
    """Everything that an encoder's vectors depend on; encoders that differ in it must not share a directory."""

    name: str
    kind: str  # dna or protein
    dimension: int
    weights: str  # hub, local, package, shipped, random, or none if there is nothing to load
    weight_digest: str  # SHA-256 over the names, shapes and bytes of the tensors in use
    precision: str
    licence: str
    hub_id: str | None = None
    revision: str | None = None
    package: str | None = None  # name==version of the package that carries the weights
    token_dropout_scale: float | None = None  # factor on the token embeddings, ESM family only
    rotary: str | None = None  # file, or computed if the file has no inv_freq; ESM family only
    config: dict[str, float] = field(default_factory=dict)  # values of config.json that no tensor's shape shows
    max_residues: int | None = None  # longer sequences are cut here, and counted
    parameters: int = 0  # number of weights in use
    probe: tuple[float, ...] = ()  # first values of the embedding of a fixed sequence, rounded to 4 decimals

    def asdict(self) -> dict[str, Any]:
        """Return the fields as plain values for a manifest, a checkpoint or a run."""
        return {**asdict(self), "probe": list(self.probe)}


@dataclass(frozen=True)
class Tokens:
    """The token ids of n sequences, concatenated."""

    flat: np.ndarray  # [tokens] int32
    starts: np.ndarray  # [n + 1] int64, where each sequence begins in `flat`, then its end
    ids: Sequence[str]  # n names, for error messages

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each sequence, [n] int64."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> Tokens:
        """Return the tokens of the sequences `rows` ([m] int64), in that order."""
        pieces = [self.flat[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        starts = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return Tokens(np.concatenate(pieces), starts, [self.ids[row] for row in rows.tolist()])


class Encoder(ABC):
    """Turns DNA or proteins into vectors; `tokenise` and `embed_tokens` may run in different threads."""

    provenance: EncoderProvenance

    @property
    def name(self) -> str:
        """Name in the table; for an encoder from a directory, one made from its weights' digest."""
        return self.provenance.name

    @property
    def kind(self) -> str:
        """`dna` or `protein`."""
        return self.provenance.kind

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return self.provenance.dimension

    @abstractmethod
    def tokenise(self, sequences: Sequence[str], ids: Sequence[str] | None = None) -> Tokens:
        """Return the token ids of `sequences`; `ids` are their names in error messages.

        Raises:
            DataError: a sequence is empty or contains a letter that the encoder does not know.
        """

    @abstractmethod
    def embed_tokens(
        self, tokens: Tokens, *, batch_tokens: int = DEFAULT_BATCH_TOKENS, progress: Progress = silent
    ) -> Tensor:
        """Return the vectors of tokenised sequences, [n, dimension] float32 on the CPU, in the order of `tokens`.

        Raises:
            EncoderError: a vector is not finite.
            MemoryShortageError: a single sequence does not fit into memory.
        """

    def embed(
        self,
        sequences: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: Progress = silent,
    ) -> Tensor:
        """Return one vector for each sequence, [n, dimension] float32 on the CPU, in the order of `sequences`.

        Raises:
            DataError: a sequence is empty or contains a letter that the encoder does not know.
            EncoderError: a vector is not finite.
            MemoryShortageError: a single sequence does not fit into memory.
        """
        return self.embed_tokens(self.tokenise(sequences, ids), batch_tokens=batch_tokens, progress=progress)

    def tokens_at_once(self, batch_tokens: int) -> int:
        """Return the maximum tokens of a batch when `batch_tokens` are asked for; 0 for an encoder without batches."""
        return 0

    def flops(self, tokens: Tokens) -> int:
        """Return the number of floating-point operations to embed `tokens`; 0 for an encoder that counts k-mers."""
        return 0

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Input and output widths of the linear layers, each pair once."""
        return ()
