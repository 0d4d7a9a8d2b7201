"""Reports of constructed comparisons: three complete renderings of one document that agree."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown import markdown
from matplotlib.figure import Figure

from tests.shared import PROJECT
from tests.shared.constructed import few_draws, frames_table, predicted, side, sides
from tests.shared.reports import ORIGIN, case, logged, report, reported
from tests.shared.verdict import violations
from virnuc.evaluation.comparison import compare
from virnuc.evaluation.metrics import METRICS
from virnuc.evaluation.speed import Timing
from virnuc.reports.figures import comparison_drawings
from virnuc.reports.glossary import WORDS
from virnuc.reports.plots import Drawing
from virnuc.reports.rendering import HTML, MARKDOWN, VERDICT, Page, svg, terminal_summary, write_page
from virnuc.reports.sections import sections

pytestmark = pytest.mark.usefixtures(few_draws.__name__)


@pytest.mark.parametrize("kind", ["pass", "fail", "several", "alone", "unpaired", "other split"])
def test_the_verdict_keeps_to_its_schema_and_comes_back_from_its_file(kind):
    document, texts = reported(kind)
    assert violations(document) == []
    assert json.loads(texts[VERDICT]) == document
    assert violations({**document, "extra": 1})  # the schema check itself works
    assert violations({**document, "answer": None})


@pytest.mark.parametrize("kind", ["pass", "fail", "several", "alone", "unpaired", "other split"])
def test_page_and_markdown_hold_every_cell_of_every_table(kind):
    document, texts = reported(kind)
    page = re.sub(r"<[^>]+>", "", texts[HTML]).replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
    for section in sections(document):
        for table in section.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
            for cell in {cell for row in (table.columns, *table.rows) for cell in row}:
                assert cell in page
                assert cell.replace("|", "\\|").replace("<", "&lt;") in texts[MARKDOWN]
        for line in (*section.text, *section.steps, *section.commands):
            assert line in page
            assert line in texts[MARKDOWN]


def test_the_report_opens_with_the_answer():
    document, texts = reported("pass")
    assert document["answer"].startswith("Yes: virnuc-fast v1 may replace virnuc-slow v1")
    for name in (HTML, MARKDOWN):
        assert texts[name].index(document["answer"]) < texts[name].index("The gate, rule by rule")
    first_lines = terminal_summary(document).splitlines()[:2]
    assert first_lines == ["fast against slow", f"PASS: {document['answer']}"]


def test_a_failed_rule_stands_with_its_numbers_and_next_steps_everywhere():
    document, texts = reported("fail")
    steps = [step for rule in document["verdicts"][0]["rules"] for step in rule["next_steps"]]
    assert steps
    for text in (texts[HTML], texts[MARKDOWN], terminal_summary(document)):
        assert "+9.00 points" in text
        assert all(step in text for step in steps)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("alone", "no model is registered as virnuc-slow"),
        ("unpaired", "has metrics but no predictions"),
        ("other split", "tested on different splits"),
    ],
)
def test_without_a_usable_baseline_the_candidate_is_reported_and_the_reason_said(kind, reason):
    document, texts = reported(kind)
    assert document["outcome"] == "NO VERDICT"
    for text in (texts[HTML], texts[MARKDOWN], terminal_summary(document)):
        assert "No verdict can be given" in text
        assert reason in text
        assert "0.890" in text  # the candidate's own accuracy


def test_the_metrics_table_has_control_and_paired_differences_beside_the_sides():
    document, _ = reported("pass")
    table = next(section for section in sections(document) if section.anchor == "metrics").tables[0]
    heads = ("Metric", "slow (baseline)", "fast (candidate)", "difference", "composition (control)", "difference")
    assert table.columns == heads
    assert [row[0] for row in table.rows] == [metric.title for metric in METRICS]
    accuracy = table.rows[0]
    assert accuracy[3].startswith("-0.010 (")
    assert accuracy[5].startswith("-0.100 (")


def test_where_each_chunk_has_one_frame_its_metrics_are_not_repeated(tmp_path):
    table = frames_table()
    single = table[table["frame_id"].str.endswith("F1")].reset_index(drop=True)
    slow, fast = (side(name, predicted(single, np.arange(2000) % 9 == 0)) for name in ("slow", "fast"))
    document, texts = report(compare(slow, [fast]), tmp_path)
    metrics = next(section for section in sections(document) if section.anchor == "metrics")
    assert [table.title for table in metrics.tables] == ["Over frames"]
    assert "Each chunk here has one frame" in texts[MARKDOWN]
    both = next(section for section in sections(reported("pass")[0]) if section.anchor == "metrics")
    assert [table.title for table in both.tables] == ["Over frames", "Over chunks with a frame"]


def test_the_hardest_organisms_are_the_same_for_all_sides(tmp_path):
    table = frames_table(40, 40)
    rng = np.random.default_rng(3)
    slow, fast = (side(name, predicted(table, rng.random(1600) < 0.2, i)) for i, name in enumerate(("slow", "fast")))
    document, _ = report(compare(slow, [fast]), tmp_path)
    shown = [{row["stratum"] for row in one["strata"]["organism"]} for one in document["sides"]]
    assert len(shown[0]) == 15
    assert shown[0] == shown[1]
    accuracies = [row["accuracy"] for row in document["sides"][0]["strata"]["organism"]]
    assert accuracies == sorted(accuracies)


def test_random_weights_leaks_and_small_data_are_named_before_any_number(tmp_path):
    slow, fast = (logged(one) for one in sides())
    leaking = fast.predictions.assign(seen=np.where(np.arange(4000) < 700, "the classifier", ""))
    leak = {"test/leak/frames_sharing_a_genome": 700.0}
    metrics = {**fast.metrics, **leak}
    fast = replace(fast, weights={"fast": "random"}, split_unit="frame", predictions=leaking, metrics=metrics)
    document, texts = report(compare(slow, [fast]), tmp_path)
    for text in (texts[HTML], texts[MARKDOWN], terminal_summary(document)):
        for words in (
            "fast has random weights",
            "Small test set: 4,000 frames of 40 genomes",
            "Leaking split (unit frame)",
        ):
            assert text.index(words) < text.index("0.900")
    drawings = comparison_drawings(compare(slow, [fast]))
    assert "fast (random weights)" in drawings["roc"].alt


def test_the_permuted_control_is_said_to_be_at_chance_only_where_it_is(tmp_path):
    slow, fast = (logged(one) for one in sides())
    _, texts = report(compare(slow, [fast]), tmp_path)
    assert texts[MARKDOWN].count("at chance, as it should be") == 2
    odd = {"roc_auc": 0.7, "roc_auc_low": 0.65, "roc_auc_high": 0.75, "at_chance": 0.0}
    odd = {f"test/control/permuted_{key}": value for key, value in odd.items()}
    _, texts = report(compare(slow, [replace(fast, metrics={**fast.metrics, **odd})]), tmp_path)
    assert "NOT at chance" in texts[MARKDOWN]


def test_the_control_of_shuffled_sequences_is_put_beside_the_true_ones(tmp_path):
    slow, fast = (logged(one) for one in sides())
    shuffled = {f"test/control/shuffled_{key}": 0.612 for key in ("roc_auc", "accuracy", "mcc")}
    _, texts = report(compare(slow, [replace(fast, metrics={**fast.metrics, **shuffled})]), tmp_path)
    (line,) = [line for line in texts[MARKDOWN].splitlines() if "random order" in line]
    assert line.startswith("- fast: ")
    assert f"0.612; with the true sequences it is {fast.metrics['test/roc_auc']:.3f}" in line


def test_the_page_opens_with_date_and_contents_and_ends_with_a_glossary():
    _, texts = reported("pass")
    for text in (texts[HTML], texts[MARKDOWN]):
        assert text.index("1 January 2026, 00:00 UTC, virnuc 0.1.0") < text.index("The gate, rule by rule")
    contents = texts[HTML].split("<nav")[1].split("</nav>")[0]
    shown = re.findall(r'<section id="([^"]+)"', texts[HTML])
    assert re.findall(r'href="#([^"]+)"', contents) == shown
    assert shown[-1] == "glossary"
    explained = (PROJECT / "docs" / "glossary.md").read_text().replace("`", "")
    assert all(f"| {word} | {meaning} |" in explained for word, meaning in WORDS.items())


def test_a_number_leads_to_the_run_that_it_is_from(tmp_path):
    runs = ["0" * 32, "1" * 32]
    evidence = [replace(one, provenance={"evaluation run": run}) for one, run in zip(sides(), runs, strict=True)]
    document, texts = report(compare(evidence[0], evidence[1:]), tmp_path)
    table = texts[HTML].split('<table class="metrics">')[1].split("</table>")[0]
    led = re.findall(r'<a href="http://127.0.0.1:5000/#/runs/([^"]+)"[^>]*><b class="value">([-+.0-9]+)', table)
    accuracies = [one["metrics"]["frames"]["accuracy"]["value"] for one in document["sides"]]
    assert led[:2] == [(run, f"{value:.3f}") for run, value in zip(runs, accuracies, strict=True)]
    assert led[2] == (ORIGIN.run, f"{accuracies[1] - accuracies[0]:+.3f}")
    assert '"http://127.0.0.1:5000/#/runs/benchmark of fast"' in texts[HTML]


def test_caveats_follow_from_the_facts_of_the_run(tmp_path):
    slow, fast = sides()
    uneven = replace(fast.speed, sides={**fast.speed.sides, "candidate": uneven_runs(fast.speed.sides["candidate"])})
    fast = replace(fast, speed=uneven, untested="fungi, plant", unnamed_viruses_of="hexamer_tiny")
    document, _ = report(compare(slow, [fast]), tmp_path)
    caveats = " ".join(document["caveats"])
    assert "There are no test frames of fungi, plant" in caveats
    assert "hexamer_tiny was trained on viral genes that are known by NCBI's gene numbers alone" in caveats
    assert "1 of 5 timed runs are below the limit of 2 (4.00, 4.00, 4.00, 4.00, 1.00)" in caveats
    plain = " ".join(reported("pass")[0]["caveats"])
    assert "timed runs" not in plain and "There are no test frames of" not in plain and "gene numbers" not in plain


def uneven_runs(side):
    """Make the last run as slow as the baseline's."""
    return replace(side, runs=(*side.runs[:-1], Timing(0.0, 10.0)))


def test_names_from_outside_are_escaped(tmp_path):
    slow, fast = sides()
    _, texts = report(compare(slow, [replace(fast, provenance={"Note": "<script>alert(1)</script>|x"})]), tmp_path)
    assert "<script" not in texts[HTML]
    assert "<script" not in texts[MARKDOWN]


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_an_alternative_text_from_outside_stays_a_text(tmp_path, suffix):
    alt = 'x" onerror="alert(1)](javascript:alert(2)) <img src=y> ` *'
    drawing = Drawing(Figure(figsize=(1, 1)), "ROC", alt, "A caption.")
    shown = [section for section in sections(reported("pass")[0]) if section.anchor == "metrics"]
    page = Page("a kind", "A title", "pass", "Yes.", (), tuple(shown), {"roc": drawing}, "metrics")
    text = write_page(page, tmp_path, "page")[f"page.{suffix}"].read_text()
    images = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: images.append(dict(attributes)) if tag == "img" else None
    reader.feed(text if suffix == "html" else markdown(text))
    (image,) = images
    assert image.keys() == {"src", "alt"} and image["alt"] == alt
    assert image["src"].startswith("data:image/svg+xml" if suffix == "html" else "figures/roc.svg")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The directory and the texts of a report that has been made before."""
    directory = tmp_path_factory.mktemp("again")
    return directory, report(case("pass"), directory, comparison_drawings(case("pass")))[1]


def test_the_same_comparison_gives_the_same_bytes(again):
    assert again[1] == reported("pass")[1]


def test_the_page_names_nothing_to_fetch():
    _, texts = reported("pass")
    sources = re.findall(r'<(?!a )[^>]*(?:src|href)="([^"]{0,40})', texts[HTML])
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in texts[HTML]
    assert "url(" not in texts[HTML]


def test_figures_are_files_of_svg_beside_the_markdown(again):
    directory, texts = again
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", texts[MARKDOWN])
    assert {"figures/roc.svg", "figures/confusion_matrix_1.svg", "figures/speed.svg"} <= set(linked)
    for name in linked:
        assert (directory / name).read_bytes().startswith(b"<?xml")


def test_each_drawing_says_its_numbers_in_words():
    drawings = comparison_drawings(case("pass"))
    assert "1,800 viral frames called viral and 200 non-viral" in drawings["confusion_matrix_1"].alt
    assert "slow 0.904" in drawings["roc"].alt
    assert "slow 100, fast 400" in drawings["speed"].alt
    assert all(drawing.title and drawing.caption and svg(drawing) for drawing in drawings.values())


def test_accuracy_over_all_chunks_is_shown_or_its_absence_explained(tmp_path):
    slow, fast = (logged(one) for one in sides(lost=1))
    coverage = {"test/coverage/chunks_scored": 1234.0, "test/coverage/accuracy_of_all_chunks": 0.81259}
    fast = replace(fast, metrics={**fast.metrics, **coverage})
    slow = replace(slow, left_out="the split keeps no chunks: it was made from features")
    document, texts = report(compare(slow, [fast]), tmp_path)
    assert not violations(document)
    for name in (HTML, MARKDOWN):
        assert "No accuracy over all chunks of virnuc-slow v1: the split keeps no chunks" in texts[name]
        assert "1,234" in texts[name] and "0.813" in texts[name]
        assert "of virnuc-fast v1: the split" not in texts[name]
