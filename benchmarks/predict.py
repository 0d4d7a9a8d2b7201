"""Speed and memory of `predict`, from file to tables, on random reads of the example genomes.

    python -m benchmarks.predict                                       900 kbp and 9 Mbp in reads and chunks of 500 bp
    python -m benchmarks.predict --reads 1000000 --length 300          memory over time and counts, chunks of 300 bp
    python -m benchmarks.predict --reads 20000 --profile               where the time goes

Classifier and companion are untrained, as their weights do not change the time. Each measurement runs in a new process,
in which a thread samples the anonymous memory from the first read to the last table. The program fails if a read or a
chunk is lost. For comparison, in kbp/s on 2 cores with 500 bp: DeepMicroClass 1.0.6 (hybrid) 74, Jaeger 1.26 31, the
network of geNomad 1.13 alone 6; `benchmarks.peers` measures the first two. None of them does the same work.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

GENOMES = Path(__file__).parents[1] / "examples" / "genomes"
STATUSES = ("scored", "no_open_frame", "ambiguous", "too_short")
SAMPLED_EVERY = 0.1  # s
STEPS = {  # step: modules and functions that do it
    "reading": [("reading", "read_records")],
    "digests of parts": [("prediction", "_digest")],
    "translation and frames": [("chunks", "cut")],
    "composition encoder": [("composition", "tokenise"), ("composition", "embed_tokens")],
    "protein language model": [("language_model", "tokenise"), ("language_model", "embed_tokens")],
    "classifier": [("classifier", "forward")],
    "writing parts": [("prediction", "_write_part")],
    "tables": [("tables", "write_tables")],
    "summary": [("summary", "write_summary")],
}


def main() -> None:
    """Print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=0, help="how many; 0 measures 1,800 and 18,000")
    parser.add_argument("--length", type=int, default=500, help="bp of a read and of a chunk")
    parser.add_argument("--dna-encoder", default="tetranucleotide")
    parser.add_argument("--protein-encoder", default="esm2_tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="print where the time goes; it costs a tenth more")
    parser.add_argument("--source", default="", help=argparse.SUPPRESS)  # set in the fresh process
    arguments = parser.parse_args()
    if arguments.source:
        print(json.dumps(_measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as directory:
        counts = [arguments.reads] if arguments.reads else [1_800, 18_000]
        results = [_in_fresh_process(arguments, count, Path(directory)) for count in counts]
    _print(results)
    print(json.dumps({"benchmark": "predict", **vars(arguments), "results": results}))


def _print(results: list[dict[str, Any]]) -> None:
    print(f"{'reads':>10} {'Mbp':>8} {'seconds':>8} {'kbp/s':>8} {'scored':>9} {'no open frame':>14} {'other':>7}")
    for row in results:
        other = row["chunks"] - row["scored"] - row["no_open_frame"]
        print(
            f"{row['reads']:>10,} {row['bases'] / 1e6:>8.2f} {row['seconds']:>8.1f} {row['kbp_per_s']:>8.1f} "
            f"{row['scored']:>9,} {row['no_open_frame']:>14,} {other:>7,}"
        )
    for row in results:
        memory = ", ".join(f"{share} {row['anonymous_mb'][share]:,.0f}" for share in row["anonymous_mb"])
        print(f"anonymous memory in MB with {row['reads']:,} reads: {memory}")
        for step, seconds in row["steps"].items():
            print(f"  {step:<28} {seconds:>8.2f} s  {seconds / row['seconds']:>6.1%}")


def _in_fresh_process(arguments: argparse.Namespace, count: int, directory: Path) -> dict[str, Any]:
    source = directory / f"{count}.fa"
    _write_reads(source, count, arguments.length)
    command = [sys.executable, "-m", "benchmarks.predict", "--source", str(source)]
    command += ["--profile"] if arguments.profile else []
    for name in ("length", "dna_encoder", "protein_encoder", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured: dict[str, Any] = json.loads(printed.splitlines()[-1])
    found = {measured[name] for name in ("reads", "reads_out", "chunks", "chunks_out", "rows_out")}
    if found != {count}:  # a read of the chunk's length is one chunk
        raise SystemExit(f"{count} reads went in, {measured} came out")
    return measured


def _write_reads(path: Path, count: int, length: int) -> None:
    """Draw reads from all records, in proportion to their length, with a fixed seed."""
    from virnuc.sequences.reading import read_records
    from virnuc.sequences.sources import find_sources

    records = [record.sequence for source in find_sources(GENOMES) for record in read_records(source.path)]
    records = [sequence for sequence in records if len(sequence) >= length]
    draw = random.Random(42)
    chosen = draw.choices(records, weights=[len(sequence) for sequence in records], k=count)
    with path.open("w") as stream:
        for number, sequence in enumerate(chosen):
            start = draw.randrange(len(sequence) - length + 1)
            stream.write(f">read_{number}\n{sequence[start : start + length]}\n")


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from virnuc.encoders import load_encoder
    from virnuc.prediction.chunks import ANSWERED
    from virnuc.prediction.companion import MEAN, Companion
    from virnuc.prediction.prediction import predict
    from virnuc.prediction.scoring import Scorer
    from virnuc.training.classifier import Classifier

    torch.set_num_threads(arguments.threads)
    encoders = tuple(load_encoder(name) for name in (arguments.dna_encoder, arguments.protein_encoder))
    classifier = Classifier(sum(encoder.dimension for encoder in encoders)).eval()
    companion = Companion(Classifier(encoders[0].dimension).eval())
    scorer = Scorer(classifier, encoders, arguments.length, companion=companion, methods=dict.fromkeys(ANSWERED, MEAN))
    scorer.score(["ACGT" * 125] * 8)  # warm-up
    memory, profile = _Memory(Path(arguments.source)), cProfile.Profile()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "calls"
        start = time.perf_counter()
        with memory:
            call = profile.runcall if arguments.profile else lambda function, *args, **named: function(*args, **named)
            manifest = call(predict, [arguments.source], scorer, "benchmark", out, progress=memory.show)
        seconds = time.perf_counter() - start
        rows = pq.read_metadata(out / "calls.parquet").num_rows
    read, written = manifest.counts["in"], manifest.counts["out"]
    return {
        "reads": read["sequences"],
        "reads_out": written["sequences"],
        "bases": read["bases"],
        "chunks": read["chunks"],
        "chunks_out": sum(written[status] for status in STATUSES),
        "rows_out": rows,
        "scored": written["scored"],
        "no_open_frame": written["no_open_frame"],
        "seconds": seconds,
        "kbp_per_s": read["bases"] / seconds / 1000,
        "anonymous_mb": memory.summary(),
        "steps": _steps(profile) if arguments.profile else {},
    }


class _Memory:
    """Samples this process's anonymous memory in a thread, with the share of the input that is done."""

    def __init__(self, source: Path) -> None:
        self._bases = sum(len(line) - 1 for line in source.open() if not line.startswith(">"))
        self._done, self._ended = 0, threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._sample)

    def show(self, what: str, done: int, total: int) -> None:
        self._done = done

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def summary(self) -> dict[str, float]:
        """Return the memory in MB at points of the run, and its peaks in and after the first tenth."""
        at = {f"at {share} %": next(mb for done, mb in self._samples if done >= share / 100) for share in (10, 50, 100)}
        most = {
            "most in the first tenth": max(mb for done, mb in self._samples if done <= 0.1),
            "most after it": max(mb for done, mb in self._samples if done > 0.1),
        }
        return {**at, "at the end": self._samples[-1][1], **most}

    def _sample(self) -> None:
        while True:
            ended = self._ended.wait(SAMPLED_EVERY)
            self._samples.append((self._done / self._bases, _anonymous()))
            if ended:
                return


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def _steps(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds of each step, from the cumulative times of the functions that do it."""
    found = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    seconds = {(Path(file).stem, function): times[3] for (file, _, function), times in found if "virnuc" in file}
    return {step: sum(seconds.get(function, 0.0) for function in functions) for step, functions in STEPS.items()}


if __name__ == "__main__":
    main()
