"""Verdicts on constructed sides by the project's own policy."""

import functools
from dataclasses import replace

from model_registry.gate import Policy, judge
from tests.shared.constructed import sides
from virnuc.evaluation.comparison import compare

POLICY = Policy.read()


def with_limits(**limits):
    return Policy({**POLICY.limits, **limits})


def judged(comparison, policy=POLICY):
    return judge(comparison, policy).candidates[0]


def verdict(slow, fast):
    return judged(compare(slow, [fast]))


@functools.cache
def compared(lost, genomes):
    """Two sides, compared once for all cases that differ only in records other than predictions."""
    slow, fast = sides(lost, genomes)
    return compare(slow, [fast])


def verdict_with(slow=None, fast=None, policy=POLICY):
    """Return the verdict on equal models with changed records on one side or both."""
    comparison = compared(0, 40)
    baseline = replace(comparison.baseline, evidence=replace(comparison.baseline.evidence, **(slow or {})))
    pair = comparison.pairs[0]
    candidate = replace(pair.candidate, evidence=replace(pair.candidate.evidence, **(fast or {})))
    return judged(replace(comparison, baseline=baseline, pairs=(replace(pair, candidate=candidate),)), policy)


def failed(found):
    return [rule.name for rule in found.rules if rule.outcome == "FAIL"]


def rule_of(found, name):
    return next(rule for rule in found.rules if rule.name == name)
