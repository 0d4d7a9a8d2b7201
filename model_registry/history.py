"""All comparisons of a model version, kept on the version itself, where they survive the deletion of a run.

It also checks that versions can be compared: they need the same split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mlflow.tracking import MlflowClient

from virnuc.errors import DataError
from virnuc.tracking import model_version, run_is_active, version_uri, versions_of

_TAG = "virnuc.compared."  # and the id of the run


@dataclass(frozen=True)
class PastComparison:
    """One comparison with this version as the candidate."""

    run_id: str
    created: str  # ISO 8601
    outcome: str
    baseline: str  # models:/NAME/VERSION; empty without one
    policy: str  # digest
    project_policy: bool  # whether it was the project's own then

    @property
    def deleted(self) -> bool:
        """Whether its run is gone from the store."""
        return not run_is_active(self.run_id)

    def __str__(self) -> str:
        policy = "" if self.project_policy else f", under another policy ({self.policy[:12]})"
        deleted = ", its run was deleted" if self.deleted else ""
        return f"{self.created} {self.outcome} against {self.baseline or 'no baseline'}{policy}{deleted}"


def record_comparison(candidate: str, comparison: PastComparison) -> None:
    """Write a comparison on the version `models:/NAME/VERSION`."""
    version = model_version(candidate)
    text = json.dumps(asdict(comparison))
    MlflowClient().set_model_version_tag(version.name, version.version, _TAG + comparison.run_id, text)


def past_comparisons(candidate: str) -> list[PastComparison]:
    """Return all comparisons of the version `models:/NAME/VERSION`, the newest first."""
    tags = model_version(candidate).tags
    found = [PastComparison(**json.loads(value)) for key, value in tags.items() if key.startswith(_TAG)]
    return sorted(found, key=lambda comparison: comparison.created, reverse=True)


def check_same_split(baseline: str, candidates: Sequence[str]) -> None:
    """Raise a DataError if aliases name versions that were trained on different splits."""
    try:
        slow = model_version(baseline)
    except DataError:
        return  # the report says that it is missing
    split = slow.tags.get("virnuc.split_digest")
    for uri in candidates:
        fast = model_version(uri)
        other = fast.tags.get("virnuc.split_digest")
        if "@" not in baseline + uri or not split or not other or split == other:
            continue
        pairs = ((slow.name, other, "baseline", "candidate", fast), (fast.name, split, "candidate", "baseline", slow))
        commands = [
            f"virnuc compare --{asked} {version_uri(version)} --{given} {version_uri(known)}"
            for name, digest, asked, given, known in pairs
            for version in versions_of(name)
            if version.tags.get("virnuc.split_digest") == digest
        ]
        raise DataError(
            f"{baseline} was trained on split {split[:8]} and {uri} on {other[:8]}; "
            + (f"compare versions of one split: {commands[0]}" if commands else "train both on one split")
        )
