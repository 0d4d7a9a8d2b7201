"""Which records form one genome: the chromosomes, contigs, plasmids and segments of one organism's assembly.

A record's genome is named by the first of these that it has: an entry in the table `genomes.tsv` in the directory of
sequence files, a DBLINK to an assembly or to a BioSample, the whole-genome shotgun project of its accession, its
organism with strain or isolate. A record without any of them counts as a genome of its own. Such records are counted,
because parts of one genome that are not known to belong together can end up on both sides of a split.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from virnuc.errors import DataError, UsageError
from virnuc.storage.files import atomic_path

GENOME_TABLE = "genomes.tsv"
TABLE, ASSEMBLY, BIOSAMPLE, WGS_PROJECT, ORGANISM, RECORD = (
    "table",
    "assembly",
    "biosample",
    "wgs",
    "organism",
    "record",
)
_COLUMNS = ("record", "genome", "organism", "lineage", "deposited")  # the first two are required
_ROWS = 10_000  # that are written at once
# https://www.ncbi.nlm.nih.gov/genbank/wgs/: four or six letters, two digits of version, at least six or seven digits
_WGS_CONTIG = re.compile(r"((?:NZ_)?(?:[A-Z]{4}|[A-Z]{6}))\d{8,}(?:\.\d+)?")
# What submitters write for a value that they do not have: https://www.insdc.org/submitting-standards/missing-value-reporting/
_MISSING = re.compile(
    r"(missing|not applicable|not collected|not provided|restricted access|unknown|none|n/?a)\b.*", re.I
)


class GenomeName(NamedTuple):
    """The name of a record's genome and where it was found."""

    name: str
    found_in: str  # table, assembly, biosample, wgs, organism or record


@dataclass(frozen=True)
class TableRow:
    """The entry of a record in `genomes.tsv`; unknown values are empty."""

    genome: str
    organism: str = ""
    lineage: str = ""
    deposited: str = ""  # ISO date


def name_genome(accession: str, dblink: str = "", organism: str = "", strains: Iterable[str] = ()) -> GenomeName:
    """Return the genome of a record.

    Args:
        accession: of the record, with or without its version.
        dblink: the record's DBLINK block, `Name: value` a line.
        organism: as the record gives it.
        strains: values of /strain and /isolate.
    """
    if linked := _linked(dblink):
        return linked
    if project := wgs_project(accession):
        return GenomeName(project, WGS_PROJECT)
    known = [
        value for value in (" ".join(strain.split()) for strain in strains) if value and not _MISSING.fullmatch(value)
    ]
    if organism and known:
        return GenomeName(" ".join([organism, *known]), ORGANISM)
    return GenomeName(accession, RECORD)


@lru_cache  # contigs of an assembly follow each other
def _linked(dblink: str) -> GenomeName | None:
    links = dict(line.split(":", 1) for line in dblink.splitlines() if ":" in line)
    for key, found_in in (("Assembly", ASSEMBLY), ("BioSample", BIOSAMPLE)):
        if value := " ".join(links.get(key, "").split()):
            return GenomeName(value, found_in)
    return None


def wgs_project(accession: str) -> str:
    """Return the whole-genome shotgun project of a contig, `NZ_ABCD` of `NZ_ABCD01000012.1`; empty for others."""
    contig = _WGS_CONTIG.fullmatch(accession)
    return contig[1] if contig else ""


def read_genome_table(path: Path) -> dict[str, TableRow]:
    """Read a table of records and their genomes: tabs, a header, columns `record` and `genome` and any of the others.

    Raises:
        UsageError: there is no such file.
        DataError: a column or a value is missing, or a record is named twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = {"record", "genome"} - set(lines.fieldnames or ())
            if missing:
                raise DataError(f"{path}: its header has no column {' and no column '.join(sorted(missing))}")
            rows: dict[str, TableRow] = {}
            for number, line in enumerate(lines, 2):
                values = {name: " ".join((line.get(name) or "").split()) for name in _COLUMNS}
                record = values.pop("record")
                if not record or not values["genome"]:
                    raise DataError(f"{path}, line {number}: a record and its genome are needed")
                if record in rows:
                    raise DataError(f"{path}, line {number}: {record} occurs twice; keep one line for each record")
                rows[record] = TableRow(**values)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    return rows


def look_up(table: Mapping[str, TableRow], accession: str) -> TableRow | None:
    """Return the row of a record, which the table may name with or without its version."""
    return table.get(accession) or table.get(re.sub(r"\.\d+$", "", accession))


def write_genome_table(path: Path, records: pa.Table) -> None:
    """Write a table that `read_genome_table` reads; `records` has its columns, all of them texts."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("\t".join(_COLUMNS) + "\n")
        for batch in records.select(_COLUMNS).to_batches(max_chunksize=_ROWS):
            lines = pc.binary_join_element_wise(*batch.columns, "\t")
            stream.writelines(f"{line}\n" for line in lines.to_pylist())
