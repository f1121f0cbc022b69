"""Entry point of the command line: runs a command and turns its error into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import click

from core.errors import WinbackError
from jobs.cli.app import cli
from jobs.cli.runner import log_message
from jobs.signals import interruptible


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
            log_message("error", f"Stopped by {signals[0].name}. Nothing is left half done. Run it again.")
            return 1
        return _told(error)
    return 0


def _told(error: BaseException) -> int:
    """Print the error, and return the exit code."""
    if isinstance(error, click.Abort):
        log_message("info", "Nothing was done.")
        return 1
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if isinstance(error, WinbackError):
        log_message("error", str(error))
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
    log_message("error", f"Unexpected {type(error).__name__} at {where}. {hint}")
    return 1
