"""Puts the watermark back after a run whose clock was ahead, without losing or repeating a decision.

The ledger stays append-only. The repair is an epoch of its own. Its row sets the watermark back to that of the last run with a
correct clock, and later epochs no longer count (warehouse/ledger.py). Their decisions are written again under the repair's run,
with a time in the past. Rows staged by a repair that was killed before its commit belong to no epoch, so the command can be
repeated. The next run reads again what was loaded since the watermark, and replaces the existing rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ContractError, RetryableError
from jobs.context import JobContext
from jobs.hourly.lease_guard import leased
from jobs.transform.shape import written
from jobs.upkeep.backfill import build_history
from warehouse import ledger
from warehouse.interface import Reader
from warehouse.tables import DECISIONS, RAW, TIMESTAMP

_CHUNK_ROWS = 65_536
_SHORTEST = timedelta(microseconds=1)


@dataclass(frozen=True)
class Repaired:
    """Result of a repair, or of its dry run. Times are UTC.

    `watermark_before` equals `watermark` if nothing needed repair. `count_rows_ahead` counts rows of the raw tables, by table,
    with a loaded_at later than now; runs read them once that time has passed.
    """

    watermark_before: datetime
    watermark: datetime
    epoch: int | None
    count_epochs_set_aside: int
    count_decisions: int
    count_vouchers: int
    is_history_built_again: bool
    count_rows_ahead: dict[str, int]
    is_dry_run: bool

    @property
    def is_needed(self) -> bool:
        """Whether the watermark was later than now."""
        return self.count_epochs_set_aside > 0


@dataclass(frozen=True)
class _Plan:
    """The repair: its time, the epochs to set aside, the new watermark, and the new time of their decisions."""

    repaired_at: datetime
    aside: list[ledger.Epoch]
    watermark: datetime
    decided_at: datetime
    is_history_built_again: bool


def repair_watermark(context: JobContext, *, dry_run: bool = False) -> Repaired:
    """Put a watermark that is later than now back to the last one that is not.

    If the backfill itself ends after now, history is rebuilt up to now minus the safety lag.

    Raises: ContractError before the backfill, RetryableError if another run commits meanwhile, RunInProgressError while
    another run is active.
    """
    now, warehouse = context.now(), context.warehouse
    last = ledger.last_epoch(warehouse)
    if last is None:
        raise ContractError("No history exists yet, so there is nothing to repair.")
    plan = make_sync_plan(ledger.all_that_count(warehouse), now, timedelta(seconds=context.settings.safety_lag_seconds))
    run_id = f"{last.epoch + 1:08d}-repair-{uuid.uuid4().hex[:8]}"
    counts = _counts(warehouse, plan)
    if plan.aside and not dry_run:
        with leased(context, run_id, plan.watermark):
            if plan.is_history_built_again:
                build_history(context, plan.watermark)
            context.reporter.step("Writing decisions again", count_decisions=counts["count_exits"])
            warehouse.append(DECISIONS, _copies(context, plan, run_id, last.epoch + 1))
            _commit(context, plan, last, run_id, counts)
    return Repaired(
        watermark_before=last.window_until,
        watermark=plan.watermark if plan.aside else last.window_until,
        epoch=last.epoch + 1 if plan.aside and not dry_run else None,
        count_epochs_set_aside=len(plan.aside),
        count_decisions=counts["count_exits"],
        count_vouchers=counts["count_eligible"],
        is_history_built_again=plan.is_history_built_again,
        count_rows_ahead=_rows_ahead(warehouse, now),
        is_dry_run=dry_run,
    )


def make_sync_plan(epochs: list[ledger.Epoch], now: datetime, safety_lag: timedelta) -> _Plan:
    """Decide which epochs to set aside; `epochs` are those that count, oldest first; `now` is UTC.

    Decisions get the earliest possible end of the next run's window, so that this run reads them. That is not before they were
    made, so that no daily budget is used twice.
    """
    aside = [epoch for epoch in epochs if epoch.clock_at > now]
    good = [epoch for epoch in epochs if epoch.clock_at <= now]
    lagged = (now - safety_lag).replace(second=0, microsecond=0)
    watermark = good[-1].window_until if good else lagged
    return _Plan(now, aside, watermark, max(lagged, watermark + _SHORTEST), bool(aside) and not good)


def _of(plan: _Plan, warehouse: Reader) -> str:
    """Return SQL of the decisions of the epochs that are set aside, without erased users."""
    runs = ", ".join(f"'{epoch.run_id}'" for epoch in plan.aside)
    erased = f"select user_hash from {warehouse.relation('ops', 'erasures')} where step = 'tombstone'"
    since = min([plan.watermark, *(epoch.window_until for epoch in plan.aside)])
    return f"""
        from {warehouse.relation("ops", "decisions")}
        where run_id in ({runs}) and decided_at >= timestamp '{since:%Y-%m-%d %H:%M:%S}'
            and {warehouse.user_hash("user_id")} not in ({erased})
    """


def _counts(warehouse: Reader, plan: _Plan) -> dict[str, int]:
    """Count the decisions of the epochs that are set aside, as columns of ops.runs."""
    names = ("count_exits", "count_scored", "count_skipped", "count_eligible")
    if not plan.aside:
        return dict.fromkeys(names, 0)
    sql = f"""
        select
            count(*) as count_exits,
            count(case when disposition = 'scored' then 1 end) as count_scored,
            count(case when disposition = 'skipped' then 1 end) as count_skipped,
            count(case when is_eligible then 1 end) as count_eligible
        {_of(plan, warehouse)}
    """
    row: dict[str, Any] = warehouse.query(sql).to_pylist()[0]
    return {name: int(row[name]) for name in names}


def _copies(context: JobContext, plan: _Plan, run_id: str, epoch: int) -> Iterator[pa.RecordBatch]:
    """Yield the decisions again, with the repair's run and time; a voucher keeps its length of validity."""
    names = ", ".join(column.name for column in DECISIONS.columns)
    for batch in context.warehouse.stream(f"select {names} {_of(plan, context.warehouse)}", _CHUNK_ROWS):
        rows = pa.Table.from_batches([batch])
        decided_at = pa.scalar(plan.decided_at, TIMESTAMP)
        length = pc.subtract(rows.column("valid_until"), rows.column("decided_at"))
        replaced = {
            "run_id": pa.repeat(pa.scalar(run_id), rows.num_rows),
            "epoch": pa.repeat(pa.scalar(epoch, pa.int64()), rows.num_rows),
            "decided_at": pa.repeat(decided_at, rows.num_rows),
            "valid_until": pc.add(decided_at, length),
        }
        for name, values in replaced.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        yield from rows.combine_chunks().to_batches()


def _commit(context: JobContext, plan: _Plan, last: ledger.Epoch, run_id: str, counts: dict[str, int]) -> None:
    """Commit the repair.

    Raises: RetryableError if another run committed first; the staged rows are discarded.
    """
    mine = ledger.Epoch(
        epoch=last.epoch + 1,
        run_id=run_id,
        kind=ledger.REPAIR,
        window_from=last.window_until,
        window_until=plan.watermark,
        committed_at=plan.repaired_at,
        funnel=written(context.funnel) if plan.is_history_built_again else last.funnel,
        count_exits=counts["count_exits"],
        count_scored=counts["count_scored"],
        count_skipped=counts["count_skipped"],
        count_eligible=counts["count_eligible"],
    )
    if ledger.commit(context.warehouse, mine).run_id != run_id:
        context.warehouse.discard(DECISIONS, run_id=run_id, decided_at=plan.decided_at)
        raise RetryableError(
            "Another run committed meanwhile. Stop the schedule and run again: winback repair-watermark"
        )


def _rows_ahead(warehouse: Reader, now: datetime) -> dict[str, int]:
    """Count raw rows, by table, with a loaded_at later than now. On BigQuery a table of the app may lack the column."""
    found = {}
    for table in RAW.values():
        relation = warehouse.relation(table.layer, table.name)
        if table.partition_on or "loaded_at" in warehouse.schema(f"select * from {relation}").names:
            sql = f"select count(*) as n from {relation} where loaded_at > $now"
            found[table.title] = int(warehouse.query(sql, {"now": now}).column("n")[0].as_py())
    return {name: count for name, count in found.items() if count}
