"""The report's content: a verdict document as headed sections of sentences and tables of formatted words.

Every rendering (HTML, Markdown, terminal) is made from these sections, so all say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from virnuc.evaluation.metrics import METRICS
from virnuc.reports.content import UNKNOWN, Document, Section, Table, gib, weights_in_words, with_interval
from virnuc.reports.glossary import WORDS
from virnuc.reports.logged import evaluation_run, logged_sections

STRATA = {
    "group": "Group",
    "relative": "Nearest protein in training",
    "length": "Chunk length",
    "lineage": "Lineage",
    "family": "Recall by viral family",
    "organism": "Hardest organisms",
}
_DROP_COLUMNS = (
    "Difference", "Points (95 % interval)", "Trainings", "By seed", "SD of trainings", "SE, trainings", "SE, genomes"
)  # fmt: skip


def sections(document: Document) -> list[Section]:
    """Return the sections of the report, without those that the evidence leaves empty."""
    made = (_gate, _metrics, _drops, _differences, _strata, _speed)
    glossary = Section("glossary", "Glossary", tables=(Table("", ("Word", "Meaning"), tuple(WORDS.items())),))
    found = [*(make(document) for make in made), *logged_sections(document), _provenance(document), glossary]
    return [section for section in found if section.tables or section.text or section.commands]


def title(document: Document) -> str:
    """Return the report's heading."""
    judged = {verdict["candidate"] for verdict in document["verdicts"]}
    names = [side["name"] for side in _sides(document, "candidate") if side["id"] in judged]
    baselines = [side["name"] for side in _sides(document, "baseline")]
    return ", ".join(names) + (f" against {baselines[0]}" if baselines else ", alone")


def _sides(document: Document, *roles: str) -> list[Mapping[str, Any]]:
    return [side for side in document["sides"] if not roles or side["role"] in roles]


def _gate(document: Document) -> Section:
    text, tables, steps = [], [], []
    for verdict in document["verdicts"]:
        rows = tuple((rule["outcome"], rule["title"], rule["observed"], rule["limit"]) for rule in verdict["rules"])
        runs = ("", "", document["run"], "")
        tables.append(Table(verdict["candidate"], ("", "Rule", "Observed", "Limit"), rows, runs))
        text += [f"Compared before, {line}." for line in verdict["earlier"]]
        whose = f"{verdict['candidate']}, " if len(document["verdicts"]) > 1 else ""
        for rule in verdict["rules"]:
            steps += [f"{whose}{rule['title']}: {step}" for step in rule["next_steps"]]
    return Section(
        "gate", "The gate, rule by rule", tuple(text), tuple(tables), tuple(f"Next: {step}" for step in steps)
    )


def _metrics(document: Document) -> Section:
    method = document["method"]
    text = [
        f"Brackets are {100 * method['confidence']:.0f} % intervals from {method['resamples']:,} draws of genomes; "
        "differences are paired, candidate minus baseline, of the registered trainings. ↓: lower is better. The "
        "interval of the calibration error is given below."
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
    columns, cells, runs = ["Metric"], [], [""]
    for side in sides:
        columns.append(f"{side['name']} ({side['role']})")
        cells.append([with_interval(side["metrics"][level][metric.key]) for metric in METRICS])
        runs.append(evaluation_run(side))
        if side["id"] in shown:
            columns.append("difference")
            cells.append([with_interval(shown[side["id"]][metric.key], sign="+") for metric in METRICS])
            runs.append(document["run"])
    rows = zip((metric.title for metric in METRICS), *cells, strict=True)
    return Table(heading, tuple(columns), tuple(rows), tuple(runs))


def _differences(document: Document) -> Section:
    text, tables = [], []
    for verdict in document["verdicts"]:
        found = verdict["mcnemar"]
        if not found:
            continue
        text.append(
            f"{verdict['candidate']} alone is right on {found['only_candidate']:,} frames, the baseline alone on "
            f"{found['only_baseline']:,} (McNemar, exact: p = {found['p_value']:.2g}; for information only, because "
            "it treats the frames of a genome as independent)."
        )
        rows = tuple(
            (row["group"], f"{row['frames']:,}", f"{row['only_baseline']:,}", f"{row['only_candidate']:,}")
            for row in verdict["disagreements"]
        )
        columns = ("Group", "Frames", "only the baseline right", "only the candidate right")
        tables.append(Table(verdict["candidate"], columns, rows, ("", *[document["run"]] * 3)))
    return Section("disagreement", "Frames that only one of the two gets right", tuple(text), tuple(tables))


def _strata(document: Document) -> Section:
    sides = [side for side in document["sides"] if side["strata"]]
    tables = [_stratum_table(sides, kind) for kind in STRATA if any(kind in side["strata"] for side in sides)]
    text = (
        "Accuracy of frames. A group holds one class, so this is recall for viral and specificity for non-viral "
        "groups. A dash stands for strata with too few frames.",
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
        STRATA[kind],
        (kind.capitalize(), "Frames", "Genomes", "Viral", *(side["name"] for side in sides)),
        tuple(rows),
        ("", *[evaluation_run(sides[0])] * 3, *map(evaluation_run, sides)),
    )


def _drops(document: Document) -> Section:
    """Return the drop of each pair with its errors from trainings and from genomes, and the gains over the control."""
    text, rows = [], []
    for verdict in document["verdicts"] + document["controls"]:
        drop = verdict["drop"]
        if drop is None:
            continue
        rows.append((f"baseline minus {verdict['candidate']}", *_drop_cells(drop)))
        if gain := verdict["gain_over_control"]:
            rows.append((f"{verdict['candidate']} minus {document['strongest_control']}", *_drop_cells(gain)))
        if verdict in document["verdicts"] and drop["detectable"] is not None:
            text.append(
                f"Power: with these test genomes and {drop['replicates']} trainings of each side, a true difference of "
                f"{100 * drop['detectable']:.1f} points is detected in 80 % of cases. {verdict['candidate']} "
                "also passes in 80 % of cases if its true drop is that far below the limit."
            )
    if rows:
        draws = document["method"]["drop_draws"]
        how = f"95 % intervals from {draws:,} draws of genomes and trainings together"
        text.insert(0, f"Points of accuracy over frames, mean over trainings paired by seed; {how}.")
    table = Table("", _DROP_COLUMNS, tuple(rows), ("", *[document["run"]] * (len(_DROP_COLUMNS) - 1)))
    return Section("drop", "The accuracy drop", tuple(text), (table,) if rows else ())


def _drop_cells(drop: Mapping[str, Any]) -> tuple[str, ...]:
    points = {name: None if drop[name] is None else 100 * drop[name] for name in ("value", "low", "high")}
    errors = [
        UNKNOWN if drop[name] is None else f"{100 * drop[name]:.2f}"
        for name in ("training_spread", "training_error", "sampling_error")
    ]
    seeds = ", ".join(f"{100 * value:+.1f}" for value in drop["by_replicate"].values())
    return (with_interval(points, 2, "+"), str(drop["replicates"]), seeds, *errors)


def _speed(document: Document) -> Section:
    text, tables = [], []
    for side in _sides(document, "candidate"):
        if timed := side["speed"]:
            text.append(
                f"{side['name']}: one sample of {timed['sides'][0]['frames']:,} frames (digest "
                f"{timed['sample_digest'][:12]}), tokenising included, after warm-up, both encoders alternating, on "
                f"{timed['device']} ({timed['hardware']}); benchmark run {timed['run_id']}."
            )
            if timed["ratios"]:
                ratios = ", ".join(f"{ratio:.2f}" for ratio in timed["ratios"])
                low = f"lower bound {timed['speedup_low']:.2f} (one-sided 90 %)"
                text.append(f"{side['name']}: speed-up {timed['speedup']:.2f}, {low}; run by run {ratios}.")
            tables.append(_timed_runs(side["id"], timed))
    return Section("speed", "Embedding speed", tuple(text), tuple(tables))


def _timed_runs(heading: str, timed: Mapping[str, Any]) -> Table:
    columns = ("Encoder", "Median, s", "Runs, s", "Frames/s", "Peak memory, GiB", "Precision", "Weights")
    rows = []
    for speed in timed["sides"]:
        runs = ", ".join(f"{seconds:.2f}" for seconds in speed["runs"])
        rate = f"{speed['frames'] / speed['seconds']:,.1f}"
        memory = gib(speed["peak_memory_gb"])
        weights = weights_in_words(speed["weights"])
        rows.append((speed["encoder"], f"{speed['seconds']:.2f}", runs, rate, memory, speed["precision"], weights))
    return Table(heading, columns, tuple(rows), ("", *[timed["run_id"]] * 4, "", ""))


def _provenance(document: Document) -> Section:
    sides = document["sides"]
    keys = list(dict.fromkeys(key for side in sides for key in side["provenance"]))
    rows = [("Registered model", *(side["id"] for side in sides))]
    rows.append(("Encoder", *(side["encoder"] for side in sides)))
    rows.append(("Weights", *(_weights(side) for side in sides)))
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


def _weights(side: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {weights_in_words(kind)}" for name, kind in side["weights"].items()) or UNKNOWN


def _short(key: str, value: str) -> str:
    """Return a value, digests and commits shortened; verdict.json has them in full."""
    return value[:12] if key.endswith(("digest", "commit")) else value
