"""The checks of every command that builds upon the tables: history, its watermark, and the funnel.yml that shaped it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.context import JobContext
from jobs.transform.shape import refuse_changed
from jobs.upkeep.demo_mark import next_of_demo, of_demo, read_mark
from warehouse import ledger
from warehouse.interface import Reader


def committed(context: JobContext) -> tuple[ledger.Epoch, ledger.Epoch]:
    """The first and the last epoch; tells of a watermark that is older than it should be.

    Raises: ContractError before the backfill or when funnel.yml has changed, WatermarkAheadError when the watermark lies
    beyond now.
    """
    now = context.now()
    first, last = ledger.history(context.warehouse, now)
    if old := stale(context.warehouse, last, now, context.settings.max_watermark_age_seconds):
        context.reporter.warn(old.told)
    refuse_changed(last.funnel, context.funnel)
    return first, last


def is_stale(watermark: datetime | None, now: datetime, max_age_seconds: int) -> bool:
    """Whether the watermark is older than it may be; times UTC. A maximum of 0 asks for nothing."""
    return bool(watermark and max_age_seconds and now - watermark > timedelta(seconds=max_age_seconds))


@dataclass(frozen=True)
class Stale:
    """A watermark that is older than it may be, and what to do: a sentence and a command.

    `is_demo`: the warehouse is a demo's, whose clock stands where its data ends. Nothing is wrong with it.
    """

    says: str
    do: tuple[str, str]
    is_demo: bool = False

    @property
    def told(self) -> str:
        """All of it in one line."""
        return f"{self.says} {self.do[0]} {self.do[1]}" if self.is_demo else self.says


def stale(warehouse: Reader, last: ledger.Epoch | None, now: datetime, max_age_seconds: int) -> Stale | None:
    """What to tell of a watermark that is too old; None when it is not.

    A backfill may be as old as it likes: the schedule begins with the first hourly run.
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
        "Is the schedule running?",
        ("Look at the schedule and its last error, or run:", "winback hourly"),
    )
