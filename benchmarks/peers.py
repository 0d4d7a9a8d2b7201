"""Accuracy and speed of this project's models and of public classifiers, on chunks of genomes kept out of training.

    python -m entrypoints.main                       # leaves the split and the models that are scored here
    python -m benchmarks.peers --build /tmp/peers    # installs the peers into environments of their own, then measures
    python -m benchmarks.peers --jaeger PROGRAM --deepmicroclass PROGRAM --length 300
    python -m benchmarks.peers --source data/corpus/held_out --split "" --models models:/virnuc@champion

Chunks of `--length` bp are cut as `predict` cuts them, from the split's test genomes or, without a split, from all
genomes of `--source`, which must not have been in training. Equal numbers of both classes, at most `--per-class`, are
drawn with `--seed`, each on a random strand. Every program gets the same FASTA file, in which they are repeated up to
`--mbp`, and is run as a user would run it. The time of a short run is subtracted from that of the whole, so that start
and loading do not count.

Caveats:
- The test set is small: intervals are over genomes, and other seeds give other figures.
- The peers have probably seen many of these genomes in training; the models of this project have not.
- Jaeger is made for phages, not for viruses of eukaryotes, and its default windows of 2,000 bp are longer than the
  chunks. DeepMicroClass distinguishes viruses of prokaryotes and of eukaryotes, plasmids, prokaryotes and eukaryotes.
- A chunk that a peer leaves out counts as not viral; the table has their number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from virnuc.evaluation.intervals import draw_genomes
from virnuc.evaluation.metrics import binary_metrics
from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.reading import read_records
from virnuc.sequences.sources import find_sources
from virnuc.sequences.translation import reverse_complement
from virnuc.splits.assignment import Split

MODELS = (
    "models:/virnuc-dipeptide@challenger,models:/virnuc-esm2_tiny@challenger,models:/virnuc-esm2_tiny_deep@challenger"
)
REQUIREMENTS = {
    "jaeger": ("jaeger-bio[cpu]==1.26.5",),
    "DeepMicroClass": ("DeepMicroClass==1.0.6.2", "requests"),  # which it imports but does not require
}
FEW = 16  # chunks of the short run
COLUMNS = ("accuracy", "roc_auc", "recall", "false_positive_rate")


@dataclass(frozen=True)
class Program:
    """How to run a classifier and read its answer."""

    name: str
    command: tuple[str, ...]
    options: tuple[str, str]  # those for the FASTA file and the output directory
    parse: Callable[[Path], pd.DataFrame]  # output directory to `score` (higher: more viral) and `viral`, by chunk


def main() -> None:
    """Print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=500, help="bp of a chunk")
    parser.add_argument("--source", default="examples/genomes")
    parser.add_argument("--split", default="data/test_set", help="empty: all genomes of --source")
    parser.add_argument("--per-class", type=int, default=2500, help="most chunks of a class")
    parser.add_argument("--models", default=MODELS, help="registered models, joined by commas")
    parser.add_argument("--jaeger", default="", help="Jaeger's program; empty leaves it out")
    parser.add_argument("--deepmicroclass", default="", help="DeepMicroClass's program; empty leaves it out")
    parser.add_argument("--build", default="", help="directory to install both into, with pip")
    parser.add_argument("--mbp", type=float, default=3.0, help="size of what is timed: the chunks, again and again")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    if arguments.build:
        arguments.jaeger, arguments.deepmicroclass = (str(_installed(name, arguments.build)) for name in REQUIREMENTS)
    chunks = _draw_chunks(arguments)
    with tempfile.TemporaryDirectory() as directory:
        results = [_measure(program, chunks, Path(directory), arguments) for program in _programs(arguments)]
    _print(results, chunks, arguments.length)
    counted = {"chunks": len(chunks), "genomes": int(chunks["genome"].nunique())}
    print(json.dumps({"benchmark": "peers", **vars(arguments), **counted, "results": results}))


def _installed(name: str, directory: str) -> Path:
    """Return a peer's program, after installing it into an environment of its own if need be."""
    home = Path(directory) / name
    if not (home / "bin" / name).is_file():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *REQUIREMENTS[name]], check=True)
    return home / "bin" / name


def _draw_chunks(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return `genome`, `label` and `letters` of equally many viral and other chunks."""
    labels = None
    if arguments.split:
        split = Split.open(Path(arguments.split))
        labels = split.table.iloc[split.rows["test"]].set_index("genome")["label"].to_dict()
    rows = [
        (record.genome.name, int(source.group == "viral"), record.sequence[start : start + arguments.length])
        for source in find_sources(Path(arguments.source))
        for record in read_records(source.path)
        if (labels is None or record.genome.name in labels) and len(record.sequence) >= arguments.length
        for start in chunk_starts(len(record.sequence), arguments.length).tolist()
    ]
    table = pd.DataFrame(rows, columns=["genome", "label", "letters"])
    fewest = min(int(table["label"].value_counts().min()), arguments.per_class)
    drawn = table.groupby("label").sample(fewest, random_state=arguments.seed).sort_index()
    reverse = np.random.default_rng(arguments.seed).random(len(drawn)) < 0.5
    drawn.loc[reverse, "letters"] = drawn.loc[reverse, "letters"].map(reverse_complement)
    return drawn.set_axis([f"chunk{number}" for number in range(len(drawn))])


def _programs(arguments: argparse.Namespace) -> list[Program]:
    threads, length = str(arguments.threads), str(arguments.length)
    own = [sys.executable, "-m", "entrypoints.predict", "--chunk-size", length]
    programs = [
        Program(uri, (*own, "--model", uri), ("--input", "--out"), _own)
        for uri in filter(None, arguments.models.split(","))
    ]
    if arguments.deepmicroclass:
        options = ("-d", "cpu", "-ct", threads, "-e", "onehot", "-md", "hybrid")
        command = (arguments.deepmicroclass, "predict", *options)
        programs.append(Program("DeepMicroClass", command, ("-i", "-o"), _deepmicroclass))
    if arguments.jaeger:
        options = ("--cpu", "--workers", threads, "--fsize", length, "--stride", length)
        programs.append(Program("Jaeger", (arguments.jaeger, "predict", *options), ("-i", "-o"), _jaeger))
    return programs


def _own(out: Path) -> pd.DataFrame:
    calls = pd.read_parquet(out / "calls.parquet").set_index("sequence")
    return pd.DataFrame({"score": calls["probability"], "viral": calls["Prediction"] == "virus"}).dropna()


def _deepmicroclass(out: Path) -> pd.DataFrame:
    table = pd.read_csv(next(out.glob("*.tsv")), sep="\t").set_index("Sequence Name")
    classes = table[["Eukaryote", "EukaryoteVirus", "Plasmid", "Prokaryote", "ProkaryoteVirus"]]
    viral = classes[["EukaryoteVirus", "ProkaryoteVirus"]]
    score = viral.sum(axis=1) / classes.sum(axis=1)
    return pd.DataFrame({"score": score, "viral": classes.idxmax(axis=1).isin(viral.columns)})


def _jaeger(out: Path) -> pd.DataFrame:
    found = [path for path in out.rglob("*_jaeger.tsv") if "_phages_" not in path.name]
    table = pd.read_csv(found[0], sep="\t").set_index("contig_id")
    logits = table[["phage_score", "bacteria_score", "eukarya_score", "archaea_score"]].to_numpy(dtype=float)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return pd.DataFrame({"score": powers[:, 0] / powers.sum(axis=1), "viral": table["prediction"] == "phage"})


def _measure(
    program: Program, chunks: pd.DataFrame, directory: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    home = directory / str(len(list(directory.iterdir())))
    home.mkdir()
    letters = chunks["letters"]
    copies = max(1, round(arguments.mbp * 1e6 / (len(letters) * arguments.length)))
    all_copies = pd.concat([letters.rename(lambda name, n=n: f"{name}{f'_{n}' if n else ''}") for n in range(copies)])
    try:
        few, _ = _run(program, letters.head(FEW), home / "few", arguments)
        seconds, answer = _run(program, all_copies, home / "all", arguments)
    except subprocess.CalledProcessError as error:
        return {"name": program.name, "failed": (error.stderr.strip().splitlines() or [str(error)])[-1][:200]}
    answer = answer.reindex(chunks.index)
    missing = int(answer["score"].isna().sum())
    labels = chunks["label"].to_numpy(dtype=np.int8)
    scores = answer["score"].fillna(0.0).to_numpy(dtype=float)
    calls = (answer["viral"] == True).to_numpy(dtype=float)  # noqa: E712  # missing ones are not viral
    draws = draw_genomes(chunks["genome"], labels, arguments.seed)
    drawn = {**draws.of(labels, calls), "roc_auc": draws.of(labels, scores)["roc_auc"]}
    values = {**binary_metrics(labels, calls), "roc_auc": binary_metrics(labels, scores)["roc_auc"]}
    for table in (drawn, values):
        table["false_positive_rate"] = 1 - table["specificity"]
    intervals = {name: draws.interval(values[name], drawn[name]) for name in COLUMNS}
    bases = (len(all_copies) - FEW) * arguments.length
    return {
        "name": program.name,
        **{name: [found.value, found.low, found.high] for name, found in intervals.items()},
        "left_out": missing,
        "kbp_per_s": bases / (seconds - few) / 1000,
        "start_s": few,
    }


def _run(
    program: Program, letters: pd.Series[str], home: Path, arguments: argparse.Namespace
) -> tuple[float, pd.DataFrame]:
    """Run a program on some chunks; return its seconds and its answer."""
    home.mkdir()
    fasta = home / "chunks.fa"
    fasta.write_text("".join(f">{name}\n{chunk}\n" for name, chunk in letters.items()))
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    start = time.perf_counter()
    command = [*program.command, program.options[0], str(fasta), program.options[1], str(home / "out")]
    subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return seconds, program.parse(home / "out")


def _print(results: list[dict[str, object]], chunks: pd.DataFrame, length: int) -> None:
    print(f"{len(chunks):,} chunks of {length} bp, half of them viral, of {chunks['genome'].nunique()} genomes")
    heads = ("accuracy", "ROC-AUC", "recall", "false positives")
    print(f"{'':<42} {' '.join(f'{head:>22}' for head in heads)} {'left out':>9} {'kbp/s':>7} {'start, s':>9}")
    for row in results:
        if "failed" in row:
            print(f"{row['name']:<42} did not run: {row['failed']}")
            continue
        shown = " ".join("{:>6.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in COLUMNS)
        print(f"{row['name']:<42} {shown} {row['left_out']:>9,} {row['kbp_per_s']:>7.0f} {row['start_s']:>9.1f}")


if __name__ == "__main__":
    main()
