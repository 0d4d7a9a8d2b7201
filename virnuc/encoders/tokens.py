"""Letters to token ids, and token ids to batches.

Proteins are tokenised by a table of 256 entries, hundreds of times faster than by a tokenizer class, and more strictly:
a letter outside the alphabet is an error instead of an unknown token. Batches are made of sequences sorted by length,
longest first, so that equal lengths are adjacent and a lack of memory shows in the first batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from virnuc.encoders.interface import Tokens
from virnuc.errors import DataError

# Ids 0-32 of the ESM-2 vocabulary (vocab.txt of facebook/esm2_*).
ESM_VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
IUPAC_BASES = "ACGTRYSWKMBDHVN"
_CLS, _EOS = ESM_VOCABULARY.index("<cls>"), ESM_VOCABULARY.index("<eos>")


def letter_table(letters: Sequence[str], codes: Sequence[int]) -> np.ndarray:
    """Return a table from byte to code, [256] int32; bytes that are not among `letters` give -1."""
    table = np.full(256, -1, dtype=np.int32)
    for letter, code in zip(letters, codes, strict=True):
        table[ord(letter)] = code
    return table


_ESM_LETTERS = [token for token in ESM_VOCABULARY if len(token) == 1]
_ESM_TABLE = letter_table(_ESM_LETTERS, [ESM_VOCABULARY.index(letter) for letter in _ESM_LETTERS])


def encode_letters(sequences: Sequence[str], ids: Sequence[str] | None, table: np.ndarray, what: str) -> Tokens:
    """Return the code of each letter by `table` (see `letter_table`); `what` describes the alphabet in messages.

    Sequences without `ids` are named by their numbers from 1.

    Raises:
        DataError: a sequence is empty, `ids` has another length than `sequences`, or a letter is not in `table`; the
            message names the sequence, the letter and its position.
    """
    names = ids if ids is not None else [f"number {row + 1}" for row in range(len(sequences))]
    if len(names) != len(sequences):
        raise DataError(f"{len(sequences)} sequences, but {len(names)} ids; each sequence needs one")
    for name, sequence in zip(names, sequences, strict=True):
        if not sequence:
            raise DataError(f"sequence {name} is empty; leave it out before embedding")
    starts = _starts(np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)))
    letters = np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8)
    flat = table[letters]
    unknown = np.flatnonzero(flat == -1)
    if unknown.size:
        row = int(np.searchsorted(starts, unknown[0], side="right")) - 1
        position = int(unknown[0] - starts[row])
        letter = sequences[row][position]
        raise DataError(f"sequence {names[row]}: {letter!r} at position {position + 1} is not {what}")
    return Tokens(flat, starts, names)


def tokenise_proteins(sequences: Sequence[str], ids: Sequence[str] | None, max_residues: int | None) -> Tokens:
    """Return `<cls> residues <eos>` for each protein, cut to `max_residues` residues.

    Raises:
        DataError: a protein is empty or contains a letter outside the vocabulary (`*`, `J`, lower case).
    """
    cut = [sequence[:max_residues] for sequence in sequences]
    residues = encode_letters(cut, ids, _ESM_TABLE, "a residue that ESM-2 knows (upper case, no * or J)")
    starts = residues.starts + 2 * np.arange(len(residues.starts))
    flat = np.empty(int(starts[-1]), dtype=np.int32)
    is_residue = np.ones(len(flat), dtype=bool)
    for position, token in ((starts[:-1], _CLS), (starts[1:] - 1, _EOS)):
        flat[position] = token
        is_residue[position] = False
    flat[is_residue] = residues.flat
    return Tokens(flat, starts, residues.ids)


def pack_token_lists(token_lists: Sequence[Sequence[int]], names: Sequence[str]) -> Tokens:
    """Concatenate lists of token ids, one for each sequence."""
    starts = _starts(np.fromiter(map(len, token_lists), dtype=np.int64, count=len(token_lists)))
    flat = np.fromiter(chain.from_iterable(token_lists), dtype=np.int32, count=int(starts[-1]))
    return Tokens(flat, starts, names)


def plan_batches(lengths: np.ndarray, batch_tokens: Callable[[], int]) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, [m] int64, longest first: one row, or more with at most `batch_tokens()` tokens."""
    order = np.argsort(-lengths, kind="stable")
    first, total = 0, 0
    for position, row in enumerate(order):
        if total and total + lengths[row] > batch_tokens():
            yield order[first:position]
            first, total = position, 0
        total += int(lengths[row])
    if first < len(order):
        yield order[first:]


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return where each of n concatenated sequences begins, and where the last one ends, [n + 1] int64."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
