"""The corpus's genes as the shipped encoders read them: codons in flat arrays, kept apart by genome.

    python -m examples.encoders.genes --deb FILE.deb

Genes of reserved genomes are skipped unread. Of the others, `train.npz` has those of the pretraining part, without any
gene that shares many 8-mers of its protein with one of the miniature's or of the held-out part, and `held_out.npz`
those of the held-out part.
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

from examples.corpus.build import METAPHLAN, read_genes
from examples.corpus.keys import EUKARYOTE, HELD_OUT, MINIATURE, PRETRAINING, PROKARYOTE, VIRAL, partition
from examples.packages import checked, fetch
from virnuc.storage.files import write_text

CLASSES = (VIRAL, PROKARYOTE, EUKARYOTE)
SHORTEST = 50  # residues of a gene that is worth a crop
RESIDUES = "LAGVSERTIDPKQNFYMHWC"  # in the order of ESM-2's token ids 4 to 23
UNKNOWN, STOP = 20, 21  # after the residues: of a codon with other bases than ACGT, and of a stop codon
UNKNOWN_CODON = 64  # after the 64 codons
WORD = 8  # residues of the words that relatives share
SAMPLED = 4  # one word in so many is compared
MAX_SHARED = 0.1  # share of a protein's sampled words that may occur in proteins kept apart


def residue_of_codons() -> np.ndarray:
    """Return the residue's index in `RESIDUES` for codons 0 to 63 (bases A, C, G, T, first base highest), then X.

    Table 11 and table 1 translate alike.
    """
    table = unambiguous_dna_by_id[11]
    letters = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    return np.array(
        [STOP if c in table.stop_codons else RESIDUES.index(table.forward_table[c]) for c in letters] + [UNKNOWN],
        dtype=np.uint8,
    )


@dataclass(frozen=True)
class Genes:
    """Genes in frame, end to end."""

    codons: np.ndarray  # [codons] uint8, 0 to 64
    starts: np.ndarray  # [genes + 1] int64
    classes: np.ndarray  # [genes] uint8, index into CLASSES
    keys: np.ndarray  # [genes] str, the genome's key

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.classes)

    @property
    def lengths(self) -> np.ndarray:
        """Return the codons of each gene, [genes] int64."""
        return np.diff(self.starts)

    def take(self, rows: np.ndarray) -> Genes:
        """Return the genes `rows`, [n] int64 or a mask, in this order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Genes(self.codons[places], starts, self.classes[rows], self.keys[rows])

    def save(self, path: Path) -> None:
        """Write the arrays to `path`."""
        np.savez(path, codons=self.codons, starts=self.starts, classes=self.classes, keys=self.keys)

    @classmethod
    def load(cls, path: Path) -> Genes:
        """Read the arrays of `path`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(*(arrays[name] for name in ("codons", "starts", "classes", "keys")))


def read(deb: Path) -> tuple[Genes, Counter[str]]:
    """Read the package's genes of at least `SHORTEST` codons without a stop codon inside; count what is left out."""
    digits = np.full(256, UNKNOWN_CODON, dtype=np.uint8)
    digits[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)
    residues, dropped = residue_of_codons(), Counter[str]()
    codons, classes, keys = [], [], []
    for _, _, key, sequence in tqdm(read_genes(deb), unit="genes"):
        if key is None or not sequence:
            dropped["reserved" if key else "header of another form"] += 1
            continue
        bases = digits[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)][: len(sequence) // 3 * 3].reshape(-1, 3)
        unknown = (bases == UNKNOWN_CODON).any(1)
        gene = np.where(unknown, UNKNOWN_CODON, bases @ np.array([16, 4, 1], dtype=np.uint8)).astype(np.uint8)
        stops = np.flatnonzero(residues[gene] == STOP)
        if len(stops) and stops[0] < len(gene) - 1:
            dropped["stop codon inside"] += 1
        elif len(gene) - len(stops) < SHORTEST:
            dropped["short"] += 1
        else:
            codons.append(gene[: len(gene) - len(stops)])
            classes.append(CLASSES.index(key.kind))
            keys.append(key.key)
    starts = np.concatenate([[0], np.cumsum([len(gene) for gene in codons])])
    return Genes(np.concatenate(codons), starts, np.array(classes, dtype=np.uint8), np.array(keys)), dropped


def sampled_words(genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of a sample of the proteins' words, [n] uint64, and the gene of each, [n] int64."""
    residues = residue_of_codons()[genes.codons].astype(np.uint64)
    places = len(residues) - WORD + 1
    words = np.zeros(places, dtype=np.uint64)
    for offset in range(WORD):
        words = words * np.uint64(22) + residues[offset : offset + places]
    words *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: the product's high bits are well mixed
    words ^= words >> np.uint64(29)
    rows = np.repeat(np.arange(len(genes)), genes.lengths)
    inside = (rows[:places] == rows[WORD - 1 :]) & (words % np.uint64(SAMPLED) == 0)
    return words[inside], rows[:places][inside]


def related(genes: Genes, apart: Genes) -> np.ndarray:
    """Return which of `genes` share more than `MAX_SHARED` of their sampled words with `apart`, [genes] bool."""
    known = np.unique(sampled_words(apart)[0])
    words, rows = sampled_words(genes)
    nearest = np.minimum(np.searchsorted(known, words), len(known) - 1)
    shared = np.bincount(rows, known[nearest] == words, minlength=len(genes))
    return shared > MAX_SHARED * np.bincount(rows, minlength=len(genes))


def build(deb: Path, out: Path) -> dict[str, object]:
    """Write the genes to learn from and the held-out ones; return what is in both."""
    genes, dropped = read(deb)
    parts = np.array([partition(key) for key in genes.keys.tolist()])
    train, held_out, miniature = (genes.take(parts == part) for part in (PRETRAINING, HELD_OUT, MINIATURE))
    relatives = related(train, miniature) | related(train, held_out)
    train = train.take(~relatives)
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, object] = {"left out": dict(dropped) | {"relatives": int(relatives.sum())}}
    for name, part in (("train", train), ("held_out", held_out)):
        part.save(out / f"{name}.npz")
        by_class = np.bincount(part.classes, minlength=len(CLASSES)).tolist()
        counts[name] = dict(zip(CLASSES, by_class, strict=True)) | {"keys": len(set(part.keys.tolist()))}
    write_text(out / "genes.json", json.dumps(counts, indent=1) + "\n")
    return counts


def main() -> None:
    """Read the corpus and write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deb", type=Path, help=f"{METAPHLAN.file}, if it is here already")
    parser.add_argument("--out", type=Path, default=Path("data/pretraining"))
    arguments = parser.parse_args()
    deb = checked(METAPHLAN, arguments.deb) if arguments.deb else fetch(METAPHLAN, arguments.out)
    tqdm.write(json.dumps(build(deb, arguments.out), indent=1))


if __name__ == "__main__":
    main()
