"""Run ledger: committed epochs, and the report of each run.

An epoch is a run window whose decisions count. It exists once `ops.runs` has its row; decisions of a run that never committed do
not count. The number of the next epoch follows from the last one. So two runs with the same starting point compete for the same
number, and one of them wins.

An epoch of kind `repair` sets the watermark back (`winback repair-watermark`). Earlier epochs whose clock was ahead of it no
longer count, and the repair holds their decisions. The macro `runs_that_count` in dbt/macros/epochs.sql is the same rule.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from core.errors import ContractError, WatermarkAheadError
from warehouse.interface import Reader, Warehouse
from warehouse.tables import REPORTS, RUNS

REPAIR = "repair"
REMEDY = (
    "First check the clock of this machine. If it is correct, put the watermark back with: winback repair-watermark "
    "(add --dry-run to see what it would do)"
)


@dataclass(frozen=True)
class Epoch:
    """A committed run window [window_from, window_until) over loaded_at, UTC."""

    epoch: int
    run_id: str
    kind: str
    window_from: datetime
    window_until: datetime
    count_exits: int
    count_scored: int
    count_skipped: int
    count_eligible: int
    committed_at: datetime
    model_version: str | None = None
    policy_version: str | None = None
    funnel: str | None = None

    @property
    def clock_at(self) -> datetime:
        """The time of the run's clock, UTC, according to its row."""
        return self.committed_at if self.kind == REPAIR else self.window_until


@dataclass(frozen=True)
class Report:
    """The report of a finished run; times UTC, counts of rows."""

    run_id: str
    epoch: int
    window_until: datetime
    started_at: datetime
    ended_at: datetime
    count_events: int
    count_events_late: int
    count_events_too_late: int
    count_delivered: int
    count_rejected: int
    count_deferred: int
    count_suppressed: int
    count_unchanged: int
    stopped_because: str | None = None
    count_audience: int | None = None


def last_epoch(warehouse: Reader) -> Epoch | None:
    """The newest committed epoch. Its `window_until` is the watermark."""
    return next(iter(epochs(warehouse, limit=1)), None)


def first_epoch(warehouse: Reader) -> Epoch | None:
    """The oldest epoch that counts, the backfill. Events before its `window_until` are history."""
    return next(iter(all_that_count(warehouse, limit=1)), None)


def history(warehouse: Reader, now: datetime) -> tuple[Epoch, Epoch]:
    """The first and the last epoch. `now` is UTC.

    Raises: ContractError before the backfill, WatermarkAheadError if the watermark is later than now.
    """
    first, last = first_epoch(warehouse), last_epoch(warehouse)
    if first is None or last is None:
        raise ContractError("The warehouse has no history yet. Begin with: winback backfill --until TIME")
    refuse_ahead(last, now)
    return first, last


def refuse_ahead(last: Epoch | None, now: datetime) -> None:
    """Check that the watermark is not later than now, UTC.

    Raises: WatermarkAheadError.
    """
    if last and last.clock_at > now:
        raise WatermarkAheadError(f"{ahead(last, now)} Nothing was read, decided or sent. {REMEDY}")


def ahead(last: Epoch, now: datetime) -> str:
    """The message for a watermark, or a repair that set it, later than now; both in UTC."""
    what = "The watermark was put back at" if last.kind == REPAIR else "The watermark is"
    by = last.clock_at - now
    far = f"{by / timedelta(days=1):,.0f} days" if by.days > 1 else f"{by / timedelta(minutes=1):,.0f} minutes"
    return (
        f"{what} {last.clock_at:%Y-%m-%d %H:%M} UTC, {far} ahead of now ({now:%Y-%m-%d %H:%M} UTC): a run with a wrong clock "
        "committed it, or the clock of this machine is behind."
    )


def epochs(warehouse: Reader, limit: int) -> list[Epoch]:
    """The last epochs, newest first."""
    return [_epoch(row) for row in _rows(warehouse, "runs", "epoch desc", limit)]


def all_that_count(warehouse: Reader, limit: int | None = None) -> list[Epoch]:
    """The epochs that count, oldest first, up to `limit`."""
    sql = f"select * from ({counting(warehouse)}) as runs order by epoch{f' limit {limit}' if limit else ''}"
    return [_epoch(row) for row in warehouse.query(sql).to_pylist()]


def counting(warehouse: Reader) -> str:
    """SQL for the epochs that count: all except those whose clock was ahead of a later repair."""
    return f"""
        select * from (
            select
                *,
                min(case when kind = '{REPAIR}' then committed_at end)
                    over (order by epoch rows between 1 following and unbounded following) as repaired_at
            from {warehouse.relation("ops", "runs")}
        ) as runs
        where repaired_at is null or case when kind = '{REPAIR}' then committed_at else window_until end <= repaired_at
    """


def first_epoch_after(warehouse: Reader, moment: datetime) -> int:
    """The number of the first epoch whose window ends after a moment, UTC; 0 if there is none."""
    sql = f"select min(epoch) as epoch from {warehouse.relation('ops', 'runs')} where window_until > $moment"
    return int(warehouse.query(sql, {"moment": moment}).column("epoch")[0].as_py() or 0)


def last_report(warehouse: Reader) -> Report | None:
    """The newest report of an epoch that counts, from the last run that finished the audience and the sync."""
    sql = f"""
        select * from {warehouse.relation("ops", "reports")}
        where epoch in (select epoch from ({counting(warehouse)}) as runs)
        order by epoch desc, ended_at desc
        limit 1
    """
    rows = warehouse.query(sql).to_pylist()
    return Report(**rows[0]) if rows else None


def reports(warehouse: Reader, limit: int) -> list[Report]:
    """The last reports, newest first."""
    return [Report(**row) for row in _rows(warehouse, "reports", "epoch desc, ended_at desc", limit)]


def last_audience(warehouse: Reader) -> int | None:
    """The size of the audience when a run last accepted it; None if no run has."""
    sql = f"""
        select count_audience from {warehouse.relation("ops", "reports")}
        where count_audience is not null
        order by epoch desc, ended_at desc
        limit 1
    """
    rows = warehouse.query(sql).to_pylist()
    return int(rows[0]["count_audience"]) if rows else None


def commit(warehouse: Warehouse, epoch: Epoch) -> Epoch:
    """Commit an epoch, or return the one that was committed first under the same number.

    This is the only place where a run becomes visible. The epoch's number is a unique key, so one run wins. The other one reads
    the winner's row and discards its own staged rows.
    """
    if warehouse.append_once(RUNS, asdict(epoch)):
        return epoch
    sql = f"select * from {warehouse.relation('ops', 'runs')} where epoch = $epoch"
    return _epoch(warehouse.query(sql, {"epoch": epoch.epoch}).to_pylist()[0])


def write_report(warehouse: Warehouse, report: Report) -> None:
    """Append a run's report."""
    warehouse.append(REPORTS, pa.Table.from_pylist([asdict(report)], schema=REPORTS.schema))


def _epoch(row: dict[str, Any]) -> Epoch:
    return Epoch(**{name: value for name, value in row.items() if name != "repaired_at"})


def _rows(warehouse: Reader, table: str, order: str, limit: int) -> list[dict[str, Any]]:
    sql = f"select * from {warehouse.relation('ops', table)} order by {order} limit {limit}"
    rows: list[dict[str, Any]] = warehouse.query(sql).to_pylist()
    return rows
