"""Which hours does a run take in, and from where must its tables be built?"""

from __future__ import annotations

from datetime import datetime, timedelta

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.context import JobContext, not_in_the_future
from jobs.transform.dbt import Window
from jobs.upkeep.missed_rows import build_from_missed, last_night
from warehouse import ledger


def end_of_window(context: JobContext, until: datetime | None, last: ledger.Epoch, started_at: datetime) -> datetime:
    """The end of the run window, UTC: as asked for, or now minus the safety lag, to the minute.

    Raises: ContractError when it lies before the watermark or in the future.
    """
    if until is None:
        lagged = started_at - timedelta(seconds=context.settings.safety_lag_seconds)
        until = max(lagged.replace(second=0, microsecond=0), last.window_until)
    if until < last.window_until:
        raise ContractError(
            f"Until {until:%Y-%m-%d %H:%M} lies before the watermark {last.window_until:%Y-%m-%d %H:%M}: that hour is decided."
        )
    if until > last.window_until:
        not_in_the_future(context, until)
    return until


def window_to_build(context: JobContext, build_from: datetime, last: ledger.Epoch, until: datetime) -> Window:
    """What to build: from the watermark, or from where a run began that did not come to a good end; times UTC.

    After a night that found events which no window had taken in, from the earliest of those: exits among them are not decided
    yet. The first run after a night also looks again at all news of users within the days that a night searches: a withdrawal
    of consent may have become visible late, too.
    """
    first = ledger.first_epoch(context.warehouse) or last
    reported = ledger.last_report(context.warehouse)
    from_at = max(build_from, first.window_until)
    profiles_from = reported.window_until if reported else first.window_until
    fold_from_epoch = reported.epoch if reported else 0
    if from_at < last.window_until:
        profiles_from = min(profiles_from, from_at)
        fold_from_epoch = min(fold_from_epoch, ledger.first_epoch_after(context.warehouse, from_at))
    missed_from = build_from_missed(context.warehouse, last.window_until)
    if missed_from:
        from_at = min(from_at, missed_from)
    night = last_night(context.warehouse)
    if night and night.window_until >= last.window_until:
        # Profiles and redemptions may become visible late as well, and nothing tells which of them a run has read.
        profiles_from = min(profiles_from, from_at, last.window_until - timedelta(days=context.settings.catch_up_days))
    return Window(
        from_at=from_at,
        until_at=until,
        history_until=first.window_until,
        profiles_from=profiles_from,
        fold_from_epoch=fold_from_epoch,
        arrivals_from=last.window_until,
        # Whatever is not folded yet was attempted after that run began. A day: clocks of two machines may differ.
        fold_from_at=_began(reported, context.now()) - timedelta(days=1) if reported else UNIX_EPOCH,
    )


def _began(reported: ledger.Report, now: datetime) -> datetime:
    """When a run began. By a clock that was ahead it began later than now: at the end of its window it had not begun yet."""
    return reported.started_at if reported.started_at <= now else min(reported.window_until, now)
