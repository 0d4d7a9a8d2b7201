"""A bare Debian tree: podman builds the image on it; then the same steps without an engine, and the demo.

Only `make test-fresh` runs this, as it takes a quarter of an hour, needs root and debootstrap, and downloads packages
of Debian (`DEBIAN_MIRROR`) and of Python, with this machine's settings of pip. Each step without an engine has its own
mount namespace.
"""

import ast
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from string import Template

import pytest
from mlflow import MlflowClient

from tests.shared import PROJECT

log = logging.getLogger(__name__)
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
# $1 the tree, $2 where to work in it, $3 the command, the rest: files and directories of this machine that pip needs
ENTER = """
tree=$1 where=$2 command=$3; shift 3
mount --rbind /dev "$tree/dev"; mount -t proc proc "$tree/proc"
for path; do
    if [ -d "$path" ]; then mkdir -p "$tree$path"; else mkdir -p "$tree${path%/*}"; touch "$tree$path"; fi
    mount --bind "$path" "$tree$path"
done
exec chroot "$tree" /bin/sh -ec 'mkdir -p "$1"; cd "$1"; eval "$2"' sh "$where" "$command"
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with the Debian release and the Python of the image, and make."""
    if os.geteuid() or not shutil.which("debootstrap") or not shutil.which("unshare"):
        pytest.skip("needs root, debootstrap and unshare")
    suite = re.search(r"^FROM \S*-slim-(\w+)$", (PROJECT / "Containerfile").read_text(), re.M)[1]
    try:
        urllib.request.urlopen(f"{MIRROR}/dists/{suite}/Release", timeout=20).close()
    except OSError as error:
        pytest.skip(f"{MIRROR} cannot be reached ({error})")
    log.info("debootstrap %s", suite)
    root = tmp_path_factory.mktemp("fresh") / "debian"
    command = ["debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates,make", suite, root, MIRROR]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    enter(root, "/", "python3 -m venv /usr/local", {})
    yield root
    shutil.rmtree(root)


def enter(root, where, command, environment):
    """Run a shell command in the tree; return its output."""
    settings, paths = pip_settings()
    known = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", ENTER, "sh"]
    done = subprocess.run(
        [*unshare, root, where, command, *paths], env=known | settings | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def pip_settings():
    """Return this machine's settings of pip as environment variables, and the paths in them."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = {}
    for scoped, _, value in (line.partition("=") for line in listed.stdout.splitlines()):
        name = f"PIP_{scoped.rpartition('.')[2].upper().replace('-', '_')}"
        settings.setdefault(name, ast.literal_eval(value))  # variables take precedence
    words = [word for value in settings.values() for word in value.split()]
    # a file index links to packages next to it
    paths = [str(Path(word[7:]).parent) if word.startswith("file:///") else word for word in words]
    return settings, sorted({path for path in paths if path.startswith("/") and Path(path).exists()})


def instructions():
    """Yield keyword and argument of each instruction in the Containerfile."""
    text = re.sub(r"^#.*\n", "", (PROJECT / "Containerfile").read_text(), flags=re.M).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, argument = line.partition(" ")
        yield word, argument.strip()


def copy(source, target):
    """Copy a file or directory of the project into the tree, without what .dockerignore excludes."""
    patterns = (PROJECT / ".dockerignore").read_text().split()

    def ignored(directory, names):
        here = [name.removeprefix("**/") for name in patterns if "**/" in name or Path(directory) == PROJECT]
        return shutil.ignore_patterns(*here)(directory, names)

    if source.is_dir():
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.fixture
def podman(tree, tmp_path):
    """A function that runs podman, in whose own storage the tree, as it is, is the base image."""
    if not shutil.which("podman"):
        pytest.skip("needs podman")
    storage = ["--root", tmp_path / "storage", "--runroot", tmp_path / "run"]

    def run(*words):
        return subprocess.run(["podman", *storage, *words], capture_output=True, text=True)

    base = re.search(r"^FROM (\S+)$", (PROJECT / "Containerfile").read_text(), re.M)[1]
    packed = tmp_path / "base.tar"
    subprocess.run(["tar", "-C", tree, "-cf", packed, "."], check=True)
    try:
        imported = run("import", "--change", "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", packed, base)
        assert imported.returncode == 0, imported.stderr
        tried = run("run", "--rm", base, "true")
        if tried.returncode:
            pytest.skip(f"podman cannot run a container here: {tried.stderr.strip()}")
        yield run
    finally:
        run("rmi", "--all", "--force")
        subprocess.run(["umount", tmp_path / "storage" / "overlay"], capture_output=True)  # podman leaves it mounted


def test_podman_builds_an_image_that_any_user_can_run(podman, tmp_path):
    settings, paths = pip_settings()
    mounts = [word for path in paths for word in ("--volume", f"{path}:{path}:ro")]
    variables = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    log.info("podman build")
    built = podman(
        "build", "--network", "host", "--build-arg", "COMMIT=abc", *mounts, *variables, "--tag", "virnuc", PROJECT
    )
    assert built.returncode == 0, f"{built.stdout[-3000:]}\n{built.stderr[-3000:]}"
    assert "Usage: virnuc" in podman("run", "--rm", "virnuc").stdout
    work = tmp_path / "work"
    (work / "genomes").mkdir(parents=True)
    for name in ("viral", "protozoa"):
        shutil.copy(PROJECT / "examples" / "genomes" / f"{name}.1.genomic.gbff.gz", work / "genomes")
    for directory in (work, work / "genomes"):
        os.chown(directory, 1234, 1234)
    log.info("podman run")
    command = ["virnuc", "prepare", "--source", "genomes", "--out", "data/frames"]
    done = podman("run", "--rm", "--user", "1234:1234", "--volume", f"{work}:/work", "virnuc", *command)
    assert done.returncode == 0, done.stderr
    [run] = MlflowClient(f"sqlite:///{work / 'mlflow.db'}").search_runs(["1"])
    assert run.data.tags["virnuc.commit"] == "abc"
    assert (work / "data" / "frames" / "chunks" / "manifest.json").stat().st_uid == 1234


def test_from_nothing_to_the_demos_verdict(tree):
    environment, where = {}, "/"
    for word, argument in instructions():
        if word == "ARG":
            name, _, default = argument.partition("=")
            environment[name] = os.environ.get(name, default)
        elif word == "ENV":
            argument = Template(argument).substitute(environment)
            environment |= dict(pair.split("=", 1) for pair in shlex.split(argument))
        elif word == "WORKDIR":
            where = argument
        elif word == "COPY":
            source, target = argument.split()
            copy(PROJECT / source, tree / where.lstrip("/") / target)
        elif word in ("RUN", "CMD"):
            command = shlex.join(ast.literal_eval(argument)) if word == "CMD" else argument
            log.info("%s %s", word, command)
            printed = enter(tree, where, command, environment)
        else:
            assert word == "FROM"
    assert "Usage: virnuc" in printed
    log.info("make demo")
    printed = enter(tree, "/opt/virnuc", "make demo", {})
    verdict = re.search(r"^PASS: .*$", printed, re.M)
    assert verdict, printed[-3000:]
    log.info(verdict[0])
    assert (tree / "opt/virnuc/data/latest/reports/latest/validation_report.html").is_file()
