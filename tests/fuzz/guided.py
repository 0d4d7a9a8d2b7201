"""The readers under a coverage-guided fuzzer, atheris (`pip install '.[fuzz]'`), each in a process of its own.

    python -m tests.fuzz.guided --corpus DIRECTORY --inputs 1000 --readers fasta,manifest

What reached new code stays in the corpus, where the next start goes on. An input that a reader does not take and does
not refuse with an error of virnuc's, that takes 20 s or 4 GB, ends its process; it is in the corpus below `failed/`.
Once the reader is repaired it belongs into `inputs/`, which the tests read. A line of JSON a reader is added to
`counts.jsonl` in the corpus, and the table is of all of them.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

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
    memory = Path("/dev/shm")
    path = Path(mkdtemp(dir=memory if memory.is_dir() else None)) / file

    def try_one(content):
        path.write_bytes(content)
        with suppress(VirnucError):
            read(path)

    mlflow.set_tracking_uri(f"sqlite:///{path.parent}/mlflow.db")
    atheris.Setup([sys.argv[0], *options], try_one)
    atheris.Fuzz()


def run(name, corpus, inputs, seconds):
    """Fuzz a reader in a process of its own; return how many inputs it was given, and whether one failed."""
    own, failed = corpus / name.replace(" ", "_"), corpus / "failed" / name.replace(" ", "_")
    own.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    (own / "good").write_bytes(good_file(name, Path(mkdtemp())))
    kept = [str(path) for path in [INPUTS / own.name] if path.is_dir()]
    limits = [f"-runs={inputs}", f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=20000"]
    options = [str(own), *kept, *limits, f"-artifact_prefix={failed}/", "-print_final_stats=1"]
    command = [sys.executable, "-m", "tests.fuzz.guided", "--reader", name, "--", *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    counted = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode:
        print(f"{name}: {done.stdout[-1500:]}{done.stderr[-1500:]}", file=sys.stderr)
    return {"reader": name, "inputs": int(counted[1]) if counted else 0, "failed": int(done.returncode != 0)}


def main():
    """Fuzz each reader in turn and print the table of all that was done in this corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default=",".join(READERS), help="which, joined by commas")
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader, at most")
    parser.add_argument("--corpus", type=Path, default=Path("data/fuzz"))
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        fuzz(given.reader, given.options)
    for name in given.readers.split(","):
        count = run(name, given.corpus, given.inputs, given.seconds)
        with (given.corpus / COUNTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(count) + "\n")
    inputs, failed = Counter(), Counter()
    for line in (given.corpus / COUNTS).read_text(encoding="utf-8").splitlines():
        count = json.loads(line)
        inputs[count["reader"]] += count["inputs"]
        failed[count["reader"]] += count["failed"]
    print("| reader | inputs | of them failed |\n|---|---|---|")
    for name in [*inputs, "all"]:
        print(f"| {name} | {inputs[name] or inputs.total():,} | {failed[name] if name != 'all' else failed.total()} |")


if __name__ == "__main__":
    main()
