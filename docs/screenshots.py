"""The pictures in README.md and docs/, taken of a finished demo in this directory: `make demo screenshots`.

Needs the extra `test` and Chromium (Debian: `apt-get install chromium`). Opens a real MLflow server on the store.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.tracking import MlflowClient
from playwright.sync_api import Page, sync_playwright

from virnuc.tracking import Tracker

STORE, PICTURES = "sqlite:///mlflow.db", Path(__file__).parent
REPORT = Path("data/latest/reports/latest/validation_report.html")
TRAINING = "workflowType=machine_learning"  # else the UI opens in its view of language models
WAIT = 60_000  # ms


def main() -> None:
    """Take all pictures."""
    client = MlflowClient(STORE)
    with server() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        experiment = client.get_experiment_by_name("virnuc").experiment_id
        main, evaluated = (
            client.search_runs([experiment], f"tags.`virnuc.stage` = '{stage}'", order_by=["start_time ASC"])
            for stage in ("main", "evaluate")
        )
        take_runs(page, f"{address}/{Tracker(main[0].info.run_id).ui_path}")
        ids = "[" + ",".join(f'"{run.info.run_id}"' for run in evaluated[:2]) + "]"
        take_comparison(page, f"{address}/#/compare-runs?runs={ids}&experiments=[%22{experiment}%22]&{TRAINING}")
        champion = client.get_model_version_by_alias("virnuc", "champion").version
        take_version(page, f"{address}/#/models/virnuc/versions/{champion}?{TRAINING}")
        page.set_viewport_size({"width": 1100, "height": 1150})
        page.goto(REPORT.resolve().as_uri())
        keep(page, "report")
        browser.close()


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of an MLflow server on the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "server", "--backend-store-uri", STORE, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen([*command, "--workers", "1"], env=os.environ | quiet, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def take_runs(page: Page, address: str) -> None:
    """The table of runs, with the stages of the demo below it."""
    page.goto(address)
    parent = page.get_by_role("gridcell").filter(has=page.get_by_role("button")).last  # the oldest
    parent.wait_for(timeout=WAIT)
    parent.get_by_role("button").first.click()
    page.get_by_text("prepare", exact=True).first.wait_for(timeout=WAIT)
    keep(page, "runs")


def take_comparison(page: Page, address: str) -> None:
    """Baseline and candidate side by side."""
    page.goto(address)
    page.get_by_text("test/accuracy", exact=True).first.wait_for(timeout=WAIT)
    page.get_by_text("Metrics", exact=True).last.scroll_into_view_if_needed()
    keep(page, "compare")


def take_version(page: Page, address: str) -> None:
    """The champion's card."""
    page.goto(address)
    page.get_by_text("champion").first.wait_for(timeout=WAIT)
    keep(page, "champion")


def keep(page: Page, name: str) -> None:
    """Write a picture of what the window shows."""
    page.wait_for_timeout(4000)  # the UI asks its server again and again, so it is never idle
    page.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
