"""`compare`: registered models to a verdict on each candidate, and a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import say, stage
from virnuc.errors import GateRefusal, NoVerdictError
from virnuc.settings import CompareSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virnuc.evaluation.sides import Comparison
    from virnuc.tracking import Tracker


@stage(CompareSettings)
def compare(settings: CompareSettings, tracker: Tracker) -> dict[str, Any]:
    """Compare candidates with a baseline, frame by frame, and let the policy's rules decide on each.

    Everything is read from the registry and the runs behind it. Exit code 0: every candidate passes; 3: at least one
    fails; 4: for at least one no verdict can be given. The report is written in each case. With several candidates,
    each has a child run with its own verdict and can be promoted whatever the others' verdicts are.
    """
    from model_registry.card import update_card
    from model_registry.evidence import gather
    from model_registry.gate import NO_VERDICT, PASS, Policy, judge, verdict_document
    from model_registry.history import check_same_split, past_comparisons
    from model_registry.origins import command_of
    from virnuc.reports.figures import comparison_drawings
    from virnuc.reports.rendering import terminal_summary, write_report
    from virnuc.reports.verdict import Origin
    from virnuc.tracking import get_run, ui_address, versions

    policy = Policy.read(Path(settings.policy))
    check_same_split(settings.baseline, settings.candidate)
    comparison = gather(settings.baseline, settings.candidate, settings.controls, settings.benchmark)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    origin = Origin(now, tracker.run_id, command_of(get_run(tracker.run_id)), versions(), ui_address())
    candidates = [pair.candidate.evidence.uri for pair in comparison.pairs]
    past = {uri: [str(one) for one in past_comparisons(uri)] for uri in candidates}
    document = verdict_document(comparison, judge(comparison, policy), origin, past)
    files = write_report(document, comparison_drawings(comparison), Path(settings.out)).values()
    say(terminal_summary(document))
    _log_verdicts(settings, comparison, document, files, tracker)
    for pair in comparison.pairs:
        update_card(pair.candidate.evidence.uri)
    if document["outcome"] == NO_VERDICT:
        raise NoVerdictError(f"no verdict: {document['answer']}")
    if document["outcome"] != PASS:
        raise GateRefusal(document["answer"])
    return document


def _log_verdicts(
    settings: CompareSettings,
    comparison: Comparison,
    document: dict[str, Any],
    files: Iterable[Path],
    tracker: Tracker,
) -> None:
    """Log a single candidate's verdict to this run, and those of several to a child run each."""
    from virnuc.tracking import tracked_run

    if len(comparison.pairs) == 1:
        _log_verdict(comparison, document, files, tracker)
        return
    candidates = ",".join(pair.candidate.evidence.uri for pair in comparison.pairs)
    _log(document, files, {"verdict": document["outcome"], "candidates": candidates}, tracker)
    for pair, verdict in zip(comparison.pairs, document["verdicts"], strict=True):
        side = pair.candidate.evidence
        with tracked_run("compare", replace(settings, candidate=(side.uri,)), f"{side.encoder} compare") as child:
            own = replace(comparison, pairs=(pair,))
            _log_verdict(own, {**document, "verdicts": [verdict], "run": child.run_id}, files, child)


def _log_verdict(comparison: Comparison, document: dict[str, Any], files: Iterable[Path], tracker: Tracker) -> None:
    """Log the verdict on one candidate, with what a promotion looks for, and write it on the candidate's version."""
    from model_registry.history import PastComparison, record_comparison
    from virnuc.tracking import model_version, tag_version

    candidate, (verdict,) = comparison.pairs[0].candidate.evidence, document["verdicts"]
    baseline = comparison.baseline.evidence if comparison.baseline else None
    tags = {
        "verdict": verdict["outcome"],
        "candidate": candidate.uri,
        "evaluation_run": candidate.provenance.get("evaluation run", ""),
        "baseline": baseline.uri if baseline else "",
        "baseline_evaluation_run": baseline.provenance.get("evaluation run", "") if baseline else "",
        "benchmark_run": candidate.provenance.get("benchmark run", ""),
        "controls": ",".join(pair.candidate.evidence.uri for pair in comparison.controls),
    }
    numbers = {name: value for rule in verdict["rules"] for name, value in rule["numbers"].items() if value is not None}
    tracker.metrics({f"gate/{name}": value for name, value in numbers.items()})
    if verdict["drop"]:
        shown = ("training_spread", "training_error", "sampling_error", "detectable")
        known = {name: verdict["drop"][name] for name in shown if verdict["drop"][name] is not None}
        tracker.metrics({f"drop/{name}": value for name, value in known.items()})
    _log(document, files, tags, tracker)
    policy = document["policy"]
    past = PastComparison(
        tracker.run_id, document["created"], verdict["outcome"], tags["baseline"], policy["digest"], policy["project"]
    )
    record_comparison(candidate.uri, past)
    tag_version(model_version(candidate.uri), {"verdict": verdict["outcome"]})


def _log(document: dict[str, Any], files: Iterable[Path], tags: dict[str, str], tracker: Tracker) -> None:
    from virnuc.reports.rendering import gate_markdown

    for path in files:
        tracker.file(path)
    tracker.describe(gate_markdown(document)[:4900])
    tracker.tags({**tags, "policy_digest": document["policy"]["digest"]})


if __name__ == "__main__":
    compare.main()
