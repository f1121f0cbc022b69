"""How do the tables stay right: what arrived within the last lateness window is built once more from the raw events.

An hour trusts what earlier hours left. Where a row was lost or altered, by hand or by a bug, later hours would build on it; a
night later it is as the raw events say. Decisions are never touched, and features stay as they were logged.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.drift import LOGGED, TABLES, Digest, digest
from jobs.erase import sweep
from jobs.house import House
from jobs.leasing import leased
from jobs.transform import Window
from jobs.watermark import committed
from warehouse import ledger
from warehouse.errors import RetryableError


@dataclass(frozen=True)
class Rebuilt:
    """A table's rows in reach. `count_users_corrected`: users of whom a row came, went or changed; above a thousand, too low."""

    table_name: str
    count_rows_before: int
    count_rows_after: int
    count_users_corrected: int


@dataclass(frozen=True)
class Night:
    """The window built once more, UTC, and what it corrected."""

    window_from: datetime
    window_until: datetime
    tables: list[Rebuilt]
    seconds: float

    @property
    def is_corrected(self) -> bool:
        """Whether something was not as the raw events say."""
        return any(table.count_users_corrected for table in self.tables)


def nightly(house: House) -> Night:
    """Rebuild events, sessions, exits and features of whoever was active within `max_lateness_days` of the watermark.

    The window never begins before the backfill ended: history holds events of any lateness, and the incremental models count on
    none beyond the limit. It takes the lease: an hourly run beside it would write the same working tables.

    Raises: ContractError (no history, a data test), RetryableError (a failing build, an hourly run that committed meanwhile),
    BusyError while another run is at it.
    """
    started = house.monotonic()
    first, last = committed(house)
    swept = sweep(house)
    if swept:
        house.narrator.step("Swept of erased users", count_rows=sum(swept.values()))
    until = last.window_until
    window = Window(
        from_at=max(until - timedelta(days=house.funnel.max_lateness_days), first.window_until),
        until_at=until,
        history_until=first.window_until,
    )
    tables: list[Rebuilt] = []
    if window.from_at < until:
        house.narrator.step("Rebuilding", window_from=window.from_at, window_until=until)
        before = _digests(house, window)
        # Killed in here, it leaves nothing wrong before the watermark: the next hour builds again from there.
        with leased(house, f"{last.epoch:08d}-nightly-{uuid.uuid4().hex[:8]}", until):
            house.transform(window).build("nightly")
        now = ledger.last_epoch(house.warehouse)
        if now and now.epoch != last.epoch:
            raise RetryableError(
                "An hourly run committed while the night was rebuilt, and the two may have mixed. Run again, with no hourly "
                "run beside it: winback nightly"
            )
        tables = [_rebuilt(name, before[name], after) for name, after in _digests(house, window).items()]
        house.narrator.step("Compared", **{t.table_name: t.count_users_corrected for t in tables})
    return Night(window.from_at, until, tables, round(house.monotonic() - started, 2))


def _digests(house: House, window: Window) -> dict[str, Digest]:
    """As dbt's first_day_in_reach(): nothing older is written."""
    first_day = window.from_at.date() - timedelta(days=house.funnel.max_lateness_days + 2)
    return {table.name: digest(house, table, window.until_at, first_day) for table in (*TABLES, LOGGED)}


def _rebuilt(name: str, before: Digest, after: Digest) -> Rebuilt:
    return Rebuilt(
        name,
        count_rows_before=sum(count for count, _ in before.values()),
        count_rows_after=sum(count for count, _ in after.values()),
        count_users_corrected=sum(before.get(bucket) != after.get(bucket) for bucket in {*before, *after}),
    )
