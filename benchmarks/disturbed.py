"""What `faults` disturbs: a small experiment on random genes, and how a step of it is started and repeated."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.outcomes import BAD, outcome, runs
from model_registry.gate import PROJECT_POLICY
from virnuc import benchmarking
from virnuc.errors import GateRefusal

BASELINE, CANDIDATE = "models:/virnuc-dipeptide/1", "models:/virnuc-tetranucleotide_dna/1"
FEATURES, SPLIT = "data/features/tetranucleotide+dipeptide", "data/test_set"
TRAIN = ("--features", FEATURES, "--split", SPLIT, "--epochs=4", "--lr=0.01", "--hidden-dim=16", "--replicates=2")
TIMED = ("--baseline=dipeptide", "--candidate=esm2_tiny", "--sample=20", "--runs=1", "--warmup=0")
_TICKS = os.sysconf("SC_CLK_TCK")  # units of processor time in a second


@dataclass(frozen=True)
class Step:
    """A command of the experiment."""

    stage: str
    arguments: tuple[str, ...]
    out: str = ""  # its output, apart from the store
    disturbed: bool = True
    rounds: int = 4  # it is killed in one of this many rounds: short steps more often


_GENOMES = ("--source", "genomes", "--evidence", "open")
_EXPERIMENT = ("--dna-encoder=tetranucleotide", "--experiment=faults", "--epochs=2", "--lr=0.01", "--replicates=2")
STEPS = (
    Step("prepare", _GENOMES, "data/frames", rounds=16),  # creates the store, too
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
    """A directory with the experiment, its state before each step, and what each step leaves undisturbed."""

    home: Path
    rng: np.random.Generator
    log: Path  # one line of JSON for each trial
    expected: dict[Step, dict[str, str]] = field(default_factory=dict)  # what is left, undisturbed
    codes: dict[Step, int] = field(default_factory=dict)  # exit code, undisturbed
    processor: dict[Step, float] = field(default_factory=dict)  # processor time in s, undisturbed
    tried: set[str] = field(default_factory=set)  # modules that were imported, or tried, for the forks

    @property
    def work(self) -> Path:
        """The directory of all stages; it never changes, as a store has absolute paths."""
        return self.home / "work"

    def before(self, step: Step) -> Path:
        """A copy of `work` as it was before a step."""
        return self.home / f"before_{STEPS.index(step)}"

    def restore(self, step: Step) -> None:
        """Restore `work` to its state before a step."""
        shutil.rmtree(self.work, ignore_errors=True)
        subprocess.run(["cp", "--archive", self.before(step), self.work], check=True)

    def prepare(self, chosen: Sequence[Step]) -> None:
        """Run the steps undisturbed as far as the `chosen` ones need; keep what they start from and what they leave.

        The directory of an earlier campaign is used as it is.
        """
        benchmarking.gemm_peak = lambda *machine: 1e11  # measuring takes long, and gives another value each time
        benchmarking.peak_in_fresh_process = lambda job: 0.0
        if not self._resume(chosen):
            self.work.mkdir(parents=True)
            write_genomes(self.work / "genomes", self.rng)
            (self.work / "model_registry").mkdir()
            shutil.copy(PROJECT_POLICY, self.work / "model_registry")
            for step in STEPS[: STEPS.index(chosen[-1]) + 1]:
                if step.stage != "benchmark" or step in chosen:  # no other step needs it
                    shutil.copytree(self.work, self.before(step), symlinks=True)
                    self._run_undisturbed(step, 2 if step in chosen else 1)
            found = [(STEPS.index(one), self.codes[one], self.processor[one], self.expected[one]) for one in chosen]
            (self.home / "found.json").write_text(json.dumps(found), encoding="utf-8")
        self._import_noted()

    def _resume(self, chosen: Sequence[Step]) -> bool:
        """Take over what an earlier campaign found; if it lacks a step, empty the directory and return False."""
        path = self.home / "found.json"
        for number, *known in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
            self.codes[STEPS[number]], self.processor[STEPS[number]], self.expected[STEPS[number]] = known
        if set(chosen) <= self.codes.keys():
            return True
        shutil.rmtree(self.home)
        self.home.mkdir()
        return False

    def _run_undisturbed(self, step: Step, times: int) -> None:
        """Run a step a number of times, and keep the values that are the same each time."""
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
        """Let this process write down at its end which modules it has imported."""

        def note() -> None:
            with (self.home / "modules.txt").open("a", encoding="utf-8") as stream:
                stream.write("\n".join([*sys.modules, ""]))

        atexit.register(note)

    def _import_noted(self) -> None:
        """Import what a stage imported and fill MLflow's caches, so that forked stages need not do so."""
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
        """Start a step in a new process, which calls `child` first; return its id.

        It is forked from this process, which has imported everything, so that faults hit the stage and not its start.
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
        """Return all that a step has left, each value by its place."""
        return outcome(self.work, step.stage, step.out, {run for run, _ in runs(self.before(step))})

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials in the log, those of earlier campaigns included."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def said(self) -> str:
        """Return what the last process printed."""
        return (self.home / "said.txt").read_text(encoding="utf-8")

    def moment(self, step: Step, pid: int, share: float = 1) -> None:
        """Wait until a step has done a random share of its work, measured as processor time.

        So a busy machine makes no difference. `share` is the part of the work that the process itself does.
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
        """Give the same command once more, compare what it leaves with the undisturbed outcome, and log the trial.

        Args:
            step: the step.
            fault: what was done to it.
            hit: whether the step was still at work then.
            trouble: what was wrong with its reaction.
            child: called first by the new process.
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


def write_genomes(directory: Path, rng: np.random.Generator, genomes: int = 16, length: int = 900) -> None:
    """Write FASTA files of random genes without stop codons, so that each chunk has an open reading frame."""
    directory.mkdir()
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = [codon for codon in codons if codon not in ("TAA", "TAG", "TGA")]
    for group in ("viral", "bacteria"):
        genes = ("".join(rng.choice(sense, size=length // 3)) for _ in range(genomes))
        (directory / f"{group}.fa").write_text("".join(f">{group}{n}.1\n{gene}\n" for n, gene in enumerate(genes)))
