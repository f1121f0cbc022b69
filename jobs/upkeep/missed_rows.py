"""Search for raw events that no run window has read; `ops.nights` records what each nightly found.

A row may become visible after the run that read its time, because of streaming delays or an ingestion that catches up on a week.
No later window begins before the watermark, so only a search finds it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from jobs.transform.funnel import Funnel
from warehouse.interface import Reader, Warehouse
from warehouse.tables import NIGHTS


@dataclass(frozen=True)
class Missed:
    """Events that no window has read; times UTC. A window that begins at `build_from` reads all of them."""

    count_events: int = 0
    first_loaded_at: datetime | None = None
    last_loaded_at: datetime | None = None
    build_from: datetime | None = None


@dataclass(frozen=True)
class NightRow:
    """A row of `ops.nights`; times UTC."""

    night_id: str
    rebuilt_at: datetime
    window_from: datetime
    window_until: datetime
    count_events_missed: int
    count_users_corrected: int
    first_missed_at: datetime | None = None
    last_missed_at: datetime | None = None
    build_from: datetime | None = None


def find_missed(warehouse: Reader, funnel: Funnel, since: datetime, until: datetime, history_until: datetime) -> Missed:
    """Search the raw events loaded in [since, until) for those that are neither in the events nor in the late events.

    A row counts as read if its event has a copy that arrived no later. Rows loaded before `history_until` that occurred more
    than `max_lateness_days` before `since` are left out, because no window reaches them.
    """
    relation, late = warehouse.relation, f"interval {funnel.max_lateness_days} day"
    first_day = since.date() - timedelta(days=funnel.days_in_reach)
    same = "known.user_id = arrived.user_id and known.event_id = arrived.event_id"
    sql = f"""
        with arrived as (
            select user_id, event_id, coalesce(event_name, '') as event_name, occurred_at, occurred_on, loaded_at,
                loaded_at >= {_literal(history_until)} and loaded_at > occurred_at + {late} as is_too_late
            from {relation("staging", "stg_app__events")}
            where loaded_at >= {_literal(since)} and loaded_at < {_literal(until)}
        ),
        missed as (
            select loaded_at,
                case when occurred_at + {late} < loaded_at then occurred_at + {late} else loaded_at end as build_from
            from arrived
            where not is_too_late and occurred_at >= {_literal(since - timedelta(days=funnel.max_lateness_days))}
                and not exists (
                    select 1 from {relation("intermediate", "int_events__deduplicated")} as known
                    where {same} and known.event_name = arrived.event_name and known.occurred_on = arrived.occurred_on
                        and known.occurred_on >= date '{first_day}'
                        and (known.loaded_at < arrived.loaded_at
                            or (known.loaded_at = arrived.loaded_at and known.occurred_at <= arrived.occurred_at))
                )
            union all
            select loaded_at, loaded_at as build_from
            from arrived
            where is_too_late
                and not exists (
                    select 1 from {relation("marts", "fct_late_events")} as known
                    where {same} and coalesce(known.event_name, '') = arrived.event_name
                        and known.loaded_on >= date '{since.date()}'
                        and known.occurred_at = arrived.occurred_at and known.loaded_at = arrived.loaded_at
                )
        )
        select count(*) as count_events, min(loaded_at) as first_loaded_at, max(loaded_at) as last_loaded_at,
            min(build_from) as build_from
        from missed
    """
    return Missed(**warehouse.query(sql).to_pylist()[0])


def write_night(warehouse: Warehouse, night: NightRow) -> None:
    """Append the result of a nightly."""
    warehouse.append(NIGHTS, pa.Table.from_pylist([asdict(night)], schema=NIGHTS.schema))


def last_night(warehouse: Reader) -> NightRow | None:
    """Return the newest row of `ops.nights`, or None."""
    sql = f"select * from {warehouse.relation('ops', 'nights')} order by rebuilt_at desc limit 1"
    rows = warehouse.query(sql).to_pylist()
    return NightRow(**rows[0]) if rows else None


def build_from_missed(warehouse: Reader, watermark: datetime) -> datetime | None:
    """Return where the next run must begin to build, to decide and send what nightlies at this watermark found."""
    sql = f"""
        select min(build_from) as build_from from {warehouse.relation("ops", "nights")}
        where window_until >= $watermark and count_events_missed > 0
    """
    found: datetime | None = warehouse.query(sql, {"watermark": watermark}).column("build_from")[0].as_py()
    return found


def _literal(moment: datetime) -> str:
    """Return a bound as an SQL literal, so that BigQuery reads only those days."""
    return f"timestamp '{moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
