"""The interface of encoders: a name, a kind, a width, the origin of the weights, and `embed`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from virnuc.errors import DataError
from virnuc.runtime import Progress, silent
from virnuc.settings import ExtractSettings

DEFAULT_BATCH_TOKENS = ExtractSettings.batch_tokens


@dataclass(frozen=True)
class EncoderProvenance:
    """Everything that decides an encoder's vectors; two encoders that differ in it must not share a directory."""

    name: str
    kind: str  # dna or protein
    dimension: int
    weights: str  # hub, local, package, shipped, random, or none if there is nothing to load
    weight_digest: str  # SHA-256 over the names, shapes and bytes of the tensors that are used
    precision: str
    licence: str
    hub_id: str | None = None
    revision: str | None = None
    package: str | None = None  # name==version of the package that carries the weights
    token_dropout_scale: float | None = None  # factor on the token embeddings, ESM family only
    rotary: str | None = None  # file, or computed if the file has no inv_freq; ESM family only
    config: dict[str, float] = field(default_factory=dict)  # values of config.json in use that no tensor's shape shows
    max_residues: int | None = None  # longer sequences are cut here, and counted
    parameters: int = 0  # number of weights that are used
    probe: tuple[float, ...] = ()  # first values of the embedding of a fixed sequence, 4 digits

    def asdict(self) -> dict[str, Any]:
        """Return the fields as plain values for a manifest, a checkpoint or a run."""
        return {**asdict(self), "probe": list(self.probe)}


@dataclass(frozen=True)
class Tokens:
    """Sequences as token ids, laid end to end."""

    flat: np.ndarray  # [tokens] int32
    starts: np.ndarray  # [n + 1] int64, where each sequence begins in `flat`
    ids: Sequence[str]  # n names for error messages
    truncated: int = 0  # sequences that were cut to the encoder's maximum

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, [n] int64."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> Tokens:
        """Return the tokens of some sequences, in the order of `rows`."""
        pieces = [self.flat[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        starts = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return Tokens(np.concatenate(pieces), starts, [self.ids[row] for row in rows.tolist()])


class Encoder(ABC):
    """Turns DNA or proteins into vectors. `tokenise` and `embed_tokens` may run in different threads."""

    provenance: EncoderProvenance

    @property
    def name(self) -> str:
        """Name in the table, or one made from the weight digest for a directory."""
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
            DataError: a sequence is empty or has a letter that the encoder does not know.
        """

    @abstractmethod
    def embed_tokens(
        self, tokens: Tokens, *, batch_tokens: int = DEFAULT_BATCH_TOKENS, progress: Progress = silent
    ) -> Tensor:
        """Return the vectors of tokenised sequences, [n, dimension] float32 on the CPU, in their order."""

    def embed(
        self,
        sequences: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: Progress = silent,
    ) -> Tensor:
        """Return one vector for each sequence, [n, dimension] float32 on the CPU, in the order given.

        Raises:
            DataError: a sequence is empty or has a letter that the encoder does not know.
            EncoderError: an embedding is not finite, or a single sequence does not fit into memory.
        """
        return self.embed_tokens(self.tokenise(sequences, ids), batch_tokens=batch_tokens, progress=progress)

    def tokens_at_once(self, batch_tokens: int) -> int:
        """Return how many tokens a batch really has at most where `batch_tokens` are asked for; 0 without batches."""
        return 0

    def flops(self, tokens: Tokens) -> int:
        """Return the floating-point operations that embedding `tokens` takes; 0 for one that only counts."""
        return 0

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of its linear layers, each size once."""
        return ()


def name_sequences(sequences: Sequence[str], ids: Sequence[str] | None) -> Sequence[str]:
    """Return the names to use in messages; raise a DataError for an empty sequence.

    Raises:
        DataError: a sequence is empty, or there are not as many names as sequences.
    """
    names = ids if ids is not None else [f"number {row + 1}" for row in range(len(sequences))]
    if len(names) != len(sequences):
        raise DataError(f"{len(sequences)} sequences, but {len(names)} ids; each sequence needs one")
    for name, sequence in zip(names, sequences, strict=True):
        if not sequence:
            raise DataError(f"sequence {name} is empty; leave it out before embedding")
    return names
