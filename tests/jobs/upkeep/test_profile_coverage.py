"""Coverage of users by profiles: the share with a profile known in time, and the likely cause if it is low."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.doctor.run import profiles
from jobs.upkeep.profile_coverage import Coverage, coverage_of_events, coverage_of_exits
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import with_raw_tables
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import APP_EVENTS, USERS

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "winback.duckdb")
    opened.prepare()
    yield opened
    opened.close()


def events(warehouse: DuckDBWarehouse, *users: str, at: datetime = NOON) -> None:
    rows: list[dict[str, Any]] = [
        {"event_id": f"{user}-{at}", "user_id": user, "event_name": "opened", "occurred_at": at, "loaded_at": at}
        for user in users
    ]
    warehouse.append(APP_EVENTS, pa.Table.from_pylist(rows, schema=APP_EVENTS.schema))


def users(warehouse: DuckDBWarehouse, *users: str, at: datetime = NOON) -> None:
    rows = [{"user_id": user, "created_at": at, "updated_at": at, "marketing_consent": True} for user in users]
    warehouse.append(USERS, pa.Table.from_pylist(rows, schema=USERS.schema))


SPELLINGS = [
    ("123", "000123"),
    ("000123", "123"),
    ("123.0", "123"),
    ("123", "123.00"),
    ("1.2345E+4", "12345"),
    ("12345678901", "1.2345678901E10"),
    (" 123", "123"),
    ("123", "user-123"),
    ("user_000123", "123"),
    ("u-0000123", "00u-0000123"),
    ("00ada", "ada"),
    ('"000123.0"', "123"),
    ("Ada@Example.org", "ada@example.org"),
    ("6F9619FF-8B86-D011-B42D-00C04FC964FF", "6f9619ff8b86d011b42d00c04fc964ff"),
    ('"123"', "123"),
]


@pytest.mark.parametrize(("of_events", "of_users"), SPELLINGS)
def test_an_id_of_another_spelling_is_found(warehouse: DuckDBWarehouse, of_events: str, of_users: str) -> None:
    events(warehouse, of_events, "nobody")
    users(warehouse, of_users, "somebody")
    assert coverage_of_events(warehouse) == Coverage("event", 2, 0, 0, 1)


@pytest.mark.parametrize(
    ("of_events", "of_users"), [("123", "124"), ("12.5", "125"), ("a1b2", "12"), ("1e999999", "2"), ("u-1-2", "u-2-1")]
)
def test_different_ids_are_not_taken_for_spellings_of_one(
    warehouse: DuckDBWarehouse, of_events: str, of_users: str
) -> None:
    events(warehouse, of_events)
    users(warehouse, of_users)
    assert coverage_of_events(warehouse).count_respelled == 0


def test_a_profile_is_known_when_one_version_was_written_by_the_last_event(warehouse: DuckDBWarehouse) -> None:
    events(warehouse, "known", "changed", "snapshot", "absent")
    events(warehouse, "known", at=NOON - timedelta(days=9))
    users(warehouse, "known", "changed", "silent")
    users(warehouse, "changed", "snapshot", at=NOON + timedelta(microseconds=1))
    found = coverage_of_events(warehouse)
    assert (found, found.count_without) == (Coverage("event", 4, 2, 1, 0), 1)


def test_exits_are_asked_about_ever_or_of_the_last_days(warehouse: DuckDBWarehouse) -> None:
    warehouse.connection.execute("""
        create schema marts;
        create table marts.fct_unfinished_exits (user_id varchar, exited_at timestamp, exited_on date, is_dissolved boolean);
        insert into marts.fct_unfinished_exits values
            ('old', '2026-01-01 12:00:00', '2026-01-01', false),
            ('new', '2026-06-15 12:00:00', '2026-06-15', false),
            ('dissolved', '2026-06-15 12:00:00', '2026-06-15', true)
    """)
    users(warehouse, "new")
    assert coverage_of_exits(warehouse) == Coverage("exit", 2, 1, 0, 0)
    assert coverage_of_exits(warehouse, NOON) == Coverage("exit", 1, 1, 0, 0)


@pytest.mark.parametrize(
    ("coverage", "state", "says", "does"),
    [
        (Coverage("exit", 0, 0, 0, 0), "ok", "0 of 0 users", ""),
        (
            Coverage("exit", 1_000, 900, 0, 0),
            "ok",
            "900 of 1,000 users with an exit have a profile known at their last one",
            "",
        ),
        (
            Coverage("exit", 1_000, 899, 0, 0),
            "warning",
            "101 have no profile in raw.users",
            "winback load --users FILE",
        ),
        (
            Coverage("exit", 1_000, 950, 0, 1),
            "warning",
            "1 of them have one under another spelling",
            "without leading zeros",
        ),
        (
            Coverage("exit", 1_000, 0, 1_000, 0),
            "warning",
            "1,000 have only profiles with an updated_at after it",
            "created_at",
        ),
    ],
)
def test_the_doctor_names_the_likely_cause(coverage: Coverage, state: str, says: str, does: str) -> None:
    found = profiles(coverage)
    assert (found.check, found.state) == ("profiles", state)
    assert says in found.says
    assert does in " ".join(found.do)
    assert (coverage.warning is None) == (state == "ok")


def test_bigquery_spells_ids_as_duckdb_does(warehouse: DuckDBWarehouse, emulator: Emulator, prefix: str) -> None:
    ids = [one for pair in SPELLINGS for one in pair]
    listed = ", ".join(f"'{one}'" for one in ids)
    here = warehouse.query(f"select {warehouse.spelling_of('id')} as spelling from (select unnest([{listed}]) as id)")
    with closing(with_raw_tables(emulator, prefix)) as there:
        sql = f"select {there.spelling_of('id')} as spelling from unnest([{listed}]) as id with offset as n order by n"
        assert there.query(sql).column("spelling").to_pylist() == here.column("spelling").to_pylist()
