"""A shared server as in docs/operating.md: basic-auth, on PostgreSQL, behind nginx with TLS."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
import pytest
import requests
import sqlalchemy
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from werkzeug.security import generate_password_hash

from entrypoints.promote import promote
from tests.shared import PROJECT
from tests.shared.postgresql import free_port, postgresql

pytestmark = pytest.mark.e2e
ADMIN, READER = ("admin", "a long secret of the admin"), ("reader", "a long secret of the reader")
ALIAS = {"name": "virnuc", "alias": "champion"}
AUTH = "[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = admin\n{function}\n"
FUNCTION = "authorization_function = mlflow.server.auth:authenticate_request_basic_auth"
PROXY = """
daemon off; pid {home}/nginx.pid; error_log {home}/nginx.log; events {{}}
http {{
    access_log off;
    client_body_temp_path {home}; proxy_temp_path {home};
    fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
        client_max_body_size 0;  # artifacts
        proxy_read_timeout 600s;
        location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_set_header Host mlflow.example.org; }}
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    uri: str  # what clients use
    certificate: str


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("flask_wtf", reason="mlflow's basic-auth (Flask-WTF) is not installed")
    for program in ("nginx", "openssl"):
        if not shutil.which(program):
            pytest.skip(f"no {program} on this machine")
    home = tmp_path_factory.mktemp("server")
    with postgresql() as database, tracking_server(home, database) as upstream, proxy(home, upstream) as port:
        server = Server(f"https://127.0.0.1:{port}", str(home / "cert.pem"))
        run = ask(server, "runs/create", {"experiment_id": "0"}).json()["run"]["info"]
        source = {"source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
        version = ("model-versions/create", {"name": "virnuc", **source})
        for path, document in (
            ("users/create", {"username": READER[0], "password": READER[1]}),
            ("registered-models/create", {"name": "virnuc"}),
            *(version, version),
            ("registered-models/alias", ALIAS | {"version": "1"}),
        ):
            answer = ask(server, path, document)
            assert answer.status_code == 200, answer.text
        hash_quickly(database)
        yield server


def hash_quickly(database):
    """Store the passwords with one round of their hash in place of 32,768, as each request checks one."""
    users = sqlalchemy.table("users", sqlalchemy.column("username"), sqlalchemy.column("password_hash"))
    with sqlalchemy.create_engine(database).begin() as connection:
        for name, password in (ADMIN, READER):
            quick = generate_password_hash(password, "pbkdf2:sha256:1")
            changed = connection.execute(users.update().where(users.c.username == name).values(password_hash=quick))
            assert changed.rowcount == 1


@contextmanager
def running(command, address, **options):
    """Run a server until the end of the block; the block begins when the server answers."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            for _ in range(1500):
                assert process.poll() is None, "the server ended"
                try:
                    requests.get(address, timeout=5, verify=False)
                    break
                except (requests.ConnectionError, requests.Timeout):
                    time.sleep(0.2)
            else:
                raise TimeoutError("the server does not answer")
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def tracking_server(home, database):
    """MLflow's server on a database, with users, which is reached only from this machine."""
    port = free_port()
    (home / "auth.ini").write_text(AUTH.format(database=database, function=FUNCTION))
    secrets = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "of these tests", "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1]}
    plain = {"MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**os.environ, **secrets, **plain}
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(home / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--allowed-hosts", "mlflow.example.org", "--workers", "1"]
    with (home / "mlflow.log").open("w") as log:
        told = {"env": environment, "stdout": log, "stderr": log}
        with running(command, f"http://127.0.0.1:{port}/health", **told):
            yield port


@contextmanager
def proxy(home, upstream):
    """nginx with a self-signed certificate in front of a server."""
    port = free_port()
    certificate = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    subprocess.run([*certificate.split(), *files], check=True, capture_output=True)
    (home / "nginx.conf").write_text(PROXY.format(home=home, port=port, upstream=upstream))
    with running(["nginx", "-c", str(home / "nginx.conf"), "-p", str(home)], f"https://127.0.0.1:{port}/health"):
        yield port


@pytest.fixture
def registry(server, monkeypatch):
    """A function that returns a client for a user, or for nobody."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", server.certificate)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def client(name="", password=""):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        mlflow.set_tracking_uri(server.uri)
        return MlflowClient()

    yield client
    mlflow.set_tracking_uri(None)


def ask(server, path, document, user=ADMIN, method="POST"):
    """Ask the server's REST interface; return the answer."""
    address = f"{server.uri}/api/2.0/mlflow/{path}"
    return requests.request(method, address, json=document, auth=user, verify=server.certificate, timeout=300)


def test_who_may_not_does_not_move_the_champion(server, registry):
    reader = registry(*READER)
    assert reader.get_model_version_by_alias("virnuc", "champion").version == "1"
    for attempt in (
        lambda: reader.set_registered_model_alias("virnuc", "champion", "2"),
        lambda: reader.delete_registered_model_alias("virnuc", "champion"),
        lambda: reader.delete_model_version("virnuc", "1"),
        lambda: reader.set_model_version_tag("virnuc", "1", "virnuc.promotion", "override"),
        lambda: reader.create_model_version("virnuc", source="models:/virnuc/1"),
    ):
        with pytest.raises(MlflowException, match="Permission denied"):
            attempt()
    assert registry(*ADMIN).get_model_version_by_alias("virnuc", "champion").version == "1"


def test_without_a_name_or_with_a_wrong_password_nothing_is_told(server, registry):
    for user in (None, (ADMIN[0], "guessed"), ("nobody", "guessed")):
        assert ask(server, "registered-models/alias", ALIAS | {"version": "2"}, user).status_code == 401
        assert ask(server, "registered-models/get", {"name": "virnuc"}, user, "GET").status_code == 401
    with pytest.raises(MlflowException, match="401"):
        registry().get_registered_model("virnuc")


def test_a_stage_says_that_the_server_refuses(server, registry, monkeypatch):
    registry(*READER)
    monkeypatch.chdir(PROJECT)
    done = CliRunner().invoke(promote.command, ["--candidate=models:/virnuc/2", "--override=because"])
    assert done.exit_code == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith("the store's server refuses that to this user; ask who runs it")
    assert "Traceback" not in done.stderr and READER[1] not in done.stderr


def test_the_proxy_takes_nothing_that_is_not_encrypted(server):
    assert requests.get(server.uri.replace("https", "http"), timeout=30).status_code == 400
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.uri, timeout=30)  # a certificate that this client does not know
