"""The corpus's genes as arrays of codons, to train the shipped encoders and to watch their training.

    python -m examples.corpus.build --out data/corpus   # first; takes minutes
    python -m examples.encoders.genes --corpus data/corpus

`train.npz` has the genes of the corpus's part `pretraining`, except those whose proteins share many 8-mers with
proteins of the miniature or of the held-out part; `held_out.npz` has the genes of the held-out part. The corpus has no
genes of reserved genomes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Bio.Data.CodonTable import unambiguous_dna_by_id
from tqdm import tqdm

from examples.corpus.keys import EUKARYOTE, HELD_OUT, MINIATURE, PRETRAINING, PROKARYOTE, VIRAL
from examples.genbank import read_entries
from virnuc.storage.files import write_text

CLASSES = (VIRAL, PROKARYOTE, EUKARYOTE)
CLASS_OF_GROUP = {"viral": 0, "archaea": 1, "bacteria": 1, "eukaryote": 2}  # index into CLASSES
SHORTEST = 50  # residues; shorter genes are left out
RESIDUES = "LAGVSERTIDPKQNFYMHWC"  # in the order of ESM-2's token ids 4 to 23
UNKNOWN, STOP = 20, 21  # residues of a codon with other bases than ACGT, and of a stop codon
UNKNOWN_CODON = 64  # a codon with other bases than ACGT
WORD = 8  # residues of the k-mers that proteins are compared by
SAMPLED = 4  # one k-mer in this many is compared
MAX_SHARED = 0.1  # share of a protein's sampled k-mers that may occur in the other parts


def residue_of_codons() -> np.ndarray:
    """Return the index in `RESIDUES` of codons 0 to 63 (digits A, C, G, T to base 4), then of `UNKNOWN_CODON`.

    [65] uint8. Genetic codes 1 and 11 translate alike.
    """
    table = unambiguous_dna_by_id[11]
    letters = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    return np.array(
        [STOP if c in table.stop_codons else RESIDUES.index(table.forward_table[c]) for c in letters] + [UNKNOWN],
        dtype=np.uint8,
    )


@dataclass(frozen=True)
class Genes:
    """Genes in frame, concatenated."""

    codons: np.ndarray  # [codons] uint8, 0 to 64
    starts: np.ndarray  # [genes + 1] int64
    classes: np.ndarray  # [genes] uint8, index into CLASSES
    genomes: np.ndarray  # [genes] str, names in the corpus

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.classes)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of codons of each gene, [genes] int64."""
        return np.diff(self.starts)

    def take(self, rows: np.ndarray) -> Genes:
        """Return the genes `rows` ([n] int64, or a mask [genes] bool), in this order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Genes(self.codons[places], starts, self.classes[rows], self.genomes[rows])

    def save(self, path: Path) -> None:
        """Write the arrays to `path`."""
        np.savez(path, codons=self.codons, starts=self.starts, classes=self.classes, genomes=self.genomes)

    @classmethod
    def load(cls, path: Path) -> Genes:
        """Read the arrays of `path`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(*(arrays[name] for name in ("codons", "starts", "classes", "genomes")))


def read(directory: Path) -> tuple[Genes, int]:
    """Return a part's genes of at least `SHORTEST` codons, without stop codons, and the number of shorter ones."""
    digits = np.full(256, UNKNOWN_CODON, dtype=np.uint8)
    digits[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)
    codons, classes, genomes, short = [], [], [], 0
    for group, number in CLASS_OF_GROUP.items():
        for entry in tqdm(read_entries(directory, group), desc=f"{directory.name}, {group}", unit="gene"):
            dna, (coding,) = entry.sequence.encode("ascii"), entry.coding
            bases = digits[np.frombuffer(dna, dtype=np.uint8, count=coding.end)].reshape(-1, 3)
            if len(bases) < SHORTEST:
                short += 1
                continue
            unknown = (bases == UNKNOWN_CODON).any(1)
            codons.append(np.where(unknown, UNKNOWN_CODON, bases @ np.array([16, 4, 1], dtype=np.uint8)))
            classes.append(number)
            genomes.append(entry.genome)
    starts = np.concatenate([[0], np.cumsum([len(gene) for gene in codons])])
    flat = np.concatenate(codons).astype(np.uint8)
    return Genes(flat, starts, np.array(classes, dtype=np.uint8), np.array(genomes)), short


def sampled_words(genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of a sample of the proteins' k-mers, [n] uint64, and the gene of each, [n] int64.

    The hashes decide the sample, so equal k-mers are sampled in all proteins or in none.
    """
    residues = residue_of_codons()[genes.codons].astype(np.uint64)
    places = len(residues) - WORD + 1
    words = np.zeros(places, dtype=np.uint64)
    for offset in range(WORD):
        words = words * np.uint64(22) + residues[offset : offset + places]
    words *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing (Knuth), which mixes the high bits well
    words ^= words >> np.uint64(29)
    rows = np.repeat(np.arange(len(genes)), genes.lengths)
    inside = (rows[:places] == rows[WORD - 1 :]) & (words % np.uint64(SAMPLED) == 0)
    return words[inside], rows[:places][inside]


def related(genes: Genes, apart: Genes) -> np.ndarray:
    """Return which of `genes` share more than `MAX_SHARED` of their sampled k-mers with `apart`, [genes] bool."""
    known = np.unique(sampled_words(apart)[0])
    words, rows = sampled_words(genes)
    nearest = np.minimum(np.searchsorted(known, words), len(known) - 1)
    shared = np.bincount(rows, known[nearest] == words, minlength=len(genes))
    return shared > MAX_SHARED * np.bincount(rows, minlength=len(genes))


def build(corpus: Path, out: Path) -> dict[str, object]:
    """Write both files and `genes.json`; return the numbers of genes in them and of those left out."""
    parts, short = {}, Counter[str]()
    for part in (PRETRAINING, HELD_OUT, MINIATURE):
        parts[part], short[part] = read(corpus / part)
    relatives = related(parts[PRETRAINING], parts[MINIATURE]) | related(parts[PRETRAINING], parts[HELD_OUT])
    written = {"train": parts[PRETRAINING].take(~relatives), "held_out": parts[HELD_OUT]}
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, object] = {"left out": {"short": dict(short), "relatives": int(relatives.sum())}}
    for name, genes in written.items():
        genes.save(out / f"{name}.npz")
        by_class = np.bincount(genes.classes, minlength=len(CLASSES)).tolist()
        counts[name] = dict(zip(CLASSES, by_class, strict=True)) | {"genomes": len(set(genes.genomes.tolist()))}
    write_text(out / "genes.json", json.dumps(counts, indent=1) + "\n")
    return counts


def main() -> None:
    """Read the corpus and write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), help="what examples.corpus.build wrote")
    parser.add_argument("--out", type=Path, default=Path("data/pretraining"))
    arguments = parser.parse_args()
    tqdm.write(json.dumps(build(arguments.corpus, arguments.out), indent=1))


if __name__ == "__main__":
    main()
