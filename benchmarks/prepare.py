"""Speed and memory of `prepare`, beside what it costs to read the same GenBank files.

    python -m benchmarks.prepare                             the example genomes, one worker and two
    python -m benchmarks.prepare --source DIR --rounds 3     another directory; the fastest of three rounds

The limits are to unpack the files, and to parse them with gb-io without a look at what was parsed. The peer is
Biopython, which reads the first records of each file. Each measurement is made in a new process and counts the
processor time of that process and its children, because the machine may have other work. All numbers of workers must
give the same digest.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gb_io
from Bio import SeqIO

from virnuc.sequences.bounds import bounded
from virnuc.sequences.preparing import prepare
from virnuc.sequences.reading import read_records
from virnuc.sequences.sources import find_sources
from virnuc.settings import PrepareSettings

GENOMES = Path(__file__).parents[1] / "examples" / "genomes"
PEER_RECORDS = 1_000  # of each file


def main() -> None:
    """Print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=GENOMES, help="directory of GenBank files")
    parser.add_argument("--chunk-size", type=int, default=300, help="bp")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    works: dict[str, Callable[[], tuple[int, str]]] = {
        name: partial(_of_all, work, options.source)
        for name, work in (("unpack", _unpack), ("gb-io", _parse), ("virnuc's reader", _read), ("Biopython", _peer))
    }
    works |= {
        f"prepare, workers {number}": partial(_prepare, str(options.source), options.chunk_size, number)
        for number in options.workers
    }
    rounds = [{name: _in_new_process(work) for name, work in works.items()} for _ in range(options.rounds)]
    results: dict[str, dict[str, Any]] = {
        name: min((found[name] for found in rounds), key=lambda row: row["cpu_s"]) for name in works
    }
    results["unpack"]["mbp"] = results["gb-io"]["mbp"]  # which nobody counts when it is unpacked
    print(f"{'':20} {'Mbp':>8} {'CPU s':>8} {'Mbp/CPU s':>10} {'s':>8} {'Mbp/s':>8} {'peak MiB':>9}")
    for name, row in results.items():
        cpu, wall = row["mbp"] / row["cpu_s"], row["mbp"] / row["s"]
        print(
            f"{name:20} {row['mbp']:>8.2f} {row['cpu_s']:>8.2f} {cpu:>10.2f} {row['s']:>8.2f} {wall:>8.2f} "
            f"{row['peak_mib']:>9,.0f}"
        )
    if len({row["digest"] for row in results.values()} - {""}) > 1:
        raise SystemExit(f"the frames differ: {results}")
    print(json.dumps({"benchmark": "prepare", "options": vars(options) | {"source": "..."}, "results": results}))


def _in_new_process(work: Callable[[], tuple[int, str]]) -> dict[str, Any]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, work).result()


def _measure(work: Callable[[], tuple[int, str]]) -> dict[str, Any]:
    """Do the work; return bases, digest, seconds of the process and of its children, and the largest one's memory."""
    before, start = _used(), time.perf_counter()
    bases, digest = work()
    seconds, after = time.perf_counter() - start, _used()
    return {
        "mbp": bases / 1e6,
        "digest": digest,
        "cpu_s": after["cpu"] - before["cpu"],
        "s": seconds,
        "peak_mib": after["peak"],
    }


def _used() -> dict[str, float]:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in found)
    return {"cpu": cpu, "peak": max(one.ru_maxrss for one in found) / 1024}


def _prepare(source: str, chunk_size: int, workers: int) -> tuple[int, str]:
    with tempfile.TemporaryDirectory() as directory:
        settings = PrepareSettings(source=source, chunk_size=chunk_size, workers=workers, out=f"{directory}/frames")
        manifest = prepare(settings)
    return manifest.counts["in"]["bases"], manifest.digest


def _of_all(work: Callable[[Path], int], source: Path) -> tuple[int, str]:
    return sum(work(file.path) for file in find_sources(source)), ""


def _unpack(path: Path) -> int:
    """Return 0, as the bases are not counted."""
    with bounded(path) as (stream, _):
        while stream.read(1 << 20):
            pass
    return 0


def _parse(path: Path) -> int:
    with bounded(path) as (stream, _):
        return sum(len(record.sequence) for record in gb_io.iter(stream))


def _read(path: Path) -> int:
    return sum(len(record.sequence) for record in read_records(path))


def _peer(path: Path) -> int:
    with bounded(path) as (stream, _):
        records = SeqIO.parse(io.TextIOWrapper(stream), "genbank")
        return sum(len(record.seq) for record in islice(records, PEER_RECORDS))


if __name__ == "__main__":
    main()
