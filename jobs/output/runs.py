"""Output of the commands on runs, history, erasures and checks; short, with the main number first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.output.tables import table_of, when

if TYPE_CHECKING:  # imports the libraries of dbt and the model, which `--help` does not need
    from jobs.crm_state.switch import SwitchedCrm
    from jobs.doctor.run import Diagnosis
    from jobs.erasure.erase import Erased
    from jobs.hourly.run import Result
    from jobs.status import Status
    from jobs.upkeep.audit import Audit
    from jobs.upkeep.backfill import Backfilled
    from jobs.upkeep.migrate import Migrated
    from jobs.upkeep.nightly import NightlyResult
    from jobs.upkeep.repair_watermark import Repaired
    from warehouse.duckdb.compact import Compacted


def _reasons(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"


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
        table.add_row("unfinished exits", f"{answer.scoring.exits:,}", f"skipped: {_reasons(answer.scoring.skipped)}")
        table.add_row("scored", f"{answer.scoring.scored:,}", _reasons(answer.scoring.bands))
        if odd := answer.scoring.out_of_range:
            table.add_row("", "", f"out of range, taken as missing: {_reasons(odd)}")
        table.add_row("vouchers", f"{answer.scoring.eligible:,}", _reasons(answer.scoring.eligibility_reasons))
    if answer.shadow and answer.shadow.model_version:
        told = answer.shadow.problem or f"by the challenger {answer.shadow.model_version}, not sent"
        table.add_row("shadow scores", f"{answer.shadow.scored:,}", escape(told))
    table.add_row(
        "differ in the CRM", f"{sent.differing:,}", f"delivered {sent.delivered:,} ({sent.withdrawals:,} withdrawn)"
    )
    for outcome, reasons in (("rejected", sent.errors), ("suppressed", sent.suppressed), ("deferred", sent.deferred)):
        if reasons:
            table.add_row("", "", f"{outcome} {sum(reasons.values()):,}: {_reasons(reasons)}")
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


def status(console: Console, answer: Status) -> None:
    """Print the state in a few lines and the last runs."""
    since = (
        f"[bold]{when(answer.watermark)}[/] UTC"
        if answer.count_epochs
        else "none yet: winback load, then winback backfill"
    )
    console.print(f"watermark        {since}, {answer.count_epochs} epochs", highlight=False)
    if answer.watermark_problem:
        console.print(f"                 [yellow]{answer.watermark_problem}[/]", highlight=False, soft_wrap=True)
    if answer.demo:
        console.print(f"                 {escape(answer.demo)}", highlight=False, soft_wrap=True)
    console.print(f"model            {_model(answer)}", highlight=False, soft_wrap=True)
    console.print(f"voucher eligible {answer.voucher_eligible:,}", highlight=False)
    held_back = (
        f", suppressed {sum(answer.suppressed.values()):,} ({_reasons(answer.suppressed)})" if answer.suppressed else ""
    )
    console.print(
        f"pending          {answer.pending:,}{held_back}, dead letters {answer.dead_letters:,}", highlight=False
    )
    if open_erasures := answer.unconfirmed_erasures:
        since = when(open_erasures.oldest_at)
        console.print(
            f"erasures         {open_erasures.count_users:,} not confirmed by the CRM, the oldest requested {since} UTC: "
            "winback erase USER_ID again (docs/runbook/erasure-not-finished.md)",
            highlight=False,
            soft_wrap=True,
        )
    audit = answer.last_audit
    found = (
        f"{when(audit.audited_at)} UTC, {audit.count_rows_differing:,} of {audit.count_rows:,} rows differ "
        f"({audit.sample_percent} % of the users)"
        if audit
        else "never: winback audit"
    )
    console.print(f"last audit       {found}", highlight=False)
    night = answer.last_night
    found = (
        f"{when(night.rebuilt_at)} UTC, {night.count_events_missed:,} events that no run had read, "
        f"{night.count_users_corrected:,} users corrected"
        if night
        else "never: winback rebuild"
    )
    console.print(f"last night       {found}", highlight=False)
    table = table_of("epoch", "until", "exits", "scored", "vouchers", title="\nlast epochs")
    for epoch in answer.epochs:
        table.add_row(
            str(epoch.epoch) if epoch.kind == "hourly" else f"{epoch.epoch} {epoch.kind}",
            when(epoch.window_until),
            f"{epoch.count_exits:,}",
            f"{epoch.count_scored:,}",
            f"{epoch.count_eligible:,}",
        )
    console.print(table)
    table = table_of(
        "ended",
        "epoch",
        "events",
        "too late",
        "delivered",
        "rejected",
        "deferred",
        "stopped because",
        title="\nlast runs",
    )
    table.columns[-1].justify = "left"
    for report in answer.reports:
        table.add_row(
            when(report.ended_at),
            str(report.epoch),
            f"{report.count_events:,}",
            f"{report.count_events_too_late:,}",
            f"{report.count_delivered:,}",
            f"{report.count_rejected:,}",
            f"{report.count_deferred:,}",
            report.stopped_because or "",
        )
    console.print(table)


def _model(answer: Status) -> str:
    """Return the champion, the other versions, and whether the champion is on this disk."""
    found = answer.models
    if found.problem:
        return f"{found.on_disk or 'none'} on disk. {escape(found.problem)}"
    if found.champion is None:
        return f"none: winback promote {found.on_disk}" if found.on_disk else "none: winback train"
    others = [f"{n} {v}" for n, v in (("challenger", found.challenger), ("previous", found.previous_champion)) if v]
    if found.on_disk != found.champion:
        others.append(f"on disk is {found.on_disk or 'none'}, the next run fetches the champion")
    return f"{found.champion}{''.join(f'; {other}' for other in others)} (registry: {found.registry})"


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


def dead_letters(console: Console, answer: Any) -> None:
    """Print rejections by reason, or how many will be sent again."""
    if isinstance(answer, dict):
        console.print(f"{answer['retried']:,} dead letters will be sent again by the next run.", highlight=False)
        return
    if not answer:
        console.print("No dead letters.")
        return
    table = table_of("code", "users", "first", "last", "reason")
    table.columns[4].justify = "left"
    for row in answer:
        times = (when(row["first_at"]), when(row["last_at"]))
        table.add_row(row["rejected_code"] or "unknown", f"{row['count_users']:,}", *times, row["reason"] or "")
    console.print(table)
    console.print("After the cause is fixed: winback dead-letters retry", style="dim")


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


def diagnosis(console: Console, answer: Diagnosis) -> None:
    """Print one line per check, then numbered steps; each command has its own line, so that it can be copied."""
    marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]", "skipped": "[dim]·[/]"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for found in answer.findings:
        table.add_row(marks[found.state], escape(found.check), escape(found.says))
    console.print(table, highlight=False)
    steps = list(dict.fromkeys(found.do for found in answer.findings if found.do))
    if not steps:
        console.print("\nNothing to do.", style="dim")
        return
    console.print("\n[bold]What to do[/]")
    for number, (sentence, *commands) in enumerate(steps, start=1):
        console.print(f"{number}. {escape(sentence)}", highlight=False)
        for command in commands:
            console.print(f"   {command}", markup=False, highlight=False, soft_wrap=True)
    if any("SERVICE_ACCOUNT" in line for step in steps for line in step):
        console.print("SERVICE_ACCOUNT is the address of the account that the job runs as.", style="dim")
