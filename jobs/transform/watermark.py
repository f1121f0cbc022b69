"""Checks before every command that builds on the tables: history, watermark age, and an unchanged funnel.yml."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.context import JobContext
from jobs.transform.shape import refuse_changed
from jobs.upkeep.demo_mark import next_of_demo, of_demo, read_mark
from warehouse import ledger
from warehouse.interface import Reader


def committed(context: JobContext) -> tuple[ledger.Epoch, ledger.Epoch]:
    """Return the first and the last epoch; warns about a watermark that is too old.

    Raises: ContractError before the backfill or if funnel.yml has changed, WatermarkAheadError if the watermark is later than
    now.
    """
    now = context.now()
    first, last = ledger.history(context.warehouse, now)
    if old := stale(context.warehouse, last, now, context.settings.max_watermark_age_seconds):
        context.reporter.warn(old.told)
    refuse_changed(last.funnel, context.funnel)
    return first, last


def is_stale(watermark: datetime | None, now: datetime, max_age_seconds: int) -> bool:
    """Return whether the watermark is too old; times UTC. A maximum of 0 turns the check off."""
    return bool(watermark and max_age_seconds and now - watermark > timedelta(seconds=max_age_seconds))


@dataclass(frozen=True)
class Stale:
    """A watermark that is too old, and what to do about it: a sentence and a command.

    `is_demo`: the warehouse belongs to a demo, whose clock stops where its data ends. That is not a problem.
    """

    says: str
    do: tuple[str, str]
    is_demo: bool = False

    @property
    def told(self) -> str:
        """The whole message in one line."""
        return f"{self.says} {self.do[0]} {self.do[1]}" if self.is_demo else self.says


def stale(warehouse: Reader, last: ledger.Epoch | None, now: datetime, max_age_seconds: int) -> Stale | None:
    """Return the message about a watermark that is too old, or None if it is not.

    A backfill may have any age, because the schedule starts with the first hourly run.
    """
    if last is None or not is_stale(last.window_until, now, max_age_seconds):
        return None
    mark = read_mark(warehouse)
    if mark and mark.is_of_demo(last):
        return Stale(of_demo(last), next_of_demo(mark, last), is_demo=True)
    if last.kind == "backfill":
        return None
    age = now - last.window_until
    old = f"{age / timedelta(days=1):,.0f} days" if age.days > 1 else f"{age / timedelta(hours=1):,.1f} hours"
    return Stale(
        f"The watermark is {last.window_until:%Y-%m-%d %H:%M} UTC, {old} old: no hourly run has committed since. "
        "Check that the schedule is running.",
        ("Look at the schedule and its last error, or run:", "winback run"),
    )
