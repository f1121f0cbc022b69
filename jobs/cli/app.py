"""The `winback` command line: the command group, most commands, and the exit codes of errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from core.errors import ContractError, RunInProgressError, WinbackError
from core.progress import logger
from core.settings import Settings, read_settings
from jobs.cli import models as model_commands
from jobs.cli import upkeep as upkeep_commands
from jobs.cli.runner import DateTimeParam, as_json, print_answer, run_command, with_context
from jobs.output import load as load_screen
from jobs.output import runs as screens
from jobs.signals import interruptible


class Commands(click.Group):
    """The commands of jobs/, and those that other packages register as entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *(e.name for e in entry_points(group="winback.commands"))})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load a command. If its libraries are not installed, calling it names the missing one."""
        own = super().get_command(ctx, name)
        if own:
            return own
        for entry in entry_points(group="winback.commands", name=name):
            try:
                command: click.Command = entry.load()
            except ModuleNotFoundError as error:
                command = _absent(name, str(error.name))
            return command
        return None


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
    winback hourly
    """


def _files(option: str, table: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that may be repeated; each value is a file, a folder or a pattern."""
    told = f"Parquet or CSV of {table}: a file, a folder, or a pattern in quotes. May be repeated."
    return click.option(option, multiple=True, type=click.Path(path_type=Path), help=told)


@cli.command()
@_files("--events", "raw.app_events")
@_files("--users", "raw.users")
@_files("--redemptions", "raw.voucher_redemptions")
@click.option(
    "--set-aside",
    type=click.Path(path_type=Path),
    help="Write rejected rows to this file, with the reason, and load the rest.",
)
@as_json
def load(
    events: tuple[Path, ...],
    users: tuple[Path, ...],
    redemptions: tuple[Path, ...],
    set_aside: Path | None,
    is_json: bool,
) -> None:
    """Load raw data: all of it or nothing. Loading the same file twice changes nothing.

    \b
    winback load --events events.parquet --users users.csv
    winback load --events day1/ --events 'day2/*.csv.gz' --set-aside refused.csv
    """
    from jobs.upkeep.load import load_files  # noqa: PLC0415 - commands import what they need, so that `--help` is fast

    files = {
        name: paths for name, paths in (("events", events), ("users", users), ("redemptions", redemptions)) if paths
    }
    if not files:
        raise click.UsageError("Name at least one file: --events, --users or --redemptions.")
    run_command(
        is_json,
        lambda settings, reporter: load_files(settings, files, reporter, set_aside=set_aside),
        load_screen.loaded,
    )


@cli.command()
@click.option("--until", type=DateTimeParam(), required=True, help="History is what was loaded before this time.")
@as_json
def backfill(until: datetime, is_json: bool) -> None:
    """Build history as one epoch; decides and sends nothing.

    \b
    winback backfill --until 2026-06-01
    """
    from jobs.upkeep.backfill import backfill as run  # noqa: PLC0415

    run_command(is_json, with_context(lambda context: run(context, until)), screens.backfilled)


@cli.command()
@click.option("--until", type=DateTimeParam(), help="End of the run window; default: now minus the safety lag.")
@click.option(
    "--dry-run", is_flag=True, help="Build, score, decide and simulate the sync, but commit and send nothing."
)
@click.option(
    "--accept-audience",
    is_flag=True,
    help="Send although the audience has collapsed. Use it only after you have checked that this is right.",
)
@as_json
def hourly(until: datetime | None, dry_run: bool, accept_audience: bool, is_json: bool) -> None:
    """Run once: features, scores, decisions, audience, sync.

    \b
    winback hourly
    winback hourly --until 2026-06-01T10:00 --json
    Exit codes: 0 done, 1 failed and safe to retry, 2 configuration or contract, 3 too many rejections or a collapsed audience.
    """
    from jobs.context import open_context  # noqa: PLC0415
    from jobs.hourly.run import hourly as run  # noqa: PLC0415

    def act(settings: Settings, reporter: Any) -> Any:
        with open_context(settings, reporter=reporter) as context:
            return run(context, until, dry_run=dry_run, accept_audience=accept_audience)

    try:
        result = run_command(is_json, act, screens.ran)
    except RunInProgressError as busy:
        if not busy.is_hourly:
            raise
        # Not a failure: the run that holds the data does the same work.
        _say("info", str(busy))
        if is_json:
            click.echo(json.dumps({"skipped": str(busy)}))
        return
    if result.stopped:
        raise result.stopped


@cli.command()
@as_json
def nightly(is_json: bool) -> None:
    """Rebuild what arrived within the last days, to correct lost or altered rows; decides and sends nothing.

    \b
    winback nightly
    winback nightly && winback hourly     (in place of one hourly run: never run the two at the same time)
    """
    from jobs.upkeep.nightly import nightly as run  # noqa: PLC0415

    run_command(is_json, with_context(run), screens.rebuilt)


@cli.command()
@click.option("--percent", type=click.IntRange(1, 100), default=1, show_default=True, help="Percentage of the users.")
@as_json
def audit(percent: int, is_json: bool) -> None:
    """Rebuild a sample of users from the raw events in one pass, and compare it with the tables that hourly runs built.

    \b
    winback audit
    winback audit --percent 10 --json
    Exit codes: 0 no row differs, 1 failed and safe to retry, 2 configuration or contract, 3 rows differ: look at them.
    """
    from jobs.upkeep.audit import audit as run  # noqa: PLC0415

    drift = run_command(is_json, with_context(lambda context: run(context, percent)), screens.audited).drift
    if drift:
        raise drift


@cli.command()
@as_json
def status(is_json: bool) -> None:
    """Show the watermark, the last runs, what is pending, rejected or not erased yet, the model, and the last audit.

    \b
    winback status
    """
    from jobs.context import open_context  # noqa: PLC0415
    from jobs.status import status as run  # noqa: PLC0415

    def act(settings: Settings, _: Any) -> Any:
        with open_context(settings) as context:
            return run(context)

    run_command(is_json, act, screens.status)


@cli.command("dead-letters")
@click.argument("action", type=click.Choice(["list", "retry"]), default="list")
@as_json
def dead_letters(action: str, is_json: bool) -> None:
    """List the users that the CRM rejected, by reason, or send them again with the next run.

    \b
    winback dead-letters
    winback dead-letters retry
    """
    from jobs.context import open_context  # noqa: PLC0415
    from jobs.upkeep import dead_letters as letters  # noqa: PLC0415

    def act(settings: Settings, _: Any) -> Any:
        with open_context(settings) as context:
            return letters.listed(context) if action == "list" else {"retried": letters.retry(context)}

    run_command(is_json, act, screens.dead_letters)


class RedactedArgsCommand(click.Command):
    """A command whose errors never repeat its arguments, which are personal data."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError:
            told = (
                "Write winback erase USER, with --yes or --json, and nothing else. Quote an id with spaces; put -- before "
                "an id that begins with a dash."
            )
            raise click.UsageError(told, ctx) from None


@cli.command(cls=RedactedArgsCommand)
@click.argument("user")
@click.option("--yes", "is_certain", is_flag=True, help="Do not ask for confirmation on the terminal.")
@as_json
def erase(user: str, is_certain: bool, is_json: bool) -> None:
    """Erase a user: delete their rows and their profile in the CRM, and never decide or send anything for them again.

    \b
    winback erase USER
    winback erase USER --yes --json
    Run it again to finish what is left. Exit codes: 0 done, 1 not all is deleted yet: run it again, 2 configuration or contract.
    """
    from jobs.erasure.erase import erase as run  # noqa: PLC0415

    if not user:
        raise click.UsageError("The user's id is empty.")
    if not is_certain:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "Cannot ask for confirmation: stdin is not a terminal. Pass --yes to erase; this cannot be undone."
            )
        click.confirm("Erase this user here and in the CRM? This cannot be undone.", abort=True, err=True)

    problem = run_command(is_json, with_context(lambda context: run(context, user)), screens.erased).problem
    if problem:
        raise problem


@cli.command()
@as_json
def doctor(is_json: bool) -> None:
    """Check everything that a run needs and show what to grant, create or correct; changes nothing.

    \b
    winback doctor
    winback doctor --json
    Exit codes: 0 no check failed, 2 a check failed; the output shows what to do.
    """
    from jobs.doctor import run as doctors  # noqa: PLC0415

    try:
        settings = read_settings()
    except ContractError as error:
        found = doctors.unusable(error)
    else:
        found = doctors.doctor(settings)
    print_answer(found, is_json, screens.diagnosis)
    if found.error:
        raise found.error


for command in (*model_commands.ALL, *upkeep_commands.ALL):
    cli.add_command(command)


def main() -> None:
    """Run the command line; an error becomes a message and an exit code."""
    with interruptible() as signals:
        try:
            sys.exit(_exit_code(signals))
        except KeyboardInterrupt:  # interrupted again while it printed the error
            sys.exit(1)


def _exit_code(signals: list[signal.Signals]) -> int:
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BaseException as error:  # noqa: BLE001 - an interruption gets a message, too
        if signals:
            _say("error", f"Stopped by {signals[0].name}. Nothing is left half done. Run it again.")
            return 1
        return _told(error)
    return 0


def _told(error: BaseException) -> int:
    """Print the error, and return the exit code."""
    if isinstance(error, click.Abort):
        _say("info", "Nothing was done.")
        return 1
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if isinstance(error, WinbackError):
        _say("error", str(error))
        return error.exit_code
    if not isinstance(error, Exception):
        raise error
    # Unexpected error: print its place, but not its text, because the text may quote a user's data.
    places = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if Path(f.filename).is_relative_to(Path(__file__).parents[2])
    ]
    where = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "an unknown place"
    hint = (
        "Nothing is left half done; running again is safe. WINBACK_DEBUG=1 shows more, which may include users' data."
    )
    if os.environ.get("WINBACK_DEBUG", "").lower() in ("1", "true", "yes"):
        traceback.print_exception(error)
    _say("error", f"Unexpected {type(error).__name__} at {where}. {hint}")
    return 1


def _say(severity: str, text: str) -> None:
    if sys.stderr.isatty():
        color = {"error": "red", "info": "yellow"}[severity]
        Console(stderr=True).print(f"[{color}]{severity.capitalize()}:[/] ", end="")
        click.echo(text, err=True)
    else:
        getattr(logger(), severity)(text)
