"""Screens after the demo and the backtest."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from jobs.hourly.run import Result
from jobs.output.tables import table_of
from sandbox.backtest import Replayed
from sandbox.local_crm.store.segments import SEGMENTS


def replayed(console: Console, answer: Replayed) -> None:
    """Print the runs, and how well the scores predicted the outcomes."""
    console.print(runs([*answer.runs, answer.repeated]))
    if answer.auc is None:
        console.print(f"\nLabels known: {answer.count_known:,}; too few to measure the scores.", highlight=False)
    else:
        console.print(
            f"\nAUC of the scores sent against outcomes known later: [bold]{answer.auc:.3f}[/] "
            f"({answer.count_known:,} exits, {answer.churn_ratio:.1%} did not finish in time)",
            highlight=False,
        )


def runs(results: list[Result]) -> Table:
    """Table of the runs, one per line; the last is the repetition."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("until", "events", "exits", "skipped", "scored", "vouchers", "sent", "withdrawn"):
        table.add_column(column, justify="right", no_wrap=True)
    for index, run in enumerate(results):
        is_repeat = index == len(results) - 1
        scoring = run.scoring
        numbers = (
            run.arrivals.events,
            scoring.exits if scoring else 0,
            sum(scoring.skipped.values()) if scoring else 0,
            scoring.scored if scoring else 0,
            scoring.eligible if scoring else 0,
            run.sync.delivered,
            run.sync.withdrawals,
        )
        table.add_row(
            "the same again" if is_repeat else f"{run.window_until:%d %b %H:%M}",
            *(f"{number:,}" for number in numbers),
            style="bold" if is_repeat else None,
        )
    return table


SENT = "Scored counts exits, sent counts users: those with marketing consent whose score or voucher the CRM does not have yet."


def segments(counts: dict[str, int]) -> Table:
    """Table of the CRM's segments."""
    table = table_of("segment in the CRM", "users")
    for slug, count in counts.items():
        table.add_row(SEGMENTS[slug].title, f"{count:,}")
    return table
