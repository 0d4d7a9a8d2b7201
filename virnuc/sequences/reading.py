"""Reading genomes from GenBank, FASTA and FASTQ files, plain or gzipped, told apart by their content.

Everything in a file is checked here, once: what leaves this module is a `Genome` whose letters are upper-case
IUPAC bases and whose accession can stand in an identifier.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import dnaio
import gb_io

from virnuc.errors import ParseError, UsageError
from virnuc.sequences.translation import IUPAC_LETTERS

LONGEST_NAME = 200  # letters; a longer accession is a damaged header
_NOT_DNA = re.compile(f"[^{''.join(sorted(IUPAC_LETTERS))}]")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Genome:
    """One record of a sequence file."""

    accession: str
    organism: str  # empty where the file does not say
    lineage: str  # taxonomy from the root down, joined by "; "; empty where the file does not say
    sequence: str  # upper-case IUPAC letters, U written as T
    translations: tuple[str, ...]  # proteins of the annotated CDS features


def read_genomes(path: Path) -> Iterator[Genome]:
    """Yield the records of a sequence file in file order.

    Raises:
        UsageError: there is no such file.
        ParseError: the file is damaged, cut short, empty or not a sequence file; it names record and line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with _opened(path) as stream:
        fileformat = sequence_format(path)
        yield from read_genbank(stream, path) if fileformat == "genbank" else read_reads(stream, path, fileformat)


def sequence_format(path: Path) -> str:
    """Return whether a sequence file is `genbank`, `fasta` or `fastq`, by its first letters.

    Raises:
        ParseError: it is none of them.
    """
    with _opened(path) as stream, _parse_errors(path, lambda: 0):
        head = stream.read(4096).lstrip()
    for start, name in ((b"LOCUS", "genbank"), (b">", "fasta"), (b"@", "fastq")):
        if head.startswith(start):
            return name
    raise ParseError("empty, or neither GenBank, FASTA nor FASTQ; expected LOCUS, > or @ at its start", path)


def read_genbank(stream: BinaryIO, path: Path) -> Iterator[Genome]:
    """Yield the records of an open GenBank file; `path` is for messages."""
    count = 0
    with _parse_errors(path, lambda: count):
        for record in gb_io.iter(stream):
            count += 1
            name = record.version or record.accession or record.name or ""
            organism, lineage = _taxonomy(record.source)
            yield Genome(
                accession=checked_name(name, path, count),
                organism=organism,
                lineage=lineage,
                sequence=checked_dna(bytes(record.sequence).decode("latin-1"), path, name),
                translations=tuple(
                    "".join((qualifier.value or "").split())
                    for feature in record.features
                    if feature.kind == "CDS"
                    for qualifier in feature.qualifiers
                    if qualifier.key == "translation"
                ),
            )


def read_reads(stream: BinaryIO, path: Path, fileformat: str) -> Iterator[Genome]:
    """Yield the records of an open file, `fasta` or `fastq`; `path` is for messages."""
    count = 0
    with _parse_errors(path, lambda: count):
        for record in dnaio.open(stream, fileformat=fileformat):
            count += 1
            name, _, description = record.name.replace("\t", " ").partition(" ")
            accession = checked_name(name, path, count)
            yield Genome(accession, description.strip(), "", checked_dna(record.sequence, path, accession), ())


def checked_name(name: str, path: Path, record: int) -> str:
    """Return a record's name if it can stand in an identifier.

    Raises:
        ParseError: it is empty, too long, holds blanks or control characters, or `_chunk_`, which separates
            the genome from the chunk in a frame's id.
    """
    if not name or len(name) > LONGEST_NAME or "_chunk_" in name or not name.isprintable() or " " in name:
        shown = name[:40] + "..." if len(name) > 40 else name
        raise ParseError(f"cannot use {shown!r} as a name: 1 to {LONGEST_NAME} printable letters", path, record)
    return name


def checked_dna(sequence: str, path: Path, record: str) -> str:
    """Return a sequence in upper case, U as T.

    Raises:
        ParseError: it has a letter that is no IUPAC base.
    """
    dna = sequence.upper().replace("U", "T")
    wrong = _NOT_DNA.search(dna)
    if wrong:
        raise ParseError(f"{wrong.group()!r} at base {wrong.start() + 1} is not an IUPAC base", path, record)
    return dna


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            yield raw
            return
        with gzip.open(raw) as stream:
            yield stream  # type: ignore[misc]  # GzipFile is a BinaryIO in all but name


@contextmanager
def _parse_errors(path: Path, finished: Callable[[], int]) -> Iterator[None]:
    """Turn what the parsers raise into a ParseError that says after how many records, and where, it broke."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip data is cut short or damaged ({error}); download it again"
        raise ParseError(problem, path, finished() + 1) from error
    except dnaio.FileFormatError as error:
        raise ParseError(str(error), path, finished() + 1) from error
    except (RuntimeError, OSError, UnicodeError) as error:
        problem = f"cannot be read ({' '.join(str(error).split())[:120]}); it may be cut short"
        record = finished() + 1
        raise ParseError(problem, path, record, _first_line(path, record)) from error


def _first_line(path: Path, record: int) -> int | None:
    """Return the line (from 1) on which GenBank record number `record` starts, if the file goes that far."""
    with _opened(path) as stream:
        starts = (number for number, line in enumerate(stream, 1) if line.startswith(b"LOCUS"))
        return next(islice(starts, record - 1, None), None)


def _taxonomy(source: object) -> tuple[str, str]:
    """Return organism and lineage of a GenBank SOURCE block, whose first ORGANISM line is the name."""
    if source is None:
        return "", ""
    name, _, taxonomy = (source.organism or source.name or "").partition("\n")  # type: ignore[attr-defined]
    return name.strip(), " ".join(taxonomy.split()).rstrip(".")
