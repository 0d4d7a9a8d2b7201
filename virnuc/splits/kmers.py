"""Similar sequences by the k-mers they share: the stand-in for MMseqs2, exact but blind to distant relatives.

The identity of two sequences is estimated as in Mash: a k-mer survives in both with probability identity ** k, so
identity = (shared k-mers / k-mers of the shorter one) ** (1 / k) (Ondov et al., Genome Biology 17:132, 2016).
Proteins are found down to an identity of about 0.65, DNA down to 0.85.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

PROTEIN, DNA = "protein", "dna"
_K = {PROTEIN: 6, DNA: 15}
_BITS = {PROTEIN: 5, DNA: 3}  # a letter: ASCII's lowest, which tell amino acids, or the four bases, apart
_MIN_SHARE = 0.08  # of the shorter one's k-mers: less is chance, or a motif of a few letters that many proteins have
_MAX_OCCURRENCES = 1000  # a k-mer of more sequences than that says nothing
_QUERIES_AT_ONCE = 4096


def similar_pairs(queries: Sequence[str], targets: Sequence[str], kind: str) -> pd.DataFrame:
    """Return the pairs that share enough k-mers: `query`, `target` (positions), `identity` (0 to 1)."""
    target_kmers, owners, target_counts = _kmers(targets, kind)
    order = np.argsort(target_kmers, kind="stable")
    target_kmers, owners = target_kmers[order], owners[order]
    found = [
        _pairs_of(queries[start : start + _QUERIES_AT_ONCE], start, target_kmers, owners, target_counts, kind)
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    empty = pd.DataFrame({"query": np.zeros(0, np.int64), "target": np.zeros(0, np.int64), "identity": np.zeros(0)})
    return pd.concat([empty, *found], ignore_index=True) if found else empty


def _pairs_of(
    queries: Sequence[str],
    start: int,
    target_kmers: np.ndarray,
    owners: np.ndarray,
    target_counts: np.ndarray,
    kind: str,
) -> pd.DataFrame:
    kmers, askers, counts = _kmers(queries, kind)
    low, high = (np.searchsorted(target_kmers, kmers, side=side) for side in ("left", "right"))
    width = np.where(high - low <= _MAX_OCCURRENCES, high - low, 0)
    hits = np.repeat(low - np.concatenate([[0], np.cumsum(width)[:-1]]), width) + np.arange(width.sum())
    pairs, shared = np.unique(np.repeat(askers, width) << 32 | owners[hits], return_counts=True)
    query, target = pairs >> 32, pairs & 0xFFFFFFFF
    share = shared / np.minimum(counts[query], target_counts[target])
    found = pd.DataFrame({"query": query + start, "target": target, "identity": share ** (1 / _K[kind])})
    return found[share >= _MIN_SHARE]


def _kmers(sequences: Sequence[str], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct k-mers of each sequence as integers, whose they are, and how many each sequence has."""
    k, bits = _K[kind], _BITS[kind]
    lengths = np.array([len(letters) for letters in sequences], dtype=np.int64)
    letters = np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    letters &= (1 << bits) - 1
    count = max(0, len(letters) - k + 1)
    kmers = np.zeros(count, dtype=np.int64)
    for offset in range(k):
        kmers = kmers << bits | letters[offset : offset + count]
    owners = np.repeat(np.arange(len(sequences)), lengths)
    last = np.cumsum(lengths)[owners[:count]] if count else np.zeros(0, np.int64)
    inside = np.arange(count) + k <= last
    kmers, owners = kmers[inside], owners[:count][inside]
    order = np.lexsort((kmers, owners))
    kmers, owners = kmers[order], owners[order]
    distinct = np.ones(len(kmers), dtype=bool)
    distinct[1:] = (kmers[1:] != kmers[:-1]) | (owners[1:] != owners[:-1])
    kmers, owners = kmers[distinct], owners[distinct]
    return kmers, owners, np.bincount(owners, minlength=len(sequences))
