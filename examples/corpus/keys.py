"""The key that stands for a gene's genome, and the part of the data that a key belongs to, from the header alone.

The genes of the corpus do not name their genomes, so a key is made from the numbers in their headers:

    GeneID:1234567                              viral; NCBI numbers the genes of a genome consecutively
    gi|327400|ref|NC_015954.1|:c1336247-1335993  a complete replicon of a prokaryote
    gi|327400|ref|NZ_ABCD01000012.1|:25-921      a whole-genome shotgun project
    gi|327400|ref|NZ_KB890217.1|:25-921          scaffolds, numbered consecutively
    gi|327400|ref|XM_001350208.1|:1-414          an mRNA of a eukaryote

Keys are coarse on purpose: several genomes may share a key, and hardly any genome has two. As the key alone decides
which part of the data a gene belongs to, all programs that read the corpus use the same parts.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

RESERVED = "reserved"  # for measurements by others; nothing learns from it
MINIATURE = "miniature"  # the only genomes that examples/genomes may take from the corpus
HELD_OUT = "held_out"  # for the project's own estimates; nothing that is shipped learns from them
PRETRAINING = "pretraining"  # training data of the shipped encoders and classifiers

VIRAL, PROKARYOTE, EUKARYOTE = "viral", "prokaryote", "eukaryote"

_PARTITIONS = {7: RESERVED, 3: MINIATURE, 5: HELD_OUT}
_VIRAL_GENE = re.compile(r"GeneID:(\d+)")
_OTHER_GENE = re.compile(r"gi\|\d+\|\w+\|([A-Z]{2}_?)([A-Z]*)(\d+)")


class GeneKey(NamedTuple):
    """What the header of a gene says about its genome."""

    kind: str  # viral, prokaryote or eukaryote
    key: str  # coarse key of the genome: it decides the partition
    series: str  # prefix within which numbers are assigned: "GeneID:", "XM_", "NC_", "NZ_KB", a project's "NZ_ABCD"
    number: int  # of the gene (viral, eukaryote), the replicon, the scaffold or the contig
    name: str  # accession of the record, without version; for a viral gene, its GeneID


def gene_key(header: str) -> GeneKey | None:
    """Return the key in a gene's header (with or without `>`); None if the header has another form."""
    header = header.removeprefix(">")
    if match := _VIRAL_GENE.match(header):
        number = int(match[1])
        return GeneKey(VIRAL, f"GeneID:{number // 1000}", "GeneID:", number, f"GeneID.{number}")
    if not (match := _OTHER_GENE.match(header)):
        return None
    prefix, letters, digits = match.groups()
    number, series, name = int(digits), prefix + letters, "".join(match.groups())
    if prefix in ("XM_", "NM_"):
        return GeneKey(EUKARYOTE, f"{prefix}{number // 10000}", series, number, name)
    if prefix == "NC_":
        key = name
    elif len(letters) == 4:
        key = f"NZ_{letters}"
    else:
        key = f"NZ_{letters}{number // 1000}"
    return GeneKey(PROKARYOTE, key, series, number, name)


def partition(key: str) -> str:
    """Return the part of the data that a key belongs to: reserved, miniature, held_out or pretraining."""
    return _PARTITIONS.get(int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10, PRETRAINING)
