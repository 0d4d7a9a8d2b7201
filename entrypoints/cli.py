"""`virnuc STAGE ...`: every stage behind one command; a stage's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

import virnuc
from virnuc.settings import STAGES


class _Stages(click.Group):
    """The stages as subcommands, in the order of the data."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all stages."""
        return list(STAGES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a stage's command; None if there is no such stage."""
        if cmd_name not in STAGES:
            return None
        command: click.Command = getattr(import_module(f"entrypoints.{cmd_name}"), cmd_name).command
        return command


@click.group(cls=_Stages, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(virnuc.__version__)
def main() -> None:
    """May a fast protein language model replace a slow one in a classifier of viral DNA?"""


if __name__ == "__main__":
    main(prog_name="virnuc")
