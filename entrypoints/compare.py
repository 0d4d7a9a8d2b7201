"""`compare`: registered models to a verdict and a report."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import say, stage
from virnuc.errors import DataError, GateRefusal
from virnuc.settings import CompareSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker


@stage(CompareSettings)
def compare(settings: CompareSettings, tracker: Tracker) -> dict[str, Any]:
    """Compare a candidate with a baseline, frame by frame, and let the policy's rules decide.

    Everything is read from the registry and the runs behind it. Exit code 0 is PASS, 3 is FAIL with its reasons, 4
    means that no verdict can be given; the report is written in each case.
    """
    from model_registry.card import update_card
    from model_registry.evidence import evaluation_run
    from model_registry.gate import NO_VERDICT, PASS
    from virnuc.reports.rendering import terminal_summary

    document, uris = _decide(settings, tracker)
    say(terminal_summary(document))
    tracker.tags(
        {
            **uris,
            "verdict": {NO_VERDICT: "NONE"}.get(document["outcome"], document["outcome"]),
            "policy_digest": document["policy"]["digest"],
            "evaluation_run": evaluation_run(uris["candidate"]),
            "baseline_evaluation_run": evaluation_run(uris["baseline"]) if uris["baseline"] else "",
        }
    )
    update_card(uris["candidate"])
    if document["outcome"] == NO_VERDICT:
        raise DataError(f"no verdict: {document['answer']}")
    if document["outcome"] != PASS:
        raise GateRefusal(document["answer"])
    return document


def _decide(settings: CompareSettings, tracker: Tracker) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the verdict document and the URIs that it is about; write and log the report."""
    from model_registry.evidence import side_evidence, speed_evidence
    from model_registry.gate import Policy, judge, verdict_document
    from virnuc.comparison import compare as compare_sides
    from virnuc.reports.figures import comparison_drawings
    from virnuc.reports.rendering import write_report
    from virnuc.tracking import model_version, version_uri

    policy = Policy.read(Path(settings.policy))
    candidate = model_version(settings.candidate)
    missing, baseline = "", None
    try:
        baseline = model_version(settings.baseline)
    except DataError as error:
        missing = str(error)
    encoders = [side_evidence(version_uri(version)).encoder for version in (baseline, candidate) if version]
    speeds = speed_evidence(*encoders) if baseline else (None, None)
    tested = side_evidence(version_uri(candidate), speeds[1])
    reference = side_evidence(version_uri(baseline), speeds[0]) if baseline else None
    controls = [side_evidence(uri) for uri in filter(None, settings.controls.split(","))]
    comparison = compare_sides(reference, [tested], controls, seed=settings.seed, missing=missing)
    document = verdict_document(
        comparison, judge(comparison, policy), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    for path in write_report(document, comparison_drawings(comparison), Path(settings.out)).values():
        tracker.file(path)
    tracker.tags({"split_digest": tested.split_digest})
    return document, {
        "baseline": version_uri(baseline) if baseline else "",
        "candidate": version_uri(candidate),
    }


if __name__ == "__main__":
    compare.main()
