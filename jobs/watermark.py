"""The checks of every command that builds upon the tables: history, its watermark, and the funnel.yml that shaped it."""

from __future__ import annotations

from datetime import datetime, timedelta

from jobs.house import House
from jobs.shape import refuse_changed
from warehouse import ledger


def committed(house: House) -> tuple[ledger.Epoch, ledger.Epoch]:
    """The first and the last epoch; tells of a watermark that is older than it should be.

    Raises: ContractError before the backfill or when funnel.yml has changed, WatermarkAheadError when the watermark lies
    beyond now.
    """
    now = house.now()
    first, last = ledger.history(house.warehouse, now)
    if old := stale(last, now, house.settings.max_watermark_age_seconds):
        house.narrator.warn(old)
    refuse_changed(last.funnel, house.funnel)
    return first, last


def is_stale(watermark: datetime | None, now: datetime, max_age_seconds: int) -> bool:
    """Whether the watermark is older than it may be; times UTC. A maximum of 0 asks for nothing."""
    return bool(watermark and max_age_seconds and now - watermark > timedelta(seconds=max_age_seconds))


def stale(last: ledger.Epoch | None, now: datetime, max_age_seconds: int) -> str | None:
    """What to tell of a watermark that is too old; None when it is not."""
    if last is None or not is_stale(last.window_until, now, max_age_seconds):
        return None
    age = now - last.window_until
    old = f"{age / timedelta(days=1):,.0f} days" if age.days > 1 else f"{age / timedelta(hours=1):,.1f} hours"
    return (
        f"The watermark is {last.window_until:%Y-%m-%d %H:%M} UTC, {old} old: no hourly run has committed since. "
        "Is the schedule running?"
    )
