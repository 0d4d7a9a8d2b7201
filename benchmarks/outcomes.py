"""What a step of the experiment in `faults` leaves, and the table of what was compared."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

BAD = ("lost", "wrong", "states", "answer")  # fields of a trial that must be empty
_METRICS = "SELECT key, value FROM latest_metrics WHERE run_uuid = ?"
_ALIASES = "SELECT name, alias, version FROM registered_model_aliases"
_VERSION_TAGS = "SELECT name, version, key, value FROM model_version_tags WHERE key IN " + str(
    ("virnuc.promotion", "virnuc.promoted_from", "virnuc.replaces", "virnuc.scorer_sha256", "virnuc.alias")
)
_RUNS = """SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active' AND (? = '' OR EXISTS (SELECT 1 FROM tags
    WHERE tags.run_uuid = runs.run_uuid AND key = 'virnuc.stage' AND value = ?)) ORDER BY start_time DESC"""


def outcome(work: Path, stage: str, out: str, earlier: Set[str]) -> dict[str, str]:
    """Return what a stage left in its output, its newest finished run and the registry: each value by its place.

    Runs in `earlier` are not its own.
    """
    left = {}
    for path in sorted((work / out).rglob("*")) if out else ():
        if path.is_file() and not path.name.startswith("."):
            left |= values(path, f"{path.relative_to(work)}")
    finished = [run for run, state in runs(work, stage) if state == "FINISHED" and run not in earlier]
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


@contextmanager
def database(work: Path) -> Iterator[Callable[..., list[Any]]]:
    """Yield a function that queries the store's database; MLflow may not have it open, as this process is forked."""
    connection = sqlite3.connect(work / "mlflow.db")
    try:
        yield lambda query, *parameters: connection.execute(query, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
    finally:
        connection.close()


def runs(work: Path, stage: str = "") -> list[tuple[str, str]]:
    """Return id and status of the store's runs, of one stage if it is given, newest first."""
    found: list[tuple[str, str]] = []
    if (work / "mlflow.db").exists():
        with database(work) as ask:
            found += ask(_RUNS, stage, stage)
    return found


def values(path: Path, name: str) -> dict[str, str]:
    """Return a file's contents: each value of a JSON file or a checkpoint, and the SHA-256 of any other file."""
    if path.suffix == ".json":
        return dict(leaves(json.loads(path.read_text(encoding="utf-8")), name))
    if path.suffix == ".pth":
        return dict(leaves(torch.load(path, weights_only=True), name))
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()}


def leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield each plain value of nested mappings and lists, by its place."""
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(inner, f"{name} {key}")
    else:
        yield name, repr(value.tolist() if isinstance(value, torch.Tensor) else value)


def report(trials: Sequence[Mapping[str, Any]], compared: Mapping[str, int], seconds: float) -> None:
    """Print a table of the trials and, last, one JSON line; exit with 1 if anything was lost or wrong.

    `compared` is the number of values that were compared, by stage.
    """
    columns = ("trials", "in mid-work", "resumed", "lost", "wrong", "runs in a wrong state")
    total = Counter[str]()
    print(f"| fault | stage | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for fault, stage in sorted({(trial["fault"], trial["stage"]) for trial in trials}):
        own = [trial for trial in trials if (trial["fault"], trial["stage"]) == (fault, stage)]
        row = Counter(
            {
                "trials": len(own),
                "in mid-work": sum(trial["hit"] for trial in own),
                "resumed": sum(not any(trial[name] for name in BAD) for trial in own),
                "lost": sum(bool(trial["lost"]) for trial in own),
                "wrong": sum(bool(trial["wrong"] or trial["answer"]) for trial in own),
                "runs in a wrong state": sum(bool(trial["states"]) for trial in own),
            }
        )
        total += row
        print(f"| {fault} | {stage} | {' | '.join(str(row[name]) for name in columns)} |")
    for trial in trials:
        for name in BAD:
            if trial[name]:
                print(f"{trial['stage']}, {trial['fault']}, {name}: {str(trial[name])[:400]}")
    print(json.dumps({**{name: total[name] for name in columns}, "compared": compared, "seconds": round(seconds)}))
    sys.exit(total["resumed"] < total["trials"])
