"""What `faults` disturbs: a small experiment on random genes, what its steps leave, and how a step is started."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_registry.gate import PROJECT_POLICY
from virnuc.errors import GateRefusal

BASELINE, CANDIDATE = "models:/virnuc-dipeptide/1", "models:/virnuc-tetranucleotide_dna/1"
FEATURES, SPLIT = "data/features/tetranucleotide+dipeptide", "data/test_set"
TRAIN = ("--features", FEATURES, "--split", SPLIT, "--epochs=4", "--lr=0.01", "--hidden-dim=16", "--replicates=2")
TIMED = ("--baseline=dipeptide", "--candidate=esm2_tiny", "--sample=20", "--runs=1", "--warmup=0")
SHORTEST = 0.05  # s that a stage is left alone at least; before that it has not begun


@dataclass(frozen=True)
class Step:
    """A command of the experiment."""

    stage: str
    arguments: tuple[str, ...]
    out: str = ""  # what it writes, apart from the store
    disturbed: bool = True


STEPS = (
    Step("prepare", ("--source", "genomes", "--evidence", "open"), "data/frames"),
    Step("extract", ("--dna-encoder", "tetranucleotide", "--protein-encoder", "dipeptide"), "data/features"),
    Step("split", ("--test-fraction", "0.3", "--val-fraction", "0.2", "--source", FEATURES), SPLIT),
    Step("train", (*TRAIN, "--modality", "dna"), "data/models", disturbed=False),
    Step("train", TRAIN, "data/models"),
    *(
        Step("evaluate", ("--model", model, "--features", FEATURES, "--split", SPLIT), "data/evaluations", disturbed)
        for model, disturbed in ((CANDIDATE, False), (BASELINE, True))
    ),
    Step("benchmark", TIMED),
    Step("compare", ("--baseline", BASELINE, "--candidate", CANDIDATE), "reports"),
    Step("promote", ("--candidate", CANDIDATE, "--override", "a campaign of faults")),
    Step("predict", ("--input", "genomes/viral.fa,genomes/bacteria.fa", "--track", "yes"), "data/calls"),
)


@dataclass
class Campaign:
    """A directory with the experiment, and what it was before each step and after it."""

    home: Path
    rng: np.random.Generator
    expected: dict[Step, dict[str, str]] = field(default_factory=dict)
    codes: dict[Step, int] = field(default_factory=dict)
    seconds: dict[Step, float] = field(default_factory=dict)
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # stage, fault and outcome
    wrong: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """Where stages run; always the same, as a store has absolute paths."""
        return self.home / "work"

    def before(self, step: Step) -> Path:
        """What `work` was before a step."""
        return self.home / f"before_{STEPS.index(step)}"

    def restore(self, step: Step) -> None:
        """Put everything back to what it was before a step."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before(step), self.work, symlinks=True)

    def prepare(self, chosen: Sequence[Step]) -> None:
        """Make the experiment undisturbed as far as it is needed; keep what steps start from and what they leave."""
        self.work.mkdir(parents=True)
        write_genomes(self.work / "genomes", self.rng)
        (self.work / "model_registry").mkdir()
        shutil.copy(PROJECT_POLICY, self.work / "model_registry")
        for step in STEPS[: STEPS.index(chosen[-1]) + 1]:
            if step.stage == "benchmark" and step not in chosen:  # nothing here needs it
                continue
            shutil.copytree(self.work, self.before(step), symlinks=True)
            outcomes = []
            for _ in range(2 if step in chosen else 1):
                self.restore(step)
                started = time.monotonic()
                self.codes[step] = self.wait(self.start(step))
                self.seconds[step] = time.monotonic() - started
                outcomes.append(outcome(self.work, step))
            if self.codes[step] not in (0, GateRefusal.exit_code if step.stage == "compare" else 0):
                raise SystemExit(f"{step.stage} fails undisturbed:\n{self.said()}")
            print(f"{step.stage}: {self.seconds[step]:.1f} s undisturbed", file=sys.stderr)
            self.expected[step] = dict(set.intersection(*(set(one.items()) for one in outcomes)))

    def start(self, step: Step, child: Callable[[], object] = lambda: None) -> int:
        """Start a step in a process of its own, after `child` there; return its number.

        It is forked from this one, which has imported everything, so that little but the stage itself is disturbed.
        """
        if pid := os.fork():
            return pid
        code = 1
        try:
            os.chdir(self.work)
            log = os.open(self.home / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            child()
            sys.argv = [step.stage, *step.arguments]
            getattr(importlib.import_module(f"entrypoints.{step.stage}"), step.stage).main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)

    def wait(self, pid: int) -> int:
        """Return the exit code of a process, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def said(self) -> str:
        """What the last process printed."""
        return (self.home / "said.txt").read_text(encoding="utf-8")

    def moment(self, step: Step) -> None:
        """Let a random part of a step's time go by."""
        time.sleep(self.rng.uniform(SHORTEST, max(self.seconds[step], 2 * SHORTEST)))

    def finish(self, step: Step, fault: str, trouble: str, child: Callable[[], object] = lambda: None) -> None:
        """Give the same command once more and note whether all is as if nothing had happened."""
        code = self.wait(self.start(step, child))
        if code != self.codes[step]:
            trouble += f"; ends with {code}, not {self.codes[step]}: {self.said().strip().splitlines()[-1:]}"
        left = outcome(self.work, step)
        unlike = [key for key, value in self.expected[step].items() if left.get(key) != value]
        states = {state for _, state in runs(self.work)}
        allowed = {"FINISHED", "KILLED"} | ({"FAILED"} if fault in ("full", "readonly", "twice") else set())
        for problem, name in ((unlike, "other content"), (states - allowed, "wrong state"), (trouble, "wrong answer")):
            if problem:
                self.found[step.stage, fault, name] += 1
                self.wrong.append(
                    f"{step.stage}, {fault}, {name}: {problem if isinstance(problem, str) else sorted(problem)[:3]}"
                )
                print(self.wrong[-1], file=sys.stderr)
        self.found[step.stage, fault, "tries"] += 1


def write_genomes(directory: Path, rng: np.random.Generator, genomes: int = 16, length: int = 900) -> None:
    """Write FASTA files of random genes, so that each chunk has an open reading frame."""
    directory.mkdir()
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = [codon for codon in codons if codon not in ("TAA", "TAG", "TGA")]
    for group in ("viral", "bacteria"):
        genes = ("".join(rng.choice(sense, size=length // 3)) for _ in range(genomes))
        (directory / f"{group}.fa").write_text("".join(f">{group}{n}.1\n{gene}\n" for n, gene in enumerate(genes)))


def outcome(work: Path, step: Step) -> dict[str, str]:
    """Return all that a step has left, each value by where it is."""
    left = {}
    for path in sorted((work / step.out).rglob("*")) if step.out else ():
        if path.is_file() and not path.name.startswith("."):
            left |= values(path, f"{path.relative_to(work)}")
    finished = [run for run, state in runs(work, step.stage) if state == "FINISHED"]
    left["runs"] = str(bool(finished))
    with database(work) as ask:
        for run in finished[:1]:
            left |= {f"metric {key}": str(value) for key, value in ask(_METRICS, run)}
            ((place,),) = ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run)
            for path in sorted(Path(place.removeprefix("file://")).rglob("*")):
                left |= values(path, f"artifact {path.relative_to(place)}") if path.is_file() else {}
        left |= {f"version {name} {number}": "" for name, number in ask("SELECT name, version FROM model_versions")}
        left |= {f"alias {name} {alias}": str(number) for name, alias, number in ask(_ALIASES)}
        left |= {f"tag {name} {number} {key}": value for name, number, key, value in ask(_VERSION_TAGS)}
        names = [name for (name,) in ask("SELECT name FROM registered_models ORDER BY name")]
    versions = sum(key.startswith("version ") for key in left)
    return left | {"models": str(names), "versions": str(versions)}


_METRICS = "SELECT key, value FROM latest_metrics WHERE run_uuid = ?"
_ALIASES = "SELECT name, alias, version FROM registered_model_aliases"
_VERSION_TAGS = "SELECT name, version, key, value FROM model_version_tags WHERE key IN " + str(
    ("virnuc.promotion", "virnuc.promoted_from", "virnuc.replaces", "virnuc.scorer_sha256", "virnuc.alias")
)
_RUNS = """SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active' AND (? = '' OR EXISTS (SELECT 1 FROM tags
    WHERE tags.run_uuid = runs.run_uuid AND key = 'virnuc.stage' AND value = ?)) ORDER BY start_time DESC"""


@contextmanager
def database(work: Path) -> Iterator[Callable[..., list[Any]]]:
    """Yield a function that asks the store's database; nothing of MLflow may be open here before a fork."""
    connection = sqlite3.connect(work / "mlflow.db")
    try:
        yield lambda query, *parameters: connection.execute(query, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
    finally:
        connection.close()


def runs(work: Path, stage: str = "") -> list[tuple[str, str]]:
    """Return id and status of the store's runs, the newest first."""
    found: list[tuple[str, str]] = []
    with database(work) as ask:
        found += ask(_RUNS, stage, stage)
    return found


def values(path: Path, name: str) -> dict[str, str]:
    """Return what a file holds: each value of a JSON file or a checkpoint, and the digest of any other."""
    if path.suffix == ".json":
        return dict(leaves(json.loads(path.read_text(encoding="utf-8")), name))
    if path.suffix == ".pth":
        return dict(leaves(torch.load(path, weights_only=True), name))
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()}


def leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield each plain value in nested ones, by where it is."""
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(inner, f"{name} {key}")
    else:
        yield name, repr(value.tolist() if isinstance(value, torch.Tensor) else value)
