"""Nightly rebuild: builds what arrived within the last lateness window again from the raw events.

A run trusts the tables of earlier runs. If a row was lost or altered, by hand or by a bug, later runs would build on it. The
nightly corrects it from the raw events. Decisions never change, and features stay as they were logged.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.errors import RetryableError
from jobs.context import JobContext
from jobs.erasure.erase import purge_reappeared_rows
from jobs.hourly.lease_guard import leased
from jobs.transform.dbt import Window
from jobs.transform.watermark import committed
from jobs.upkeep.comparison import LOGGED, TABLES, Digest, digest
from jobs.upkeep.missed_rows import Missed, NightRow, find_missed, write_night
from warehouse import ledger


@dataclass(frozen=True)
class TableRebuild:
    """Row counts of a rebuilt table.

    `count_users_corrected` counts users with a row that was added, removed or changed; above a thousand it is too low.
    """

    table_name: str
    count_rows_before: int
    count_rows_after: int
    count_users_corrected: int


@dataclass(frozen=True)
class NightlyResult:
    """The rebuilt window, UTC, and what the rebuild corrected."""

    window_from: datetime
    window_until: datetime
    tables: list[TableRebuild]
    seconds: float
    missed: Missed

    @property
    def is_corrected(self) -> bool:
        """Whether any row differed from the raw events."""
        return any(table.count_users_corrected for table in self.tables)


def nightly(context: JobContext) -> NightlyResult:
    """Rebuild events, sessions, exits and features of users who were active within `max_lateness_days` of the watermark.

    Raw events of the last `WINBACK_CATCH_UP_DAYS` may have been read by no run window. The window then begins at the earliest
    of them, even before the end of the backfill. The next run decides on the exits that they changed.

    The nightly takes the lease, because an hourly run at the same time would write the same working tables.

    Raises: ContractError (no history, a data test), RetryableError (a failed build, an hourly run that committed meanwhile),
    RunInProgressError while another run holds the lease.
    """
    started, now = context.monotonic(), context.now()
    first, last = committed(context)
    swept = purge_reappeared_rows(context)
    if swept:
        context.reporter.step("Deleted rows of erased users that had come back", count_rows=sum(swept.values()))
    until = last.window_until
    from_at = max(until - timedelta(days=context.funnel.max_lateness_days), first.window_until)
    missed = find_missed(
        context.warehouse,
        context.funnel,
        until - timedelta(days=context.settings.catch_up_days),
        until,
        first.window_until,
    )
    if missed.build_from:
        context.reporter.step("Found events that no run had read", count_events=missed.count_events)
    window = Window(
        from_at=min(from_at, missed.build_from or from_at),
        until_at=until,
        history_until=first.window_until,
    )
    night_id = f"{last.epoch:08d}-nightly-{uuid.uuid4().hex[:8]}"
    tables: list[TableRebuild] = []
    if window.from_at < until:
        context.reporter.step("Rebuilding", window_from=window.from_at, window_until=until)
        before = _digests(context, window)
        # A crash here leaves the tables before the watermark correct; the next run rebuilds from there.
        with leased(context, night_id, until):
            context.transform(window).build("nightly")
        newest = ledger.last_epoch(context.warehouse)
        if newest and newest.epoch != last.epoch:
            raise RetryableError(
                "An hourly run committed during the nightly, and the two may have mixed. Run the nightly again while no hourly "
                "run is active: winback rebuild"
            )
        tables = [_rebuilt(name, before[name], after) for name, after in _digests(context, window).items()]
        context.reporter.step("Compared", **{t.table_name: t.count_users_corrected for t in tables})
        write_night(
            context.warehouse,
            NightRow(
                night_id=night_id,
                rebuilt_at=now,
                window_from=window.from_at,
                window_until=until,
                count_events_missed=missed.count_events,
                count_users_corrected=max(table.count_users_corrected for table in tables),
                first_missed_at=missed.first_loaded_at,
                last_missed_at=missed.last_loaded_at,
                build_from=missed.build_from,
            ),
        )
    return NightlyResult(window.from_at, until, tables, round(context.monotonic() - started, 2), missed)


def _digests(context: JobContext, window: Window) -> dict[str, Digest]:
    """Return the digest of each table, from the same first day as dbt's first_day_in_reach(), because older rows never change."""
    first_day = window.from_at.date() - timedelta(days=context.funnel.days_in_reach)
    return {table.name: digest(context, table, window.until_at, first_day) for table in (*TABLES, LOGGED)}


def _rebuilt(name: str, before: Digest, after: Digest) -> TableRebuild:
    return TableRebuild(
        name,
        count_rows_before=sum(count for count, _ in before.values()),
        count_rows_after=sum(count for count, _ in after.values()),
        count_users_corrected=sum(before.get(bucket) != after.get(bucket) for bucket in {*before, *after}),
    )
