"""The report's content: a verdict document as headed sections of sentences and tables of formatted words.

Every rendering (HTML, Markdown, terminal) is made from these sections, so all say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virnuc.evaluation.metrics import METRICS

STRATA = {"group": "Group", "length": "Chunk length", "lineage": "Lineage", "organism": "Hardest organisms"}
UNKNOWN = "—"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of words; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    steps: tuple[str, ...] = ()  # what to do next, after the tables
    commands: tuple[str, ...] = ()


def sections(document: Document) -> list[Section]:
    """Return the sections of the report, without those that the evidence leaves empty."""
    made = (_gate, _metrics, _differences, _strata, _speed, _calibration, _controls, _provenance)
    found = [make(document) for make in made]
    return [section for section in found if section.tables or section.text or section.commands]


def title(document: Document) -> str:
    """Return the report's heading."""
    judged = {verdict["candidate"] for verdict in document["verdicts"]}
    names = [side["name"] for side in _sides(document, "candidate") if side["id"] in judged]
    baselines = [side["name"] for side in _sides(document, "baseline")]
    return ", ".join(names) + (f" against {baselines[0]}" if baselines else ", alone")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash where it is not known."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def with_interval(found: Mapping[str, float | None], digits: int = 3, sign: str = "") -> str:
    """Return `value (low to high)`; without the bracket where there is no interval."""
    if found["value"] is None:
        return UNKNOWN
    shown = f"{found['value']:{sign}.{digits}f}"
    if found["low"] is None or found["high"] is None:
        return shown
    return f"{shown} ({found['low']:{sign}.{digits}f} to {found['high']:{sign}.{digits}f})"


def _sides(document: Document, *roles: str) -> list[Mapping[str, Any]]:
    return [side for side in document["sides"] if not roles or side["role"] in roles]


def _gate(document: Document) -> Section:
    tables, steps = [], []
    for verdict in document["verdicts"]:
        rows = tuple(
            ("PASS" if rule["passed"] else "FAIL", rule["title"], rule["observed"], rule["limit"])
            for rule in verdict["rules"]
        )
        tables.append(Table(verdict["candidate"], ("", "Rule", "Observed", "Limit"), rows))
        whose = f"{verdict['candidate']}, " if len(document["verdicts"]) > 1 else ""
        for rule in verdict["rules"]:
            steps += [f"{whose}{rule['title']}: {step}" for step in rule["next_steps"]]
    return Section("gate", "The gate, rule by rule", (), tuple(tables), tuple(f"Next: {step}" for step in steps))


def _metrics(document: Document) -> Section:
    method = document["method"]
    text = [
        f"Brackets are {100 * method['confidence']:.0f} % intervals from {method['resamples']:,} draws of genomes; "
        "differences are paired, candidate minus baseline. ↓ marks what is better when lower. The calibration error "
        "has no interval, because resampling only raises it."
    ]
    tables = [_metric_table(document, "frames", "Over frames")]
    logged = [side["logged"] for side in document["sides"]]
    if all(one.get("test/count/frames") == one.get("test/count/chunks") for one in logged):
        text.append("Each chunk here has one frame, so its metrics are those of frames.")
    else:
        text.append("A chunk is viral if its highest viral score is at least its highest non-viral score.")
        tables.append(_metric_table(document, "chunks", "Over chunks with a frame"))
    return Section("metrics", "Test metrics", tuple(text), tuple(tables))


def _metric_table(document: Document, level: str, heading: str) -> Table:
    sides = [side for side in document["sides"] if level in side["metrics"]]
    differences = [(v["candidate"], v["differences"].get(level)) for v in document["verdicts"] + document["controls"]]
    shown = {name: found for name, found in differences if found}
    columns, cells = ["Metric"], []
    for side in sides:
        columns.append(f"{side['name']} ({side['role']})")
        cells.append([with_interval(side["metrics"][level][metric.key]) for metric in METRICS])
        if side["id"] in shown:
            columns.append("difference")
            cells.append([with_interval(shown[side["id"]][metric.key], sign="+") for metric in METRICS])
    rows = zip((metric.title for metric in METRICS), *cells, strict=True)
    return Table(heading, tuple(columns), tuple(rows))


def _differences(document: Document) -> Section:
    text, tables = [], []
    for verdict in document["verdicts"]:
        found = verdict["mcnemar"]
        if not found:
            continue
        text.append(
            f"{verdict['candidate']} alone is right on {found['only_candidate']:,} frames, the baseline alone on "
            f"{found['only_baseline']:,} (McNemar, exact: p = {found['p_value']:.2g}; it takes frames for independent, "
            "which those of one genome are not, so it is for information only)."
        )
        rows = tuple(
            (row["group"], f"{row['frames']:,}", f"{row['only_baseline']:,}", f"{row['only_candidate']:,}")
            for row in verdict["disagreements"]
        )
        columns = ("Group", "Frames", "only the baseline right", "only the candidate right")
        tables.append(Table(verdict["candidate"], columns, rows))
    return Section("disagreement", "Frames that only one of the two gets right", tuple(text), tuple(tables))


def _strata(document: Document) -> Section:
    sides = [side for side in document["sides"] if side["strata"]]
    tables = [_stratum_table(sides, kind) for kind in STRATA if any(kind in side["strata"] for side in sides)]
    text = (
        "Accuracy of frames. A group holds one class, so this is recall for viral and specificity for non-viral "
        "groups. Strata too small for a figure are counted and get a dash.",
    )
    return Section("strata", "Where the models fail", text if tables else (), tuple(tables))


def _stratum_table(sides: Sequence[Mapping[str, Any]], kind: str) -> Table:
    by_side = [{row["stratum"]: row for row in side["strata"].get(kind, [])} for side in sides]
    rows = []
    for name, row in {name: row for found in by_side for name, row in found.items()}.items():
        cells = [
            with_interval({**found[name], "value": found[name]["accuracy"]}) if name in found else UNKNOWN
            for found in by_side
        ]
        rows.append((name, f"{row['frames']:,}", f"{row['genomes']:,}", f"{row['viral']:.0%}", *cells))
    return Table(
        STRATA[kind], (kind.capitalize(), "Frames", "Genomes", "Viral", *(s["name"] for s in sides)), tuple(rows)
    )


def _speed(document: Document) -> Section:
    text, tables = [], []
    for side in _sides(document, "candidate"):
        timed = [speed for speed in (side["baseline_speed"], side["speed"]) if speed]
        if timed:
            text.append(
                f"{side['name']}: one sample of {timed[0]['frames']:,} frames (digest "
                f"{timed[0]['sample_digest'][:12]}), tokenising included, after warm-up; benchmark run "
                f"{timed[0]['run_id']}."
            )
            tables.append(_timed_runs(side["id"], timed))
    return Section("speed", "Embedding speed", tuple(text), tuple(tables))


def _timed_runs(heading: str, timed: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "Encoder", "Median, s", "Runs, s", "Frames/s", "Peak memory, GiB", "Precision", "Device", "Weights", "Hardware"
    )  # fmt: skip
    rows = []
    for speed in timed:
        runs = ", ".join(f"{seconds:.2f}" for seconds in speed["runs"])
        rate = speed["frames"] / speed["seconds"]
        memory = number(speed["peak_memory"] / 2**30, 2) if speed["peak_memory"] else UNKNOWN
        place = (speed["precision"], speed["device"], speed["weights"], speed["hardware"])
        rows.append((speed["encoder"], f"{speed['seconds']:.2f}", runs, f"{rate:,.1f}", memory, *place))
    return Table(heading, columns, tuple(rows))


def _calibration(document: Document) -> Section:
    lines = {
        "Temperature, fitted on validation": "test/calibrated/temperature",
        "Brier score, calibrated ↓": "test/calibrated/brier",
        "Calibration error, calibrated ↓": "test/calibrated/ece",
        "Log loss, calibrated ↓": "test/calibrated/log_loss",
        "Threshold for 5 % false discoveries, set on validation": "test/threshold/value",
        "False discoveries at that threshold, on test": "test/threshold/false_discovery_rate",
        "Recall at that threshold, on test": "test/threshold/recall",
        "Precision if 5 % were viral, at threshold 0.5": "test/prevalence_05/precision",
        "F1 if 5 % were viral, at threshold 0.5": "test/prevalence_05/f1",
        "Precision if 1 % were viral, at threshold 0.5": "test/prevalence_01/precision",
        "F1 if 1 % were viral, at threshold 0.5": "test/prevalence_01/f1",
    }
    text = ("The temperature changes probabilities and no call; raw figures stand in the table of metrics.",)
    return _logged("calibration", "Calibration, thresholds and other shares of viral frames", text, lines, document)


def _controls(document: Document) -> Section:
    lines = {
        "Share of permutations of labels among genomes at least as good as the true labels": "test/control/permuted_p",
        "Accuracy on shuffled sequences": "test/control/shuffled_accuracy",
        "Test frames that share a genome with training": "test/leak/frames_sharing_a_genome",
        "Chunks of the test genomes": "test/coverage/chunks",
        "… with a frame": "test/coverage/covered",
        "… without an open frame": "test/coverage/no_open_frame",
        "… with open frames, but none in an annotated CDS": "test/coverage/no_cds_evidence",
        "… with other bases than ACGT, in no accuracy here": "test/coverage/ambiguous_bases",
        "Chunks without a frame that were scored, as predict scores them": "test/coverage/uncovered_scored",
        "Accuracy over chunks with a frame, by these frames": "test/coverage/accuracy_of_covered_chunks",
        "Accuracy over chunks without a frame": "test/coverage/accuracy_of_uncovered_chunks",
        "Accuracy over chunks without an open frame": "test/coverage/accuracy_of_no_open_frame_chunks",
        "Accuracy over chunks with open frames outside a CDS": "test/coverage/accuracy_of_no_cds_evidence_chunks",
        "Accuracy over all chunks, each kind by its share": "test/coverage/accuracy_of_all_chunks",
    }
    text = tuple(_control(side) for side in document["sides"] if "test/control/permuted_roc_auc" in side["logged"])
    return _logged("controls", "Controls and coverage", text, lines, document)


def _control(side: Mapping[str, Any]) -> str:
    """Return what a side reaches where there is nothing, or nothing but composition, to be learned from."""
    logged = side["logged"]
    mean = logged["test/control/permuted_roc_auc"]
    low, high = (logged[f"test/control/permuted_roc_auc_{end}"] for end in ("low", "high"))
    at_chance = low <= 0.5 <= high and abs(mean - 0.5) < 0.02
    verdict = "at chance, as it must be" if at_chance else "NOT at chance: something other than labels is counted"
    text = (
        f"{side['name']}: with labels permuted among genomes ROC-AUC is {mean:.3f} (95 % of permutations {low:.3f} to "
        f"{high:.3f}), {verdict}."
    )
    shuffled, true = logged.get("test/control/shuffled_roc_auc"), side["metrics"]["frames"]["roc_auc"]["value"]
    if shuffled is None:
        return text
    composition = f"is {shuffled:.3f}, which is what composition alone gives, against {number(true)} on the true ones"
    return f"{text} On sequences in random order it {composition}."


def _logged(anchor: str, heading: str, text: Iterable[str], lines: Mapping[str, str], document: Document) -> Section:
    """Return a section with one table of logged metrics: a row a metric, a column a side."""
    sides = [side for side in document["sides"] if side["logged"]]
    rows = tuple(
        (label, *(_plain(key, side["logged"].get(key)) for side in sides))
        for label, key in lines.items()
        if any(side["logged"].get(key) is not None for side in sides)
    )
    if not rows:
        return Section(anchor, heading)
    return Section(anchor, heading, tuple(text), (Table("", ("", *(side["name"] for side in sides)), rows),))


def _plain(key: str, value: float | None) -> str:
    whole = key.startswith(("test/leak", "test/count")) or ("test/coverage" in key and "accuracy" not in key)
    return f"{value:,.0f}" if whole and value is not None else number(value)


def _provenance(document: Document) -> Section:
    sides = document["sides"]
    keys = list(dict.fromkeys(key for side in sides for key in side["provenance"]))
    rows = [("Registered model", *(side["id"] for side in sides))]
    rows.append(("Encoder", *(side["encoder"] for side in sides)))
    rows.append(("Weights", *(", ".join(f"{k}: {v}" for k, v in side["weights"].items()) or UNKNOWN for side in sides)))
    rows.append(("Split", *(f"{side['split']['digest'][:12]} ({side['split']['unit'] or '?'})" for side in sides)))
    rows += [(key, *(_short(key, side["provenance"].get(key, UNKNOWN)) for side in sides)) for key in keys]
    policy = document["policy"]
    text = (
        f"Compared {document['created']} in run {document['run']} with evaluation code version "
        f"{document['method']['evaluation_version']}, seed {document['method']['seed']}; policy "
        f"{policy['digest'][:12]}.",
    )
    commands = tuple(dict.fromkeys([*(command for side in sides for command in side["commands"]), document["command"]]))
    table = Table("", ("", *(side["name"] for side in sides)), tuple(rows))
    return Section("provenance", "Where the numbers come from", text, (table,), commands=commands)


def _short(key: str, value: str) -> str:
    """Return digests and commits as far as one reads them; verdict.json has them in full."""
    return value[:12] if key.endswith(("digest", "commit")) else value
