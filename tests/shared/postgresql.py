"""A PostgreSQL server for tests, where PostgreSQL is installed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest


@contextmanager
def postgresql():
    """Run a PostgreSQL server until the end of the block; yield the URI of its database."""
    debian = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    path = os.pathsep.join([os.environ["PATH"], *debian])
    initdb, server = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if not (initdb and server):
        pytest.skip("no PostgreSQL server program on this machine")
    pytest.importorskip("psycopg2", reason="no PostgreSQL driver (psycopg2) installed")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # PostgreSQL does not run as root
    with tempfile.TemporaryDirectory() as home:
        if user:
            shutil.chown(home, "nobody")
        command = [initdb, "-D", f"{home}/data", "-U", "virnuc", "-A", "trust", "--no-sync"]
        made = subprocess.run(command, stderr=PIPE, **user)
        if made.returncode:
            pytest.skip(f"initdb: {made.stderr.decode().strip().splitlines()[0]}")
        port = str(free_port())
        command = [server, "-D", f"{home}/data", "-p", port, "-k", home, "-c", "fsync=off"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, **user) as process:
            try:
                wait_for(port)
                yield f"postgresql+psycopg2://virnuc@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGINT)  # disconnects whoever is left


def wait_for(port):
    import psycopg2

    for _ in range(100):
        try:
            return psycopg2.connect(host="127.0.0.1", port=port, user="virnuc", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.1)
    pytest.skip("the PostgreSQL server does not start here")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
