"""Records of FASTA and FASTQ files, plain or gzipped, or of standard input, one after the other.

Names come from the files: an empty name is replaced by the record's number, characters that would break a table by `_`,
and a name of more than 200 characters is shortened and marked with a digest. Equal names are kept; records are
identified by their number over all input, from 1.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

from virnuc.errors import ParseError, UsageError
from virnuc.sequences.bounds import bounded, bounded_stream
from virnuc.sequences.reading import MAX_NAME, checked_dna, parse_reads, sequence_format

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Record:
    """One sequence to score."""

    number: int  # from 1, over all files
    file: str  # its name without directories; - for standard input
    name: str
    sequence: str  # upper-case IUPAC letters


def check_inputs(sources: Sequence[str]) -> None:
    """Raise a UsageError if a source is missing, or standard input is combined with files."""
    if not sources:
        raise UsageError("--input is empty; give FASTA or FASTQ files, or - for standard input")
    if STANDARD_INPUT in sources and len(sources) > 1:
        raise UsageError("--input: standard input cannot be joined with files")
    for source in sources:
        if source != STANDARD_INPUT and not Path(source).is_file():
            raise UsageError(f"{source}: no such file")


def read_records(sources: Sequence[str]) -> Iterator[Record]:
    """Yield the records of all sources in their order.

    Raises:
        ParseError: a source is damaged, holds no record, or a record has letters that are not DNA.
    """
    number = 0
    for source in sources:
        path = Path(source)
        with _open(source) as stream:
            fileformat = sequence_format(stream, path)
            if fileformat == "genbank":
                raise ParseError("this is GenBank; predict reads FASTA and FASTQ", path)
            for header, letters in parse_reads(stream, path, fileformat):
                number += 1
                name = _usable_name(header, number)
                yield Record(number, path.name, name, checked_dna(letters, path, name))


@contextmanager
def _open(source: str) -> Iterator[BufferedReader]:
    if source != STANDARD_INPUT:
        with bounded(Path(source)) as (stream, _):
            yield stream
    elif sys.stdin is None:
        raise UsageError("standard input is closed; give files with --input")
    else:
        yield bounded_stream(cast(BufferedReader, sys.stdin.buffer))[0]


def _usable_name(header: str, number: int) -> str:
    """Return a header's first word, made safe for a table."""
    words = header.split(maxsplit=1)
    name = "".join(letter if letter.isprintable() else "_" for letter in words[0]) if words else f"record_{number}"
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name
