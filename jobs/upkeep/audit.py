"""Audit: compares the tables that grew run by run with a rebuild from the raw events, for a sample of users.

The same SQL builds the sample from scratch, beside the tables, in layers named audit_*. Every row of the sample is then
compared. A row that differs was lost, altered, or built with other SQL or another configuration than today's.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from core.clock import UNIX_EPOCH
from core.errors import ReconciliationError
from jobs.context import JobContext
from jobs.transform.dbt import Window
from jobs.transform.watermark import committed
from jobs.upkeep.comparison import TABLES, ComparedTable, columns_of, rows, sample_predicate
from warehouse.interface import Reader
from warehouse.tables import AUDITS


@dataclass(frozen=True)
class TableComparison:
    """Counts of a table's rows of the sampled users. An altered row differs on both sides and counts twice."""

    table_name: str
    count_users: int
    count_rows: int
    count_rows_differing: int


@dataclass(frozen=True)
class Audit:
    """Result of an audit, as of the watermark `audited_until`; times UTC."""

    audit_id: str
    audited_at: datetime
    audited_until: datetime
    sample_percent: int
    tables: list[TableComparison]

    @property
    def drift(self) -> ReconciliationError | None:
        """The error if rows differ, else None."""
        wrong = [
            f"{table.table_name} {table.count_rows_differing:,}" for table in self.tables if table.count_rows_differing
        ]
        return ReconciliationError(f"Rows differ from the raw events: {', '.join(wrong)}.") if wrong else None


@dataclass(frozen=True)
class LastAudit:
    """The newest audit; times UTC, counts over all tables."""

    audited_at: datetime
    audited_until: datetime
    sample_percent: int
    count_rows: int
    count_rows_differing: int


def audit(context: JobContext, percent: int) -> Audit:
    """Rebuild a percentage of the users (1 to 100) from the raw events, compare, and append the counts to ops.audits.

    The rebuilt tables stay until the next audit, so that they can be inspected. Runs may go on meanwhile: users that they
    change are left out.

    Raises: ContractError without history, RetryableError (a failed build).
    """
    first, last = committed(context)
    until = last.window_until
    context.reporter.step("Rebuilding a sample from scratch", sample_percent=percent, until=until)
    window = Window(from_at=UNIX_EPOCH, until_at=until, history_until=first.window_until)
    context.transform(window, audit_percent=percent).build("audit", full_refresh=True)
    context.reporter.step("Comparing")
    now = context.now()
    found = Audit(
        audit_id=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
        audited_at=now,
        audited_until=until,
        sample_percent=percent,
        tables=[_compared(context, table, percent, until) for table in TABLES],
    )
    shared = {name: getattr(found, name) for name in ("audit_id", "audited_at", "audited_until", "sample_percent")}
    context.warehouse.append(
        AUDITS, pa.Table.from_pylist([shared | asdict(table) for table in found.tables], schema=AUDITS.schema)
    )
    context.reporter.step("Compared", **{table.table_name: table.count_rows_differing for table in found.tables})
    return found


def _compared(context: JobContext, table: ComparedTable, percent: int, until: datetime) -> TableComparison:
    """Count in one pass the rows whose number differs between the two sides.

    Both sides are read since 1970, because BigQuery requires a bound on the partitions and the audit needs all of them. It runs
    once a week.
    """
    # A column that only one side has is new, or was removed from the SQL. It is not a difference.
    known = set(columns_of(context, table))
    columns = [name for name in columns_of(context, table, audited=True) if name in known]
    names, sample = ", ".join(columns), sample_predicate(context, percent)
    sql = f"""
        with both_sides as (
            select {names}, 1 as side from ({rows(context, table, columns, until)}) as hourly where {sample}
            union all
            select {names}, -1 as side from ({rows(context, table, columns, until, audited=True)}) as audited
        ),
        balanced as (
            select {names}, sum(side) as balance, sum(case when side = 1 then 1 else 0 end) as count_rows
            from both_sides group by {names}
        )
        select
            count(distinct user_id) as count_users,
            cast(coalesce(sum(count_rows), 0) as bigint) as count_rows,
            cast(coalesce(sum(abs(balance)), 0) as bigint) as count_rows_differing
        from balanced
    """
    return TableComparison(table.name, **context.warehouse.query(sql, {"until": until}).to_pylist()[0])


def last_audit(warehouse: Reader) -> LastAudit | None:
    """Return the newest audit, or None."""
    sql = f"""
        select
            audited_at, audited_until, sample_percent,
            cast(sum(count_rows) as bigint) as count_rows,
            cast(sum(count_rows_differing) as bigint) as count_rows_differing
        from {warehouse.relation(AUDITS.layer, AUDITS.name)}
        group by audit_id, audited_at, audited_until, sample_percent
        order by audited_at desc limit 1
    """
    found: list[dict[str, Any]] = warehouse.query(sql).to_pylist()
    return LastAudit(**found[0]) if found else None
