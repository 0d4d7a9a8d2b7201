"""The MLflow UI on the demo's store, in a real browser."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.shared.serving import tracking_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium"),
]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def demo(demo):
    """The demo as it was made; other tests change the original store."""
    return demo.as_made


@pytest.fixture(scope="module")
def server(demo):
    """The address of a server on the demo's store."""
    with tracking_server(demo.store, cwd=demo.directory) as address:
        yield address


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        yield browser.new_page(viewport={"width": 1500, "height": 1000})
        browser.close()


def test_the_experiment_page_lists_the_runs_in_the_view_of_model_training(demo, server, page):
    (address,) = re.findall(r"http://127\.0\.0\.1:5000(/#\S+)", demo.output)
    page.goto(server + address)
    name = page.get_by_text("esm2_tiny vs esm2_tiny_deep, 500 bp, genome", exact=True)
    name.first.wait_for(timeout=60_000)
    demo_itself = page.get_by_role("gridcell").filter(has=name).last  # the oldest
    demo_itself.get_by_role("button").first.click()
    for name in ("esm2_tiny extract, hexamer_tiny", "esm2_tiny train", "esm2_tiny/1 evaluate"):
        page.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
    assert page.get_by_text("Prompts", exact=True).count() == 0
    for column in ("accuracy/baseline", "accuracy/candidate", "drop/value", "speedup", "virnuc.verdict"):
        page.get_by_role("columnheader").filter(has_text=column).first.wait_for(timeout=60_000)


def test_the_compare_page_shows_both_models_with_no_missing_metric(demo, server, page):
    runs = [run for run in demo.runs("evaluate") if "esm2" in run.data.tags["virnuc.model"]][:2]
    ids = "[" + ",".join(f'"{run.info.run_id}"' for run in runs) + "]"
    page.goto(f"{server}/#/compare-runs?runs={ids}&experiments=[%22{demo.experiment}%22]&workflowType=machine_learning")
    page.get_by_text("test/accuracy", exact=True).first.wait_for(timeout=60_000)
    names = page.locator("a").filter(has_text=re.compile("^test."))
    shown = names.first.evaluate(
        """name => {
            let table = name;
            while (!/[0-9][.][0-9]/.test(table.innerText)) table = table.parentElement;
            return table.innerText.split("\\n").map(line => line.trim()).filter(line => line);
        }"""
    )
    listed = [text for text in shown if text.startswith("test/")]
    values = [float(text) for text in shown if not text.startswith("test/")]
    assert len(listed) > 10
    assert len(values) == 2 * len(listed)
    page.set_viewport_size({"width": 1700, "height": 1600})  # where the list of files stands beside the figures
    for figure in ("confusion_matrix.png", "roc.png", "calibration.png"):
        page.get_by_text(figure, exact=True).first.click()
        shown = page.locator("img[src^='blob:']").filter(visible=True)
        expect(shown).to_have_count(2, timeout=60_000)
        baseline, candidate = (shown.nth(side).bounding_box() for side in range(2))
        assert baseline["y"] == candidate["y"]
        assert baseline["x"] + baseline["width"] <= candidate["x"]


def test_the_charts_of_a_training_open_with_losses_and_accuracy(demo, server, page):
    page.set_viewport_size({"width": 1500, "height": 1000})
    (run,) = (run for run in demo.runs("train") if run.info.run_name == "esm2_tiny train")
    page.goto(f"{server}/#/experiments/{demo.experiment}/runs/{run.info.run_id}/model-metrics")
    for chart in ("train/loss", "val/accuracy", "val/loss"):
        page.get_by_text(f"esm2_tiny train ({chart})", exact=True).first.wait_for(timeout=60_000)
    assert page.get_by_text("esm2_tiny train (frames_per_s)", exact=True).count() == 0  # further down


def test_the_report_renders_in_the_artifact_viewer(demo, server, page):
    run = demo.runs("compare")[0].info.run_id
    page.goto(f"{server}/#/experiments/{demo.experiment}/runs/{run}/artifacts/validation_report.html")
    frame = page.frame_locator("iframe").first
    frame.get_by_text("may replace").first.wait_for(timeout=60_000)
    assert frame.locator("img, svg").count() >= 5


def test_the_registry_shows_alias_and_card(demo, server, page):
    page.goto(f"{server}/#/models/virnuc")
    page.get_by_text("champion").first.wait_for(timeout=60_000)
    page.goto(f"{server}/#/models/virnuc/versions/1")
    page.get_by_text("Use and limits").first.wait_for(timeout=60_000)


@pytest.mark.parametrize("name", ["virnuc", "virnuc-esm2_tiny"])
def test_the_card_leads_to_the_report_and_to_the_runs_compared(demo, server, page, name):
    page.goto(f"{server}/#/models/{name}/versions/1")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="report", exact=True).first.click()
    opened.value.frame_locator("iframe").first.get_by_text("may replace").first.wait_for(timeout=60_000)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="runs side by side", exact=True).first.click()
    opened.value.get_by_text("test/accuracy", exact=True).first.wait_for(timeout=60_000)
    for run in ("esm2_tiny_deep/1 evaluate", "esm2_tiny/1 evaluate"):
        opened.value.get_by_text(run, exact=True).first.wait_for(timeout=60_000)
