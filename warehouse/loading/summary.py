"""Summary of the raw events for the person who loads them: counts by name and step, and their time range."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from warehouse.interface import Warehouse


@dataclass(frozen=True)
class RawSummary:
    """Events in the raw table. Counts are of rows, including redeliveries. Names are the app's own."""

    events: dict[str, int]
    steps: dict[str, int]
    first_occurred_at: datetime | None
    last_occurred_at: datetime | None
    count_events: int


def summarise(warehouse: Warehouse) -> RawSummary:
    """Count the raw events. Names beyond the 1,000 most frequent are left out."""
    events = warehouse.relation("raw", "app_events")
    [totals] = warehouse.query(
        f"select count(*) as events, min(occurred_at) as first, max(occurred_at) as last from {events}"
    ).to_pylist()
    return RawSummary(
        events=_by_name(warehouse, events, "event_name"),
        steps=_by_name(warehouse, events, "step"),
        first_occurred_at=totals["first"],
        last_occurred_at=totals["last"],
        count_events=totals["events"],
    )


def counts_by_name(warehouse: Warehouse) -> dict[str, int]:
    """Return the number of events of each name, the most frequent first."""
    return _by_name(warehouse, warehouse.relation("raw", "app_events"), "event_name")


def _by_name(warehouse: Warehouse, table: str, column: str) -> dict[str, int]:
    rows = warehouse.query(f"""
        select {column} as name, count(*) as count_rows from {table} where {column} is not null
        group by {column} order by count_rows desc, name limit 1000
    """).to_pylist()
    return {row["name"]: row["count_rows"] for row in rows}
