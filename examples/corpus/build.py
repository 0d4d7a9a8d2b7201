"""Build the corpus: GenBank files of the coding sequences in Debian's metaphlan2-data, by part and by group.

    python -m examples.corpus.build --out corpus                    # downloads both packages with apt and pip
    python -m examples.corpus.build --out corpus --deb FILE.deb --tiara FILE.whl

It writes below --out: `pretraining/`, `held_out/` and `miniature/` (see keys.py) with files
`<group>.<n>.genomic.gbff.gz`, one record for each gene, whose genome is in DBLINK; `sources.tsv`, one line for each
genome; and, last, `counts.json`, which counts every gene of the package once.

The package is read three times: its headers, to find the genomes; some genes of each prokaryote, for tiara to predict
its domain; and all genes, to write them. Sequences of reserved genomes are skipped. The package does not name species,
nor the groups of its eukaryotes, which are all microbes and form the group `eukaryote`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from examples.corpus.domains import TIARA, Tiara
from examples.corpus.genomes import STRICTEST_FIRST, CorpusGenome, GenomeFinder
from examples.corpus.keys import EUKARYOTE, PROKARYOTE, RESERVED, VIRAL, GeneKey, gene_key, partition
from examples.genbank import CodingSequence, Entry, GroupWriter, translated
from examples.packages import Package, checked, deb_member, fetch
from virnuc.sequences.translation import IUPAC_LETTERS

METAPHLAN = Package(
    registry="debian",
    name="metaphlan2-data",
    version="2.6.0+ds-4",
    file="metaphlan2-data_2.6.0+ds-4_all.deb",
    sha256="f38a6e3f49d7b03ba80d9fdd5647b9f9f2dfb38d43b28618053e8ef2c60db7d7",
    licence="Expat",
)
MARKERS = "var/lib/metaphlan2-data/markers.fasta"
SAMPLE = 20_000  # bp of a genome from which its domain is predicted
_CALLED_AT_ONCE = 200  # genomes in a batch
DomainCaller = Callable[[list[str]], np.ndarray]  # n sequences of prokaryotes to probabilities of archaea, [n]
_NOT_DNA = re.compile(f"[^{''.join(sorted(IUPAC_LETTERS))}]")
_DESCRIBED = {  # group: noun for an unnamed member, lineage
    "viral": ("virus", "Viruses"),
    "archaea": ("archaeon", "Archaea"),
    "bacteria": ("bacterium", "Bacteria"),
    "eukaryote": ("eukaryote", "Eukaryota"),
}


def read_genes(
    deb: Path, parts: frozenset[str] = frozenset(STRICTEST_FIRST) - {RESERVED}
) -> Iterator[tuple[int, str, GeneKey | None, str]]:
    """Yield number, header, key and sequence of each gene; the sequence is empty unless its key is in `parts`."""
    header, key, lines, wanted, number = "", None, [], False, -1
    with deb_member(deb, MARKERS) as stream:
        for line in stream:
            if not line.startswith(b">"):
                if wanted:
                    lines.append(line.strip())
                continue
            if number >= 0:
                yield number, header, key, b"".join(lines).decode("ascii").upper()
            header = line[1:].decode("ascii").strip()
            key, lines, number = gene_key(header), [], number + 1
            wanted = key is not None and partition(key.key) in parts
    if number >= 0:
        yield number, header, key, b"".join(lines).decode("ascii").upper()


def find_genomes(deb: Path) -> GenomeFinder:
    """Read the headers; return a finder with all of them, to be finished."""
    finder = GenomeFinder()
    for number, _, key, _ in read_genes(deb):
        if key is not None:
            finder.add(key, number)
    return finder


def call_domains(deb: Path, archaeal: DomainCaller, finder: GenomeFinder, genomes: list[CorpusGenome]) -> None:
    """Set the group of every genome that is not reserved; of prokaryotes, to the more probable of the two domains."""
    for genome in genomes:
        genome.group = {VIRAL: "viral", EUKARYOTE: "eukaryote"}.get(genome.kind, "")
    sampled: Counter[str] = Counter()
    for _, _, key, sequence in read_genes(deb):
        genome = finder.genome(key) if key else None
        if genome and genome.kind == PROKARYOTE and genome.part != RESERVED and sampled[genome.name] < SAMPLE:
            genome.sample.append(sequence)
            sampled[genome.name] += len(sequence)
    unnamed = [genome for genome in genomes if genome.sample]
    for start in range(0, len(unnamed), _CALLED_AT_ONCE):
        batch = unnamed[start : start + _CALLED_AT_ONCE]
        for genome, share in zip(batch, archaeal(["".join(genome.sample) for genome in batch]).tolist(), strict=True):
            genome.archaeal = share
            genome.group = "archaea" if genome.archaeal > 0.5 else "bacteria"
            genome.sample = []


def write_genes(deb: Path, out: Path, finder: GenomeFinder) -> Counter[str]:
    """Write the genes by part and group; return the number of those left out, by reason."""
    dropped: Counter[str] = Counter()
    with ExitStack() as stack:
        writers: dict[tuple[str, str], GroupWriter] = {}
        for _, header, key, sequence in tqdm(read_genes(deb), desc="corpus", unit="gene", mininterval=5):
            if key is None:
                dropped["header_of_another_form"] += 1
                continue
            genome = finder.genome(key)
            protein = translated(sequence).removesuffix("*")
            if reason := _reason_to_drop(genome, key, sequence, protein):
                dropped[reason] += 1
                continue
            place = (genome.part, genome.group)
            if place not in writers:
                writers[place] = stack.enter_context(GroupWriter(out / genome.part, genome.group, level=4))
            genome.genes += 1
            genome.bases += len(sequence)
            writers[place].add(_entry(header, genome, sequence, protein))
    return dropped


def _reason_to_drop(genome: CorpusGenome, key: GeneKey, sequence: str, protein: str) -> str | None:
    part = partition(key.key)
    if part == RESERVED:
        return "reserved_key"
    if genome.part == RESERVED:
        return "genome_with_a_reserved_key"
    if part != genome.part:
        return "genome_with_a_key_of_a_stricter_part"
    if _NOT_DNA.search(sequence):
        return "letters_that_are_no_bases"
    return "no_stop_free_frame" if not protein or "*" in protein else None


def _entry(header: str, genome: CorpusGenome, sequence: str, protein: str) -> Entry:
    noun, lineage = _DESCRIBED[genome.group]
    fields = header.split("|")
    accession = f"{fields[3]}_{fields[4].removeprefix(':')}" if len(fields) == 5 else header.replace(":", ".")
    table = 1 if genome.kind == EUKARYOTE else 11
    coding = (CodingSequence(((0, 3 * len(protein)),), True, protein, table),)
    organism = f"unidentified {noun} {genome.name}"
    return Entry(accession, genome.name, organism, lineage, sequence, coding, f"{METAPHLAN}: {header}")


def write_tables(out: Path, genomes: list[CorpusGenome], dropped: Counter[str]) -> None:
    """Write sources.tsv and, last, counts.json."""
    written = [genome for genome in genomes if genome.genes]
    lines = ["genome\tgroup\tpart\tkeys\tgenes\tbases\tarchaeal_probability\tpackage\tlicence"]
    totals: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for genome in written:
        archaeal = "" if genome.archaeal is None else f"{genome.archaeal:.3f}"
        row = (genome.name, genome.group, genome.part, ",".join(genome.keys), genome.genes, genome.bases, archaeal)
        lines.append("\t".join(map(str, (*row, METAPHLAN, METAPHLAN.licence))))
        totals[genome.part][genome.group].update(genomes=1, genes=genome.genes, bases=genome.bases)
    (out / "sources.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    genes_out = sum(genome.genes for genome in written)
    counts = {
        "sources": {str(package): package.sha256 for package in (METAPHLAN, TIARA)},
        "genes_in": genes_out + sum(dropped.values()),
        "genes_out": genes_out,
        "genes_dropped": dict(sorted(dropped.items())),
        "out": totals,
        "prokaryotes_called_with_less_than_0.65": sum(
            genome.archaeal is not None and max(genome.archaeal, 1 - genome.archaeal) < 0.65 for genome in written
        ),
    }
    (out / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def build(deb: Path, archaeal: DomainCaller, out: Path) -> None:
    """Write the corpus from a Debian package to a directory; `archaeal` distinguishes archaea from bacteria."""
    finder = find_genomes(deb)
    genomes = finder.finish()
    call_domains(deb, archaeal, finder, genomes)
    dropped = write_genes(deb, out, finder)
    write_tables(out, genomes, dropped)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/corpus"))
    parser.add_argument("--deb", type=Path, help="file of metaphlan2-data; downloaded with apt-get if not given")
    parser.add_argument("--tiara", type=Path, help="wheel of tiara; downloaded with pip if not given")
    arguments = parser.parse_args()
    packages = arguments.out / "packages"
    deb = checked(METAPHLAN, arguments.deb) if arguments.deb else fetch(METAPHLAN, packages)
    wheel = checked(TIARA, arguments.tiara) if arguments.tiara else fetch(TIARA, packages)
    build(deb, Tiara(wheel).archaeal, arguments.out)


if __name__ == "__main__":
    main()
