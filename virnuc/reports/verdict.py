"""The verdict document: everything that a report shows, as plain JSON values; what is unknown or NaN becomes null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from virnuc.evaluation.crossed import DRAWS, Drop
from virnuc.evaluation.evaluation import EVALUATION_VERSION
from virnuc.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval
from virnuc.evaluation.sides import Comparison, Pair, Side, SideEvidence
from virnuc.evaluation.speed import SIDES, BenchmarkResult

SCHEMA_VERSION = 2
FEW_FRAMES = 5_000  # below either the report calls the test set small
FEW_GENOMES = 500
_SHOWN_ORGANISMS = 15  # those with the lowest accuracy


@dataclass(frozen=True)
class Origin:
    """Where and when a comparison was made."""

    created: str  # ISO 8601
    run: str  # id
    command: str  # that makes it again
    versions: Mapping[str, str] = field(default_factory=dict)  # of virnuc and of what it computes with, by name
    ui: str = ""  # address of the MLflow UI that shows its runs


def document(comparison: Comparison, verdict: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """Return the verdict document.

    Args:
        comparison: What was compared.
        verdict: `outcome`, `policy` and `candidates` (`candidate`, `outcome`, `answer`, `rules`), from the gate.
        origin: The run that it was made in.
    """
    names = short_names([side.evidence for side in comparison.sides])
    hardest = _hardest(comparison.sides)
    strongest = comparison.strongest_control
    judged = zip(comparison.pairs, verdict["candidates"], strict=True)
    written = {
        "schema_version": SCHEMA_VERSION,
        **asdict(origin),
        "outcome": verdict["outcome"],
        "answer": " ".join(candidate["answer"] for candidate in verdict["candidates"]),
        "policy": verdict["policy"],
        "method": {
            "evaluation_version": EVALUATION_VERSION,
            "seed": comparison.seed,
            "resamples": RESAMPLES,
            "drop_draws": DRAWS,
            "confidence": CONFIDENCE,
        },
        "caveats": caveats(comparison, verdict["policy"]),
        "sides": [
            {"name": name, **_side(role, side, hardest)}
            for name, (role, side) in zip(names, comparison.roles, strict=True)
        ],
        "strongest_control": strongest.candidate.evidence.identity if strongest else None,
        "verdicts": [{**candidate, **_pair(pair)} for pair, candidate in judged],
        "controls": [{"candidate": pair.candidate.evidence.identity, **_pair(pair)} for pair in comparison.controls],
    }
    cleaned: dict[str, Any] = _clean(written)
    return cleaned


def short_names(sides: Sequence[SideEvidence]) -> list[str]:
    """Return the encoder's name for each side, or name and version where two sides have the same encoder."""
    encoders = [side.encoder for side in sides]
    return [side.encoder if encoders.count(side.encoder) == 1 else side.identity for side in sides]


def caveats(comparison: Comparison, policy: Mapping[str, Any]) -> list[str]:
    """Return what readers must know to judge the numbers; `policy` has the limits."""
    found = [f"No baseline to compare with: {comparison.missing}."] if comparison.missing else []
    found += _control_caveats(comparison)
    for side in comparison.sides:
        found += weight_caveats(side.evidence.weights, side.evidence.identity)
    for side in comparison.sides[: 1 + len(comparison.pairs)]:
        found += _data_caveats(side)
        found += _speed_caveats(side, policy["speedup_at_least"])
    return list(dict.fromkeys(found))


def _control_caveats(comparison: Comparison) -> list[str]:
    """Return which sides are not better than the control without a protein language model."""
    control = comparison.strongest_control
    if control is None or comparison.baseline is None:
        return ["No control was compared, so it is not known whether a protein language model is needed at all."]
    sides = [(comparison.baseline, control.drop)] + [(pair.candidate, pair.gain) for pair in comparison.pairs]
    name = control.candidate.evidence.identity
    return [
        f"{name} does as well without a protein language model: {side.evidence.identity} is "
        f"{100 * drop.value:+.1f} points ({100 * drop.low:+.1f} to {100 * drop.high:+.1f}) above it."
        for side, drop in sides
        if drop is not None and not drop.low > 0
    ]


def weight_caveats(weights: Mapping[str, str], model: str) -> list[str]:
    """Return the caveats about a model's encoders; `weights` has the kind of each one's weights by name."""
    found = []
    for name, kind in weights.items():
        if kind == "random":
            found.append(f"{name} has random weights: the accuracies of {model} are meaningless.")
        if kind == "shipped":
            found.append(
                f"{name} is a small stand-in that ships with this project: "
                "its accuracy says nothing about the published encoders."
            )
    return found


def _data_caveats(side: Side) -> list[str]:
    logged = side.evidence.metrics
    frames, genomes = logged.get("test/count/frames", 0), logged.get("test/count/genomes", 0)
    found = []
    if frames and (frames < FEW_FRAMES or genomes < FEW_GENOMES):
        found.append(f"Small test set: {frames:,.0f} frames of {genomes:,.0f} genomes; look at the intervals.")
    leaking = logged.get("test/leak/frames_sharing_a_genome", 0)
    if leaking:
        found.append(
            f"Leaking split (unit {side.evidence.split_unit or 'unknown'}): {leaking:,.0f} of {frames:,.0f} test "
            "frames share a genome with training; all accuracies here are too high."
        )
    if met := logged.get("test/leak/frames_in_pretraining", 0):
        found.append(
            f"{met:,.0f} of {frames:,.0f} test frames come from genomes that an encoder of {side.evidence.identity} "
            "was trained on; its accuracy on them is too high."
        )
    if reader := side.evidence.unnamed_viruses_of:
        found.append(
            f"{reader} was trained on viral genes that are known by NCBI's gene numbers alone. It may have been "
            "trained on some of the test viruses, and its accuracy on those is too high. The DNA encoder codon_phase "
            "was not trained on anything."
        )
    hub = [name for name, kind in side.evidence.weights.items() if kind in ("hub", "local")]
    if hub:
        found.append(
            f"There is no record here of what {' and '.join(hub)} was trained on (the ESM-2 family: UniRef50). It may "
            "include proteins of the test genomes."
        )
    if side.evidence.unrecorded:
        found.append(
            f"{side.evidence.identity}: {side.evidence.unrecorded}. If test frames were part of it, its accuracy is "
            "too high."
        )
    if side.evidence.left_out:
        found.append(f"No accuracy over all chunks of {side.evidence.identity}: {side.evidence.left_out}.")
    if side.evidence.untested:
        found.append(
            f"There are no test frames of {side.evidence.untested}, which have too few units for a test part: no "
            "figure here applies to them."
        )
    return found


def _speed_caveats(side: Side, limit: float) -> list[str]:
    """Return caveats about a side's timed runs: those below the limit, and random weights."""
    timed = side.evidence.speed
    if timed is None:
        return []
    found = []
    if slow := [ratio for ratio in timed.ratios if ratio < limit]:
        ratios = ", ".join(f"{ratio:.2f}" for ratio in timed.ratios)
        found.append(
            f"The speed-up of {side.evidence.identity} varies: {len(slow)} of {len(timed.ratios)} timed runs are below "
            f"the limit of {limit:g} ({ratios})."
        )
    for provenance in (one.provenance for one in timed.sides.values()):
        if provenance["weights"] == "random":
            found.append(f"{provenance['name']} was timed with random weights, which does not change its speed.")
    return found


def _side(role: str, side: Side, hardest: set[str]) -> dict[str, Any]:
    evidence = side.evidence
    return {
        "id": evidence.identity,
        "role": role,
        "encoder": evidence.encoder,
        "weights": evidence.weights,
        "split": {"digest": evidence.split_digest, "unit": evidence.split_unit},
        "metrics": side.metrics,
        "logged": {key: value for key, value in sorted(evidence.metrics.items()) if key.count("/") > 1},
        "strata": {
            kind: table[table["stratum"].isin(hardest)].sort_values("accuracy", kind="stable")
            if kind == "organism"
            else table
            for kind, table in side.tables.items()
        },
        "speed": _speed(evidence.speed) if evidence.speed else None,
        "provenance": evidence.provenance,
        "commands": evidence.commands,
    }


def _hardest(sides: Sequence[Side]) -> set[str]:
    """Return the organisms with the lowest accuracy, taken over all sides that have one for them."""
    tables = [side.tables["organism"] for side in sides if "organism" in side.tables]
    if not tables:
        return set()
    return set(pd.concat(tables).groupby("stratum")["accuracy"].mean().dropna().nsmallest(_SHOWN_ORGANISMS).index)


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "problems": pair.problems,
        "differences": pair.differences,
        "drop": pair.drop,
        "gain_over_control": pair.gain,
        "mcnemar": pair.mcnemar or None,
        "disagreements": [] if pair.disagreements is None else pair.disagreements,
    }


def _speed(timed: BenchmarkResult) -> dict[str, Any]:
    """Return the figures of a benchmark that the report shows."""
    hardware = [timed.hardware.get(name, "") for name in ("gpu", "processor", "threads")]
    sides = [(name, timed.sides[name]) for name in SIDES if name in timed.sides]
    return {
        "run_id": timed.run_id,
        "sample_digest": timed.sample_digest,
        "device": timed.device,
        "hardware": ", ".join(filter(None, hardware[:2])) + f", {hardware[2]} threads",
        "speedup": timed.speedup,
        "speedup_low": timed.speedup_low,
        "ratios": timed.ratios,
        "sides": [
            {
                "role": name,
                "encoder": side.provenance["name"],
                "seconds": side.seconds,
                "runs": [run.total_s for run in side.runs],
                "frames": side.frames,
                "precision": side.provenance["precision"],
                "weights": side.provenance["weights"],
                "peak_memory_gb": side.peak_memory_gb,
            }
            for name, side in sides
        ],
    }


def _clean(value: Any) -> Any:
    """Return records as mappings, tables and tuples as lists, NaN and infinite values as None, and plain numbers."""
    if isinstance(value, Interval | Drop):
        value = asdict(value)
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headline(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, float]:
    """Return the main figures of one verdict of a document: accuracies, drop with its interval, speed-up."""
    sides = [side for side in document["sides"] if side["role"] in ("baseline", "candidate")]
    found = {f"accuracy/{side['role']}": side["metrics"]["frames"]["accuracy"]["value"] for side in sides}
    drop = verdict["drop"] or {}
    found |= {f"drop/{end}": drop.get(end) for end in ("value", "low", "high")}
    rules = {rule["name"]: rule["numbers"] for rule in verdict["rules"]}
    found |= {name: rules.get("speedup", {}).get(name) for name in ("speedup", "speedup_low")}
    return {name: value for name, value in found.items() if value is not None}
