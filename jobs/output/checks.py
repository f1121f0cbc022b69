"""What status, dead-letters and doctor print on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.output.tables import reasons_text, table_of, when

if TYPE_CHECKING:
    from jobs.doctor.run import Diagnosis
    from jobs.status import Status


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
        f", suppressed {sum(answer.suppressed.values()):,} ({reasons_text(answer.suppressed)})"
        if answer.suppressed
        else ""
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
