"""Constructed comparisons and their reports, each made only once."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from model_registry.gate import Policy, judge, verdict_document
from tests.shared.constructed import frames_table, predicted, side, sides
from virnuc.evaluation.comparison import compare
from virnuc.evaluation.controls import permuted_labels
from virnuc.reports.figures import comparison_drawings
from virnuc.reports.rendering import write_report
from virnuc.reports.verdict import Origin

POLICY = Policy.read()
ORIGIN = Origin(
    "2026-01-01T00:00:00+00:00",
    "run-of-this-comparison",
    "python -m entrypoints.compare --seed=42",
    {"virnuc": "0.1.0"},
    "http://127.0.0.1:5000",
)


def logged(evidence):
    """Return the evidence with the control that every evaluation logs."""
    control = {f"test/control/{key}": value for key, value in permuted_labels(evidence.predictions, 1).items()}
    return replace(evidence, metrics={**evidence.metrics, **control})


@functools.cache
def case(kind):
    slow, fast = (logged(one) for one in sides(lost=9 if kind == "fail" else 1))
    if kind == "alone":
        return compare(None, [fast], missing="no model is registered as virnuc-slow")
    if kind == "unpaired":
        return compare(replace(slow, predictions=None), [fast])
    if kind == "other split":
        return compare(slow, [replace(fast, split_digest="cd" * 32)])
    if kind == "several":
        return compare(slow, [fast, *(side(f"worse_by_{lost}", sides(lost=lost)[1].predictions) for lost in (3, 9))])
    control = side("composition", predicted(frames_table(), np.tile(np.arange(100), 40) < 20), speed=None)
    return compare(slow, [fast], [control])


@functools.cache
def reported(kind):
    """Return the document and the texts of all files of a case, made only once."""
    drawings = comparison_drawings(case(kind))
    with tempfile.TemporaryDirectory() as directory:
        return report(case(kind), Path(directory), drawings if kind in ("pass", "several") else {})


def report(comparison, directory, drawings=None):
    """The document and the texts of all files; drawing the figures takes most of the time."""
    document = verdict_document(comparison, judge(comparison, POLICY), ORIGIN)
    files = write_report(document, drawings or {}, directory)
    return document, {name: path.read_text(encoding="utf-8") for name, path in files.items()}
