"""Does the memory of a served model grow? `mlflow models serve` over many random requests, drawn from a seed.

Nine of ten requests are valid: one to four sequences of 30 to 600 bp, rarely 30,000, with or without ids, a threshold
or another chunk size. The others have letters that are no DNA, empty or missing values, wrong columns or wrong types,
or are no JSON. Each answer's status is checked: 200 if a row can be scored, 400 otherwise.

    MLFLOW_TRACKING_URI=sqlite:///mlflow.db python -m benchmarks.serving --requests 20000
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PORT = 5057
SHOWN = (0, 100, 200, 500, 1000, 2000, 4000, 6000, 8000)  # requests; then every 4,000
BAD_ROWS: tuple[Any, ...] = ("", "ACGT!", "MKVLE", None, "ß", " \t")
BAD_BODIES = (
    b"",
    b"{",
    b"[]",
    b'{"dataframe_records": []}',
    b'{"dataframe_records": [{"dna": "ACGT"}]}',
    b'{"dataframe_split": {"columns": ["sequence"], "data": [[3]]}}',
    b'{"instances": 3}',
    b'{"dataframe_records": [{"sequence": "ACGT"}], "params": {"threshold": 7}}',
)


def main() -> None:
    """Serve and send requests; print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models:/virnuc@champion")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, memory, answered = np.random.default_rng(given.seed), {}, Counter[int]()
    with serving(given.model) as process:
        started = time.monotonic()
        for number in range(given.requests + 1):
            if number in SHOWN or number % 4000 == 0 or number == given.requests:
                memory[number] = anonymous_mb(process)
                print(f"{number:>7,} requests  {memory[number]:>7.0f} MB", flush=True)
            body, expected = draw_request(rng)
            status = ask(body)
            answered[status] += 1
            if status != expected:
                sys.exit(f"status {status}, not {expected}: {body[:300]!r}")
        seconds = time.monotonic() - started
    figures = {"memory_mb": {number: round(mb) for number, mb in memory.items()}, "answered": answered}
    print(json.dumps({**figures, "requests_per_s": round(given.requests / seconds, 1)}))


def draw_request(rng: np.random.Generator) -> tuple[bytes, int]:
    """Return the body of a request and the status that the answer must have."""
    if rng.random() < 0.05:
        return BAD_BODIES[rng.integers(len(BAD_BODIES))], 400
    bad = rng.random(int(rng.integers(1, 5))) < (0.5 if rng.random() < 0.1 else 0)
    rows = [{"sequence": BAD_ROWS[rng.integers(len(BAD_ROWS))] if one else draw_dna(rng)} for one in bad]
    if rng.random() < 0.5:
        rows = [{"id": f"row {number}", **row} for number, row in enumerate(rows)]
    params = [{}, {"threshold": float(rng.random())}, {"chunk_size": int(rng.integers(200, 600))}][rng.integers(3)]
    return json.dumps({"dataframe_records": rows, "params": params}).encode(), 400 if bad.all() else 200


def draw_dna(rng: np.random.Generator) -> str:
    """Return random bases, as long as a read, a short contig or, rarely, a small genome."""
    length = 30_000 if rng.random() < 0.002 else int(30 * 20 ** rng.random())
    return "".join(rng.choice(list("ACGT"), size=length))


def ask(body: bytes) -> int:
    """Send a request; return the status of its answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/invocations", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def serving(model: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a registered model; yield the server's process as soon as it answers."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-w", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "-p", str(PORT)], start_new_session=True, **quiet) as process:
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    sys.exit("the server ended")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def anonymous_mb(process: subprocess.Popen[bytes]) -> float:
    """Return the anonymous memory of all processes in a process's group, in MB."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == process.pid:
                (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
                total += int(line.split()[1])
        except (OSError, ValueError):  # it has ended
            continue
    return total / 1000


if __name__ == "__main__":
    main()
