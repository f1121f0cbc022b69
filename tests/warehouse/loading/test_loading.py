"""Loading: files are stored completely and once, with every value in its type."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import RetryableError
from tests.support.builders.loading import (
    EVENT,
    EVENTS,
    NOW,
    REDEMPTION,
    REDEMPTIONS,
    USER,
    USERS,
    contents,
    event,
    event_table,
    lines,
    load_text,
    user,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import Loaded, load

LOAN_FILES = Path(__file__).parents[4] / "shared/data/loan_applications"


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


def test_csv_rows_arrive_typed_and_in_utc(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    ahead = event(event_id="e2", occurred_at="2026-02-02 12:00:00.123456789+0200", loaded_at="2026-02-01 10:05:00-00")
    load_text(warehouse, tmp_path, "events", EVENTS + ",properties", EVENT + ',"{""a"": ""x,\ny""}"', ahead + ",")
    load_text(warehouse, tmp_path, "users", USERS, user(age="34.0", income="", previous_year_filing="F"))
    load_text(warehouse, tmp_path, "redemptions", REDEMPTIONS, REDEMPTION)
    loaded = contents(warehouse)
    assert loaded["events"] == [
        {
            "event_id": "e1",
            "user_id": "u1",
            "event_name": "step_viewed",
            "occurred_at": datetime(2026, 2, 1, 10, tzinfo=UTC),
            "loaded_at": datetime(2026, 2, 1, 10, 5, tzinfo=UTC),
            "device_type": None,
            "step": None,
            "fields_filled_ratio": 0.5,
            "properties": '{"a": "x,\ny"}',
        },
        {
            "event_id": "e2",
            "user_id": "u1",
            "event_name": "step_viewed",
            "occurred_at": datetime(2026, 2, 2, 10, 0, 0, 123456, tzinfo=UTC),
            "loaded_at": datetime(2026, 2, 1, 10, 5, tzinfo=UTC),
            "device_type": None,
            "step": None,
            "fields_filled_ratio": 0.5,
            "properties": None,
        },
    ]
    [one] = loaded["users"]
    assert (one["age"], one["income"], one["marketing_consent"], one["previous_year_filing"]) == (34, None, True, False)
    assert loaded["redemptions"] == [
        {
            "redemption_id": "r1",
            "user_id": "u1",
            "campaign": "spring",
            "redeemed_at": datetime(2026, 2, 2, tzinfo=UTC),
            "loaded_at": datetime(2026, 2, 2, tzinfo=UTC),
        }
    ]


@pytest.mark.parametrize(
    ("offset", "hour"), [("Z", 10), ("+02", 8), ("+0230", 7), ("-05:30", 15), (".5Z", 10), (".000000001+00:00", 10)]
)
def test_an_offset_is_taken_off(warehouse: DuckDBWarehouse, tmp_path: Path, offset: str, hour: int) -> None:
    load_text(warehouse, tmp_path, "events", EVENTS, event(occurred_at=f"2026-02-01 10:00:00{offset}"))
    assert contents(warehouse)["events"][0]["occurred_at"].hour == hour


@pytest.mark.parametrize("text", ["true", "T", "1", "Yes", "FALSE", "f", "0", "no"])
def test_booleans_are_read_as_people_write_them(warehouse: DuckDBWarehouse, tmp_path: Path, text: str) -> None:
    load_text(warehouse, tmp_path, "users", USERS, user(marketing_consent=text))
    assert contents(warehouse)["users"][0]["marketing_consent"] is (text.lower() in {"true", "t", "1", "yes"})


def test_a_second_load_of_the_same_file_changes_nothing(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    later = event(loaded_at="2026-02-01T11:00:00Z")
    first = load_text(warehouse, tmp_path, "events", EVENTS, EVENT, later, EVENT)
    before = contents(warehouse)
    absent = ("device_type", "step", "properties")
    assert first == Loaded(3, 2, 0, 1, 0, absent_columns=absent)
    assert load_text(warehouse, tmp_path, "events", EVENTS, EVENT, later, EVENT) == Loaded(3, 0, 2, 1, 0, (), absent)
    assert contents(warehouse) == before
    assert len(before["events"]) == 2  # the same event delivered twice, which is normal


def test_of_a_redelivered_event_the_first_content_is_kept(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    other = event(fields_filled_ratio="0.9")
    assert load_text(warehouse, tmp_path, "events", EVENTS, EVENT, other).count_differing == 1
    again = load_text(warehouse, tmp_path, "events", EVENTS, other, event(event_id="e2"))
    assert (again.count_new, again.count_already_there, again.count_differing) == (1, 1, 1)
    assert {row["fields_filled_ratio"] for row in contents(warehouse)["events"]} == {0.5}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"user_id": "u2"}, id="user"),
        pytest.param({"event_name": "filing_submitted"}, id="name"),
        pytest.param({"occurred_at": "2026-02-01T09:00:00Z"}, id="time"),
        pytest.param({"loaded_at": "2026-02-01T11:00:00Z"}, id="delivery"),
    ],
)
def test_an_id_under_another_user_name_time_or_delivery_is_stored(
    warehouse: DuckDBWarehouse, tmp_path: Path, other: dict[str, str]
) -> None:
    loaded = load_text(warehouse, tmp_path, "events", EVENTS, EVENT, event(**other))

    assert (loaded.count_new, loaded.count_repeated, loaded.count_differing) == (2, 0, 0)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Amsterdam"])
def test_parquet_times_of_any_precision_are_stored_to_the_microsecond(
    warehouse: DuckDBWarehouse, tmp_path: Path, unit: str, zone: str
) -> None:
    exact = 1_770_000_000_123_456_789
    value = exact // {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    pq.write_table(event_table(occurred_at=pa.array([value], pa.timestamp(unit, zone))), tmp_path / "f.parquet")
    load(warehouse, {"events": tmp_path / "f.parquet"}, now=NOW)
    kept = {"s": 0, "ms": 123000, "us": 123456, "ns": 123456}[unit]
    assert contents(warehouse)["events"][0]["occurred_at"] == datetime(2026, 2, 2, 2, 40, 0, kept, tzinfo=UTC)


def test_a_parquet_column_without_values_may_have_any_type(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    empty = {
        "step": pa.nulls(1, pa.int32()),
        "fields_filled_ratio": pa.nulls(1, pa.string()),
        "device_type": pa.nulls(1),
    }
    pq.write_table(event_table(**empty), tmp_path / "f.parquet")
    load(warehouse, {"events": tmp_path / "f.parquet"}, now=NOW)
    [one] = contents(warehouse)["events"]
    assert (one["step"], one["fields_filled_ratio"], one["device_type"]) == (None, None, None)


def test_other_columns_are_ignored_and_reported(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    loaded = load_text(warehouse, tmp_path, "events", EVENTS + ",app_version,", EVENT + ",7,x")
    assert loaded.ignored_columns == ("app_version", "(column 8)")
    pq.write_table(event_table(app_version=[7]), tmp_path / "f.parquet")
    assert load(warehouse, {"events": tmp_path / "f.parquet"}, now=NOW)["events"].ignored_columns == ("app_version",)


@pytest.mark.parametrize("name", ["a*[1]'?.csv", "F.CSV"])
def test_a_file_is_found_by_its_very_name(warehouse: DuckDBWarehouse, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "dt=2026-01-01"
    folder.mkdir()
    (folder / "ab1x.csv").write_text(lines(EVENTS, event(event_id="other")))
    (folder / name).write_text(lines(EVENTS, EVENT))
    load(warehouse, {"events": folder / name}, now=NOW)
    assert [row["event_id"] for row in contents(warehouse)["events"]] == ["e1"]


@pytest.mark.parametrize("content", [lines(EVENTS), EVENTS, "\ufeff" + lines(EVENTS)])
def test_a_file_without_rows_is_no_error(warehouse: DuckDBWarehouse, tmp_path: Path, content: str) -> None:
    (tmp_path / "f.csv").write_text(content)
    assert load(warehouse, {"events": tmp_path / "f.csv"}, now=NOW)["events"].count_rows == 0


def test_a_failure_while_storing_leaves_nothing_behind(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT))
    (tmp_path / "u.csv").write_text(lines(USERS, USER))
    warehouse.connection.execute("alter table raw.users alter user_id type integer")
    with pytest.raises(RetryableError) as caught:
        load(warehouse, {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv"}, now=NOW)
    assert str(caught.value) == (
        "Nothing was loaded: DuckDB failed (ConversionException). Check that memory and disk are large enough, and load again."
    )
    assert contents(warehouse)["events"] == []


def test_an_interruption_between_two_files_leaves_nothing_behind(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT))
    (tmp_path / "u.csv").write_text(lines(USERS, USER))
    calls = itertools.count(1)

    def interrupt(count_bytes: int) -> None:
        if next(calls) == 3:  # both files are checked, and the first is stored
            raise KeyboardInterrupt

    files = {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv"}
    with pytest.raises(KeyboardInterrupt):
        load(warehouse, files, now=NOW, advance=interrupt)
    assert contents(warehouse)["events"] == []
    assert load(warehouse, files, now=NOW)["events"].count_new == 1


def test_progress_adds_up_to_the_bytes_of_the_files(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT))
    (tmp_path / "u.csv").write_text(lines(USERS, USER))
    files = {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv"}
    told: list[int] = []
    load(warehouse, files, now=NOW, advance=told.append)
    assert sum(told) == sum(path.stat().st_size for path in files.values())


def test_a_moment_without_zone_is_a_programming_error(warehouse: DuckDBWarehouse) -> None:
    with pytest.raises(ValueError, match="now must have a time zone"):
        load(warehouse, {}, now=NOW.replace(tzinfo=None))


@pytest.mark.skipif(not LOAN_FILES.exists(), reason="the loan application files are not beside this checkout")
def test_real_files_load_whole_and_once(warehouse: DuckDBWarehouse) -> None:
    files = {"events": LOAN_FILES / "app_events.parquet", "users": LOAN_FILES / "users.parquet"}
    assert load(warehouse, files, now=NOW) == {
        "events": Loaded(161_584, 161_584, 0, 0, 0),
        "users": Loaded(8_766, 8_766, 0, 0, 0),
    }
    assert load(warehouse, files, now=NOW) == {
        "events": Loaded(161_584, 0, 161_584, 0, 0),
        "users": Loaded(8_766, 0, 8_766, 0, 0),
    }
