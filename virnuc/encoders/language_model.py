"""A network and its tokenizer as an encoder: batches, their order, full memory, and a check of the vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from virnuc.encoders.batching import HostCopy, TokenBudget, is_out_of_memory, to_device
from virnuc.encoders.interface import DEFAULT_BATCH_TOKENS, Encoder, EncoderProvenance, Tokens
from virnuc.encoders.network import Network
from virnuc.encoders.packing import Packing
from virnuc.encoders.tokens import plan_batches
from virnuc.errors import EncoderError, MemoryShortageError
from virnuc.runtime import Progress, silent

# By kind, the sequence whose embedding is recorded in the provenance.
PROBES = {
    "protein": "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    "dna": "ATGAAAACCGCGTATATTGCGAAACAGCGCCAGATTAGCTTTGTGAAAAGCCATTTTAGCCGCCAGCTGGAAGAACGCCTGGGC",
}
_PROBE_VALUES = 8

Tokeniser = Callable[[Sequence[str], Sequence[str] | None], Tokens]


class LanguageModelEncoder(Encoder):
    """An encoder that consists of a tokenizer and a loaded network."""

    def __init__(self, network: Network, tokeniser: Tokeniser, provenance: EncoderProvenance, device: str) -> None:
        """Take a filled network and embed the probe sequence with it.

        Raises:
            EncoderError: the probe's embedding is not finite.
        """
        self.network, self.device = network.eval(), torch.device(device)
        self._tokeniser, self._budget = tokeniser, TokenBudget()
        self.provenance = provenance
        vector = self.embed([PROBES[provenance.kind]], ids=["probe"])[0, :_PROBE_VALUES]
        self.provenance = replace(provenance, probe=tuple(round(value, 4) for value in vector.tolist()))

    def tokenise(self, sequences: Sequence[str], ids: Sequence[str] | None = None) -> Tokens:
        """Return the token ids of `sequences`, special tokens included.

        Raises:
            DataError: a sequence is empty or contains a letter that the tokenizer does not know.
            EncoderError: a token id is beyond the network's vocabulary.
        """
        tokens = self._tokeniser(sequences, ids)
        if tokens.flat.size and int(tokens.flat.max()) >= self.network.vocabulary:
            raise EncoderError(f"{self.name}: its tokenizer makes ids that its network does not have; get both again")
        return tokens

    def flops(self, tokens: Tokens) -> int:
        """Return the number of floating-point operations to embed `tokens`, a multiply-add counted as two."""
        return self.network.flops(tokens.lengths)

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Input and output widths of the linear layers, each pair once."""
        return tuple(sorted(self.network.products))

    @torch.inference_mode()
    def embed_tokens(
        self, tokens: Tokens, *, batch_tokens: int = DEFAULT_BATCH_TOKENS, progress: Progress = silent
    ) -> Tensor:
        """Return the vectors of tokenised sequences, [n, dimension] float32 on the CPU, in the order of `tokens`.

        On a GPU the next batch is prepared and queued while the previous one is computed and copied back.

        Raises:
            EncoderError: a vector is not finite.
            MemoryShortageError: a single sequence does not fit into memory.
        """
        vectors = torch.empty(len(tokens), self.dimension)
        waiting: tuple[np.ndarray, HostCopy] | None = None
        done, wanted = 0, self.tokens_at_once(batch_tokens)
        for rows in plan_batches(tokens.lengths, lambda: self._budget.allowed(wanted)):
            computed = HostCopy(self._compute(tokens, rows))
            if waiting is not None:
                self._store(vectors, tokens, *waiting)
                done += len(waiting[0])
                progress(self.name, done, len(tokens))
            waiting = rows, computed
        if waiting is not None:
            self._store(vectors, tokens, *waiting)
            progress(self.name, len(tokens), len(tokens))
        return vectors

    def tokens_at_once(self, batch_tokens: int) -> int:
        """Return the maximum tokens of a batch; on a CPU the network has its own, lower limit."""
        return min(batch_tokens, self.network.cpu_batch_tokens) if self.device.type == "cpu" else batch_tokens

    def _compute(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Embed the sequences `rows` as one batch, or in halves if memory is full; later batches are then smaller."""
        try:
            computed = self._forward(tokens, rows)
            self._budget.fit()
            return computed
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                row = int(rows[0])
                raise MemoryShortageError(
                    f"sequence {tokens.ids[row]} ({tokens.lengths[row]} tokens) does not fit into the memory of "
                    f"{self.device} alone; cut it into shorter chunks or use another device"
                ) from error
        # Outside the handler, whose traceback would keep the tensors of the failed attempt in memory.
        self._budget.overflow(int(tokens.lengths[rows].sum()))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        return torch.cat([self._compute(tokens, rows[:middle]), self._compute(tokens, rows[middle:])])

    def _forward(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        batch = tokens.take(rows)
        packing = Packing.of_lengths(batch.lengths, self.device)
        return self.network(to_device(batch.flat.astype(np.int64), self.device), packing)

    def _store(self, vectors: Tensor, tokens: Tokens, rows: np.ndarray, copy: HostCopy) -> None:
        """Write a batch's vectors into the rows `rows` of `vectors`; raise an EncoderError if one is not finite."""
        computed = copy.wait()
        finite = torch.isfinite(computed).all(dim=1)
        if not bool(finite.all()):
            row = int(rows[int(torch.nonzero(~finite)[0])])
            raise EncoderError(
                f"{self.name} gives a vector that is not finite for sequence {tokens.ids[row]} in "
                f"{self.provenance.precision}; use another precision or check the weights"
            )
        vectors[torch.from_numpy(rows)] = computed
