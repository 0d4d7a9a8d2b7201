"""`mlflow run` of a project elsewhere: a stage's paths are relative to the directory where the command was given.

MLflow starts a stage in the project's directory, for a URL a temporary clone, but its store is in the directory where
it was called. So the stage changes to that directory; files that ship with the project are still found in the project.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_SHIPPED = re.compile(r"(--[\w-]+=)((?:examples|model_registry)(?:/.*)?)")


def leave_project(arguments: list[str], environment: Mapping[str, str], project: Path) -> list[str]:
    """Change to the directory where `mlflow run` was called; return the arguments as they are right there.

    Args:
        arguments: of the command line.
        environment: of the process; MLflow sets MLFLOW_RUN_ID.
        project: where the code is: the working directory, except in a container.
    """
    caller = _caller() if "MLFLOW_RUN_ID" in environment else project
    if caller == project:
        return arguments
    os.chdir(caller)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(project), environment.get("PYTHONPATH", "")]))
    sys.path[:] = [str(project) if place in ("", ".") else place for place in sys.path]
    return [_found(argument, project) for argument in arguments]


def _found(argument: str, project: Path) -> str:
    shipped = _SHIPPED.fullmatch(argument)
    if shipped and not Path(shipped[2]).exists() and (project / shipped[2]).exists():
        return f"{shipped[1]}{project / shipped[2]}"
    return argument


def _caller() -> Path:
    """Return the working directory of the process that started this one, with or without `bash -c`; else this one's."""
    parent = Path(f"/proc/{os.getppid()}")
    try:
        if (parent / "cmdline").read_bytes().startswith(b"bash\0-c\0"):
            parent = parent.parent / (parent / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[1]
        return (parent / "cwd").resolve(strict=True)
    except OSError:  # no Linux, or a container of its own
        return Path.cwd()
