"""Odd rows: a few of them stop no run and change no other user's numbers, from the events to the decisions."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs.hourly.run import hourly
from sandbox.local_crm.server import LocalCrm
from tests.support.dbt.on_duckdb import invoke, prepare_empty
from tests.support.environment import API_KEY, NOW, World, at, copy_history

pytestmark = pytest.mark.data_tests

ODD = ("prefilled", "instant", "percent", "overlapping")
HOURS = 3


def event(user: str, number: int, occurred: datetime, ratio: float | None) -> tuple[Any, ...]:
    return (f"{user}-{number}", user, "field_saved", occurred, at(HOURS) - timedelta(minutes=5), "phone", ratio)


def make_odd(world: World) -> None:
    """Add odd raw rows, and a wrong row in a table."""
    left = at(HOURS) - timedelta(hours=1)
    rows = []
    for n in range(3):
        # A form that was filled in at the start, two events 5 microseconds apart, and a share above 1.
        for kind, seconds, ratios in (
            ("prefilled", 0.4, (0.0, 0.7)),
            ("instant", 5e-6, (1, 1)),
            ("percent", 60, (1, 70)),
        ):
            user = f"{kind}-{n}"
            rows += [event(user, 1, left, ratios[0]), event(user, 2, left + timedelta(seconds=seconds), ratios[1])]
    rows += [event("overlapping-0", 1, left, 0.5)]
    arrived = at(HOURS) - timedelta(minutes=5)
    rows += [
        (None, "a-user", "field_saved", left, arrived, None, None),
        ("no-user", None, "field_saved", left, arrived, None, None),
        ("no-time", "a-user", "field_saved", None, arrived, None, None),
    ]
    with duckdb.connect(str(world.folder / "winback.duckdb")) as connection:
        connection.execute("set timezone = 'UTC'")
        # On BigQuery the app owns the table, which may contain rows that `winback load` would refuse.
        for column in ("event_id", "user_id", "occurred_at"):
            connection.execute(f"alter table raw.app_events alter {column} drop not null")
        connection.executemany(
            "insert into raw.app_events (event_id, user_id, event_name, occurred_at, loaded_at, device_type,"
            " fields_filled_ratio) values (?, ?, ?, ?::timestamptz::timestamp, ?::timestamptz::timestamp, ?, ?)",
            rows,
        )
        # As if two runs had written at the same time: two sessions of one user without a gap between them.
        connection.execute(
            """insert into intermediate.int_sessions (session_id, user_id, started_at, ended_at, started_on, is_dissolved)
            select 'odd-' || i, 'overlapping-0', $at + interval (i) minute, $at + interval 5 minute, $at::date, false
            from range(2) as r(i)""",
            {"at": (left - timedelta(days=2)).replace(tzinfo=None)},
        )


def decided(world: World) -> list[tuple[Any, ...]]:
    columns = "exit_id, skip_reason, churn_probability, churn_reasons, is_eligible, eligibility_reason, experiment_arm"
    odd = " and ".join(f"user_id not like '{kind}-%'" for kind in ODD)
    rows = world.query(f"select {columns} from staging.stg_ops__decisions where {odd} order by exit_id")
    return [tuple(row.values()) for row in rows]


def test_a_few_odd_rows_stop_and_bend_nobody_else(world: World, history: Path, tmp_path: Path) -> None:
    plain = world.run(HOURS)
    folder = tmp_path / "odd"
    folder.mkdir()
    copy_history(history, folder)
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        odd = World(folder, crm, world.parsed)
        make_odd(odd)
        with odd.context(now=lambda: at(HOURS)) as context:
            result = hourly(context, at(HOURS))

        assert result.stopped is None
        assert result.arrivals.events == plain.arrivals.events + 19
        assert result.arrivals.set_aside == 3
        assert result.scoring
        assert plain.scoring
        assert result.scoring.scored == plain.scoring.scored + 9
        assert result.scoring.skipped == plain.scoring.skipped | {"bad_data": 1}
        assert result.scoring.out_of_range == {"fields_filled_ratio": 3}
        assert decided(odd) == decided(world)
        assert odd.query("select user_id, broken_rule from intermediate.int_users_set_aside") == [
            {"user_id": "overlapping-0", "broken_rule": "overlapping"}
        ]
        kept = """
            select distinct
                split_part(user_id, '-', 1) as kind, fields_filled_ratio, fields_filled_gain_per_minute,
                last_session_events_per_minute
            from marts.fct_exit_features where user_id like 'prefilled-%' or user_id like 'instant-%' or user_id like 'percent-%'
            order by 1
        """
        assert [tuple(row.values()) for row in odd.query(kept)] == [
            ("instant", 1.0, 60.0, 120.0),
            ("percent", 70.0, None, 2.0),
            ("prefilled", 0.7, 42.0, 120.0),
        ]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_empty(tmp_path_factory.mktemp("few"))


@pytest.mark.parametrize(("count_odd", "count_all", "passes"), [(49, 49, True), (50, 251, True), (50, 250, False)])
def test_what_a_fifth_breaks_and_50_at_least_stops_the_run(
    count_odd: int, count_all: int, passes: bool, database: Path
) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute("truncate marts.fct_unfinished_exits; truncate intermediate.int_users_set_aside")
        connection.execute("truncate raw.app_events; truncate raw.users")
        nullable = {
            "app_events": ("event_id", "user_id", "event_name", "occurred_at"),
            "users": ("user_id", "created_at", "marketing_consent"),
        }
        for table, columns in nullable.items():
            for column in columns:
                connection.execute(f"alter table raw.{table} alter {column} drop not null")
        connection.execute(
            """insert into marts.fct_unfinished_exits (exit_id, user_id, exited_on, is_dissolved)
            select 'x' || i, 'u' || i, date '2026-03-10', false from range($count) as r(i)""",
            {"count": count_all},
        )
        connection.execute(
            "insert into intermediate.int_users_set_aside select 'u' || i, 'overlapping' from range($count) as r(i)",
            {"count": count_odd},
        )
        for table, column in (("app_events", "loaded_at"), ("users", "updated_at")):
            connection.execute(
                f"""insert into raw.{table} (user_id, {column})
                select case when i >= $odd then 'u' || i end, timestamp '2026-03-10 12:30:00' from range($count) as r(i)""",
                {"odd": count_odd, "count": count_all},
            )
        connection.execute("update raw.app_events set event_id = user_id, occurred_at = loaded_at")
    hour = {"from_at": "2026-03-10 12:00:00", "until_at": "2026-03-10 13:00:00"}
    names = "users_set_aside_are_few app_events_without_id_user_or_time_are_few users_without_id_are_few"
    answer = invoke(database, "test", "--select", *names.split(), **hour)
    results = [result for result in answer.result.results if result.node.resource_type == "test"]
    found = {result.node.name: (str(result.status), result.failures) for result in results}
    assert set(found) == set(names.split())
    assert {status for status, _ in found.values()} == {"pass" if passes else "fail"}
    if not passes:
        assert found["app_events_without_id_user_or_time_are_few"] == ("fail", 50)
        assert all(result.node.description for result in results)
