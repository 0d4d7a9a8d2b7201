"""`extract` under load: memory by the number of frames, two workers against one, and SIGKILL at random moments.

    python -m benchmarks.extract [--frames 100000] [--kills 10] [--workers-frames 40000] [--rounds 1]
                                 [--encoder esm2_tiny] [--engine local]

Memory is the peak resident memory of a process that extracts a tenth of the synthetic frames, and of one that extracts
all. The second part times two workers on one directory of frames against one, in turns, each with one thread, from the
start of the first shard to the end of the last. The third kills `extract` with SIGKILL, starts it again, lets it finish
and compares every file with that of an undisturbed run. With `--engine ray` there are two workers; every second time
one of them is killed instead, and nothing is started again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.sequences.frames import FRAME_SCHEMA, SHARD_ROWS
from virnuc.storage.manifest import Manifest, describe_shard

PROGRAM = """
import json, sys, time
from virnuc.runtime import peak_memory_gb
from virnuc.features.workers import extract_together
from virnuc.settings import ExtractSettings
frames, out, protein, engine, workers = sys.argv[1:]
if engine == "ray":  # one core, and so one thread, for each worker
    import ray
    ray.init(num_cpus=int(workers), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
times = []
settings = ExtractSettings(frames=frames, out=out, dna_encoder="tetranucleotide", protein_encoder=protein,
                           device="cpu", engine=engine, workers=int(workers))
extract_together(settings, lambda *step: times.append(time.time()))
seconds = times[-1] - times[0] if times else 0.0  # nothing was left to do
print(json.dumps({"seconds": seconds, "peak_memory_gb": peak_memory_gb("cpu")}))
"""


def write_frames(
    directory: Path, count: int, shard_rows: int = SHARD_ROWS, residues: tuple[int, int] = (99, 100)
) -> Path:
    """Write `count` random frames of two groups, their lengths drawn from `residues`; 300 bp are 99 or 100 residues."""
    directory.mkdir(parents=True)
    generator = random.Random(0)
    shards = []
    for number, first in enumerate(range(0, count, shard_rows)):
        group = ("viral", "bacteria")[number % 2]
        rows = [_frame(group, row, generator, residues) for row in range(first, min(first + shard_rows, count))]
        path = directory / f"{group}-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=FRAME_SCHEMA), path, compression="zstd")
        shards.append(describe_shard(directory, path, len(rows)))
    Manifest("frames", {"count": count, "chunk_size": 300}, {}, {}, tuple(shards)).write(directory)
    return directory


def _frame(group: str, row: int, generator: random.Random, lengths: tuple[int, int]) -> dict[str, object]:
    residues = generator.randint(*lengths)
    empty = dict.fromkeys(FRAME_SCHEMA.names)
    sequences = {
        "nucleotide": "".join(generator.choices("ACGT", k=3 * residues)),
        "protein": "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=residues)),
    }
    return {**empty, "frame_id": f"S{row}.1_chunk_1F1", "group": group, "label": int(group == "viral"), **sequences}


def start(
    frames: Path, out: Path, encoder: str, engine: str = "local", workers: int = 1, threads: int = 0
) -> subprocess.Popen[str]:
    """Start `extract` in a new process."""
    command = [sys.executable, "-c", PROGRAM, str(frames), str(out), encoder, engine, str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a run; return its seconds and peak memory."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"extract ended with exit code {process.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


def content(out: Path) -> dict[str, bytes]:
    """Return the bytes of every shard and manifest."""
    paths = [*out.rglob("*.pt"), *out.rglob("manifest.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def scale_out(directory: Path, count: int, encoder: str, engine: str, rounds: int) -> dict[str, float]:
    """Time one worker and two workers on the same frames, in turns; the fastest run of each counts."""
    frames = write_frames(directory / "frames", count, shard_rows=count // 16)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, taken in seconds.items():
            out = directory / f"{workers}-{number}"
            process = start(frames, out, encoder, engine, workers, threads=workers if engine == "local" else 0)
            taken.append(finish(process)["seconds"])
            print(f"{workers} {engine}: {taken[-1]:.1f} s", flush=True)
    same = all(
        content(directory / f"{n}-{number}") == content(directory / "1-0") for n in seconds for number in range(rounds)
    )
    one, two = min(seconds[1]), min(seconds[2])
    return {"one_s": one, "two_s": two, "ratio": one / two, "same_bytes": same}


def kill_and_resume(directory: Path, kills: int, encoder: str, engine: str) -> dict[str, int]:
    """Kill `extract` at random moments of its run, resume, and compare with an undisturbed run."""
    frames = write_frames(directory / "frames", 4000, shard_rows=250)
    started = time.perf_counter()
    working = finish(start(frames, directory / "undisturbed", encoder))["seconds"]
    # The first third is the import of torch. With Ray, the first shard is waited for and two workers share the rest.
    whole = working / 2 if engine == "ray" else time.perf_counter() - started
    generator = random.Random(1)
    expected, hits, same = content(directory / "undisturbed"), 0, 0
    for number in range(kills):
        out = directory / f"killed-{number}"
        process = start(frames, out, encoder, engine, 1 + (engine == "ray"))
        while engine == "ray" and not list(out.rglob("*.pt")) and process.poll() is None:
            time.sleep(0.1)  # Ray takes its own time to start
        time.sleep(generator.uniform(0.3, 1.0) * whole)
        if engine == "ray" and number % 2:
            hits += kill_worker()
            print("a worker was killed", flush=True)
        else:
            hits += process.poll() is None
            process.kill()
            process.wait()
            process = start(frames, out, encoder)
        finish(process)
        same += content(out) == expected
        print(f"killed {number + 1} times: {hits} while running, {same} with the same bytes", flush=True)
    return {"kills": kills, "while_running": hits, "same_bytes": same}


def kill_worker() -> bool:
    """Kill a Ray worker; return whether there was one."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::worker "):
                os.kill(int(process.name), signal.SIGKILL)
                return True
    return False


def main() -> None:
    """Measure; print figures and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000, help="0 leaves the memory out")
    parser.add_argument("--kills", type=int, default=10, help="0 leaves the kills out")
    parser.add_argument("--workers-frames", type=int, default=40_000, help="0 leaves the two workers out")
    parser.add_argument("--rounds", type=int, default=1, help="of one worker and two")
    parser.add_argument("--encoder", default="esm2_tiny")
    parser.add_argument("--engine", default="local", choices=("local", "ray"), help="of workers and kills")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for count in (options.frames // 10, options.frames) if options.frames else ():
            directory = Path(temporary) / str(count)
            frames = write_frames(directory / "frames", count)
            measured = finish(start(frames, directory / "out", options.encoder))
            results[f"{count} frames"] = measured
            print(f"{count:>9} frames: {measured['seconds']:.1f} s, peak memory {measured['peak_memory_gb']:.2f} GB")
        workers = {}
        if options.workers_frames:
            workers = scale_out(
                Path(temporary) / "workers", options.workers_frames, options.encoder, options.engine, options.rounds
            )
            print("two workers: " + ", ".join(f"{name} {figure:.4g}" for name, figure in workers.items()), flush=True)
        killed = (
            kill_and_resume(Path(temporary) / "kill", options.kills, options.encoder, options.engine)
            if options.kills
            else {}
        )
    print(json.dumps({"options": vars(options), "memory": results, "workers": workers, "killed": killed}))


if __name__ == "__main__":
    main()
