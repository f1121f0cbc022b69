"""What the commands that build and compare the tables print on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from jobs.output.tables import reasons_text, table_of, when

if TYPE_CHECKING:
    from jobs.hourly.run import Result
    from jobs.upkeep.audit import Audit
    from jobs.upkeep.backfill import Backfilled
    from jobs.upkeep.nightly import NightlyResult


def backfilled(console: Console, answer: Backfilled) -> None:
    """Print how much history there is."""
    console.print(
        f"History up to [bold]{when(answer.until)}[/]: {answer.count_events:,} events, {answer.count_sessions:,} sessions, "
        f"{answer.count_exits:,} unfinished exits.",
        highlight=False,
    )
    console.print(f"Profiles: {answer.profiles.says}.", highlight=False)
    console.print("Next: winback train, then winback run", style="dim")


def ran(console: Console, answer: Result) -> None:
    """Print the counts of a run: events read, exits scored, rows sent."""
    sent, found = answer.sync, answer.arrivals
    title = "Dry run" if answer.is_dry_run else f"Epoch {answer.epoch}"
    console.print(
        f"[bold]{title}[/] {when(answer.window_from)} to {when(answer.window_until)} UTC, {answer.seconds:.1f} s",
        highlight=False,
    )
    if answer.model_fallback:
        console.print(f"Model {answer.model_version}: {answer.model_fallback}", markup=False, highlight=False)
    table = table_of("", "", "")
    table.show_header = False
    table.columns[2].justify = "left"
    late = f"{found.late:,} late, {found.too_late:,} too late"
    if found.set_aside:
        late += f", {found.set_aside:,} set aside: without id, user or time"
    table.add_row("events", f"{found.events:,}", late)
    if found.sharing_id or found.differing:
        told = f"share their id with other events; {found.differing:,} copies differ from the first"
        table.add_row("", f"{found.sharing_id:,}", told)
    if found.users_session_too_long:
        told = "set aside: their session is longer than max_session_hours"
        table.add_row("users", f"{found.users_session_too_long:,}", told)
    if found.profiles_late:
        table.add_row("late profiles", f"{found.profiles_late:,}", f"{found.withdrawals_late:,} withdraw consent")
    if answer.scoring:
        table.add_row(
            "unfinished exits", f"{answer.scoring.exits:,}", f"skipped: {reasons_text(answer.scoring.skipped)}"
        )
        table.add_row("scored", f"{answer.scoring.scored:,}", reasons_text(answer.scoring.bands))
        if odd := answer.scoring.out_of_range:
            table.add_row("", "", f"out of range, taken as missing: {reasons_text(odd)}")
        table.add_row("vouchers", f"{answer.scoring.eligible:,}", reasons_text(answer.scoring.eligibility_reasons))
    if answer.shadow and answer.shadow.model_version:
        told = answer.shadow.problem or f"by the challenger {answer.shadow.model_version}, not sent"
        table.add_row("shadow scores", f"{answer.shadow.scored:,}", escape(told))
    table.add_row(
        "differ in the CRM", f"{sent.differing:,}", f"delivered {sent.delivered:,} ({sent.withdrawals:,} withdrawn)"
    )
    for outcome, reasons in (("rejected", sent.errors), ("suppressed", sent.suppressed), ("deferred", sent.deferred)):
        if reasons:
            table.add_row("", "", f"{outcome} {sum(reasons.values()):,}: {reasons_text(reasons)}")
    if sent.unchanged:
        table.add_row("", "", f"unchanged {sent.unchanged:,}")
    console.print(table, highlight=False)
    if answer.is_dry_run:
        _rehearsed(console, answer)


def _rehearsed(console: Console, answer: Result) -> None:
    """Print the fields that would be sent for a few users, without their ids."""
    for sample in answer.sync.samples:
        told = ", ".join(f"{name}={'cleared' if value is None else value}" for name, value in sample.items())
        console.print(f"sample: {told}", style="dim", highlight=False)
    console.print(
        "Nothing was committed or sent. Delivered counts what was pending before; the decisions of this window would be added.",
        style="dim",
    )


def rebuilt(console: Console, answer: NightlyResult) -> None:
    """Print what a nightly rebuild corrected."""
    console.print(
        f"[bold]Rebuilt[/] {when(answer.window_from)} to {when(answer.window_until)} UTC, {answer.seconds:.1f} s",
        highlight=False,
    )
    if not answer.tables:
        console.print("Nothing to rebuild: no hourly run has committed since the backfill.", style="dim")
        return
    missed = answer.missed
    if missed.count_events:
        console.print(
            f"{missed.count_events:,} events that no run had read, loaded {when(missed.first_loaded_at)} to "
            f"{when(missed.last_loaded_at)} UTC, are now built. The next run decides on the exits that they changed.",
            highlight=False,
            soft_wrap=True,
        )
    table = table_of("", "rows before", "rows after", "users corrected")
    for one in answer.tables:
        counts = (one.count_rows_before, one.count_rows_after, one.count_users_corrected)
        table.add_row(one.table_name, *(f"{count:,}" for count in counts))
    console.print(table)
    if answer.is_corrected:
        console.print(
            "Rows had been altered or lost; they are corrected. Find the cause: docs/runbook/rebuild-corrected-rows.md"
        )


def audited(console: Console, answer: Audit) -> None:
    """Print how many rows differ in each table."""
    console.print(
        f"[bold]Audit[/] of {answer.sample_percent} % of the users, as of {when(answer.audited_until)} UTC",
        highlight=False,
    )
    table = table_of("", "users", "rows", "differing")
    for one in answer.tables:
        table.add_row(one.table_name, f"{one.count_users:,}", f"{one.count_rows:,}", f"{one.count_rows_differing:,}")
    console.print(table)
