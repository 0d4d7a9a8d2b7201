"""Which genes share a genome: finer than the keys, from the numbers in the headers and the order of the file.

Numbers are given genome by genome, so a genome is a run of them; and the package lists the genes of a clade together.
Two neighbouring numbers of a series are of one genome if they are near each other in both. Where neighbours are not
but the numbers around them are, the run goes on: a gene that marks a genus is listed apart from its species. Closely
related genomes whose numbers follow each other stay one, which errs on the side that keeps a split honest.

A genome can cross the border of a key. All of it then belongs to the strictest part that one of its keys names, and its
genes with keys of other parts are left out, so that parts by key and by genome never contradict each other.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from dataclasses import dataclass, field

from examples.corpus.keys import EUKARYOTE, HELD_OUT, MINIATURE, PRETRAINING, RESERVED, VIRAL, GeneKey, partition

STRICTEST_FIRST = (RESERVED, HELD_OUT, MINIATURE, PRETRAINING)
_LOOK_AHEAD = 5  # numbers of a series that are looked at beyond a gene that is listed apart


@dataclass(frozen=True)
class Nearness:
    """How near two genes of one genome are at least."""

    numbers: int
    lines: int  # headers in the package's file


VIRAL_GENES = Nearness(50, 100)
EUKARYOTIC_GENES = Nearness(1000, 100)
SCAFFOLDS = Nearness(100, 50)
REPLICONS = Nearness(10, 50)


@dataclass
class CorpusGenome:
    """One genome of the corpus; its name is that of its first number."""

    name: str
    kind: str  # viral, prokaryote or eukaryote
    part: str  # reserved, miniature, held_out or pretraining
    keys: tuple[str, ...]
    group: str = ""  # called later for prokaryotes
    archaeal: float | None = None  # probability that a caller of domains gave
    genes: int = 0  # written
    bases: int = 0  # written
    sample: list[str] = field(default_factory=list)  # some of its genes, for the caller of domains


class GenomeFinder:
    """Collects the headers of a file in order, then says which genome each gene belongs to."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._keys: dict[tuple[str, int], GeneKey] = {}
        self._starts: dict[str, list[int]] = {}
        self._genomes: dict[str, list[CorpusGenome]] = {}

    def add(self, key: GeneKey, line: int) -> None:
        """Take the key of the gene whose header is number `line` of the file."""
        self._lines[key.series][key.number].append(line)
        self._keys.setdefault((key.series, key.number), key)

    def finish(self) -> list[CorpusGenome]:
        """Return all genomes, reserved ones included, in order of series and number."""
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
    """Return the numbers of a series cut into genomes; the whole series is one without a nearness."""
    numbers = sorted(lines)
    if nearness is None:
        return [numbers]
    runs: list[list[int]] = []
    reach = -1  # place of the last number that belongs to the run
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


def _near(first: list[int], second: list[int], most: int) -> bool:
    """Return whether two sorted lists of lines hold lines at most so far apart."""
    for line in first:
        place = bisect.bisect_left(second, line - most)
        if place < len(second) and second[place] <= line + most:
            return True
    return False
