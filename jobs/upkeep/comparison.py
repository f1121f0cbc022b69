"""Which rows must be the same however history was cut into windows, and how are two states of them compared?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from core.clock import UNIX_EPOCH
from jobs.context import JobContext

FIRST_DAY = UNIX_EPOCH.date()


@dataclass(frozen=True)
class ComparedTable:
    """An incremental table: its partitions' column, and which rows count (a row that was dissolved may stay or not)."""

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

_BUCKETS = 4096  # of users: few enough to fetch, enough to tell one wrong user from a thousand

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
    """SQL of the rows that say what was known at the watermark `until`, which is the query's parameter $until.

    A run that was dry, that crashed, or that is at it right now has written beyond the watermark. What the tables held of the
    users it touched nobody can say any more, so these are left out; their events or outcomes are written before anything is
    made of them. `audited` asks for the tables that an audit built, of the same users. `first_day` bounds the partitions.
    """
    relation = context.warehouse.relation

    def bounded(which: ComparedTable, since: date) -> str:
        bound = f"{which.day} >= date '{since}' and " if which.day else ""
        return f"{relation(f'audit_{which.layer}' if audited else which.layer, which.name)} where {bound}{which.counts}"

    # What is loaded from `until` on and is not too late occurred no earlier; one day more, for a bound is a whole day.
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
    """SQL that is true of the users whom an audit of so many percent rebuilds: dbt/macros/scope.sql in the other hand."""
    return f"mod({context.warehouse.number_of('user_id')}, 100) < {percent}"


def columns_of(context: JobContext, table: ComparedTable, *, audited: bool = False) -> list[str]:
    """Names of the columns, in the table's order."""
    relation = context.warehouse.relation(f"audit_{table.layer}" if audited else table.layer, table.name)
    bound = f" where {table.day} >= date '{FIRST_DAY}'" if table.day else ""
    return list(context.warehouse.schema(f"select * from {relation}{bound}").names)


def digest(context: JobContext, table: ComparedTable, until: datetime, first_day: date) -> Digest:
    """Rows and a hash of them, for users in 4,096 buckets: two digests tell what changed between them, without a copy."""
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
