"""Commands that repair, migrate and compact a warehouse, and change its CRM."""

from __future__ import annotations

from typing import Any

import click

from core.errors import ContractError, RunInProgressError
from core.settings import Settings, read_settings
from jobs.cli.contexts import with_context
from jobs.cli.runner import as_json, require_terminal, run_command
from jobs.context import open_context
from jobs.crm_state.switch import plan_switch
from jobs.crm_state.switch import switch_crm as switch
from jobs.output import upkeep as screens
from jobs.upkeep.compact import compact as compact_file
from jobs.upkeep.migrate import Migrated
from jobs.upkeep.migrate import migrate as migrate_warehouse
from jobs.upkeep.repair_watermark import repair_watermark as repair


@click.command("repair-watermark")
@click.option("--dry-run", is_flag=True, help="Show what would be repaired, and change nothing.")
@as_json
def repair_watermark(dry_run: bool, is_json: bool) -> None:
    """Put the watermark back after a run whose clock was ahead; its decisions are kept, and nothing is sent.

    \b
    winback repair-watermark --dry-run
    winback repair-watermark
    Check this machine's clock first. Exit codes: 0 done or nothing to repair, 1 failed and safe to retry, 2 no history.
    """
    run_command(is_json, with_context(lambda context: repair(context, dry_run=dry_run)), screens.repaired)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show the steps, and change nothing.")
@as_json
def migrate(dry_run: bool, is_json: bool) -> None:
    """Migrate a warehouse of an earlier version to this one, after an upgrade and with the schedule stopped; nothing is sent.

    \b
    winback migrate --dry-run
    winback migrate
    Copy the warehouse first: an older version cannot use it afterwards. If it is killed, run it again: it continues.
    Exit codes: 0 done or nothing to do, 1 failed and safe to retry, 2 configuration, contract, or a run is in progress.
    """

    def act(settings: Settings, reporter: Any) -> Migrated:
        try:
            with open_context(settings, is_migrating=True, reporter=reporter) as context:
                return migrate_warehouse(context, dry_run=dry_run)
        except RunInProgressError as busy:
            raise ContractError(
                f"{busy} A migration needs the warehouse for itself: stop the schedule, wait, and run winback migrate again."
            ) from None

    run_command(is_json, act, screens.migrated)


@click.command("switch-crm")
@click.option(
    "--keep-state", is_flag=True, help="It is the same CRM at another address, with all its data: forget nothing."
)
@click.option(
    "--force", is_flag=True, help="Forget the state of the same CRM: it is another account, or it was emptied."
)
@click.option("--yes", "is_certain", is_flag=True, help="Do not ask for confirmation on the terminal.")
@as_json
def switch_crm(keep_state: bool, force: bool, is_certain: bool, is_json: bool) -> None:
    """Make the next run send the whole audience to the CRM that the settings name; sends nothing itself.

    \b
    winback switch-crm
    winback switch-crm --keep-state
    The old CRM keeps what it holds. If it is killed, run it again: it does what is left.
    Exit codes: 0 done or nothing to do, 1 not confirmed, or failed and safe to retry, 2 configuration or contract.
    """
    if keep_state and force:
        raise click.UsageError("--keep-state keeps the state, and --force forgets it. Use one of them.")
    if not is_certain:
        require_terminal("Pass --yes to switch.")
        with open_context(read_settings()) as context:  # closed before the question: no run waits for a person
            plan = plan_switch(context, keep_state=keep_state, force=force)
        if plan.is_needed:
            click.confirm(screens.question_of_switch(plan), abort=True, err=True)
    run_command(
        is_json, with_context(lambda context: switch(context, keep_state=keep_state, force=force)), screens.switched
    )


@click.command()
@as_json
def compact(is_json: bool) -> None:
    """Rewrite the DuckDB file, so that no byte of deleted rows is left in it. Use it after an erasure, while no run is active.

    \b
    winback compact
    winback erase u-0001193 --yes && winback compact
    """
    run_command(is_json, compact_file, screens.compacted)
