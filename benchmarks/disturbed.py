"""What `faults` disturbs: a small experiment on random genes, what its steps leave, and how a step is started."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_registry.gate import PROJECT_POLICY
from virnuc import benchmarking
from virnuc.errors import GateRefusal

BASELINE, CANDIDATE = "models:/virnuc-dipeptide/1", "models:/virnuc-tetranucleotide_dna/1"
FEATURES, SPLIT = "data/features/tetranucleotide+dipeptide", "data/test_set"
TRAIN = ("--features", FEATURES, "--split", SPLIT, "--epochs=4", "--lr=0.01", "--hidden-dim=16", "--replicates=2")
TIMED = ("--baseline=dipeptide", "--candidate=esm2_tiny", "--sample=20", "--runs=1", "--warmup=0")
_TICKS = os.sysconf("SC_CLK_TCK")  # of processor time, a second


@dataclass(frozen=True)
class Step:
    """A command of the experiment."""

    stage: str
    arguments: tuple[str, ...]
    out: str = ""  # what it writes, apart from the store
    disturbed: bool = True
    rounds: int = 4  # it is killed in one of so many rounds of kills: the shorter, the more often


_GENOMES = ("--source", "genomes", "--evidence", "open")
_EXPERIMENT = ("--dna-encoder=tetranucleotide", "--experiment=faults", "--epochs=2", "--lr=0.01", "--replicates=2")
STEPS = (
    Step("prepare", _GENOMES, "data/frames", rounds=16),  # makes the store too
    Step("prepare", (*_GENOMES, "--out=data/again"), "data/again", rounds=1),
    Step("extract", ("--dna-encoder", "tetranucleotide", "--protein-encoder", "dipeptide"), "data/features", rounds=1),
    Step("split", ("--test-fraction", "0.3", "--val-fraction", "0.2", "--source", FEATURES), SPLIT, rounds=1),
    Step("train", (*TRAIN, "--modality", "dna"), "data/models", disturbed=False),
    Step("train", TRAIN, "data/models"),
    *(
        Step("evaluate", ("--model", model, "--features", FEATURES, "--split", SPLIT), "data/evaluations", disturbed)
        for model, disturbed in ((CANDIDATE, False), (BASELINE, True))
    ),
    Step("benchmark", TIMED),
    Step("compare", ("--baseline", BASELINE, "--candidate", CANDIDATE), "reports"),
    Step("promote", ("--candidate", CANDIDATE, "--override", "a campaign of faults")),
    Step("predict", ("--input", "genomes/viral.fa,genomes/bacteria.fa", "--track", "yes"), "data/calls", rounds=1),
    Step("pipeline", (*_GENOMES, *TIMED, *_EXPERIMENT), "data/faults", rounds=16),
)


@dataclass
class Campaign:
    """A directory with the experiment, and what it was before each step and after it."""

    home: Path
    rng: np.random.Generator
    log: Path  # gets a line of JSON for each trial
    expected: dict[Step, dict[str, str]] = field(default_factory=dict)
    codes: dict[Step, int] = field(default_factory=dict)
    processor: dict[Step, float] = field(default_factory=dict)  # s of processor time, undisturbed
    tried: set[str] = field(default_factory=set)  # modules to import, so that forks have them

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
        subprocess.run(["cp", "--archive", self.before(step), self.work], check=True)

    def prepare(self, chosen: Sequence[Step]) -> None:
        """Make the experiment undisturbed as far as it is needed; keep what steps start from and what they leave.

        A directory where an earlier campaign did so is taken as it is.
        """
        benchmarking.gemm_peak = lambda *machine: 1e11  # measuring takes long, and gives another value each time
        benchmarking.peak_in_fresh_process = lambda job: 0.0
        if not self._resume(chosen):
            self.work.mkdir(parents=True)
            write_genomes(self.work / "genomes", self.rng)
            (self.work / "model_registry").mkdir()
            shutil.copy(PROJECT_POLICY, self.work / "model_registry")
            for step in STEPS[: STEPS.index(chosen[-1]) + 1]:
                if step.stage != "benchmark" or step in chosen:  # nothing here needs it
                    shutil.copytree(self.work, self.before(step), symlinks=True)
                    self._run_undisturbed(step, 2 if step in chosen else 1)
            found = [(STEPS.index(one), self.codes[one], self.processor[one], self.expected[one]) for one in chosen]
            (self.home / "found.json").write_text(json.dumps(found), encoding="utf-8")
        self._import_noted()

    def _resume(self, chosen: Sequence[Step]) -> bool:
        """Take over what is known of these steps; return False, and empty the directory, if it is not all known."""
        path = self.home / "found.json"
        for number, *known in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
            self.codes[STEPS[number]], self.processor[STEPS[number]], self.expected[STEPS[number]] = known
        if set(chosen) <= self.codes.keys():
            return True
        shutil.rmtree(self.home)
        self.home.mkdir()
        return False

    def _run_undisturbed(self, step: Step, times: int) -> None:
        """Run a step so many times, and keep what does not differ between them."""
        outcomes = []
        for _ in range(times):
            self.restore(step)
            self.codes[step], self.processor[step] = self.ended(self.start(step, self._note_modules))
            outcomes.append(self.outcome(step))
            self._import_noted()
        if self.codes[step] not in (0, GateRefusal.exit_code if step.stage in ("compare", "pipeline") else 0):
            raise SystemExit(f"{step.stage} fails undisturbed:\n{self.said()}")
        print(f"{step.stage}: {self.processor[step]:.1f} s of processor time undisturbed", file=sys.stderr)
        self.expected[step] = dict(set.intersection(*(set(one.items()) for one in outcomes)))

    def _note_modules(self) -> None:
        """Let this process note at its end what it has imported."""

        def note() -> None:
            with (self.home / "modules.txt").open("a", encoding="utf-8") as stream:
                stream.write("\n".join([*sys.modules, ""]))

        atexit.register(note)

    def _import_noted(self) -> None:
        """Import what a stage imported, and let MLflow learn what is installed: the next stage need not do it again."""
        noted = set((self.home / "modules.txt").read_text(encoding="utf-8").split("\n"))
        for name in sorted(noted - self.tried):
            if name.split(".")[0].isidentifier() and not name.startswith(("_", "model_registry.")):
                with suppress(ImportError):
                    importlib.import_module(name)
        self.tried.update(noted)
        if "sqlalchemy.orm" in sys.modules:
            sys.modules["sqlalchemy.orm"].configure_mappers()
            importlib.import_module("mlflow.utils.requirements_utils")._init_modules_to_packages_map()

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

    def ended(self, pid: int) -> tuple[int, float]:
        """Wait for a process; return its exit code, negative for a signal, and its processor time in seconds."""
        _, status, used = os.wait4(pid, 0)
        return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

    def wait(self, pid: int) -> int:
        """Wait for a process; return its exit code, negative for a signal."""
        return self.ended(pid)[0]

    def outcome(self, step: Step) -> dict[str, str]:
        """Return all that a step has left, each value by where it is."""
        return outcome(self.work, step, {run for run, _ in runs(self.before(step))})

    def trials(self) -> list[dict[str, Any]]:
        """Return what was noted, by earlier campaigns with this log too."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def said(self) -> str:
        """What the last process printed."""
        return (self.home / "said.txt").read_text(encoding="utf-8")

    def moment(self, step: Step, pid: int, share: float = 1) -> None:
        """Let a random part of a step's work go by, by its processor time: a busy machine does not change that.

        `share` is how much of it the process itself does.
        """
        wanted = self.rng.uniform(0, share * self.processor[step])
        while True:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
            if stat[0] == "Z" or (int(stat[11]) + int(stat[12])) / _TICKS >= wanted:
                return time.sleep(self.rng.uniform(0, 1 / _TICKS))
            time.sleep(1 / _TICKS)

    def finish(
        self, step: Step, fault: str, hit: bool, trouble: str = "", child: Callable[[], object] = lambda: None
    ) -> None:
        """Give the same command once more and note whether all is as if nothing had happened.

        Args:
            step: the step.
            fault: what was done to it.
            hit: whether that met the step in the midst of its work.
            trouble: what was wrong with how the step took it.
            child: what the new process does first.
        """
        code = self.wait(self.start(step, child))
        if code != self.codes[step]:
            trouble += f"ends with {code}, not {self.codes[step]}: {self.said().strip().splitlines()[-1:]}"
        left = self.outcome(step)
        states = {state for _, state in runs(self.work)} - {"FINISHED", "KILLED"}
        allowed = {"FAILED"} if fault in ("full", "readonly", "twice") else set()
        trial = {
            "stage": step.stage,
            "fault": fault,
            "hit": hit,
            "lost": sorted(self.expected[step].keys() - left.keys()),
            "wrong": sorted(key for key, value in self.expected[step].items() if left.get(key, value) != value),
            "states": sorted(states - allowed),
            "answer": trouble,
        }
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(trial) + "\n")
        if problems := {name: value for name, value in trial.items() if name in BAD and value}:
            print(f"{step.stage}, {fault}: {problems}", file=sys.stderr)


BAD = ("lost", "wrong", "states", "answer")  # of a trial: what must be empty


def write_genomes(directory: Path, rng: np.random.Generator, genomes: int = 16, length: int = 900) -> None:
    """Write FASTA files of random genes, so that each chunk has an open reading frame."""
    directory.mkdir()
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = [codon for codon in codons if codon not in ("TAA", "TAG", "TGA")]
    for group in ("viral", "bacteria"):
        genes = ("".join(rng.choice(sense, size=length // 3)) for _ in range(genomes))
        (directory / f"{group}.fa").write_text("".join(f">{group}{n}.1\n{gene}\n" for n, gene in enumerate(genes)))


def outcome(work: Path, step: Step, earlier: Set[str]) -> dict[str, str]:
    """Return what a step has left, each value by where it is; runs that were there earlier are not its own."""
    left = {}
    for path in sorted((work / step.out).rglob("*")) if step.out else ():
        if path.is_file() and not path.name.startswith("."):
            left |= values(path, f"{path.relative_to(work)}")
    finished = [run for run, state in runs(work, step.stage) if state == "FINISHED" and run not in earlier]
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
    if (work / "mlflow.db").exists():
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
