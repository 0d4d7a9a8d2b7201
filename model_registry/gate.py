"""The gate: a comparison and a policy in, a verdict out, rule by rule (`rules`).

The verdict is PASS if every rule holds and FAIL if one does not; if the two sides cannot be paired there is NO
VERDICT. Each rule records the numbers that decided it and, if it does not hold, what to do next.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model_registry.cases import Case, Finding, Limit, Rule
from model_registry.rules import RULES
from virnuc.errors import UsageError
from virnuc.evaluation.sides import Comparison
from virnuc.reports.verdict import Origin, document
from virnuc.storage.files import read_yaml

PASS, FAIL, NO_VERDICT = "PASS", "FAIL", "NO VERDICT"
POLICY_VERSION = 2
PROJECT_POLICY = Path(__file__).with_name("policy.yaml")  # the only one that promotes without an override
_LIMITS = {limit.name: limit for rule in RULES for limit in rule.limits}


@dataclass(frozen=True)
class Policy:
    """The limits of the gate, see policy.yaml."""

    limits: Mapping[str, float | str]

    @classmethod
    def read(cls, path: Path = PROJECT_POLICY) -> Policy:
        """Read and check a policy.

        Raises:
            UsageError: there is no such file, or it does not hold exactly the known limits within their ranges.
        """
        values = read_yaml(path, yaml.SafeLoader)
        if not isinstance(values, dict) or sorted(map(str, values)) != sorted(["version", *_LIMITS]):
            raise UsageError(f"{path}: a policy has exactly these keys: version, {', '.join(_LIMITS)}")
        if values.pop("version") != POLICY_VERSION:
            raise UsageError(f"{path}: only version {POLICY_VERSION} of the policy is known")
        for name, value in values.items():
            _check_limit(path, _LIMITS[name], value)
        return cls(values)

    @property
    def digest(self) -> str:
        """SHA-256 of the values; comments and order do not count."""
        return hashlib.sha256(json.dumps(dict(self.limits), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RuleResult:
    """One rule and what it was decided by."""

    name: str
    title: str
    outcome: str  # PASS, FAIL, or WARN where it does not hold but does not decide
    observed: str
    limit: str
    numbers: dict[str, float] = field(default_factory=dict)
    next_steps: tuple[str, ...] = ()  # only where it does not hold


@dataclass(frozen=True)
class CandidateVerdict:
    """The verdict on one candidate."""

    candidate: str  # name and version
    outcome: str  # PASS, FAIL or NO VERDICT
    answer: str  # in one sentence
    rules: tuple[RuleResult, ...]


@dataclass(frozen=True)
class Verdict:
    """The verdicts on all candidates of a comparison."""

    policy: Policy
    candidates: tuple[CandidateVerdict, ...]

    @property
    def outcome(self) -> str:
        """The worst of the candidates' outcomes."""
        return max((verdict.outcome for verdict in self.candidates), key=[PASS, FAIL, NO_VERDICT].index)


def judge(comparison: Comparison, policy: Policy) -> Verdict:
    """Apply `policy` to each candidate of `comparison`."""
    return Verdict(policy, tuple(_judge_pair(Case(comparison, pair, policy.limits)) for pair in comparison.pairs))


def verdict_document(
    comparison: Comparison, verdict: Verdict, origin: Origin, past: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return verdict.json as plain values; `past` has a line for each earlier comparison of a candidate, by its URI."""
    known = [{"earlier": list((past or {}).get(pair.candidate.evidence.uri, ()))} for pair in comparison.pairs]
    policy = {"version": POLICY_VERSION, **verdict.policy.limits, "digest": verdict.policy.digest}
    plain = {
        "outcome": verdict.outcome,
        "policy": policy | {"project": verdict.policy.digest == Policy.read().digest},
        "candidates": [asdict(one) | earlier for one, earlier in zip(verdict.candidates, known, strict=True)],
    }
    return document(comparison, plain, origin)


def _judge_pair(case: Case) -> CandidateVerdict:
    rules = tuple(_apply(rule, case) for rule in RULES)
    outcome = FAIL if any(rule.outcome == FAIL for rule in rules) else PASS
    if case.pair.problems:
        outcome = NO_VERDICT
    return CandidateVerdict(case.candidate.identity, outcome, _answer(outcome, case, rules), rules)


def _apply(rule: Rule, case: Case) -> RuleResult:
    if case.pair.problems and rule.needs_pair:
        step = "Make the two sides comparable, see the first rule, then compare again."
        found = Finding(False, "not known: the sides cannot be paired", next_step=step)
    else:
        found = rule.find(case)
    steps = () if found.passed else (found.next_step or rule.next_step,)
    outcome = "WARN" if found.only_warns and not found.passed else PASS if found.passed else FAIL
    return RuleResult(rule.name, rule.title, outcome, found.observed, found.limit, found.numbers, steps)


def _answer(outcome: str, case: Case, rules: tuple[RuleResult, ...]) -> str:
    candidate = case.candidate.identity
    if outcome == NO_VERDICT:
        return f"No verdict can be given on {candidate}: {'; '.join(case.pair.problems)}."
    baseline = case.sides[0].identity
    if outcome == FAIL:
        failed = [f"{rule.title} ({rule.observed}; {rule.limit})" for rule in rules if rule.outcome == FAIL]
        return f"No: {candidate} may not replace {baseline}. Failed: {'; '.join(failed)}."
    change, low, high = (f"{-100 * drop:+.1f}" for drop in (case.drop.value, case.drop.high, case.drop.low))
    ratio = next(rule for rule in rules if rule.name == "speedup").numbers["speedup"]
    return (
        f"Yes: {candidate} may replace {baseline}: accuracy changes by {change} points (95 % interval {low} "
        f"to {high}, over {case.drop.replicates} trainings) and embedding is {ratio:.2f} times as fast."
    )


def _check_limit(path: Path, limit: Limit, value: Any) -> None:
    if limit.choices:
        if value not in limit.choices:
            raise UsageError(f"{path}: {limit.name} is {value!r}; use {' or '.join(limit.choices)}")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{path}: {limit.name} is {value!r}, but must be a number")
    if not limit.low <= value <= limit.high:
        raise UsageError(f"{path}: {limit.name} is {value}, which is outside its range")
