"""Chunks of sequences to the pieces that are embedded, and a status for every chunk.

A chunk is embedded once for each of its open frames. A chunk without an open frame is embedded once, by its longest
open reading frame: the longest run of codons without a stop in any of its six frames (unless the companion alone scores
it). It is marked, because the classifier was not trained on such frames. The longest open reading frame gives the
protein, and the whole reading frame around it the DNA.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.translation import FRAME_NAMES, Translation
from virnuc.settings import MIN_CHUNK_SIZE

SCORED = "scored"  # has an open frame
NO_OPEN_FRAME = "no_open_frame"  # has none; scored by its longest open reading frame, its DNA or both
AMBIGUOUS = "ambiguous"  # not scored: too few of its bases are known
TOO_SHORT = "too_short"  # not scored: the chunk, or its longest open reading frame, is too short
STATUSES = (SCORED, NO_OPEN_FRAME, AMBIGUOUS, TOO_SHORT)  # a sequence has the first that any of its chunks has
ANSWERED = (SCORED, NO_OPEN_FRAME)

MIN_ORF = 10  # codons
MAX_AMBIGUOUS = 0.1  # share of a chunk's bases that may be other than ACGT; three times as many codons are hit

_OTHER_BASES = re.compile("[^ACGT]")


@dataclass(frozen=True)
class Piece:
    """A part of a chunk to be embedded."""

    chunk: int  # position of the chunk in its batch
    frame: str  # F1, F2, F3, R1, R2 or R3
    nucleotide: str  # all codons of the frame
    protein: str  # without stop codons: of the open frame, or of the longest open reading frame


def cut_chunks(sequence: str, size: int) -> Iterator[tuple[int, str]]:
    """Yield start and bases of a sequence's chunks; an empty sequence gives one empty chunk, so that it is kept."""
    if not sequence:
        yield 0, ""
    for start in chunk_starts(len(sequence), size).tolist():
        yield start, sequence[start : start + size]


def cut(chunks: Sequence[str]) -> tuple[list[str], list[Piece]]:
    """Return the status of each chunk and the pieces of all, in the order of chunks, then F1 to R3.

    Args:
        chunks: upper-case IUPAC letters, of any length.
    """
    statuses = [_first_status(chunk) for chunk in chunks]
    usable = [number for number, status in enumerate(statuses) if status == SCORED]
    joined = Translation("".join(chunks[number] for number in usable))
    lengths = np.array([len(chunks[number]) for number in usable], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    opened = joined.is_open(starts, lengths)
    pieces: list[Piece] = []
    for number, start, length, frames in zip(usable, starts.tolist(), lengths.tolist(), opened, strict=True):
        if frames.any():
            for index in np.flatnonzero(frames).tolist():
                frame = joined.frame(start, length, index)
                pieces.append(Piece(number, frame.name, frame.nucleotide, frame.protein))
            continue
        longest = _longest_orf(joined, start, length, number)
        statuses[number] = NO_OPEN_FRAME if longest else TOO_SHORT
        pieces.extend(filter(None, [longest]))
    return statuses, pieces


def _first_status(chunk: str) -> str:
    if len(chunk) < MIN_CHUNK_SIZE:
        return TOO_SHORT
    return AMBIGUOUS if len(_OTHER_BASES.findall(chunk)) > MAX_AMBIGUOUS * len(chunk) else SCORED


def _longest_orf(joined: Translation, start: int, length: int, chunk: int) -> Piece | None:
    """Return the longest open reading frame of one chunk, the first of several as long; None if it is too short."""
    best, codons = None, MIN_ORF - 1
    for index in range(len(FRAME_NAMES)):
        frame = joined.frame(start, length, index)
        protein = max(frame.protein.split("*"), key=len)
        if len(protein) > codons:
            best, codons = Piece(chunk, frame.name, frame.nucleotide, protein), len(protein)
    return best
