"""Promotion: from a verdict to a champion, or a refusal with the reasons.

A promotion reads the newest comparison of exactly this model version, checks that it was made with the newest
evaluations and benchmark, judges again what is registered now, copies the version to the registered model
`virnuc` and moves the alias. The steps, under the lock of `locking`:

1. a version of `virnuc` is created, with all its tags in the same request and the state `promoting`;
2. the alias (`champion`) moves: from now on the promotion counts;
3. `previous` moves to the version that was replaced, and the state becomes `done`.

Each version records the alias that it is meant for, and the registered model records where each alias was last moved:
an alias that points elsewhere was moved by hand. An error at any step undoes the earlier ones. The steps that a killed
process left undone are finished, for every alias, by the next promotion or rollback before its own first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from model_registry.card import OVERRIDE, OVERRIDE_RULES, update_card
from model_registry.evidence import PROMOTED_FROM, UNPAIRED, gather
from model_registry.gate import FAIL, Policy, judge
from model_registry.history import PastComparison, past_comparisons
from model_registry.locking import HeldLock, promotion_lock
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.tracking import ensure_registered, find_finished, get_run, model_version, version_uri, versions_of

PRODUCTION = "virnuc"
STATE = "virnuc.promotion"
PROMOTING, ROLLING_BACK, DONE = "promoting", "rolling_back", "done"
REPLACES = "virnuc.replaces"
ALIAS = "virnuc.alias"  # of a version: the alias that it was promoted to, or put back under
NAMED = "virnuc.named."  # of the registered model, and an alias: the version that the alias was moved to last


@dataclass(frozen=True)
class Promotion:
    """What a promotion or a rollback did."""

    version: str  # of the registered model `virnuc` that the alias now names
    alias: str
    source: str  # models:/NAME/VERSION that was copied
    replaced: str | None  # version of `virnuc` that the alias named before
    overridden: tuple[str, ...] = ()  # rules that did not hold, where --override was used
    changed: bool = True  # False if the alias named a copy of this very version already


def promote(candidate_uri: str, alias: str, policy: Policy, override: str, who: str) -> Promotion:
    """Make a model version the one that `alias` of `virnuc` names.

    Args:
        candidate_uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        alias: usually `champion`; the version it named before becomes `previous`.
        policy: as it reads now.
        override: reason for promoting against the verdict, recorded on the version; empty to obey the gate.
        who: who promotes.

    Raises:
        UsageError: the text names no model.
        DataError: there is no such version, or it holds no model.
        GateRefusal: a rule does not hold; the message lists them all.
        VirnucError: another promotion is going on.
    """
    candidate = model_version(candidate_uri)
    uri = version_uri(candidate)
    if UNPAIRED in candidate.tags:
        raise DataError(f"{uri} holds metrics that were measured elsewhere, but no model; promote one that has a model")
    with promotion_lock(MlflowClient(), who) as lock:
        _repair(lock)
        past = past_comparisons(uri)[:1]
        failed = _reasons_against(uri, policy, past)
        if failed and not override:
            raise GateRefusal(f"{uri} is not promoted: " + "; ".join(failed))
        current = production_version(alias)
        if current and current.tags.get(PROMOTED_FROM) == uri:
            return Promotion(str(current.version), alias, uri, None, changed=False)
        replaced = str(current.version) if current else None
        tags = {
            STATE: PROMOTING,
            ALIAS: alias,
            PROMOTED_FROM: uri,
            REPLACES: replaced or "",
            "virnuc.promoted_by": who,
            "virnuc.promoted_at": _now(),
            "virnuc.promoted_why": "override" if failed else "the gate passed",
            "virnuc.comparison_run": past[0].run_id if past else "",
            "virnuc.policy_digest": policy.digest,
        }
        if failed:
            tags |= {OVERRIDE: override, OVERRIDE_RULES: "; ".join(failed)[:4000]}
        version = _copy_and_move(lock, candidate, current, tags)
    update_card(f"models:/{PRODUCTION}/{version}")
    return Promotion(version, alias, uri, replaced, failed)


def rollback(alias: str, who: str) -> Promotion:
    """Move `alias` back to the version that it named before; the one that it names now becomes `previous`.

    Raises:
        UsageError: there is nothing to go back to.
        VirnucError: a promotion is going on.
    """
    client = MlflowClient()
    with promotion_lock(client, who) as lock:
        _repair(lock)
        current, previous = production_version(alias), production_version(_previous(alias))
        if current is None or previous is None:
            raise UsageError(f"{PRODUCTION} has no {_previous(alias)} version to go back to")
        tags = {ALIAS: alias, REPLACES: current.version, "virnuc.restored_by": who, "virnuc.restored_at": _now()}
        tags |= {STATE: ROLLING_BACK}  # set last, when the other tags are complete
        with ExitStack() as undo:
            undo.callback(_set_tags, client, previous.version, {STATE: DONE, REPLACES: previous.tags.get(REPLACES, "")})
            _set_tags(client, previous.version, tags)
            _move(lock, alias, previous.version, current, undo)
            undo.pop_all()
        client.set_model_version_tag(PRODUCTION, current.version, "virnuc.rolled_back", f"{_now()} by {who}")
    return Promotion(str(previous.version), alias, previous.tags.get(PROMOTED_FROM, ""), str(current.version))


def production_version(alias: str) -> ModelVersion | None:
    """Return the version of `virnuc` that an alias names, or None."""
    try:
        return MlflowClient().get_model_version_by_alias(PRODUCTION, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _reasons_against(uri: str, policy: Policy, past: Sequence[PastComparison]) -> tuple[str, ...]:
    """Return all reasons why the newest comparison of a version, `past`, does not allow a promotion.

    It must have used the newest evaluations and benchmark; then the gate judges again, on what is registered now.
    """
    failed = [] if policy.digest == Policy.read().digest else ["the policy given is not the project's own"]
    if not past:
        return (*failed, f"no comparison of {uri} in the store; run compare with it as the candidate")
    if past[0].deleted:
        return (*failed, f"its newest comparison ({past[0]}) was deleted; compare again")
    tags = get_run(past[0].run_id).data.tags
    if tags.get("virnuc.policy_digest") != policy.digest:
        failed.append("the policy is not that of the comparison; compare again")
    for side, tag in (("candidate", "virnuc.evaluation_run"), ("baseline", "virnuc.baseline_evaluation_run")):
        failed.extend(_stale_evaluation(tags, side, tag))
    return tuple(failed) or _failed_today(tags, uri, policy)


def _failed_today(tags: Mapping[str, str], uri: str, policy: Policy) -> tuple[str, ...]:
    """Return the rules that do not hold for the sides of a comparison, as they are in the store now."""
    controls = [name for name in tags.get("virnuc.controls", "").split(",") if name]
    try:
        comparison = gather(tags.get("virnuc.baseline", ""), [uri], controls, shown=False)
    except (DataError, UsageError) as error:
        return (str(error),)
    benchmark = comparison.pairs[0].candidate.evidence.provenance.get("benchmark run", "")
    if benchmark != tags.get("virnuc.benchmark_run"):
        return ("the encoders were timed again after the comparison; compare again",)
    rules = judge(comparison, policy).candidates[0].rules
    failed = [rule for rule in rules if rule.outcome == FAIL]
    return tuple(f"{rule.title}: {rule.observed}, not {rule.limit}. {' '.join(rule.next_steps)}" for rule in failed)


def _stale_evaluation(tags: Mapping[str, str], side: str, tag: str) -> list[str]:
    """Return what is wrong with one side's evaluation: it must be the newest of its version."""
    version = tags.get(f"virnuc.{side}", "")
    newest = next(iter(find_finished("evaluate", {"model": version})), None)
    if newest is None:
        return [f"the store has no evaluation of the {side} {version or '(none named)'}; evaluate and compare again"]
    if newest.info.run_id != tags.get(tag):
        return [f"the {side} {version} was evaluated again after the comparison; compare again"]
    return []


def _copy_and_move(
    lock: HeldLock, candidate: ModelVersion, current: ModelVersion | None, tags: Mapping[str, str]
) -> str:
    """Copy the candidate to `virnuc`, move the alias to the copy and return its version; all or nothing."""
    ensure_registered(PRODUCTION, "The model in production: what the alias champion names.")
    copy = lock.client.create_model_version(
        PRODUCTION,
        source=version_uri(candidate),
        run_id=candidate.run_id,
        tags={**candidate.tags, **tags},
        description=candidate.description,
        model_id=candidate.model_id,
    )
    with ExitStack() as undo:
        undo.callback(_discard, lock, copy.version)
        _move(lock, tags[ALIAS], copy.version, current, undo)
        undo.pop_all()
    return str(copy.version)


def _move(lock: HeldLock, alias: str, version: str, current: ModelVersion | None, undo: ExitStack) -> None:
    """Move `alias` to `version`, and `previous` to the version that it named before; `undo` gets the way back."""
    before = production_version(_previous(alias))
    lock.still_held()
    undo.callback(_set_alias, lock.client, alias, current.version if current else None)
    _set_alias(lock.client, alias, version)
    if current:
        undo.callback(_set_alias, lock.client, _previous(alias), before.version if before else None)
        _set_alias(lock.client, _previous(alias), current.version)
    lock.client.set_model_version_tag(PRODUCTION, version, STATE, DONE)


def _repair(lock: HeldLock) -> None:
    """Finish the promotions and rollbacks of killed processes, each for its own alias."""
    for version in versions_of(PRODUCTION):
        if version.tags.get(STATE) not in (PROMOTING, ROLLING_BACK):
            continue
        alias, replaced = version.tags.get(ALIAS, "champion"), version.tags.get(REPLACES) or None
        lock.still_held()
        _set_alias(lock.client, alias, version.version)
        if replaced:
            _set_alias(lock.client, _previous(alias), replaced)
        lock.client.set_model_version_tag(PRODUCTION, version.version, STATE, DONE)


def _discard(lock: HeldLock, version: str) -> None:
    """Delete a copy that was not promoted, unless another process has taken over and finishes it."""
    if lock.is_held():
        lock.client.delete_model_version(PRODUCTION, version)


def _set_alias(client: MlflowClient, alias: str, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias(PRODUCTION, alias)
    else:
        client.set_registered_model_alias(PRODUCTION, alias, version)
    client.set_registered_model_tag(PRODUCTION, NAMED + alias, version or "")


def _set_tags(client: MlflowClient, version: str, tags: dict[str, Any]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(PRODUCTION, version, key, value)


def _previous(alias: str) -> str:
    return "previous" if alias == "champion" else f"previous-{alias}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
