"""The readers under a coverage-guided fuzzer, atheris (`pip install '.[fuzz]'`), each in its own process.

    python -m tests.fuzz.guided --corpus DIRECTORY --inputs 1000000 --minutes 60 --readers fasta,manifest

Readers take turns: first those with too few inputs, then the one with the least time so far, so that fast readers get
most inputs. Inputs that reach new code are kept in the corpus, from which the next start continues. An input fails if a
reader neither reads it nor refuses it with an error of virnuc, or takes 20 s or 4 GB; this ends the process, and the
input is kept in `failed/` in the corpus. When the reader is repaired, it should be moved to `inputs/`, which the tests
read. Each turn adds a line of JSON to `counts.jsonl` in the corpus, and the table covers all turns; inputs that are
merely read again are not counted.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import atheris
import mlflow

with atheris.instrument_imports(include=["virnuc", "entrypoints", "model_registry"]):
    from tests.fuzz.readers import READERS, good_file
    from virnuc.errors import VirnucError

COUNTS = "counts.jsonl"
INPUTS = Path(__file__).parent / "inputs"


def fuzz(name, options):
    """Let atheris choose inputs for a reader in this process."""
    file, _, read = READERS[name]
    path = Path(mkdtemp()) / file

    def try_one(content):
        path.write_bytes(content)
        with suppress(VirnucError):
            read(path)

    mlflow.set_tracking_uri(f"sqlite:///{path.parent}/mlflow.db")
    try_one(good_file(name, path.parent))  # makes what is made once, such as a registered model: no input's time
    atheris.Setup([sys.argv[0], *options], try_one)
    atheris.Fuzz()


def run(name, corpus, inputs, seconds):
    """Fuzz a reader in a new process; return the number of inputs, and whether one failed."""
    own, failed = corpus / name.replace(" ", "_"), corpus / "failed" / name.replace(" ", "_")
    own.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    memory, started = Path("/dev/shm"), time.monotonic()
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        (own / "good").write_bytes(good_file(name, Path(place)))
        kept = [path for path in (own, INPUTS / own.name) if path.is_dir()]
        known = sum(len(list(path.iterdir())) for path in kept)
        limits = [f"-runs={known + inputs}", f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096"]
        options = [*map(str, kept), *limits, "-max_len=20000", f"-artifact_prefix={failed}/", "-print_final_stats=1"]
        command = [sys.executable, "-m", "tests.fuzz.guided", "--reader", name, "--", *options]
        told = {"env": {**os.environ, "TMPDIR": place}, "capture_output": True, "text": True, "errors": "replace"}
        done = subprocess.run(command, check=False, **told)
    counted = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode:
        print(f"{name}: {done.stdout[-1500:]}{done.stderr[-1500:]}", file=sys.stderr)
    taken = {"seconds": round(time.monotonic() - started), "failed": int(done.returncode != 0)}
    return {"reader": name, "inputs": max(0, int(counted[1]) - known) if counted else 0, **taken}


def next_reader(readers, counts, least, inputs):
    """Return the next reader, by inputs and time so far; None if all are done or have failed."""
    done = {name: Counter() for name in readers}
    for count in counts:
        done.get(count["reader"], Counter()).update({key: count.get(key, 0) for key in ("inputs", "seconds")})
    behind = [name for name in readers if done[name]["inputs"] < least]
    if not behind and sum(one["inputs"] for one in done.values()) >= inputs:
        return None
    return min(behind or readers, key=lambda name: done[name]["inputs" if behind else "seconds"], default=None)


def main():
    """Fuzz the readers in turns; print the table of all turns with this corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default=",".join(READERS), help="which, joined by commas")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, those of earlier starts too")
    parser.add_argument("--least", type=int, default=10_000, help="inputs for each reader, likewise")
    parser.add_argument("--seconds", type=int, default=60, help="of a turn")
    parser.add_argument("--minutes", type=float, default=20, help="no turn begins later")
    parser.add_argument("--corpus", type=Path, default=Path("data/fuzz"))
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        fuzz(given.reader, given.options)
    given.corpus.mkdir(parents=True, exist_ok=True)
    path, end, readers = given.corpus / COUNTS, time.monotonic() + 60 * given.minutes, given.readers.split(",")
    counts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    while time.monotonic() < end and (name := next_reader(readers, counts, given.least, given.inputs)):
        counts.append(run(name, given.corpus, given.inputs, given.seconds))
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(counts[-1]) + "\n")
        if counts[-1]["failed"]:
            readers.remove(name)  # it would fail again
    inputs, failed = Counter(), Counter()
    for count in counts:
        inputs[count["reader"]] += count["inputs"]
        failed[count["reader"]] += count["failed"]
    print("| reader | inputs | findings |\n|---|---|---|")
    for name in inputs:
        print(f"| {name} | {inputs[name]:,} | {failed[name]} |")
    print(f"| all | {inputs.total():,} | {failed.total()} |")


if __name__ == "__main__":
    main()
