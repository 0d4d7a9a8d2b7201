"""The summary: page and Markdown agree with each other and with the tables."""

from __future__ import annotations

import html
import random
import re

import numpy as np
import pandas as pd
import pytest

from virnuc.prediction.prediction import predict
from virnuc.prediction.summary import About, window_means
from virnuc.storage.manifest import read_manifest

DRAW = random.Random(3)
ABOUT = About(
    {"Registered model": "virnuc version 3", "Promoted by": "me"},
    ("virnuc version 3 was promoted AGAINST THE GATE: outbreak (drop).",),
)
NAMES = ["contig", "<b>bold</b>|pipe", "$x_1$", "short", "unknown"]


def bases(length):
    return "".join(DRAW.choices("ACGT", k=length))


@pytest.fixture(scope="module")
def out(scorer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("predicted")
    sequences = [bases(90_000), bases(3000), bases(2000), "ACGT", "N" * 700]
    (directory / "a.fa").write_text("".join(f">{n}\n{s}\n" for n, s in zip(NAMES, sequences, strict=True)))
    predict([str(directory / "a.fa")], scorer, "f" * 64, directory / "out", about=ABOUT, threshold=0.6)
    return directory / "out"


@pytest.fixture(scope="module")
def calls(out):
    return pd.read_parquet(out / "calls.parquet")


def words(page):
    """Return the words of a rendered page, without markup."""
    page = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", page, flags=re.S)
    page = re.sub(r'<div class="everything">.*?</div>', " ", page, flags=re.S)  # only the page has it
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    return [word.rstrip(".,") for word in re.findall(r"[\w.%,/+-]+", text)]


def alternative_texts(out):
    return " ".join(re.findall(r'alt="([^"]*)"', (out / "summary.html").read_text()))


def test_page_and_markdown_say_the_same(out):
    page, markdown = (words((out / name).read_text()) for name in ("summary.html", "summary.md"))
    assert set(page) - set(markdown) <= {"virnuc", "prediction", ""}  # the kicker
    beside = set(markdown) - set(page)  # what an image has as its alternative text in the page
    assert {word for word in beside if not word.startswith(("figures/", "---"))} <= set(words(alternative_texts(out)))


def test_it_counts_what_is_in_the_tables(out, calls):
    text = (out / "summary.md").read_text()
    called = pd.read_parquet(out / "sequences.parquet")["call"]
    assert f"In: 5 sequences in {len(calls)} chunks. Out: 5 sequences in {len(calls)} chunks." in text
    for status in ("scored", "no_open_frame", "ambiguous", "too_short"):
        own = calls[calls["status"] == status]
        viral = f"{(own['Prediction'] == 'virus').sum()}" if status in ("scored", "no_open_frame") else ""
        assert f"| {status} | {len(own)} | {len(own) / len(calls):.1%} | {viral} |" in text
    for name in ("virus", "contains viral regions", "no virus", ""):
        shown = name or "no score"
        assert f"| {shown} | {(called == name).sum()} |" in text


def test_the_threshold_decides_and_is_shown(out, calls):
    answered = calls["probability"].notna()
    assert ((calls["Prediction"] == "virus") == (calls["probability"] >= 0.6))[answered].all()
    between = calls["probability"].between(0.5, 0.6, inclusive="left")
    assert between.any() and (calls["Prediction"][between] == "others").all()
    assert "| Threshold | 0.6 |" in (out / "summary.md").read_text()


def test_the_model_and_a_promotion_against_the_gate_are_shown(out):
    for name in ("summary.html", "summary.md"):
        text = (out / name).read_text()
        assert ABOUT.caveats[0] in text and "virnuc version 3" in text and "ffffffffffff" in text
    assert read_manifest(out, "calls").details == {"model": dict(ABOUT.facts), "caveats": list(ABOUT.caveats)}


def test_names_from_outside_are_escaped_and_nothing_is_fetched(out):
    page = (out / "summary.html").read_text()
    assert "&lt;b&gt;bold" in page and "\\u003cb>bold" in page  # in a static table, and in the rows of the other
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # virnuc's and the library's, without names
    assert "<b>bold" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "url(" not in page
    assert "&lt;b>bold&lt;/b>\\|pipe" in (out / "summary.md").read_text()


def test_figures_say_their_numbers(out, calls):
    page = html.unescape((out / "summary.html").read_text())
    opened = calls[calls["status"] == "scored"]
    viral = (opened["Prediction"] == "virus").sum()
    assert f"{viral} of {len(opened)} chunks with an open frame are called viral" in page
    assert re.search(r"Share of each length: contig \d+% viral, \d+ regions, <b>bold</b>\|pipe \d+% viral", page)
    for name in ("histogram", "regions"):
        assert b"<svg" in (out / "figures" / f"{name}.svg").read_bytes()


def test_a_window_is_the_mean_of_its_chunks(out, calls):
    windows = window_means(out, pd.DataFrame({"record": [1], "chunks": [300]}), most=7)
    own = calls[calls["record"] == 1]
    bounds = [-(-window * 300 // 7) for window in range(8)]  # first chunk, from 0, of each
    for row, first, last in zip(windows.itertuples(), bounds, bounds[1:], strict=False):
        part = own.iloc[first:last]
        assert (row.start, row.end) == (part["start"].iloc[0], part["end"].iloc[-1])
        assert row.probability == pytest.approx(np.nanmean(part["probability"]))
        assert row.open == (part["status"] == "scored").any()
    assert len(windows) == 7


def test_without_any_long_sequence_or_any_score_there_is_still_a_summary(scorer, tmp_path):
    (tmp_path / "a.fa").write_text(">s\nACGT\n")
    predict([str(tmp_path / "a.fa")], scorer, "m", tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "Virus: 0 sequences. With viral regions: 0. No virus: 0. Without a score: 1" in text
    assert "1 of 1 sequence is shorter than the 300 bp chunks" in text
