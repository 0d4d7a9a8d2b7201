"""Which genes belong to the same genome, inferred from the numbers in the headers and the order of the file.

Genomes are finer than keys. Numbers are assigned genome by genome, so a genome is a run of numbers, and the package
lists the genes of a clade together. Two successive numbers of a series belong to one genome if they are close both as
numbers and in the file. If they are not, but numbers before and after them are, the run continues, since a gene that
marks a genus is listed apart from those of its species. Closely related genomes with successive numbers are not
separated, which is the safe side for a split.

A genome may have several keys. It then belongs to the strictest of their parts, and its genes with keys of other parts
are left out, so that the part of a gene's key and that of its genome are always the same. Pretraining is stricter than
the parts that test it: no genome of these has a key of which an encoder may have learned.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from dataclasses import dataclass, field

from examples.corpus.keys import EUKARYOTE, HELD_OUT, MINIATURE, PRETRAINING, RESERVED, VIRAL, GeneKey, partition

STRICTEST_FIRST = (RESERVED, PRETRAINING, HELD_OUT, MINIATURE)
_LOOK_AHEAD = 5  # numbers of a series that are examined beyond a gene that is listed apart


@dataclass(frozen=True)
class Nearness:
    """The largest distance between two successive genes of a genome."""

    numbers: int
    lines: int  # in headers of the package's file


VIRAL_GENES = Nearness(50, 100)
EUKARYOTIC_GENES = Nearness(1000, 100)
SCAFFOLDS = Nearness(100, 50)
REPLICONS = Nearness(10, 50)


@dataclass
class CorpusGenome:
    """One genome of the corpus, named after the gene or record with its first number."""

    name: str
    kind: str  # viral, prokaryote or eukaryote
    part: str  # reserved, miniature, held_out or pretraining
    keys: tuple[str, ...]
    group: str = ""  # predicted later for prokaryotes
    archaeal: float | None = None  # predicted probability of archaea
    genes: int = 0  # number written
    bases: int = 0  # number written
    sample: list[str] = field(default_factory=list)  # some of its genes, to predict its domain from


class GenomeFinder:
    """Collects the headers of a file in order, then assigns each gene to a genome."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._keys: dict[tuple[str, int], GeneKey] = {}
        self._starts: dict[str, list[int]] = {}
        self._genomes: dict[str, list[CorpusGenome]] = {}

    def add(self, key: GeneKey, line: int) -> None:
        """Add the key of a gene, whose header is number `line` of the file."""
        self._lines[key.series][key.number].append(line)
        self._keys.setdefault((key.series, key.number), key)

    def finish(self) -> list[CorpusGenome]:
        """Return all genomes, reserved ones included, ordered by series and number."""
        for series, lines in sorted(self._lines.items()):
            runs = _runs(lines, self._nearness(series))
            self._starts[series] = [run[0] for run in runs]
            self._genomes[series] = [self._genome(series, run) for run in runs]
        self._lines.clear()
        self._keys.clear()
        return [genome for genomes in self._genomes.values() for genome in genomes]

    def genome(self, key: GeneKey) -> CorpusGenome:
        """Return the genome of a gene that was added."""
        place = bisect.bisect_right(self._starts[key.series], key.number) - 1
        return self._genomes[key.series][place]

    def _nearness(self, series: str) -> Nearness | None:
        kind = next(self._keys[series, number].kind for number in self._lines[series])
        if kind == VIRAL:
            return VIRAL_GENES
        if kind == EUKARYOTE:
            return EUKARYOTIC_GENES
        if series == "NC_":
            return REPLICONS
        return SCAFFOLDS if len(series.removeprefix("NZ_")) < 4 else None

    def _genome(self, series: str, run: list[int]) -> CorpusGenome:
        first = self._keys[series, run[0]]
        keys = tuple(dict.fromkeys(self._keys[series, number].key for number in run))
        parts = {partition(key) for key in keys}
        part = next(part for part in STRICTEST_FIRST if part in parts)
        return CorpusGenome(first.name, first.kind, part, keys)


def _runs(lines: dict[int, list[int]], nearness: Nearness | None) -> list[list[int]]:
    """Return the numbers of a series, cut into genomes; without a nearness the series is one genome."""
    numbers = sorted(lines)
    if nearness is None:
        return [numbers]
    runs: list[list[int]] = []
    reach = -1  # index of the last number that belongs to the run
    for place, number in enumerate(numbers):
        if place > reach:
            runs.append([])
            reach = place
        runs[-1].append(number)
        for ahead in range(min(place + _LOOK_AHEAD, len(numbers) - 1), reach, -1):
            gap = numbers[ahead] - number
            if gap <= nearness.numbers and _near(lines[number], lines[numbers[ahead]], nearness.lines):
                reach = ahead
                break
    return runs


def _near(first: list[int], second: list[int], distance: int) -> bool:
    """Return whether a line of one sorted list is at most `distance` lines from one of the other."""
    for line in first:
        place = bisect.bisect_left(second, line - distance)
        if place < len(second) and second[place] <= line + distance:
            return True
    return False
