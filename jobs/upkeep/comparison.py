"""Comparison of table states: the rows that must not depend on the windows, and digests of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from core.clock import UNIX_EPOCH
from jobs.context import JobContext

FIRST_DAY = UNIX_EPOCH.date()


@dataclass(frozen=True)
class ComparedTable:
    """An incremental table: its partition column, and which rows count. Dissolved rows do not count, because they may remain."""

    layer: str
    name: str
    day: str | None
    counts: str = "true"


EVENTS = ComparedTable("intermediate", "int_events__deduplicated", "occurred_on")
OUTCOMES = ComparedTable("intermediate", "int_outcomes", None)
EXITS = ComparedTable("marts", "fct_unfinished_exits", "exited_on", "not is_dissolved and closed_at <= $until")
FEATURES = ComparedTable("marts", "fct_exit_features", "exited_on")
LOGGED = ComparedTable("marts", "fct_exit_features_logged", "exited_on")
TABLES = (
    EVENTS,
    OUTCOMES,
    ComparedTable("intermediate", "int_sessions", "started_on", "not is_dissolved"),
    EXITS,
    FEATURES,
)

_BUCKETS = 4096  # of users: few enough to fetch, enough to distinguish one wrong user from a thousand

Digest = dict[int, tuple[int, int]]


def rows(
    context: JobContext,
    table: ComparedTable,
    columns: Sequence[str],
    until: datetime,
    *,
    audited: bool = False,
    first_day: date = FIRST_DAY,
) -> str:
    """Return SQL of the rows as known at the watermark `until`, which is the query's parameter $until.

    A dry run, a crashed run or a run in progress has written beyond the watermark. The users that it touched are excluded,
    because their earlier state cannot be reconstructed. They can be found, because a build writes events and outcomes first.
    `audited` selects the tables that an audit built, for the same users. `first_day` bounds the partitions.
    """
    relation = context.warehouse.relation

    def bounded(which: ComparedTable, since: date) -> str:
        bound = f"{which.day} >= date '{since}' and " if which.day else ""
        return f"{relation(f'audit_{which.layer}' if audited else which.layer, which.name)} where {bound}{which.counts}"

    # Events loaded from `until` on that are not too late occurred no earlier. One day more, because bounds are whole days.
    reach = until.date() - timedelta(days=context.funnel.max_lateness_days + 1)
    beyond = f"""
        select user_id from {relation(EVENTS.layer, EVENTS.name)}
        where occurred_on >= date '{reach}' and loaded_at >= $until
        union distinct
        select user_id from {relation(OUTCOMES.layer, OUTCOMES.name)} where last_loaded_at >= $until
    """
    sql = f"select {', '.join(columns)} from {bounded(table, first_day)} and user_id not in ({beyond})"
    if table is FEATURES:
        sql += f" and exit_id in (select exit_id from {bounded(EXITS, first_day)})"
    return sql


def sample_predicate(context: JobContext, percent: int) -> str:
    """Return SQL that is true for the users that an audit of this percentage rebuilds; same rule as dbt/macros/scope.sql."""
    return f"mod({context.warehouse.number_of('user_id')}, 100) < {percent}"


def columns_of(context: JobContext, table: ComparedTable, *, audited: bool = False) -> list[str]:
    """Return the names of the columns, in the order of the table."""
    relation = context.warehouse.relation(f"audit_{table.layer}" if audited else table.layer, table.name)
    bound = f" where {table.day} >= date '{FIRST_DAY}'" if table.day else ""
    return list(context.warehouse.schema(f"select * from {relation}{bound}").names)


def digest(context: JobContext, table: ComparedTable, until: datetime, first_day: date) -> Digest:
    """Return the number of rows and their hash for users in 4,096 buckets. Two digests show changes without a copy."""
    columns = columns_of(context, table)
    sql = f"""
        select mod({context.warehouse.number_of("user_id")}, {_BUCKETS}) as bucket,
            count(*) as count_rows, bit_xor({context.warehouse.hash_of(columns)}) as row_hash
        from ({rows(context, table, columns, until, first_day=first_day)}) as kept
        group by 1
    """
    answer = context.warehouse.query(sql, {"until": until})
    return {
        bucket: (count_rows, row_hash)
        for bucket, count_rows, row_hash in zip(*(column.to_pylist() for column in answer.columns), strict=True)
    }
