"""How do the tables stay right: what arrived within the last lateness window is built once more from the raw events.

An hour trusts what earlier hours left. Where a row was lost or altered, by hand or by a bug, later hours would build on it; a
night later it is as the raw events say. Decisions are never touched, and features stay as they were logged.
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
    """A table's rows in reach. `count_users_corrected`: users of whom a row came, went or changed; above a thousand, too low."""

    table_name: str
    count_rows_before: int
    count_rows_after: int
    count_users_corrected: int


@dataclass(frozen=True)
class NightlyResult:
    """The window built once more, UTC, and what it corrected."""

    window_from: datetime
    window_until: datetime
    tables: list[TableRebuild]
    seconds: float
    missed: Missed

    @property
    def is_corrected(self) -> bool:
        """Whether something was not as the raw events say."""
        return any(table.count_users_corrected for table in self.tables)


def nightly(context: JobContext) -> NightlyResult:
    """Rebuild events, sessions, exits and features of whoever was active within `max_lateness_days` of the watermark.

    Where raw events of the last `WINBACK_CATCH_UP_DAYS` were taken in by no run window, the window begins at the earliest of
    them, also before the backfill ended. The next run decides what they changed. It takes the lease: an hourly run beside it
    would write the same working tables.

    Raises: ContractError (no history, a data test), RetryableError (a failing build, an hourly run that committed meanwhile),
    RunInProgressError while another run is at it.
    """
    started, now = context.monotonic(), context.now()
    first, last = committed(context)
    swept = purge_reappeared_rows(context)
    if swept:
        context.reporter.step("Swept of erased users", count_rows=sum(swept.values()))
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
        context.reporter.step("Found events that no run took in", count_events=missed.count_events)
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
        # Killed in here, it leaves nothing wrong before the watermark: the next hour builds again from there.
        with leased(context, night_id, until):
            context.transform(window).build("nightly")
        newest = ledger.last_epoch(context.warehouse)
        if newest and newest.epoch != last.epoch:
            raise RetryableError(
                "An hourly run committed while the night was rebuilt, and the two may have mixed. Run again, with no hourly "
                "run beside it: winback nightly"
            )
        tables = [_rebuilt(name, before[name], after) for name, after in _digests(context, window).items()]
        context.reporter.step("TableComparison", **{t.table_name: t.count_users_corrected for t in tables})
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
    """As dbt's first_day_in_reach(): nothing older is written."""
    first_day = window.from_at.date() - timedelta(days=context.funnel.days_in_reach)
    return {table.name: digest(context, table, window.until_at, first_day) for table in (*TABLES, LOGGED)}


def _rebuilt(name: str, before: Digest, after: Digest) -> TableRebuild:
    return TableRebuild(
        name,
        count_rows_before=sum(count for count, _ in before.values()),
        count_rows_after=sum(count for count, _ in after.values()),
        count_users_corrected=sum(before.get(bucket) != after.get(bucket) for bucket in {*before, *after}),
    )
