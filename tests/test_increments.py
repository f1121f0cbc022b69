"""Do tables built window by window equal tables built in one go?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.house import open_house
from jobs.transform import SINCE_EVER, Window
from tests.world import HISTORY_UNTIL, at, load_app, settings_in, small_app
from warehouse.duckdb import DuckDBWarehouse
from warehouse.tables import APP_EVENTS

# What must not depend on how history was cut into windows: a table, its columns, and which rows count.
TABLES = {
    "int_events__deduplicated": ("intermediate", "true"),
    "int_outcomes": ("intermediate", "true"),
    "int_sessions": ("intermediate", "not is_dissolved"),
    "fct_unfinished_exits": ("marts", "not is_dissolved"),
    "fct_exit_features": (
        "marts",
        "exit_id in (select exit_id from marts.fct_unfinished_exits where not is_dissolved)",
    ),
}


def build(
    folder: Path, parsed: dict[str, Any], history_until: datetime, cuts: Sequence[datetime], **changes: Any
) -> None:
    """Backfill up to the first cut, then one window for each further cut; `changes` are to the settings."""
    with open_house(settings_in(folder, **changes), parsed=parsed) as house:
        first = Window(from_at=SINCE_EVER, until_at=cuts[0], history_until=history_until)
        house.transform(first).build("backfill", full_refresh=True)
        for from_at, until_at in pairwise(cuts):
            house.transform(Window(from_at, until_at, history_until)).build("features")


def differences(increments: Path, one_go: Path) -> dict[str, int]:
    """Rows that only one of the two has, by table."""
    warehouse = DuckDBWarehouse(increments / "winback.duckdb")
    try:
        warehouse.connection.execute(f"attach '{one_go / 'winback.duckdb'}' as one_go (read_only)")
        found = {}
        for table, (schema, counts) in TABLES.items():
            here = f"select * from {schema}.{table} where {counts}"
            there = f"select * from one_go.{schema}.{table} where {counts.replace('marts.', 'one_go.marts.')}"
            sql = f"(({here}) except all ({there})) union all (({there}) except all ({here}))"
            found[table] = int(warehouse.query(f"select count(*) as n from ({sql})").column("n")[0].as_py())
            assert (
                warehouse.query(f"select count(*) as n from ({there})").column("n")[0].as_py()
                or table != "int_sessions"
            )
        return found
    finally:
        warehouse.close()


NONE = dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_synthetic_app_hour_by_hour_equals_one_go(tmp_path: Path, parsed: dict[str, Any], seed: int) -> None:
    app = small_app(seed, count_users=1_500)
    hours = [*range(13), 13.5, 25, 26, 48, 120, 240]
    cuts = [at(h) for h in hours]
    for name, points in (("increments", cuts), ("one_go", cuts[-1:])):
        folder = tmp_path / name
        folder.mkdir()
        load_app(app, folder / "app", settings_in(folder))
        build(folder, parsed, HISTORY_UNTIL, points)

    assert differences(tmp_path / "increments", tmp_path / "one_go") == NONE


START = datetime(2026, 3, 1, 20, tzinfo=UTC)
NAMES = ["app_opened", "field_saved", "help_opened", "filing_submitted", "filing_deleted"]


@dataclass(frozen=True)
class Event:
    """An event by minutes: when it happened after the start, how much later it was loaded, and how often."""

    user: int
    name: str
    minute: int
    late_minutes: int
    is_doubled: bool


# Gaps around the limit of 30 minutes; lateness of minutes, of hours (which bridges sessions scored before), and beyond 3 days.
events = st.builds(
    Event,
    user=st.integers(0, 2),
    name=st.sampled_from(NAMES[:3] * 5 + NAMES[3:]),
    minute=st.one_of(
        st.integers(0, 600), st.integers(0, 8 * 24 * 60), st.sampled_from([0, 29, 30, 31, 59, 60, 61, 240])
    ),
    late_minutes=st.one_of(st.integers(0, 5), st.integers(0, 26 * 60), st.sampled_from([0, 4320, 4321, 6000])),
    is_doubled=st.booleans(),
)
# Window edges in minutes, among them such as fall exactly on a loading time.
edges = st.lists(st.integers(30, 12 * 24 * 60), min_size=1, max_size=5, unique=True)


def rows_of(stream: Sequence[Event], seed: int) -> pa.Table:
    rows = []
    for number, event in enumerate(stream):
        occurred = START + timedelta(minutes=event.minute)
        loaded = occurred + timedelta(minutes=event.late_minutes)
        row: dict[str, Any] = {
            "event_id": f"e-{number}",
            "user_id": f"u-{event.user}",
            "event_name": event.name,
            "occurred_at": occurred,
            "loaded_at": loaded,
            "step": ["start", "income", None][number % 3],
            "device_type": ["mobile", "desktop", None][number % 3],
            "fields_filled_ratio": (number % 11) / 10 if event.name == "field_saved" else None,
        }
        rows.append(row)
        if event.is_doubled:
            rows.append(row | {"loaded_at": loaded + timedelta(hours=7)})
    random.Random(seed).shuffle(rows)  # noqa: S311 - any order will do, as long as it is the same one
    return pa.Table.from_pylist(rows, schema=APP_EVENTS.schema)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    stream=st.lists(events, min_size=3, max_size=25),
    cuts=edges,
    history_minutes=st.integers(0, 24 * 60),
    seed=st.integers(0, 9),
)
def test_any_stream_cut_into_any_windows_equals_one_go(
    tmp_path_factory: pytest.TempPathFactory,
    parsed: dict[str, Any],
    *,
    stream: list[Event],
    cuts: list[int],
    history_minutes: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    history_until = START + timedelta(minutes=history_minutes)
    last = START + timedelta(days=20)
    points = [history_until, *(history_until + timedelta(minutes=c) for c in sorted(cuts)), last]
    for name, windows in (("increments", points), ("one_go", [last])):
        place = folder / name
        place.mkdir()
        warehouse = DuckDBWarehouse(place / "winback.duckdb")
        warehouse.prepare()
        warehouse.append(APP_EVENTS, rows_of(stream, seed))
        warehouse.close()
        build(place, parsed, history_until, windows)

    assert differences(folder / "increments", folder / "one_go") == NONE
