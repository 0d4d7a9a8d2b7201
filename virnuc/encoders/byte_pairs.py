"""DNABERT's byte-pair tokenizer: read from tokenizer.json or, for random weights, trained on the example genomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from virnuc.encoders.interface import Tokens
from virnuc.encoders.tokens import IUPAC_BASES, encode_letters, letter_table, pack_token_lists
from virnuc.errors import EncoderError, UsageError
from virnuc.sequences.reading import read_records

SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]  # ids 0 to 4
_BASES = letter_table(IUPAC_BASES, range(len(IUPAC_BASES)))
_TRAINING_BASES = 1_000_000
_PIECE = 500  # bp; length of the sequences that a tokenizer is trained on


class BytePairTokeniser:
    """Turns DNA into `[CLS] tokens [SEP]`; called like every tokeniser of a language model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Use `tokenizer` without the truncation and padding that its file may ask for."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path) -> BytePairTokeniser:
        """Read a tokenizer.json.

        Raises:
            EncoderError: the file is missing or is not a tokenizer.
        """
        if not path.is_file():
            raise EncoderError(f"{path}: no such file; a DNABERT directory needs its tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises no narrower class
            raise EncoderError(f"{path}: not a readable tokenizer ({error}); get the file again") from error

    def __call__(self, sequences: Sequence[str], ids: Sequence[str] | None) -> Tokens:
        """Return the token ids of DNA, upper-cased first; N and other IUPAC codes are left to the tokenizer.

        Raises:
            DataError: a sequence is empty or contains a letter that is no IUPAC code.
        """
        upper = [sequence.upper() for sequence in sequences]
        names = encode_letters(upper, ids, _BASES, "a base or IUPAC code").ids
        return pack_token_lists([encoded.ids for encoded in self._tokenizer.encode_batch_fast(upper)], names)


def train_byte_pairs(genomes: Path, vocabulary: int) -> BytePairTokeniser:
    """Train a tokenizer on the start of each GenBank file in `genomes`, for timing with random weights.

    Raises:
        UsageError: the directory has no GenBank files.
    """
    files = sorted(genomes.glob("*.gbff.gz"))
    if not files:
        raise UsageError(f"{genomes}: no *.gbff.gz to train a tokenizer on; random DNABERT weights need the examples")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(_pieces(files), trainer)
    return BytePairTokeniser(tokenizer)


def _pieces(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        remaining = _TRAINING_BASES // len(files)
        for record in read_records(file):
            sequence = record.sequence[:remaining]
            yield from (sequence[start : start + _PIECE] for start in range(0, len(sequence), _PIECE))
            remaining -= len(sequence)
            if not remaining:
                break
