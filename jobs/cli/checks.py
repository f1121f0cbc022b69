"""Commands that look at the state of things: status, doctor, dead letters."""

from __future__ import annotations

from typing import Any

import click

from core.errors import ContractError
from core.settings import Settings, read_settings
from jobs.cli.runner import as_json, print_answer, run_command
from jobs.context import open_context
from jobs.doctor import run as doctors
from jobs.output import checks as screens
from jobs.status import status as read_status
from jobs.upkeep import dead_letters as letters


@click.command()
@as_json
def status(is_json: bool) -> None:
    """Show the watermark, the last runs, what is pending, rejected or not erased yet, the model, and the last audit.

    \b
    winback status
    """

    def act(settings: Settings, _: Any) -> Any:
        with open_context(settings, is_read_only=True) as context:
            return read_status(context)

    run_command(is_json, act, screens.status)


@click.command("dead-letters")
@click.argument("action", type=click.Choice(["list", "retry"]), default="list")
@as_json
def dead_letters(action: str, is_json: bool) -> None:
    """List the users that the CRM rejected, by reason, or send them again with the next run.

    \b
    winback dead-letters
    winback dead-letters retry
    """

    def act(settings: Settings, _: Any) -> Any:
        with open_context(settings) as context:
            return letters.listed(context) if action == "list" else {"retried": letters.retry(context)}

    run_command(is_json, act, screens.dead_letters)


@click.command()
@as_json
def doctor(is_json: bool) -> None:
    """Check everything that a run needs and show what to grant, create or correct; changes nothing.

    \b
    winback doctor
    winback doctor --json
    Exit codes: 0 no check failed, 2 a check failed; the output shows what to do.
    """
    try:
        settings = read_settings()
    except ContractError as error:
        found = doctors.unusable(error)
    else:
        found = doctors.doctor(settings)
    print_answer(found, is_json, screens.diagnosis)
    if found.error:
        raise found.error
