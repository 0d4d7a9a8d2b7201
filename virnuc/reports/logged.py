"""The sections that show what each side's evaluation logged: a row for each figure, a column for each side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from virnuc.reports.content import UNKNOWN, Document, Section, Table, number, with_interval

_CALIBRATION = {
    "Temperature, fitted on validation": "test/calibrated/temperature",
    "Brier score, calibrated ↓": "test/calibrated/brier",
    "Calibration error ↓": "test/calibration/ece",
    "… under perfect calibration": "test/calibration/ece_if_perfect",
    "Calibration error, calibrated ↓": "test/calibrated/ece",
    "Log loss, calibrated ↓": "test/calibrated/log_loss",
}
_PREVALENCE = {
    "PR-AUC": "pr_auc",
    "Precision at threshold 0.5": "precision",
    "F1 at threshold 0.5": "f1",
    "Threshold for 5 % false discoveries, set on validation": "threshold/value",
    "False discoveries at that threshold": "threshold/false_discovery_rate",
    "Recall at that threshold": "threshold/recall",
}
_CONTROLS = {
    "Share of permutations of labels among genomes at least as good as the true labels": "test/control/permuted_p",
    "Accuracy on shuffled sequences": "test/control/shuffled_accuracy",
    "Test frames whose genome is in training": "test/leak/frames_sharing_a_genome",
    "Test frames whose genome an encoder was trained on": "test/leak/frames_in_pretraining",
    "Test frames with a similar protein in training": "test/relatives/frames_with_relative",
    "Accuracy on these": "test/relatives/accuracy_with_relative",
    "Accuracy on the others": "test/relatives/accuracy_without_relative",
    "Alignment control: label of the most similar protein, if there is one": "test/relatives/best_hit_accuracy",
    "Alignment control, and the model if there is none": "test/relatives/best_hit_or_model_accuracy",
}
_COVERAGE = {
    "Accuracy, all genomes weighted equally": "test/macro/accuracy_by_genome",
    "Accuracy, all groups weighted equally": "test/macro/accuracy_by_group",
    "Effective number of genomes (class with fewer)": "test/count/effective_genomes",
    "Share of frames of the largest genome": "test/count/largest_genome_share",
    "Share of frames of the ten largest genomes": "test/count/ten_largest_genomes_share",
    "Chunks of the test genomes": "test/coverage/chunks",
    "… with a frame": "test/coverage/covered",
    "… without an open frame": "test/coverage/no_open_frame",
    "… with open frames, but none in an annotated CDS": "test/coverage/no_cds_evidence",
    "… with bases other than ACGT, not scored here": "test/coverage/ambiguous_bases",
    "Chunks that were scored, as predict scores them": "test/coverage/chunks_scored",
    "Accuracy over chunks with a frame": "test/coverage/accuracy_of_covered_chunks",
    "Accuracy over chunks without a frame": "test/coverage/accuracy_of_uncovered_chunks",
    "Accuracy over chunks without an open frame": "test/coverage/accuracy_of_no_open_frame_chunks",
    "Accuracy over chunks with open frames outside a CDS": "test/coverage/accuracy_of_no_cds_evidence_chunks",
    "Accuracy over all chunks": "test/coverage/accuracy_of_all_chunks",
    "ROC-AUC over all chunks": "test/coverage/roc_auc_of_all_chunks",
}


def logged_sections(document: Document) -> list[Section]:
    """Return the sections on calibration, other prevalences, controls and coverage."""
    other = {
        f"{label}, {share} viral": f"test/{section}/{key}"
        for share, section in (("5 %", "prevalence_05"), ("1 %", "prevalence_01"))
        for label, key in _PREVALENCE.items()
    }
    temperature = "The temperature changes probabilities but no call; raw figures are in the table of metrics."
    chosen = "Thresholds are chosen on validation frames weighted to the stated share, and tested on test frames."
    rarer, permuted = "If fewer frames were viral, as in real samples", _permuted(document)
    return [
        _section(document, "calibration", "Calibration", _CALIBRATION, temperature),
        _section(document, "prevalence", rarer, other, chosen),
        _section(document, "controls", "Controls and relatives in training", _CONTROLS, *permuted),
        _section(document, "coverage", "What the test set covers", _COVERAGE),
    ]


def evaluation_run(side: Mapping[str, Any]) -> str:
    """Return the id of the run that measured a side; empty if there is none."""
    return str(side["provenance"].get("evaluation run", ""))


def _permuted(document: Document) -> Iterable[str]:
    """Yield the results of each side with permuted labels and with shuffled sequences."""
    for side in document["sides"]:
        logged = side["logged"]
        if "test/control/permuted_roc_auc" not in logged:
            continue
        mean, low, high = (logged[f"test/control/permuted_roc_auc{end}"] for end in ("", "_low", "_high"))
        chance = "at chance, as it should be"
        if not logged["test/control/permuted_at_chance"]:
            chance = "NOT at chance: something other than the labels is measured"
        yield (
            f"{side['name']}: with labels permuted among genomes ROC-AUC is {mean:.3f} (95 % of permutations {low:.3f} "
            f"to {high:.3f}), {chance}."
        )
        if (shuffled := logged.get("test/control/shuffled_roc_auc")) is not None:
            true = number(side["metrics"]["frames"]["roc_auc"]["value"])
            yield (
                f"{side['name']}: with letters in random order, where only composition is left, ROC-AUC is "
                f"{shuffled:.3f}; with the true sequences it is {true}."
            )


def _section(document: Document, anchor: str, title: str, keys: Mapping[str, str], *text: str) -> Section:
    """Return a section with the figures of `keys`, which are MLflow's by label; empty if none was logged."""
    sides = [side for side in document["sides"] if side["logged"]]
    rows = tuple(
        (label, *(_cell(key, side["logged"]) for side in sides))
        for label, key in keys.items()
        if any(side["logged"].get(key) is not None for side in sides)
    )
    if not rows:
        return Section(anchor, title)
    table = Table("", ("", *(side["name"] for side in sides)), rows, ("", *map(evaluation_run, sides)))
    return Section(anchor, title, text, (table,))


def _cell(key: str, logged: Mapping[str, Any]) -> str:
    """Return a figure with its interval where one was logged; counts are whole numbers."""
    value = logged.get(key)
    if value is None:
        return UNKNOWN
    whole = key.startswith("test/leak") or key.endswith("frames_with_relative")
    if whole or ("test/coverage" in key and "_of_" not in key):
        return f"{value:,.0f}"
    return with_interval({"value": value, "low": logged.get(f"{key}_low"), "high": logged.get(f"{key}_high")})
