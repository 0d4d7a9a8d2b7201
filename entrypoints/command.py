"""What all entry points share: options from settings, a run around the stage, errors to exit codes.

Nothing heavy is imported before a command really runs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import Field, fields
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import click
from click.core import ParameterSource

from entrypoints.config import read_config
from entrypoints.elsewhere import leave_project
from virnuc.errors import DataError, Terminated, UsageError, VirnucError, cause_outside, masked
from virnuc.settings import COLLECTIONS, Settings, default_of, flag_name, plain

S = TypeVar("S", bound=Settings)
R = TypeVar("R")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")  # a server may take half a minute to come back


class _Command(click.Command):
    """A command that reports wrong usage in one line, like all other errors."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and end with exit code 2 where that fails."""
        try:
            left = super().parse_args(ctx, args)
        except click.UsageError as error:
            click.echo(f"{self.name}: {error.format_message()}; see --help", err=True)
            _leave_no_run()
            ctx.exit(error.exit_code)
        if ctx.get_parameter_source("overrides") is ParameterSource.DEFAULT_MAP:
            overrides = ctx.params["overrides"]
            given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
            ctx.params["overrides"] = {key: text for key, text in overrides.items() if key.split(".")[1] not in given}
        return left


class _Parsed(click.ParamType):
    """A list or a mapping, from text with commas."""

    def __init__(self, kind: str) -> None:
        self.name = "A,B,..." if kind.startswith("tuple") else "NAME=VALUE,..."
        self._parse = COLLECTIONS[kind]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; a file may give a list or a mapping as such."""
        try:
            return self._parse(str(plain(tuple(value) if isinstance(value, list) else value)))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Stage(Generic[S, R]):
    """A stage: its settings, its click command, and how to run it inside a pipeline."""

    def __init__(self, settings: type[S], body: Callable[..., R], tracked: bool) -> None:
        self.name = name = body.__name__
        self.settings, self._body, self._tracked = settings, body, tracked
        self.command = _Command(
            name,
            params=[*(_option(declared) for declared in fields(settings)), _config_option(name)],
            callback=self._from_command_line,
            help=body.__doc__,
            context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    def run(self, settings: S, name: str | None = None) -> R:
        """Run the stage in its own run, a child if a run is active; without a run if its parameter `track` is no."""
        from virnuc.storage.remote import on_this_machine

        if not self._tracked:
            with on_this_machine(settings) as local:
                return self._body(local)
        from virnuc.tracking import NullTracker, tracked_run

        logged = getattr(settings, "track", True)
        run = tracked_run(self.name, settings, name) if logged else nullcontext(NullTracker())
        with run as tracker, on_this_machine(settings) as local:
            return self._body(local, tracker)

    def main(self) -> None:
        """Parse the command line, run, and exit with the stage's code."""
        arguments = leave_project(sys.argv[1:], os.environ, Path(__file__).resolve().parents[1])
        self.command.main(arguments, prog_name=f"python -m entrypoints.{self.name}")

    def _from_command_line(self, **values: Any) -> None:
        quieten()
        try:
            settings = self.settings(**values)
            signal.signal(signal.SIGTERM, _terminate)
            self.run(settings)
        except VirnucError as error:
            sys.stdout.flush()
            click.echo(masked(f"{self.name}: {error}"), err=True)
            if isinstance(error, UsageError | DataError):
                _leave_no_run()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, Terminated):
            click.echo(f"{self.name}: stopped; give the same command again to resume", err=True)
            sys.exit(1)
        except Exception as error:
            cause = cause_outside(error)
            if not cause:
                click.echo(masked(traceback.format_exc()), err=True)
                cause = f"unexpected {type(error).__name__}: {error}; please report it"
            click.echo(masked(f"{self.name}: {cause}"), err=True)
            sys.exit(1)


def stage(settings: type[S], *, tracked: bool = True) -> Callable[[Callable[..., R]], Stage[S, R]]:
    """Make a stage from a function of its settings and a tracker.

    With `tracked=False` no run is opened: the function gets only its settings, and may open a run itself.
    """
    return lambda body: Stage(settings, body, tracked)


def quieten() -> None:
    """Silence warnings and log lines of libraries; virnuc's own output goes to the terminal through `say`."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    for name in ("mlflow", "alembic", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of what it raises as well


def say(message: str) -> None:
    """Print a line to the terminal at once."""
    click.echo(masked(message))
    sys.stdout.flush()


def _leave_no_run() -> None:
    """Delete the run that `mlflow run` made for a command with wrong inputs, if it is still empty."""
    if "MLFLOW_RUN_ID" in os.environ:  # MLflow takes it away when a run starts
        from virnuc.tracking import discard_given_run

        discard_given_run()


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into an exception, so that a run is ended as KILLED instead of staying RUNNING."""
    raise Terminated


def _option(declared: Field[Any]) -> click.Option:
    choices, default = declared.metadata["choices"], default_of(declared)
    kind: Any = click.Choice(choices) if choices else type(default)
    if declared.type in COLLECTIONS:
        kind = _Parsed(str(declared.type))
    return click.Option(
        [flag_name(declared.name)],
        default=plain(default),
        type=kind,
        metavar="[no|yes]" if kind is bool else None,
        help=declared.metadata["help"],
    )


def _config_option(stage: str) -> click.Option:
    def take(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
        if path:
            try:
                ctx.default_map = read_config(path, stage)
            except UsageError as error:
                raise click.UsageError(str(error), ctx) from error

    return click.Option(
        ["--config"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=take,
        help="YAML file of parameters; a stage's section overrides the rest, the command line overrides the file.",
    )
