"""Run window: which hours a run reads, and from where it must rebuild the tables."""

from __future__ import annotations

from datetime import datetime, timedelta

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.context import JobContext, not_in_the_future
from jobs.transform.dbt import Window
from jobs.upkeep.missed_rows import build_from_missed, last_night
from warehouse import ledger


def end_of_window(context: JobContext, until: datetime | None, last: ledger.Epoch, started_at: datetime) -> datetime:
    """Return the end of the run window, UTC: `until`, or now minus the safety lag, to the minute.

    Raises: ContractError if it is before the watermark or in the future.
    """
    if until is None:
        lagged = started_at - timedelta(seconds=context.settings.safety_lag_seconds)
        until = max(lagged.replace(second=0, microsecond=0), last.window_until)
    if until < last.window_until:
        raise ContractError(
            f"Until {until:%Y-%m-%d %H:%M} lies before the watermark {last.window_until:%Y-%m-%d %H:%M}: "
            "that hour is already decided."
        )
    if until > last.window_until:
        not_in_the_future(context, until)
    return until


def window_to_build(context: JobContext, build_from: datetime, last: ledger.Epoch, until: datetime) -> Window:
    """Return the window to build: from the watermark, or from the start of a run that did not finish cleanly; times UTC.

    If the nightly found events that no window had read, the build begins at the earliest of them. Exits among them are not
    decided yet. The first run after a nightly also reads again all profiles and redemptions of the days that the nightly
    searches. A withdrawal of consent may have become visible late.
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
        # Profiles and redemptions may become visible late as well, and no record shows which of them a run has read.
        profiles_from = min(profiles_from, from_at, last.window_until - timedelta(days=context.settings.catch_up_days))
    return Window(
        from_at=from_at,
        until_at=until,
        history_until=first.window_until,
        profiles_from=profiles_from,
        fold_from_epoch=fold_from_epoch,
        arrivals_from=last.window_until,
        # Everything that is not folded yet was attempted after that run began. One day, because clocks may differ.
        fold_from_at=_began(reported, context.now()) - timedelta(days=1) if reported else UNIX_EPOCH,
    )


def _began(reported: ledger.Report, now: datetime) -> datetime:
    """Return when a run began. If its clock was ahead, return the end of its window, which was before the start."""
    return reported.started_at if reported.started_at <= now else min(reported.window_until, now)
