"""Genomes as RefSeq has them: gzipped GenBank files `<group>.<n>.genomic.gbff.gz`, the same bytes each time."""

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
_NO_DATE = b"01-JAN-1970"  # what gb-io writes in the LOCUS line of a record without a date
_WAITING = 1000  # records gathered before they are written
_AMINO_ACIDS = {
    "".join(codon): Translation("".join(codon)).frame(0, 3, 0).protein for codon in product("ACGT", repeat=3)
}


@dataclass(frozen=True)
class CodingSequence:
    """One CDS feature."""

    exons: tuple[tuple[int, int], ...]  # start (from 0) and end (exclusive) on the forward strand, in order of position
    forward: bool
    protein: str
    table: int = 11  # of the genetic code, by NCBI's numbers

    @property
    def start(self) -> int:
        """Where its first exon starts on the forward strand."""
        return self.exons[0][0]

    @property
    def end(self) -> int:
        """Where its last exon ends on the forward strand."""
        return self.exons[-1][1]

    def spliced(self, sequence: str) -> str:
        """Return its DNA, 5' to 3' on its own strand."""
        dna = "".join(sequence[start:end] for start, end in self.exons)
        return dna if self.forward else reverse_complement(dna)

    def moved(self, by: int) -> CodingSequence:
        """Return it in a sequence that starts `by` bases further left."""
        return replace(self, exons=tuple((start + by, end + by) for start, end in self.exons))


@dataclass(frozen=True)
class Entry:
    """One record to be written."""

    accession: str
    genome: str  # written as the assembly in DBLINK: records of one genome are recognised by it
    organism: str
    lineage: str
    sequence: str
    coding: Sequence[CodingSequence]
    definition: str


def translated(dna: str) -> str:
    """Return the protein of upper-case `dna` read from its first base, stops as `*`, codons with other letters as `X`.

    The first codon is read like any other, as virnuc's frames are, so that an alternative start is no M.
    """
    return "".join(_AMINO_ACIDS.get(dna[start : start + 3], "X") for start in range(0, len(dna) - 2, 3))


def read_entries(directory: Path, group: str) -> Iterator[Entry]:
    """Yield the genes, one a record, that the corpus has in the files of a group, or of all groups: `*`."""
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
    """The files of one group in one directory, each of a bounded number of records."""

    def __init__(self, directory: Path, group: str, level: int, most: int = 25_000) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._group, self._most = directory, group, most
        self._level = level  # of gzip: 4 takes a quarter of the time of 6 and 5 % more room
        self._files = self._in_file = 0
        self._waiting: list[gb_io.Record] = []
        self._raw: BinaryIO | None = None
        self._zipped: gzip.GzipFile | None = None

    def add(self, entry: Entry) -> None:
        """Write a record, in a new file where the last one is full."""
        self._waiting.append(_record(entry, self._group))
        self._in_file += 1
        if self._in_file == self._most:
            self._close_file()
        elif len(self._waiting) == _WAITING:
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
        gb_io.dump(self._waiting, text)
        self._zipped.write(text.getvalue().replace(_NO_DATE, b" " * len(_NO_DATE)))
        self._waiting = []

    def _close_file(self) -> None:
        if self._waiting:
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
        division=f"  {_DIVISIONS.get(group, 'UNA')}",  # gb-io leaves out two blanks after "linear"
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
