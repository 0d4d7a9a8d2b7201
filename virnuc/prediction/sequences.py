"""A row for each sequence held in memory: the answer of the registered model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pandas as pd

from virnuc.prediction.calls import THRESHOLD, call_sequences
from virnuc.prediction.chunks import cut_chunks
from virnuc.prediction.scoring import BATCH_TOKENS, Scorer

CHUNKS_AT_ONCE = 2048  # bounds memory; 1 Mbp at 500 bp


def score_sequences(
    scorer: Scorer, sequences: Sequence[str], threshold: float = THRESHOLD, batch_tokens: int = BATCH_TOKENS
) -> pd.DataFrame:
    """Return a row for each sequence, in their order, with the columns of `call_sequences`.

    Args:
        scorer: scores the chunks, at its own chunk size.
        sequences: upper-case IUPAC letters.
        threshold: lowest viral probability of a virus.
        batch_tokens: tokens in a batch.
    """

    def chunks() -> Iterator[tuple[int, int, str]]:
        for record, sequence in enumerate(sequences):
            for number, (_, letters) in enumerate(cut_chunks(sequence, scorer.chunk_size), 1):
                yield record, number, letters

    remaining, scored = chunks(), []
    while batch := list(islice(remaining, CHUNKS_AT_ONCE)):
        records, numbers, letters = zip(*batch, strict=True)
        scores = scorer.score(letters, batch_tokens)
        scored.append(scores[["status", "probability", "frame"]].assign(record=records, chunk=numbers))
    return call_sequences(pd.concat(scored, ignore_index=True), threshold)
