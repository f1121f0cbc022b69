"""The `winback` command group: which commands there are, and where each is loaded from when it is called.

`winback --help` loads no command, so that it is fast: the libraries of a command take a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import NamedTuple

import click

from jobs.cli.runner import log_message


class _Place(NamedTuple):
    """Module and name of a command, and its line in `winback --help`."""

    module: str
    name: str
    short_help: str


COMMANDS: Mapping[str, _Place] = {
    "audit": _Place("jobs.cli.runs", "audit", "Rebuild a sample of users and compare it with the tables."),
    "backfill": _Place("jobs.cli.runs", "backfill", "Build the history; decides and sends nothing."),
    "compact": _Place("jobs.cli.upkeep", "compact", "Rewrite the DuckDB file without the bytes of deleted rows."),
    "dataset": _Place("jobs.cli.models", "dataset", "Build and test the training examples; trains nothing."),
    "dead-letters": _Place(
        "jobs.cli.checks", "dead_letters", "List the users that the CRM rejected, or send them again."
    ),
    "doctor": _Place("jobs.cli.checks", "doctor", "Check everything that a run needs; changes nothing."),
    "erase": _Place("jobs.cli.erasure", "erase", "Erase a user here and in the CRM."),
    "evaluate": _Place("jobs.cli.models", "evaluate", "Compare the challenger with the champion."),
    "load": _Place("jobs.cli.loading", "load", "Load raw data: all of it or nothing."),
    "migrate": _Place("jobs.cli.upkeep", "migrate", "Migrate a warehouse of an earlier version to this one."),
    "promote": _Place("jobs.cli.models", "promote", "Make the challenger, or a version, the champion."),
    "rebuild": _Place("jobs.cli.runs", "rebuild", "Rebuild the last days, to correct lost or altered rows."),
    "repair-watermark": _Place(
        "jobs.cli.upkeep", "repair_watermark", "Put the watermark back after a run with a clock ahead."
    ),
    "rollback": _Place("jobs.cli.models", "rollback", "Make the previous champion the champion again."),
    "run": _Place("jobs.cli.runs", "run", "Run once: features, scores, decisions, audience, sync."),
    "status": _Place("jobs.cli.checks", "status", "Show the last runs, what is pending, and the model."),
    "switch-crm": _Place("jobs.cli.upkeep", "switch_crm", "Have the next run send the whole audience to another CRM."),
    "train": _Place("jobs.cli.models", "train", "Train a model and register it as the challenger."),
}

# Names of earlier versions. They work until the next release, with a warning.
RENAMED: Mapping[str, str] = {
    "crm": "local-crm",
    "examples": "dataset",
    "hourly": "run",
    "nightly": "rebuild",
    "replay": "backtest",
}


class Commands(click.Group):
    """The commands of `COMMANDS`, and those that other packages register as entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return sorted({*COMMANDS, *(entry.name for entry in entry_points(group="winback.commands"))})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load a command. If its libraries are not installed, calling it names the missing one."""
        if new := RENAMED.get(name):
            log_message(
                "warning", f"winback {name} is called winback {new} now. The old name works until the next release."
            )
            return self.get_command(ctx, new)
        if place := COMMANDS.get(name):
            own: click.Command = getattr(import_module(place.module), place.name)
            return own
        for entry in entry_points(group="winback.commands", name=name):
            try:
                command: click.Command = entry.load()
            except ModuleNotFoundError as error:
                command = _absent(name, str(error.name))
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading those of `COMMANDS`."""
        rows = []
        for name in self.list_commands(ctx):
            other = None if name in COMMANDS else self.get_command(ctx, name)
            rows.append((name, (other.short_help or "") if other else COMMANDS[name].short_help))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _absent(name: str, missing: str) -> click.Command:
    """Return a command whose only effect is an error that names the missing library."""

    @click.command(name, short_help="(not installed here)", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def absent(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise click.ClickException(
            f"{name} needs {missing}, which the scoring image leaves out. Install the sandbox extra."
        )

    return absent


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="winback")
def cli() -> None:
    """Score the users who left unfinished, decide who may get a voucher, keep the CRM up to date.

    \b
    winback load --events events.parquet --users users.parquet
    winback backfill --until 2026-06-01
    winback train
    winback run
    """
