"""README and docs/ are right: commands can be given, columns and messages exist, links have targets."""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.shared import PROJECT
from virnuc.evaluation.predictions import PREDICTION_COLUMNS
from virnuc.prediction.tables import CALLS, SEQUENCES
from virnuc.sequences.frames import CHUNK_SCHEMA, FRAME_SCHEMA
from virnuc.splits.assignment import COLUMNS

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
STAGES = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
# Commands that are no stages, and what would show that they are wrong: a test, or a reader who tries them.
OTHERS = {
    "make demo": "tests/e2e/conftest.py runs its command",
    "make test": "every test",
    "make test-fast": "every test but those of whole stages",
    "make check": ".ci/run",
    "make docs": "test_the_site_is_built_and_fetches_nothing runs its command",
    ". .venv/bin/activate": "made by every rule of the Makefile",
}


@dataclass(frozen=True)
class Command:
    """A command in a page."""

    page: str
    text: str
    needs: str  # what a test lacks to run it; empty if a test can

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def commands():
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            needs = lines[0].removeprefix("# needs ") if lines[0].startswith("# needs ") else ""
            for line in lines:
                if text := " ".join(line.split("  #")[0].split()) if not line.startswith("#") else "":
                    yield Command(page.name, text, needs)


COMMANDS = list(commands())


def stage_and_options(text):
    """Return the stage that a command starts and its options as click parses them; None for other commands."""
    words = shlex.split(text.rpartition(" | ")[2])
    if words[:2] == ["python", "-m"] and words[2].startswith("entrypoints."):
        return words[2].removeprefix("entrypoints."), words[3:]
    if words[0] == "virnuc":
        return words[1], words[2:]
    if words[:3] == ["mlflow", "run", "."]:
        values = [words[place + 1].partition("=") for place, word in enumerate(words) if word == "-P"]
        stage = words[words.index("-e") + 1] if "-e" in words else "main"
        return stage, [f"--{name.replace('_', '-')}={value}" for name, _, value in values]
    return None


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_can_be_given_as_it_is_written(command):
    found = stage_and_options(command.text)
    if found is None:
        assert command.text in OTHERS or command.needs
        return
    name, options = found
    stage = getattr(import_module(f"entrypoints.{name}"), name)
    with stage.command.make_context(name, options) as context:
        stage.settings(**context.params)
    if not command.needs:
        name = "main" if name == "pipeline" else name  # the same function with other defaults
        started = rf'''\(\s*"{name}"[,)]|"{name}": \d|from entrypoints\.{name} import'''
        assert any(re.search(started, path.read_text()) for path in (PROJECT / "tests").rglob("test_*.py"))


def test_pages_have_commands():
    assert {"README.md", "predict.md", "genomes.md", "experiment.md", "operating.md"} <= {c.page for c in COMMANDS}


def test_readme_is_short():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("section", "columns"),
    [
        ("Frames", {*FRAME_SCHEMA.names, *CHUNK_SCHEMA.names}),
        ("Split", COLUMNS),
        ("Calls", {*CALLS.names, *SEQUENCES.names}),
        ("Runs in MLflow", PREDICTION_COLUMNS),
    ],
)
def test_every_column_is_explained(section, columns):
    page = (PROJECT / "docs" / "files.md").read_text()
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    assert {name for name in columns if f"`{name}`" not in text} == set()


def source_texts():
    """Return every string in the packages' code, with `...` in place of formatted values."""
    for package in ("virnuc", "entrypoints", "model_registry"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    yield (PROJECT / "Makefile").read_text()


def test_messages_explained_are_those_of_the_code():
    explained = re.findall(r"^### `(.+)`$", (PROJECT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(explained) > 15
    texts = [text.replace("manifest.json", "...") for text in source_texts()]
    missing = []
    for message in explained:
        pieces = [re.escape(piece) for piece in message.replace("manifest.json", "...").split("...")]
        if not any(re.search(".*".join(pieces), text, re.S) for text in texts):
            missing.append(message)
    assert missing == []


def test_the_site_is_built_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in Path(tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"""<(?:script|link|img)[^>]*?(?:src|href)=["'](https?:[^"']+)""", page.read_text())
        assert [address for address in fetched if "canonical" not in address] == [], page.name
