"""MLflow's servers for a registered model and for a store, and requests to the former."""

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
    """Load a registered model as a user does, and restore the search path afterwards.

    MLflow puts the model's copy of the code first in it, which processes of later tests would use.
    """
    path = list(sys.path)
    try:
        return mlflow.pyfunc.load_model(model)
    finally:
        sys.path[:] = path


@contextmanager
def serving(model, store, **options):
    """Serve the model `models:/NAME@ALIAS` of a store; yield its address for requests."""
    command = ["models", "serve", "-m", model, "--env-manager", "local"]
    with _running(command, "ping", {"MLFLOW_TRACKING_URI": store}, **options) as address:
        yield f"{address}/invocations"


@contextmanager
def tracking_server(store, **options):
    """Run MLflow's own server on a store; yield its address."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _running(["server", "--backend-store-uri", store], "health", quiet, **options) as address:
        yield address


@contextmanager
def _running(command, path, environment, **options):
    """Run a server by MLflow's command until the end of the block; yield its address once `path` answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, "--port", str(port), "--workers", "1"],
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/{path}", process)
            yield f"http://127.0.0.1:{port}"
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
