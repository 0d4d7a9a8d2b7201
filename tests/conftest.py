"""Shared by all tests: the example genomes, frames prepared from them, and local MLflow stores."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.shared import PROJECT, made_once

# No deadline, as machines may be busy, and the same examples each time; the profile `fuzz` tries others.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=20_000)  # see tests/fuzz
hypothesis.settings.load_profile("any machine")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when imported; pytest's processes keep the cores busy

os.fsync = os.fstat  # the disk is not waited for: what the system has decides what a kill leaves


@event.listens_for(Engine, "connect")
def do_not_wait_for_the_disk(connection, record):
    """A commit is done when the system has it, as with files."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process; begin with what takes longest, the demo, and end with many short files.

    UI and champion wait for the demo to be made, and must not be the last, as nothing would be left for the others.
    Tests with a store are marked as e2e.
    """
    order = {
        "test_demo": 0,
        "test_directories": 1,
        "test_champions_that_must_not_be": 1,
        "test_champion": 3,
        "test_ui": 3,
    }
    short = {"corpus", "encoders", "storage", "training"}
    items.sort(key=lambda item: order.get(item.path.stem, 4 if item.path.parent.name in short else 2))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if "empty_store" in item.fixturenames:
            item.add_marker(pytest.mark.e2e)


def pytest_collection_finish():
    """Let the garbage collector pass over the million objects of the libraries, which live as long as the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def genomes() -> Path:
    """The directory of the example genomes."""
    return PROJECT / "examples" / "genomes"


@pytest.fixture(scope="session")
def frames(genomes, tmp_path_factory) -> Path:
    """All frames of the example genomes, 300 bp with CDS evidence."""
    from virnuc.sequences.preparing import prepare
    from virnuc.settings import PrepareSettings

    out = made_once(tmp_path_factory, "frames")
    with FileLock(f"{out}.lock"):
        prepare(PrepareSettings(source=str(genomes), out=str(out)))
    return out


@pytest.fixture(scope="session")
def few_frames(frames, tmp_path_factory) -> Path:
    """2,000 of the frames, of as many genomes as possible, half of them viral; without chunks."""
    from virnuc.sequences.sampling import sample_frames

    out = made_once(tmp_path_factory, "few_frames")
    with FileLock(f"{out}.lock"):
        sample_frames(frames, out, 2000, seed=1)
    return out


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An empty store, made once, as MLflow takes seconds to make one."""
    from mlflow.tracking import MlflowClient

    path = made_once(tmp_path_factory, "empty.db")
    with FileLock(f"{path}.lock"):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store):
    """The URI of a new SQLite store, which MLflow is set to use."""
    import mlflow

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("virnuc", artifact_location=str(tmp_path / "files")))
    yield uri
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def made(tmp_path_factory, empty_store):
    """A small experiment that the stages have recorded, in its own directory."""
    import mlflow

    from tests.shared.experiment import build
    from tests.shared.figures import undrawn

    kept, place = dict(os.environ), Path.cwd()
    home = made_once(tmp_path_factory, "experiment")
    try:
        with FileLock(f"{home}.lock"), pytest.MonkeyPatch.context() as patch:
            undrawn(patch)
            return build(home, empty_store)
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(kept)
        mlflow.set_tracking_uri(None)


@pytest.fixture
def experiment(made, tmp_path, monkeypatch):
    """A copy of the experiment's store that a test may change."""
    import mlflow

    from tests.shared.figures import undrawn

    undrawn(monkeypatch)
    made.use(monkeypatch, tmp_path)
    yield made
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def ray():
    """Ray on two cores of this machine, started once, as that takes seconds."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'virnuc[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
