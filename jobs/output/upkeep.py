"""What the commands that repair, migrate, compact, erase and switch the CRM print on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from jobs.output.tables import table_of, when

if TYPE_CHECKING:
    from jobs.crm_state.switch import SwitchedCrm
    from jobs.erasure.erase import Erased
    from jobs.upkeep.migrate import Migrated
    from jobs.upkeep.repair_watermark import Repaired
    from warehouse.duckdb.compact import Compacted


def compacted(console: Console, answer: Compacted) -> None:
    """Print one line."""
    console.print(
        f"[green]✓[/] {answer.file.name} is rewritten: {answer.count_tables} tables, {answer.count_rows:,} rows, "
        f"{answer.bytes_before / 1e6:,.1f} MB before and {answer.bytes_after / 1e6:,.1f} MB now. "
        "Delete copies and backups of the old file yourself.",
        highlight=False,
    )


def migrated(console: Console, answer: Migrated) -> None:
    """Print one line per step."""
    if not answer.steps:
        console.print("[green]✓[/] The warehouse has this version; nothing to do.", highlight=False)
        return
    for name, what in answer.steps.items():
        console.print(f"{'·' if answer.is_dry_run else '[green]✓[/]'} {name}: {escape(what)}", highlight=False)
    console.print(
        "Next: winback migrate" if answer.is_dry_run else "Next: winback doctor, then winback run", style="dim"
    )


def repaired(console: Console, answer: Repaired) -> None:
    """Print the watermark before and after, and what was kept."""
    for name, count in answer.count_rows_ahead.items():
        console.print(
            f"[yellow]![/] {count:,} rows of {name} have a loaded_at later than now. If it is right, the clock of this "
            "machine is behind.",
            highlight=False,
        )
    if not answer.is_needed:
        console.print(f"The watermark {when(answer.watermark)} UTC is not ahead: nothing to repair.", highlight=False)
        return
    title = "Would put back" if answer.is_dry_run else "Put back"
    console.print(
        f"[bold]{title}[/] the watermark from {when(answer.watermark_before)} to {when(answer.watermark)} UTC. "
        f"Epochs set aside: {answer.count_epochs_set_aside:,}. Decisions kept: {answer.count_decisions:,}, "
        f"{answer.count_vouchers:,} of them vouchers.",
        highlight=False,
    )
    if answer.is_history_built_again:
        console.print("The backfill itself ended after now: history is rebuilt up to the watermark.", highlight=False)
    console.print(f"Next: winback {'repair-watermark' if answer.is_dry_run else 'hourly'}", style="dim")


def question_of_switch(plan: SwitchedCrm) -> str:
    """Return the question before a change of CRM: what it does, and what the old CRM keeps."""
    before = plan.before or "the old CRM"
    if plan.is_state_kept:
        return (
            f"Is {plan.now} the same CRM as {before}, with all its data? "
            f"The state of {plan.count_users:,} users is kept, and only changes are sent."
        )
    erasures = f" It has not confirmed the erasure of {plan.count_erasures:,} users." if plan.count_erasures else ""
    return (
        f"This forgets what {before} acknowledged of {plan.count_users:,} users. The next run sends the whole audience "
        f"to {plan.now}.\n{_old_crm_keeps(plan)}{erasures}\nForget it?"
    )


def _old_crm_keeps(answer: SwitchedCrm) -> str:
    return (
        f"{answer.before or 'The old CRM'} keeps what it holds: stop its campaigns, and delete or withdraw there what must not "
        "stay. After the switch winback erase does not reach it, so run it before for open requests."
    )


def switched(console: Console, answer: SwitchedCrm) -> None:
    """Print the old and the new CRM, and what was forgotten."""
    if not answer.is_needed:
        console.print(f"The tables serve {answer.now} already: nothing to do.", highlight=False)
        return
    before = answer.before or "not recorded"
    console.print(f"[bold]CRM[/] {escape(before)} -> {escape(answer.now)}", highlight=False)
    if answer.is_state_kept:
        console.print(
            f"The state of {answer.count_users:,} users is kept. The next run sends what changes.", highlight=False
        )
    else:
        console.print(
            f"Forgot what the old CRM acknowledged of {answer.count_users:,} users. The next run sends the whole audience.",
            highlight=False,
        )
        console.print(_old_crm_keeps(answer), markup=False, highlight=False)
        if answer.count_erasures:
            console.print(
                f"[yellow]![/] The old CRM has not confirmed the erasure of {answer.count_erasures:,} users. Delete them there.",
                highlight=False,
            )
    console.print("Next: winback doctor, then winback run", style="dim")


def erased(console: Console, answer: Erased) -> None:
    """Print one line per step, and what remains."""
    console.print(f"[bold]Erasure {answer.erasure_id}[/], requested {when(answer.requested_at)} UTC", highlight=False)
    table = table_of("step", "outcome", "rows", "code")
    empty = [receipt for receipt in answer.receipts if receipt.outcome == "deleted" and receipt.count_rows == 0]
    for receipt in answer.receipts:
        if receipt not in empty:
            rows = "" if receipt.count_rows is None else f"{receipt.count_rows:,}"
            table.add_row(receipt.step, receipt.outcome, rows, receipt.error_code or "")
    console.print(table)
    if empty:
        console.print(f"No row of the user in {len(empty)} tables", style="dim", highlight=False)
    if not any(receipt.count_rows for receipt in answer.receipts):
        console.print("No table had a row of this user. Check the id. The tombstone stays.", style="yellow")
    console.print("\n[bold]What remains[/]")
    for sentence in answer.stays:
        console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)
