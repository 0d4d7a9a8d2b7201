"""`compare`: registered models to a verdict on each candidate, and a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import say, stage
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.settings import CompareSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virnuc.evaluation.comparison import Comparison, SideEvidence
    from virnuc.tracking import Tracker


@stage(CompareSettings)
def compare(settings: CompareSettings, tracker: Tracker) -> dict[str, Any]:
    """Compare candidates with a baseline, frame by frame, and let the policy's rules decide on each.

    Everything is read from the registry and the runs behind it. Exit code 0: every candidate passes; 3: each is
    judged and at least one fails; 4: on at least one no verdict can be given. The report is written in each case. Of
    several candidates each has a child run with its own verdict, by which it can be promoted whatever the others are.
    """
    from model_registry.card import update_card
    from model_registry.evidence import command_of
    from model_registry.gate import NO_VERDICT, PASS, Policy, judge, verdict_document
    from virnuc.reports.figures import comparison_drawings
    from virnuc.reports.rendering import terminal_summary, write_report
    from virnuc.reports.verdict import Origin
    from virnuc.tracking import get_run

    policy = Policy.read(Path(settings.policy))
    comparison = _gather(settings)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    origin = Origin(now, tracker.run_id, command_of(get_run(tracker.run_id)))
    document = verdict_document(comparison, judge(comparison, policy), origin)
    files = write_report(document, comparison_drawings(comparison), Path(settings.out)).values()
    say(terminal_summary(document))
    _log_verdicts(settings, comparison, document, files, tracker)
    for pair in comparison.pairs:
        update_card(pair.candidate.evidence.uri)
    if document["outcome"] == NO_VERDICT:
        raise DataError(f"no verdict: {document['answer']}")
    if document["outcome"] != PASS:
        raise GateRefusal(document["answer"])
    return document


def _gather(settings: CompareSettings) -> Comparison:
    """Read the evidence of all sides and compare them."""
    from model_registry.evidence import side_evidence, with_speed
    from virnuc.evaluation.comparison import compare as compare_sides

    candidates = [side_evidence(uri) for uri in settings.candidate]
    if len({one.uri for one in candidates}) < len(candidates):
        raise UsageError(f"--candidate {','.join(settings.candidate)}: two of them are the same version")
    missing, baseline = "", None
    try:
        baseline = side_evidence(settings.baseline)
    except DataError as error:
        missing = str(error)
    if baseline:
        candidates = with_speed(baseline, candidates, settings.benchmark)
    controls = [side_evidence(uri) for uri in settings.controls]
    return compare_sides(baseline, candidates, controls, seed=settings.seed, missing=missing)


def _log_verdicts(
    settings: CompareSettings,
    comparison: Comparison,
    document: dict[str, Any],
    files: Iterable[Path],
    tracker: Tracker,
) -> None:
    """Log a single candidate's verdict to this run, and those of several to a child run each."""
    from virnuc.tracking import tracked_run

    sides = [pair.candidate.evidence for pair in comparison.pairs]
    baseline = comparison.baseline.evidence if comparison.baseline else None
    if len(sides) == 1:
        _log(document, files, _tags(document["verdicts"][0], baseline, sides[0]), tracker)
        return
    tags = {"verdict": _short(document["outcome"]), "candidates": ",".join(side.uri for side in sides)}
    _log(document, files, tags, tracker)
    for side, verdict in zip(sides, document["verdicts"], strict=True):
        with tracked_run("compare", replace(settings, candidate=(side.uri,)), f"compare {side.encoder}") as child:
            _log({**document, "verdicts": [verdict]}, files, _tags(verdict, baseline, side), child)


def _tags(verdict: dict[str, Any], baseline: SideEvidence | None, candidate: SideEvidence) -> dict[str, str]:
    """Return what a promotion looks for."""
    return {
        "verdict": _short(verdict["outcome"]),
        "candidate": candidate.uri,
        "evaluation_run": candidate.provenance.get("evaluation run", ""),
        "split_digest": candidate.split_digest,
        "baseline": baseline.uri if baseline else "",
        "baseline_evaluation_run": baseline.provenance.get("evaluation run", "") if baseline else "",
        "benchmark_run": candidate.provenance.get("benchmark run", ""),
    }


def _log(document: dict[str, Any], files: Iterable[Path], tags: dict[str, str], tracker: Tracker) -> None:
    from virnuc.reports.rendering import gate_markdown

    for path in files:
        tracker.file(path)
    tracker.describe(gate_markdown(document)[:4900])
    if len(document["verdicts"]) == 1:
        numbers = [rule["numbers"] for rule in document["verdicts"][0]["rules"]]
        known = {name: value for found in numbers for name, value in found.items() if value is not None}
        tracker.metrics({f"gate/{name}": known[name] for name in ("drop", "upper_bound", "speedup") if name in known})
    tracker.tags({**tags, "policy_digest": document["policy"]["digest"]})


def _short(outcome: str) -> str:
    return outcome.removesuffix(" VERDICT").replace("NO", "NONE")


if __name__ == "__main__":
    compare.main()
