"""Is anything lost or wrong after a fault? Every stage is disturbed in several ways, and its command is given again.

A small experiment on random genes is run once, undisturbed, and all that each stage leaves is kept: its files, its run,
the registry. Then, again and again, the state before a stage is restored, the stage is disturbed, and the same command
is given once more. The result must be that of the undisturbed stage, except for values in which two undisturbed runs
differ, such as times and ids. No run may be left RUNNING, or FAILED without an error. Figures are left blank: drawing
them takes half of the time of some stages, in which nothing else is written.

| fault | what happens |
|---|---|
| kill | SIGKILL at a random moment |
| step | SIGKILL before each transaction that writes to the store, one after the other |
| term | SIGTERM at a random moment: the run must be KILLED at once |
| twice | the same command in two processes at once |
| clock | SIGKILL at a random moment; the second time the clock is a day behind |
| full | the output's disk is full at first (a tmpfs, which needs the right to mount) |
| readonly | the output's disk is read-only at first |
| locked | another process holds the store's database from a random moment on, until the stage gives up |
| server | the stage logs to a server, which is killed at a random moment and started again |

    python -m benchmarks.faults --kills 300 --minutes 60
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "HF_HUB_OFFLINE": "1"}
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # it would start eight more processes

import numpy as np
import torch
from matplotlib.figure import Figure

import entrypoints.command  # which also configures MLflow
import model_registry
import virnuc
from benchmarks.disturbed import STEPS, Campaign, Step
from benchmarks.outcomes import database, report, runs

_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


def kill(campaign: Campaign, step: Step, fault: str = "kill", child: Callable[[], object] = lambda: None) -> None:
    """Kill the step with SIGKILL at a random moment."""
    pid = campaign.start(step)
    campaign.moment(step, pid)
    os.kill(pid, signal.SIGKILL)
    campaign.finish(step, fault, campaign.wait(pid) == -signal.SIGKILL, child=child)


def clock(campaign: Campaign, step: Step) -> None:
    """Kill the step with SIGKILL; the second time the clock is a day behind."""
    real = time.time
    kill(campaign, step, "clock", lambda: setattr(time, "time", lambda: real() - 86_400))


def at_each_step(campaign: Campaign, step: Step) -> None:
    """Kill the step with SIGKILL before each transaction that writes to the store, in turn."""
    for number in range(1, 1000):
        campaign.restore(step)
        if campaign.wait(campaign.start(step, lambda number=number: die_before(number))) != -signal.SIGKILL:
            return
        campaign.finish(step, "step", True)


def die_before(number: int) -> None:
    """Kill this process before its n-th transaction that writes."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    writes = [0, False]

    @event.listens_for(Engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        writes[1] |= statement.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE")

    @event.listens_for(Engine, "commit")
    def die(connection: Any) -> None:
        writes[0] += writes[1]
        if writes[1] and writes[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        writes[1] = False


def term(campaign: Campaign, step: Step) -> None:
    """End the step with SIGTERM at a random moment."""
    pid = campaign.start(step)
    campaign.moment(step, pid)
    os.kill(pid, signal.SIGTERM)
    code = campaign.wait(pid)
    states = {state for _, state in runs(campaign.work)}
    fine = code in (1, -signal.SIGTERM, campaign.codes[step]) and states <= {"FINISHED", "KILLED"}
    hit = code != campaign.codes[step]
    campaign.finish(step, "term", hit, "" if fine else f"SIGTERM: exit code {code}, runs {sorted(states)}; ")


def twice(campaign: Campaign, step: Step) -> None:
    """Run the step twice at once; one may end with the message that the other is at work."""
    pids = [campaign.start(step) for _ in range(2)]
    codes = sorted(campaign.wait(pid) for pid in pids)
    fine = codes in ([campaign.codes[step]] * 2, sorted([campaign.codes[step], 1]))
    campaign.finish(step, "twice", True, "" if fine else f"two copies end with {codes}: {campaign.said()[-300:]}; ")


def refused(campaign: Campaign, pid: int, words: str, within: float = 60) -> tuple[int, str]:
    """Return the exit code of a process that should give up with one line, and what was wrong with that."""
    started = time.monotonic()
    code, seconds = campaign.wait(pid), time.monotonic() - started
    fine = code == 1 and words in campaign.said() and "Traceback" not in campaign.said() and seconds < within
    return code, "" if fine else f"after {seconds:.0f} s exit code {code}: {campaign.said()[-300:]}; "


@contextmanager
def own_disk(place: Path, room: int) -> Iterator[Callable[[str], object]]:
    """Move a directory to a tmpfs with `room` bytes left; yield a function that remounts it with other options."""
    kept = place.with_name(f"{place.name}.kept")
    place.mkdir(parents=True, exist_ok=True)
    place.rename(kept)
    place.mkdir()
    room += sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in kept.rglob("*") if path.is_file())

    def mount(*options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", *options, "tmpfs", str(place)], check=True)

    mount(f"size={room}")
    try:
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def full(campaign: Campaign, step: Step) -> None:
    """Start with an output disk that is too small."""
    with own_disk(campaign.work / step.out, 2 * _PAGE) as remount:
        _, trouble = refused(campaign, campaign.start(step), "the disk is full; make room")
        remount("size=100m")
        campaign.finish(step, "full", True, trouble)


def readonly(campaign: Campaign, step: Step) -> None:
    """Start with an output disk that is read-only."""
    with own_disk(campaign.work / step.out, 100_000_000) as remount:
        remount("ro")
        _, trouble = refused(campaign, campaign.start(step), "the disk is read-only; give a place")
        remount("rw")
        campaign.finish(step, "readonly", True, trouble)


def locked(campaign: Campaign, step: Step) -> None:
    """Hold the store's database from a random moment on, until the stage gives up."""
    pid = campaign.start(step)
    campaign.moment(step, pid)
    with database(campaign.work) as ask:
        ask("PRAGMA busy_timeout = 20000")
        ask("BEGIN EXCLUSIVE")
        code, trouble = refused(campaign, pid, "another process holds the store's database; try again")
    done = code == campaign.codes[step]  # it had finished with the store
    campaign.finish(step, "locked", not done, "" if done else trouble)


def server(campaign: Campaign, step: Step) -> None:
    """Let the stage log to a server that is killed at a random moment; start it again for the second time."""

    def through_it() -> None:
        os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:5055"

    with serving(campaign.work):
        pid = campaign.start(step, through_it)
        campaign.moment(step, pid, 0.4)  # part of the work is done by the server
    code = campaign.wait(pid)
    fine = code == campaign.codes[step] or "the store's server does not answer; start it" in campaign.said()
    with serving(campaign.work):
        trouble = "" if fine else f"exit code {code}: {campaign.said()[-300:]}; "
        campaign.finish(step, "server", code != campaign.codes[step], trouble, through_it)


@contextmanager
def serving(work: Path) -> Iterator[None]:
    """Serve the store; end the server with SIGKILL."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{work}/mlflow.db"]
    command += ["--port", "5055", "--workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=work, start_new_session=True, **quiet) as process:
        try:
            for _ in range(600):
                with suppress(OSError), urllib.request.urlopen("http://127.0.0.1:5055/health", timeout=5):
                    break
                time.sleep(0.2)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


FAULTS: dict[str, tuple[Callable[[Campaign, Step], None], Callable[[Step], bool]]] = {  # fault, steps that it suits
    "kill": (kill, lambda step: True),
    "term": (term, lambda step: True),
    "twice": (twice, lambda step: True),
    "clock": (clock, lambda step: True),
    "full": (full, lambda step: bool(step.out) and step.stage not in ("train", "evaluate")),
    "readonly": (readonly, lambda step: bool(step.out) and step.stage not in ("train", "evaluate")),
    "step": (at_each_step, lambda step: step.stage in ("compare", "promote")),
    "locked": (locked, lambda step: step.stage in ("split", "train", "promote")),
    "server": (server, lambda step: step.stage in ("train", "promote")),
}


def main() -> None:
    """Run the campaign and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="random kills, over all stages")
    parser.add_argument(
        "--minutes", type=float, default=60, help="no fault is begun so long after the undisturbed runs"
    )
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, joined by commas")
    parser.add_argument("--stages", default=",".join(dict.fromkeys(step.stage for step in STEPS)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--log", type=Path, help="file that keeps all trials; what is in it is counted and not tried again"
    )
    parser.add_argument("--home", type=Path, help="directory that keeps the experiment for the next start")
    given = parser.parse_args()
    if os.geteuid() and {"full", "readonly"} & set(given.faults.split(",")):
        parser.error("full and readonly need the right to mount; leave them out with --faults")
    torch.set_num_threads(1)  # a process with threads cannot be forked safely
    Figure.draw = lambda figure, renderer: None
    for package in (virnuc, model_registry, entrypoints):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name != "model_registry.scoring_model":
                importlib.import_module(module.name)
    in_memory = Path("/dev/shm")  # if there is one: kills have the same effect there, and nothing waits for a disk
    home = given.home or Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
    home.mkdir(exist_ok=True)
    try:
        campaign = Campaign(home, np.random.default_rng(given.seed), given.log or home / "trials.jsonl")
        done = Counter((trial["stage"], trial["fault"]) for trial in campaign.trials())
        campaign.rng = np.random.default_rng([given.seed, done.total()])  # other moments than in earlier campaigns
        steps = [step for step in STEPS if step.disturbed and step.stage in given.stages.split(",")]
        campaign.prepare(steps)
        started = time.monotonic()
        for step, fault in plan(steps, given.faults.split(","), given.kills, done):
            if time.monotonic() - started > 60 * given.minutes:
                break
            campaign.restore(step)
            FAULTS[fault][0](campaign, step)
        trials = campaign.trials()
    finally:
        if not given.home:
            shutil.rmtree(home)
    compared = {step.stage: len(values) for step, values in campaign.expected.items()}
    report(trials, compared, time.monotonic() - started)


def plan(
    steps: Sequence[Step], faults: Sequence[str], kills: int, done: Mapping[tuple[str, str], int]
) -> Iterator[tuple[Step, str]]:
    """Yield random kills, in rounds over the steps, and between them each other fault with each step that it suits.

    `done` counts earlier trials by stage and fault.
    """
    others = [(step, fault) for fault in faults if fault != "kill" for step in steps if FAULTS[fault][1](step)]
    others = [(step, fault) for step, fault in others if not done[step.stage, fault]]
    rounds = (step for number in itertools.count() for step in steps if number % step.rounds == step.rounds - 1)
    seen, killed = Counter[str](), []
    for step in itertools.islice(rounds, kills if "kill" in faults else 0):
        seen[step.stage] += 1
        killed += [(step, "kill")] if seen[step.stage] > done[step.stage, "kill"] else []
    for pair in itertools.zip_longest(killed, others):
        yield from (one for one in pair if one)


if __name__ == "__main__":
    main()
