"""The gate: a comparison and a policy in, a verdict out, rule by rule.

A verdict is PASS if every rule holds and FAIL if one does not; without two sides that can be paired there is NO
VERDICT. A rule whose evidence is missing does not hold. Each rule carries the numbers it was decided by and, where it
fails, what to do next.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from virnuc.errors import UsageError
from virnuc.evaluation.comparison import Comparison, Pair, SideEvidence, speedup
from virnuc.reports.verdict import Origin, document
from virnuc.training.checkpoint import READABLE_VERSIONS

PASS, FAIL, NO_VERDICT = "PASS", "FAIL", "NO VERDICT"
_PAIR_FIRST = ("Make the two sides comparable, as the first rule says, then compare again.",)
AGREEING = ("model_type", "dna_dim", "protein_dim", "merged_dim")  # of a checkpoint and the features it is used with


@dataclass(frozen=True)
class Policy:
    """The limits of the gate, see policy.yaml."""

    version: int
    accuracy_drop_below: float
    accuracy_drop_upper_bound_below: float
    speedup_at_least: float

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read and check a policy.

        Raises:
            UsageError: there is no such file, or it does not hold exactly the known limits within their ranges.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file; --policy wants a policy.yaml") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
        known = [limit.name for limit in fields(cls)]
        if not isinstance(values, dict) or sorted(map(str, values)) != sorted(known):
            raise UsageError(f"{path}: a policy has exactly these keys: {', '.join(known)}")
        for name, value in values.items():
            _check_limit(path, name, value)
        return cls(**values)

    @property
    def digest(self) -> str:
        """SHA-256 of the values; comments and order do not count."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RuleResult:
    """One rule and what it was decided by."""

    name: str
    title: str
    passed: bool
    observed: str
    limit: str
    numbers: dict[str, float] = field(default_factory=dict)
    next_steps: tuple[str, ...] = ()  # only where it failed


@dataclass(frozen=True)
class CandidateVerdict:
    """The gate's word on one candidate."""

    candidate: str  # name and version
    outcome: str  # PASS, FAIL or NO VERDICT
    answer: str  # in one sentence
    rules: tuple[RuleResult, ...]


@dataclass(frozen=True)
class Verdict:
    """The gate's word on all candidates of a comparison."""

    policy: Policy
    candidates: tuple[CandidateVerdict, ...]

    @property
    def outcome(self) -> str:
        """The worst of the candidates' outcomes."""
        return max((verdict.outcome for verdict in self.candidates), key=[PASS, FAIL, NO_VERDICT].index)


def judge(comparison: Comparison, policy: Policy) -> Verdict:
    """Apply `policy` to each candidate of `comparison`."""
    return Verdict(policy, tuple(_judge_pair(comparison, pair, policy) for pair in comparison.pairs))


def verdict_document(comparison: Comparison, verdict: Verdict, origin: Origin) -> dict[str, Any]:
    """Return verdict.json as plain values."""
    plain = {
        "outcome": verdict.outcome,
        "policy": {**asdict(verdict.policy), "digest": verdict.policy.digest},
        "candidates": [asdict(candidate) for candidate in verdict.candidates],
    }
    return document(comparison, plain, origin)


def _judge_pair(comparison: Comparison, pair: Pair, policy: Policy) -> CandidateVerdict:
    baseline = comparison.baseline.evidence if comparison.baseline else None
    candidate = pair.candidate.evidence
    rules = (
        _same_frames(pair),
        _drop(pair, policy),
        _drop_bound(pair, policy),
        _speedup(candidate, policy),
        _no_random_weights(baseline, candidate),
        _checkpoint_agrees(candidate),
    )
    passed = all(rule.passed for rule in rules)
    outcome = NO_VERDICT if pair.problems else PASS if passed else FAIL
    return CandidateVerdict(candidate.identity, outcome, _answer(outcome, baseline, pair, rules), rules)


def _same_frames(pair: Pair) -> RuleResult:
    logged = pair.candidate.evidence.metrics
    frames, genomes = (logged.get(f"test/count/{name}", math.nan) for name in ("frames", "genomes"))
    return RuleResult(
        "same_frames",
        "Both sides evaluated on the same split and the same frames",
        not pair.problems,
        "; ".join(pair.problems) or f"the same {frames:,.0f} frames of {genomes:,.0f} genomes",
        "required",
        {"frames": frames, "genomes": genomes},
        () if not pair.problems else ("Train and evaluate both sides on one split, then compare again.",),
    )


def _drop(pair: Pair, policy: Policy) -> RuleResult:
    limit = policy.accuracy_drop_below
    drop = pair.drop.value if pair.drop else math.nan
    return RuleResult(
        "accuracy_drop",
        "Accuracy drop, baseline minus candidate",
        drop < limit,
        f"{100 * drop:+.2f} points" if pair.drop else "not known: the sides cannot be paired",
        f"< {100 * limit:g} points",
        {"drop": drop, "limit": limit},
        ()
        if drop < limit
        else _PAIR_FIRST
        if pair.drop is None
        else (
            "See which groups only the baseline gets right, and whether training has those groups.",
            "Train longer or tune the learning rate on validation; look at the calibration and at each half of the "
            "features alone.",
        ),
    )


def _drop_bound(pair: Pair, policy: Policy) -> RuleResult:
    limit = policy.accuracy_drop_upper_bound_below
    bound = pair.drop.high if pair.drop else math.nan
    passed = bound < limit
    if pair.drop is None:
        observed = "not known: the sides cannot be paired"
    elif math.isnan(bound):
        observed = "not known: too few genomes for an interval"
    else:
        observed = f"{100 * bound:+.2f} points"
    return RuleResult(
        "accuracy_drop_upper_bound",
        "Upper end of the drop's 95 % interval, paired, bootstrapped over genomes",
        passed,
        observed,
        f"< {100 * limit:g} points",
        {"upper_bound": bound, "limit": limit},
        ()
        if passed
        else _PAIR_FIRST
        if pair.drop is None
        else ("Test on more genomes: the interval narrows with genomes, not with frames of the same ones.",),
    )


def _speedup(candidate: SideEvidence, policy: Policy) -> RuleResult:
    limit = policy.speedup_at_least
    ratio, observed = math.nan, "not known: "
    unlike: tuple[str, ...] = ()
    if candidate.baseline_speed is None or candidate.speed is None:
        observed += "no benchmark run has timed both encoders"
        steps = ("Run benchmark with both encoders, then compare again.",)
    else:
        ratio, unlike = speedup(candidate.baseline_speed, candidate.speed)
        slow, fast = candidate.baseline_speed.runs, candidate.speed.runs
        observed = (
            f"{ratio:.2f} times as fast, {min(slow) / max(fast):.2f} to {max(slow) / min(fast):.2f} over the runs"
        )
        observed += f", but not comparable: {', '.join(unlike)}" if unlike else ""
        steps = (
            ("Run benchmark again with one precision, device and sample for both encoders.",)
            if unlike
            else ("Profile the candidate's embedding; a smaller or shallower encoder, or another device, may help.",)
        )
    passed = ratio >= limit and not unlike
    return RuleResult(
        "speedup",
        "Embedding speed-up at the same precision, device and sample",
        passed,
        observed,
        f">= {limit:g}",
        {"speedup": ratio, "limit": limit},
        () if passed else steps,
    )


def _no_random_weights(baseline: SideEvidence | None, candidate: SideEvidence) -> RuleResult:
    sides = [side for side in (baseline, candidate) if side is not None]
    random = [f"{name} of {s.identity}" for s in sides for name, kind in s.weights.items() if kind == "random"]
    silent = [f"unrecorded weights of {side.identity}" for side in sides if not side.weights]
    passed = len(sides) == 2 and not random and not silent
    seen = ", ".join(sorted({kind for side in sides for kind in side.weights.values()}))
    return RuleResult(
        "no_random_weights",
        "No random weights behind any accuracy",
        passed,
        "; ".join(random + silent) or (f"weights: {seen}" if passed else "not known: there is no baseline"),
        "required",
        {"random": len(random)},
        () if passed else ("Get the encoders' weights, then extract, train and evaluate again.",),
    )


def _checkpoint_agrees(candidate: SideEvidence) -> RuleResult:
    unlike = [
        f"{key} {candidate.checkpoint.get(key)} in the checkpoint, {candidate.features.get(key)} in the features"
        for key in AGREEING
        if key not in candidate.checkpoint or candidate.checkpoint[key] != candidate.features.get(key)
    ]
    unlike += _unlike_weights(candidate)
    version = candidate.checkpoint.get("checkpoint_version")
    if version not in READABLE_VERSIONS:
        unlike.append(f"checkpoint version {version}, not {' or '.join(READABLE_VERSIONS)}")
    return RuleResult(
        "checkpoint_agrees",
        "Candidate's checkpoint agrees with its features: encoder, dimensions, version",
        not unlike,
        "; ".join(unlike) or f"version {version}, {candidate.checkpoint['merged_dim']} dimensions",
        "required",
        {},
        () if not unlike else ("Train the candidate on the features that it is evaluated on.",),
    )


def _unlike_weights(candidate: SideEvidence) -> list[str]:
    """Return the encoders whose weights are others in the checkpoint than in the features."""
    trained, found = candidate.checkpoint.get("encoders", {}), candidate.features.get("encoders", {})
    digests = [
        (kind, trained[kind].get("weight_digest"), found[kind].get("weight_digest"))
        for kind in trained
        if kind in found
    ]
    return [f"other weights of the {kind} encoder than in training" for kind, old, new in digests if old != new]


def _answer(outcome: str, baseline: SideEvidence | None, pair: Pair, rules: tuple[RuleResult, ...]) -> str:
    candidate = pair.candidate.evidence.identity
    if outcome == NO_VERDICT:
        return f"No verdict can be given on {candidate}: {'; '.join(pair.problems)}."
    assert baseline is not None and pair.drop is not None
    if outcome == FAIL:
        failed = [f"{rule.title} ({rule.observed}; {rule.limit})" for rule in rules if not rule.passed]
        return f"No: {candidate} may not replace {baseline.identity}. Not fulfilled: {'; '.join(failed)}."
    change, low, high = (f"{-100 * drop:+.1f}" for drop in (pair.drop.value, pair.drop.high, pair.drop.low))
    ratio = next(rule for rule in rules if rule.name == "speedup").numbers["speedup"]
    return (
        f"Yes: {candidate} may replace {baseline.identity}: accuracy changes by {change} points (95 % interval {low} "
        f"to {high}) and embedding is {ratio:.2f} times as fast."
    )


def _check_limit(path: Path, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{path}: {name} is {value!r}, but must be a number")
    if name == "version":
        allowed = value == 1
    elif name == "speedup_at_least":
        allowed = value > 0
    else:
        allowed = 0 <= value <= 1
    if not allowed:
        raise UsageError(f"{path}: {name} is {value}, which is outside its range")
