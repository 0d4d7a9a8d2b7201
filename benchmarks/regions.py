"""Viral regions on contigs made of a host and viruses: precision and recall of the regions that are found.

    python -m entrypoints.main                                        # makes the model
    python -m examples.corpus.build --out data/corpus                 # makes genomes that were in no training
    python -m benchmarks.regions --source data/corpus/held_out

A host is the concatenated genes of a non-viral genome of `--source`, 60 to 140 kb of them; a virus is those of a viral
genome of 3 to 60 kb. The contigs have 0, 1 and 3 viruses in turn, at random places and on random strands. `predict`
scores them; bases, regions and viruses are counted for several values of `--region-evidence`, and for single chunks.

Genomes of `--source` must not have been in training. As there is no DNA between genes here, hosts are easier to
recognise than real ones; a prophage in a host counts as an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from virnuc.prediction.regions import RegionRule, find_regions
from virnuc.sequences.reading import read_records
from virnuc.sequences.sources import find_sources
from virnuc.sequences.translation import reverse_complement

HOST, VIRUS = (60_000, 140_000), (3_000, 60_000)  # bp
INSERTED = (0, 1, 3)
EVIDENCE = (0.0, 6.0, RegionRule.evidence, 24.0)


def main() -> None:
    """Print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--model", default="models:/virnuc@champion")
    parser.add_argument("--contigs", type=int, default=90)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    hosts, viruses = read_genomes(Path(arguments.source))
    contigs, inserts = make_contigs(hosts, viruses, arguments.contigs, arguments.seed)
    with tempfile.TemporaryDirectory() as directory:
        chunks = predict(contigs, arguments.model, Path(directory))
    rows = [{"rule": "single chunks", **count(chunks[chunks["probability"] >= RegionRule.threshold], contigs, inserts)}]
    for evidence in EVIDENCE:
        regions = find_regions(chunks, RegionRule(evidence=evidence)).assign(start=lambda table: table["start"] - 1)
        rows.append({"rule": f"regions, evidence {evidence:g}", **count(regions, contigs, inserts)})
    sizes = {
        "contigs": len(contigs),
        "bases": sum(map(len, contigs.values())),
        "viruses": len(inserts),
        "viral_bases": int((inserts["end"] - inserts["start"]).sum()),
    }
    print(", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sizes.items()))
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))
    print(json.dumps({"benchmark": "regions", **vars(arguments), **sizes, "results": rows}))


def read_genomes(source: Path) -> tuple[list[str], list[str]]:
    """Return the DNA of hosts and of viruses of the right length, in the order of their genomes' names."""
    parts: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for file in find_sources(source):
        for record in read_records(file.path):
            parts[file.group == "viral", record.genome.name].append(record.sequence)
    joined = {key: "".join(parts[key]) for key in sorted(parts)}
    hosts = [dna for (viral, _), dna in joined.items() if not viral and len(dna) >= HOST[0]]
    viruses = [dna for (viral, _), dna in joined.items() if viral and VIRUS[0] <= len(dna) <= VIRUS[1]]
    return hosts, viruses


def make_contigs(hosts: list[str], viruses: list[str], count: int, seed: int) -> tuple[dict[str, str], pd.DataFrame]:
    """Return contigs by name, and a row for each inserted virus: `sequence`, `start` (from 0) and `end` (exclusive)."""
    generator = np.random.default_rng(seed)
    hosts, viruses = ([pool[place] for place in generator.permutation(len(pool))] for pool in (hosts, viruses))
    contigs, rows = {}, []
    for number in range(count):
        host = hosts[number % len(hosts)]
        host = host[: int(generator.integers(HOST[0], min(HOST[1], len(host)) + 1))]
        places = np.sort(generator.integers(0, len(host), INSERTED[number % len(INSERTED)])).tolist()
        contig = host[: places[0]] if places else host
        for place, following in zip(places, [*places, len(host)][1:], strict=True):
            virus = viruses[len(rows) % len(viruses)]
            rows.append({"sequence": f"contig{number}", "start": len(contig), "end": len(contig) + len(virus)})
            contig += virus if generator.random() < 0.5 else reverse_complement(virus)
            contig += host[place:following]
        contigs[f"contig{number}"] = contig
    return contigs, pd.DataFrame(rows)


def predict(contigs: dict[str, str], model: str, directory: Path) -> pd.DataFrame:
    """Return the calls of all chunks, as `find_regions` takes them."""
    fasta, out = directory / "contigs.fa", directory / "calls"
    fasta.write_text("".join(f">{name}\n{dna}\n" for name, dna in contigs.items()), encoding="ascii")
    command = [sys.executable, "-m", "entrypoints.predict", "--model", model, "--input", str(fasta), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return pd.read_parquet(out / "calls.parquet")


def count(found: pd.DataFrame, contigs: dict[str, str], inserts: pd.DataFrame) -> dict[str, float]:
    """Compare `found` with `inserts` base by base; both have `sequence`, `start` (from 0) and `end` (exclusive)."""
    called, viral = ({name: np.zeros(len(dna), dtype=bool) for name, dna in contigs.items()} for _ in range(2))
    for marks, table in ((called, found), (viral, inserts)):
        for row in table.itertuples():
            marks[row.sequence][row.start : row.end] = True
    right = sum(int((called[name] & viral[name]).sum()) for name in contigs)
    all_called, all_viral = (sum(int(mark.sum()) for mark in marks.values()) for marks in (called, viral))
    good = [viral[row.sequence][row.start : row.end].mean() >= 0.5 for row in found.itertuples()]
    hit = [called[row.sequence][row.start : row.end].mean() >= 0.5 for row in inserts.itertuples()]
    return {
        "precision": right / max(all_called, 1),
        "recall": right / all_viral,
        "found": len(found),
        "at least half viral": int(np.sum(good)),
        "viruses at least half found": int(np.sum(hit)),
    }


if __name__ == "__main__":
    main()
