"""The only package here that knows MLflow: the store, runs, and models by their URI.

A stage hands plain values to a `Tracker`.
"""

from virnuc.tracking.models import TRAINING_TAG, ensure_registered, model_version, tag_version, version_uri, versions_of
from virnuc.tracking.runs import (
    abandoned_runs,
    child_runs,
    close_abandoned,
    continued_run,
    discard_given_run,
    find_finished,
    find_runs,
    run_is_active,
    run_status,
    tracked_run,
)
from virnuc.tracking.store import open_store, store_uri, ui_address, versions
from virnuc.tracking.tracker import CONFIG, NullTracker, Tracker, download, get_run, read_artifact
