"""Build the miniature in this directory: a little of each of many genomes, for `make demo`.

    python -m examples.corpus.build --out data/corpus       # first; takes minutes
    python -m examples.genomes.build --corpus data/corpus   # downloads missing packages with apt and pip

It consists of whole genes of the corpus's part `miniature` and of pieces of annotated genomes in some packages, with
introns and the DNA between genes, all drawn with a seed. Genes that are similar to those of a reserved genome, to
training data of the encoders, to held-out genes or to another genome of the miniature are left out (see similarity.py).
`SOURCES.tsv` has a line for each record; `counts.json` has the number left out for each reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from examples.corpus.build import METAPHLAN, read_genes
from examples.corpus.keys import HELD_OUT, MINIATURE, PRETRAINING, RESERVED
from examples.genbank import Entry, GroupWriter, read_entries
from examples.genomes.annotated import Annotated, read_annotated
from examples.genomes.similarity import similar
from examples.packages import Package, checked, fetch

# group: maximum of genomes from the corpus, and of genes from each
FROM_CORPUS = {"viral": (1000, 12), "archaea": (100, 8), "bacteria": (400, 5), "eukaryote": (100, 40)}
SHORTEST, PREFERRED = 300, 500  # bp of a gene; chunks shorter than the chunk size are of little use
PIECES = {"viral": (3_000, 14_000), "archaea": (9_000, 27_000), "bacteria": (9_000, 27_000)}  # bp: a piece, a genome
EUKARYOTIC_PIECES = (30_000, 120_000)  # longer, as genes are long and far apart
THIRDS = 3  # of a record, each giving a piece: if one is similar to other data, another may not be
FLANK = 300  # bp before the first gene of a piece, at most
OTHERS = (RESERVED, HELD_OUT, PRETRAINING)


@dataclass(frozen=True)
class Candidate:
    """A record that may become part of the miniature."""

    entry: Entry
    group: str
    package: Package


def corpus_candidates(corpus: Path, seed: int) -> Iterator[Candidate]:
    """Yield random genes of random genomes, group by group, preferring genes of at least `PREFERRED` bp."""
    for group, (genomes, genes) in FROM_CORPUS.items():
        drawn: dict[str, list[tuple[bool, int, Entry]]] = defaultdict(list)
        for entry in read_entries(corpus / MINIATURE, group):
            if len(entry.sequence) >= SHORTEST:
                best = drawn[entry.genome]
                best.append((len(entry.sequence) < PREFERRED, _draw(entry.accession, seed), entry))
                best.sort(key=lambda item: item[:2])
                del best[genes:]
        for genome in sorted(drawn, key=lambda name: _draw(name, seed))[:genomes]:
            yield from (Candidate(entry, group, METAPHLAN) for _, _, entry in drawn[genome])


def annotated_candidates(records: Iterable[Annotated], seed: int) -> Iterator[Candidate]:
    """Yield random pieces of the annotated genomes, genome by genome."""
    genomes: dict[str, list[Annotated]] = defaultdict(list)
    for record in records:
        genomes[record.genome].append(record)
    for genome, parts in genomes.items():
        draw = random.Random(f"{seed}/{genome}")
        draw.shuffle(parts)
        size, room = PIECES.get(parts[0].group, EUKARYOTIC_PIECES)
        for record in parts:
            for piece in cut_pieces(record, size, draw):
                if len(piece.sequence) <= room:
                    room -= len(piece.sequence)
                    yield Candidate(piece, record.group, record.package)


def cut_pieces(record: Annotated, size: int, draw: random.Random) -> Iterator[Entry]:
    """Yield a piece of each third of a record, starting shortly before a random gene; a short record is one piece.

    A piece has at most `size` bp, does not extend beyond its third, and is annotated with the genes entirely within it.
    """
    length = len(record.sequence)
    if length <= size:
        yield _piece(record, 0, length)
        return
    for third in range(THIRDS):
        lowest, highest = third * length // THIRDS, (third + 1) * length // THIRDS
        genes = [gene for gene in record.coding if lowest <= gene.start and gene.end <= highest]
        if genes:
            start = max(lowest, draw.choice(genes).start - FLANK)
            piece = _piece(record, start, min(highest, start + size))
            if piece.coding:
                yield piece


def _piece(record: Annotated, start: int, end: int) -> Entry:
    inside = [gene.moved(-start) for gene in record.coding if gene.start >= start and gene.end <= end]
    whole = end - start == len(record.sequence)
    accession = record.accession if whole else f"{record.accession}_{start + 1}-{end}"
    definition = f"{record.package}: {record.accession}"
    sequence = record.sequence[start:end]
    return Entry(accession, record.genome, record.organism, record.lineage, sequence, inside, definition)


def choose(candidates: list[Candidate], corpus: Path, deb: Path) -> tuple[list[Candidate], Counter[str]]:
    """Return the candidates that are similar to no other data, and the number of the others by what they resemble."""
    genes = {
        f"{place}.{number}": coding.spliced(candidate.entry.sequence)
        for place, candidate in enumerate(candidates)
        for number, coding in enumerate(candidate.entry.coding)
    }
    outside: dict[int, set[str]] = defaultdict(set)
    inside: dict[int, set[int]] = defaultdict(set)
    for gene, other in similar(genes.items(), _others(genes, corpus, deb)):
        place, (kind, _, rest) = int(gene.split(".")[0]), other.partition("/")
        if kind in OTHERS:
            outside[place].add(kind)
        else:
            inside[place].add(int(rest.split(".")[0]))
    kept: list[Candidate] = []
    taken: dict[int, str] = {}  # index of a kept candidate: its genome
    dropped: Counter[str] = Counter()
    for place, candidate in enumerate(candidates):
        if resembled := next((kind for kind in OTHERS if kind in outside[place]), None):
            dropped[f"similar_to_{resembled}"] += 1
        elif any(taken.get(other, candidate.entry.genome) != candidate.entry.genome for other in inside[place]):
            dropped["similar_to_another_genome_of_the_miniature"] += 1
        else:
            taken[place] = candidate.entry.genome
            kept.append(candidate)
    return kept, dropped


def write(out: Path, kept: list[Candidate], dropped: Counter[str], candidates: int, seed: int) -> None:
    """Write the GenBank files, SOURCES.tsv and counts.json."""
    kept = sorted(kept, key=lambda candidate: (candidate.group, candidate.entry.genome, candidate.entry.accession))
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    lines = ["accession\tgenome\torganism\tgroup\tbases\tcds\tpackage\tlicence"]
    with ExitStack() as stack:
        groups = dict.fromkeys(candidate.group for candidate in kept)
        writers = {group: stack.enter_context(GroupWriter(out, group, level=9)) for group in groups}
        for candidate in kept:
            entry, package = candidate.entry, candidate.package
            writers[candidate.group].add(entry)
            row = (entry.accession, entry.genome, entry.organism, candidate.group, len(entry.sequence))
            lines.append("\t".join(map(str, (*row, len(entry.coding), package, package.licence))))
            totals[candidate.group].update(records=1, bases=len(entry.sequence), cds=len(entry.coding))
    for group in totals:
        totals[group]["genomes"] = len({item.entry.genome for item in kept if item.group == group})
    (out / "SOURCES.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    packages = {str(item.package): item.package.sha256 for item in kept}
    counts = {"seed": seed, "candidates": candidates, "dropped": dropped, "groups": totals, "packages": packages}
    (out / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), help="what examples.corpus.build wrote")
    parser.add_argument("--deb", type=Path, help="file of metaphlan2-data; taken from --packages if not given")
    parser.add_argument("--packages", type=Path, default=Path("data/corpus/packages"), help="directory of the packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    deb = checked(METAPHLAN, arguments.deb) if arguments.deb else fetch(METAPHLAN, arguments.packages)
    candidates = [
        *annotated_candidates(read_annotated(arguments.packages), arguments.seed),
        *corpus_candidates(arguments.corpus, arguments.seed),
    ]
    kept, dropped = choose(candidates, arguments.corpus, deb)
    write(arguments.out, kept, dropped, len(candidates), arguments.seed)


def _others(genes: dict[str, str], corpus: Path, deb: Path) -> Iterator[tuple[str, str]]:
    """Yield name and DNA of all genes that candidates are compared with, those of candidates included."""
    yield from ((f"{MINIATURE}/{name}", sequence) for name, sequence in genes.items())
    for part in (HELD_OUT, PRETRAINING):
        yield from ((f"{part}/{entry.accession}", entry.sequence) for entry in read_entries(corpus / part, "*"))
    for number, _, _, sequence in read_genes(deb, frozenset({RESERVED})):
        if sequence:
            yield f"{RESERVED}/{number}", sequence


def _draw(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big")


if __name__ == "__main__":
    main()
