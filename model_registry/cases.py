"""A rule of the gate, its input and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from virnuc.evaluation.crossed import Drop
from virnuc.evaluation.sides import Comparison, Pair, SideEvidence

WARN, REQUIRED = "warn", "required"


@dataclass(frozen=True)
class Limit:
    """A value in the policy file, with its range or choices."""

    name: str
    low: float = 0.0
    high: float = math.inf
    choices: tuple[str, ...] = ()  # if it is a word instead of a number


@dataclass(frozen=True)
class Case:
    """The input of a rule."""

    comparison: Comparison
    pair: Pair
    limits: Mapping[str, float | str]

    def number(self, name: str) -> float:
        """Return a limit that is a number."""
        return float(self.limits[name])

    @property
    def sides(self) -> list[SideEvidence]:
        """The baseline, if there is one, and the candidate."""
        baseline = self.comparison.baseline
        return [*([baseline.evidence] if baseline else []), self.pair.candidate.evidence]

    @property
    def candidate(self) -> SideEvidence:
        """The side that is judged."""
        return self.pair.candidate.evidence

    @property
    def predictions(self) -> pd.DataFrame:
        """The candidate's; those of the baseline have the same frames."""
        assert self.candidate.predictions is not None
        return self.candidate.predictions

    @property
    def drop(self) -> Drop:
        """The accuracy drop; only for rules that need a pair."""
        assert self.pair.drop is not None
        return self.pair.drop


@dataclass(frozen=True)
class Finding:
    """The result of a rule."""

    passed: bool
    observed: str
    limit: str = "required"
    numbers: dict[str, float] = field(default_factory=dict)
    next_step: str = ""  # instead of the rule's own
    only_warns: bool = False  # does not decide


@dataclass(frozen=True)
class Rule:
    """A rule of the gate."""

    name: str
    title: str
    find: Callable[[Case], Finding]
    next_step: str  # advice if it does not hold
    limits: tuple[Limit, ...] = ()
    needs_pair: bool = True  # of sides that can be compared frame by frame
