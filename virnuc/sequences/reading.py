"""Reading records from GenBank, FASTA and FASTQ files, plain or gzipped; the format follows from the content.

Everything in a file is checked here, once: this module returns a `Record` whose letters are upper-case
IUPAC bases and whose accession can be part of an identifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import dnaio
import gb_io
from isal import igzip, isal_zlib

from virnuc.errors import ParseError, UsageError
from virnuc.sequences.bounds import BoundedText, BoundError, bounded
from virnuc.sequences.genomes import TABLE, GenomeName, TableRow, look_up, name_genome
from virnuc.sequences.taxonomy import Taxonomy
from virnuc.sequences.translation import IUPAC_LETTERS

MAX_NAME = 200  # letters; a longer accession is a damaged header
_AS_DNA = bytes(ord(chr(byte).upper().replace("U", "T")) * (chr(byte).upper() in IUPAC_LETTERS) for byte in range(128))
_AS_DNA += bytes(128)  # 0 for all that is no base
_SUBMITTED = re.compile(r"Submitted \((\d\d?-[A-Za-z]{3}-\d{4})\)")
_TAXON = re.compile(r"taxon:(\d{1,9})")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class Record(NamedTuple):
    """One record of a sequence file."""

    accession: str
    organism: str  # empty where the file does not say
    lineage: str  # taxonomy from the root down, joined by "; "; empty where the file does not say
    sequence: str  # upper-case IUPAC letters, U written as T
    translations: tuple[str, ...]  # proteins of the annotated CDS features
    genome: GenomeName  # the genome that it belongs to
    deposited: str = ""  # ISO date of its first submission, else of its last change; empty if the file does not say
    taxon: int = 0  # number in NCBI's taxonomy; 0 where the file does not say


def read_records(
    path: Path, genomes: Mapping[str, TableRow] | None = None, taxonomy: Taxonomy | None = None
) -> Iterator[Record]:
    """Yield the records of a sequence file in file order.

    Args:
        path: of the file.
        genomes: a table's entries for records; they override what the file says.
        taxonomy: gives a lineage to records that have none.

    Raises:
        UsageError: there is no such file.
        ParseError: the file is damaged, cut short, empty or not a sequence file; it names record and line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with bounded(path) as (stream, text):
        fileformat = sequence_format(stream, path)
        records = (
            _read_whole_genbank(stream, text, path)
            if fileformat == "genbank"
            else _read_reads(stream, path, fileformat)
        )
        for record in records:
            row = look_up(genomes, record.accession) if genomes else None
            known = _as_in_table(record, row) if row else record
            if taxonomy is not None and not known.lineage:
                known = known._replace(lineage=taxonomy.lineage(known.taxon))
            yield known


def sequence_format(stream: BufferedReader, path: Path) -> str:
    """Return whether an open sequence file is `genbank`, `fasta` or `fastq`, by its first letters.

    Raises:
        ParseError: it is none of them.
    """
    with _parse_errors(path, lambda: 0):
        head = stream.peek(4096).lstrip()
    for start, name in ((b"LOCUS", "genbank"), (b">", "fasta"), (b"@", "fastq")):
        if head.startswith(start):
            return name
    raise ParseError("empty, or neither FASTA nor FASTQ nor GenBank; expected >, @ or LOCUS at its start", path)


def _read_whole_genbank(stream: BinaryIO, text: BoundedText, path: Path) -> Iterator[Record]:
    """Yield the records of an open GenBank file that ends where a record does."""
    count = 0
    for count, record in enumerate(read_genbank(stream, path), 1):  # noqa: B007  # the number of the last one
        yield record
    if text.tail.rstrip().rpartition(b"\n")[2] != b"//":
        raise ParseError("the last line is not //, so the file was cut short; download it again", path, count + 1)


def read_genbank(stream: BinaryIO, path: Path) -> Iterator[Record]:
    """Yield the records of an open GenBank file; `path` is for messages."""
    count = 0
    with _parse_errors(path, lambda: count):
        for record in gb_io.iter(stream):
            count += 1
            name = record.version or record.accession or record.name or ""
            organism, lineage = (
                _taxonomy(record.source.organism or record.source.name or "") if record.source else ("", "")
            )
            strains, translations, taxon = _annotation(record)
            yield Record(
                accession=checked_name(name, path, count),
                organism=organism,
                lineage=lineage,
                sequence=checked_dna(_taken(record), path, name),
                translations=translations,
                genome=name_genome(name, record.dblink or "", organism, dict.fromkeys(strains)),
                deposited=_deposited(record),
                taxon=taxon,
            )


def parse_reads(stream: BinaryIO, path: Path, fileformat: str) -> Iterator[tuple[str, str]]:
    """Yield header and letters of each record of an open file, `fasta` or `fastq`; `path` is for messages."""
    count = 0
    with _parse_errors(path, lambda: count):
        for record in dnaio.open(stream, fileformat=fileformat):
            count += 1
            yield record.name, record.sequence


def _read_reads(stream: BinaryIO, path: Path, fileformat: str) -> Iterator[Record]:
    for number, (header, letters) in enumerate(parse_reads(stream, path, fileformat), 1):
        name, _, description = header.replace("\t", " ").partition(" ")
        accession = checked_name(name, path, number)
        sequence = checked_dna(letters, path, accession)
        yield Record(accession, description.strip(), "", sequence, (), name_genome(accession))


def checked_name(name: str, path: Path, record: int) -> str:
    """Return a record's name if it can be part of an identifier.

    Raises:
        ParseError: it is empty, too long, holds blanks or control characters, or `_chunk_`, which separates
            the accession from the chunk in a frame's id.
    """
    if not name or len(name) > MAX_NAME or "_chunk_" in name or not name.isprintable() or " " in name:
        shown = name[:40] + "..." if len(name) > 40 else name
        raise ParseError(f"cannot use {shown!r} as a name: 1 to {MAX_NAME} printable letters", path, record)
    return name


def checked_dna(sequence: str | bytes | bytearray, path: Path, record: str) -> str:
    """Return a sequence in upper case, U as T.

    Raises:
        ParseError: a letter is not an IUPAC base.
    """
    letters = sequence.encode("utf-8", "replace") if isinstance(sequence, str) else sequence
    dna = letters.translate(_AS_DNA)
    if 0 in dna:
        text = sequence if isinstance(sequence, str) else sequence.decode("latin-1")
        known = {*IUPAC_LETTERS, *map(str.lower, IUPAC_LETTERS)}
        place, wrong = next((place, letter) for place, letter in enumerate(text) if letter not in known)
        raise ParseError(f"{wrong.upper()!r} at base {place + 1} is not an IUPAC base", path, record)
    del sequence, letters  # a chromosome is not held three times
    return dna.decode("ascii")


def _taken(record: gb_io.Record) -> bytearray:
    """Return the letters of a record, which does not keep them."""
    letters, record.sequence = record.sequence, bytearray()
    return letters


@contextmanager
def _parse_errors(path: Path, finished: Callable[[], int]) -> Iterator[None]:
    """Turn the parsers' errors into a ParseError that names the record and the line."""
    try:
        yield
    except (EOFError, isal_zlib.error, igzip.BadGzipFile) as error:  # type: ignore[misc]  # isal types its error wrongly
        problem = f"the gzip data is cut short or damaged ({error}); download it again"
        raise ParseError(problem, path, finished() + 1) from error
    except (BoundError, dnaio.FileFormatError) as error:  # which names the line
        raise ParseError(str(error), path, finished() + 1) from error
    except (RuntimeError, OSError, UnicodeError) as error:
        problem = f"cannot be read ({' '.join(str(error).split())[:120]}); it may be cut short"
        record = finished() + 1
        line = _first_line(path, record) if path.is_file() else None  # standard input cannot be read again
        raise ParseError(problem, path, record, line) from error


def _first_line(path: Path, record: int) -> int | None:
    """Return the line (from 1) on which GenBank record number `record` starts, if the file goes that far."""
    with bounded(path) as (stream, _):
        starts = (number for number, line in enumerate(stream, 1) if line.startswith(b"LOCUS"))
        return next(islice(starts, record - 1, None), None)


def _as_in_table(record: Record, row: TableRow) -> Record:
    return record._replace(
        genome=GenomeName(row.genome, TABLE),
        organism=row.organism or record.organism,
        lineage=row.lineage or record.lineage,
        deposited=row.deposited or record.deposited,
    )


def _annotation(record: gb_io.Record) -> tuple[list[str], tuple[str, ...], int]:
    """Return strains and isolates and the taxon of a record's source features, and the proteins of its CDS features."""
    strains, translations, taxon = [], [], 0
    for feature in record.features:
        kind = feature.kind
        if kind not in ("CDS", "source"):
            continue
        for qualifier in feature.qualifiers:
            key = qualifier.key
            if kind == "CDS" and key == "translation":
                translations.append("".join((qualifier.value or "").split()))
            elif kind == "source" and key in ("strain", "isolate"):
                strains.append(qualifier.value or "")
            elif kind == "source" and key == "db_xref":
                found = _TAXON.fullmatch(qualifier.value or "")
                taxon = taxon or int(found[1] if found else 0)
    return strains, tuple(translations), taxon


def _deposited(record: gb_io.Record) -> str:
    """Return the date of the first `Submitted (DD-MON-YYYY)` among the references, else of the LOCUS line."""
    dates: list[date] = []
    for reference in record.references:
        dates += filter(None, map(_date, _SUBMITTED.findall(reference.journal or "")))
    if dates:
        return min(dates).isoformat()
    try:
        return record.date.isoformat() if record.date else ""
    except ValueError:  # a year beyond 9999, which gb-io refuses here
        return ""


def _date(text: str) -> date | None:
    """Return a date of GenBank's, `14-JAN-1992`, whatever the locale."""
    day, month, year = text.split("-")
    try:
        return date(int(year), _MONTHS.index(month.upper()) + 1, int(day))
    except ValueError:
        return None


@lru_cache  # records of one organism follow each other
def _taxonomy(text: str) -> tuple[str, str]:
    """Return organism and lineage of the ORGANISM lines of GenBank, of which the first is the name."""
    name, _, taxonomy = text.partition("\n")
    return name.strip(), " ".join(taxonomy.split()).rstrip(".")
