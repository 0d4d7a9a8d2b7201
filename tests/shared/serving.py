"""A registered model, loaded here or served by `mlflow models serve`, and requests to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import mlflow
import pytest


def load_scoring_model(model):
    """Load a registered model as a user does, without the search path that MLflow leaves behind.

    The model's copy of the code would come first in it, for every process that a later test starts.
    """
    path = list(sys.path)
    try:
        return mlflow.pyfunc.load_model(model)
    finally:
        sys.path[:] = path


@contextmanager
def serving(model, store, **options):
    """Serve the model `models:/NAME@ALIAS` of a store; yield the address for requests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    with subprocess.Popen(
        [*command, "-p", str(port), "-w", "1"],
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def post(address, body):
    """Return the status of a request and its answer, as JSON if it is 200."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response, parse_constant=pytest.fail)  # NaN is no JSON
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def records(*sequences):
    return {"dataframe_records": [{"sequence": sequence} for sequence in sequences]}


def _wait_for(address, process):
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            return urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            time.sleep(0.3)
    raise TimeoutError("the server does not answer")
