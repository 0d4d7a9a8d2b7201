"""Gzipped GenBank files named as in RefSeq, `<group>.<n>.genomic.gbff.gz`; the same records give the same bytes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import gb_io

from virnuc.sequences.translation import Translation, reverse_complement

_DIVISIONS = {"viral": "VRL", "archaea": "BCT", "bacteria": "BCT"}
_NO_DATE = b"01-JAN-1970"  # written by gb-io in the LOCUS line of a record without a date
_BUFFERED = 1000  # records that are written together
_AMINO_ACIDS = {
    "".join(codon): Translation("".join(codon)).frame(0, 3, 0).protein for codon in product("ACGT", repeat=3)
}


@dataclass(frozen=True)
class CodingSequence:
    """One CDS feature."""

    exons: tuple[tuple[int, int], ...]  # start (from 0) and end (exclusive) on the forward strand, ascending
    forward: bool
    protein: str
    table: int = 11  # of the genetic code, by NCBI's numbers

    @property
    def start(self) -> int:
        """Start of its first exon on the forward strand."""
        return self.exons[0][0]

    @property
    def end(self) -> int:
        """End of its last exon on the forward strand."""
        return self.exons[-1][1]

    def spliced(self, sequence: str) -> str:
        """Return the DNA of its exons, 5' to 3' on its own strand."""
        dna = "".join(sequence[start:end] for start, end in self.exons)
        return dna if self.forward else reverse_complement(dna)

    def moved(self, by: int) -> CodingSequence:
        """Return it with all positions shifted by `by` bases."""
        return replace(self, exons=tuple((start + by, end + by) for start, end in self.exons))


@dataclass(frozen=True)
class Entry:
    """One GenBank record."""

    accession: str
    genome: str  # written as the assembly in DBLINK, which all records of a genome share
    organism: str
    lineage: str
    sequence: str
    coding: Sequence[CodingSequence]
    definition: str


def translated(dna: str) -> str:
    """Return the protein of upper-case `dna`, read from its first base: stops are `*`, codons with other letters `X`.

    The first codon is read like any other, as in virnuc's frames, so an alternative start codon does not become M.
    """
    return "".join(_AMINO_ACIDS.get(dna[start : start + 3], "X") for start in range(0, len(dna) - 2, 3))


def read_entries(directory: Path, group: str) -> Iterator[Entry]:
    """Yield the genes, one for each record, in a corpus's files of `group`; `*` stands for all groups."""
    for path in sorted(directory.glob(f"{group}.*.gbff.gz")):
        with gzip.open(path) as stream:
            for record in gb_io.iter(stream):
                (coding,) = (feature for feature in record.features if feature.kind == "CDS")
                protein = next(item.value for item in coding.qualifiers if item.key == "translation")
                table = 1 if group == "eukaryote" else 11
                organism, _, lineage = record.source.organism.partition("\n")
                yield Entry(
                    accession=record.version,
                    genome=record.dblink.removeprefix("Assembly:").strip(),
                    organism=organism,
                    lineage=lineage.strip().rstrip("."),
                    sequence=bytes(record.sequence).decode("ascii").upper(),
                    coding=(CodingSequence(((0, 3 * len(protein)),), True, protein, table),),
                    definition=record.definition,
                )


class GroupWriter:
    """Writes the records of one group into files of at most `per_file` records; a context manager."""

    def __init__(self, directory: Path, group: str, level: int, per_file: int = 25_000) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._group, self._per_file = directory, group, per_file
        self._level = level  # of gzip: 4 takes a quarter of the time of 6 and 5 % more space
        self._files = self._in_file = 0
        self._buffer: list[gb_io.Record] = []
        self._raw: BinaryIO | None = None
        self._zipped: gzip.GzipFile | None = None

    def add(self, entry: Entry) -> None:
        """Write a record, into a new file if the current one is full."""
        self._buffer.append(_record(entry, self._group))
        self._in_file += 1
        if self._in_file == self._per_file:
            self._close_file()
        elif len(self._buffer) == _BUFFERED:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_file()

    def _flush(self) -> None:
        if not self._zipped:
            self._files += 1
            self._raw = (self._directory / f"{self._group}.{self._files}.genomic.gbff.gz").open("wb")
            self._zipped = gzip.GzipFile(filename="", mode="wb", compresslevel=self._level, fileobj=self._raw, mtime=0)
        text = io.BytesIO()
        gb_io.dump(self._buffer, text)
        self._zipped.write(text.getvalue().replace(_NO_DATE, b" " * len(_NO_DATE)))
        self._buffer = []

    def _close_file(self) -> None:
        if self._buffer:
            self._flush()
        if self._zipped and self._raw:
            self._zipped.close()
            self._raw.close()
        self._raw = self._zipped = None
        self._in_file = 0


def _record(entry: Entry, group: str) -> gb_io.Record:
    length = len(entry.sequence)
    source = gb_io.Feature("source", gb_io.Range(0, length), [gb_io.Qualifier("organism", entry.organism)])
    return gb_io.Record(
        sequence=entry.sequence.encode("ascii"),
        name=entry.accession,
        length=length,
        molecule_type="DNA",
        division=f"  {_DIVISIONS.get(group, 'UNA')}",  # gb-io omits two blanks after "linear"
        definition=entry.definition,
        accession=entry.accession,
        version=entry.accession,
        dblink=f"Assembly: {entry.genome}",
        keywords=".",
        source=gb_io.Source(entry.organism, organism=f"{entry.organism}\n{entry.lineage}."),
        features=[source, *map(_feature, entry.coding)],
    )


def _feature(coding: CodingSequence) -> gb_io.Feature:
    ranges = [gb_io.Range(start, end) for start, end in coding.exons]
    location = gb_io.Join(ranges) if len(ranges) > 1 else ranges[0]
    qualifiers = [gb_io.Qualifier("transl_table", str(coding.table)), gb_io.Qualifier("translation", coding.protein)]
    return gb_io.Feature("CDS", location if coding.forward else gb_io.Complement(location), qualifiers)
