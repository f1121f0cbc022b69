"""The command that erases a user."""

from __future__ import annotations

import click

from jobs.cli.contexts import with_context
from jobs.cli.runner import as_json, require_terminal, run_command
from jobs.erasure.erase import erase as erase_user
from jobs.output import upkeep as screens


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


@click.command(cls=RedactedArgsCommand)
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
    if not user:
        raise click.UsageError("The user's id is empty.")
    if not is_certain:
        require_terminal("Pass --yes to erase; this cannot be undone.")
        click.confirm("Erase this user here and in the CRM? This cannot be undone.", abort=True, err=True)

    problem = run_command(is_json, with_context(lambda context: erase_user(context, user)), screens.erased).problem
    if problem:
        raise problem
