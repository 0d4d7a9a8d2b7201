"""Records of FASTA and FASTQ files, plain or gzipped, or of standard input, one after the other.

Names come from the files: an empty name is replaced by the record's number, characters that would break a table by `_`,
and a name of more than 200 characters is shortened and marked with a digest. Equal names are kept; records are told
apart by their number over all input, from 1.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import dnaio

from virnuc.errors import ParseError, UsageError
from virnuc.sequences.bounds import BoundError, bounded_stream
from virnuc.sequences.reading import MAX_NAME, checked_dna

STANDARD_INPUT = "-"
_FORMATS = {b">": "fasta", b"@": "fastq"}  # by first letter


@dataclass(frozen=True)
class Record:
    """One sequence to score."""

    number: int  # from 1, over all files
    file: str  # its name without directories; - for standard input
    name: str
    sequence: str  # upper-case IUPAC letters


def check_inputs(sources: Sequence[str]) -> None:
    """Raise a UsageError if a source is missing, or standard input is named beside others."""
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
        for name, letters in _parse(source):
            number += 1
            name = _usable_name(name, number)
            yield Record(number, Path(source).name, name, checked_dna(letters, Path(source), name))


def _parse(source: str) -> Iterator[tuple[str, str]]:
    """Yield header and letters of each record of one source."""
    count = 0
    with ExitStack() as stack:
        try:
            stream = _open(source, stack)
            first = stream.peek(1)[:1]  # type: ignore[attr-defined]  # dnaio itself decides by the file's suffix
            if first not in _FORMATS:
                raise ParseError("neither FASTA nor FASTQ; expected > or @ at its start", source)
            for record in stack.enter_context(dnaio.open(stream, fileformat=_FORMATS[first])):
                count += 1
                yield record.name, record.sequence
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ParseError(f"the gzip data is cut short or damaged ({error})", source, count + 1) from error
        except dnaio.FileFormatError as error:
            raise ParseError(str(error), source, count + 1, error.line) from error
        except BoundError as error:
            raise ParseError(str(error), source, count + 1) from error
        except (OSError, UnicodeError) as error:
            raise ParseError(f"cannot be read ({error})", source, count + 1) from error


def _open(source: str, stack: ExitStack) -> BinaryIO:
    if source == STANDARD_INPUT and sys.stdin is None:
        raise UsageError("standard input is closed; give files with --input")
    raw = sys.stdin.buffer
    if source != STANDARD_INPUT:
        raw = stack.enter_context(Path(source).open("rb"))  # noqa: SIM115  # the stack is the context manager
    return bounded_stream(cast(BufferedReader, raw))[0]


def _usable_name(header: str, number: int) -> str:
    """Return a header's first word, made safe for a table."""
    words = header.split(maxsplit=1)
    name = "".join(letter if letter.isprintable() else "_" for letter in words[0]) if words else f"record_{number}"
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name
