"""Odd values: placeholder ids and times in a wrong unit are refused by name; unusual but valid values are loaded."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders.loading import (
    EVENT,
    EVENTS,
    NOW,
    REDEMPTION,
    REDEMPTIONS,
    USERS,
    contents,
    event,
    event_table,
    lines,
    load_text,
    refusal,
    row,
    user,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


STAND_IN = "a placeholder for no id, such as NULL, in row 2. Leave out rows without an id, or give each row its own id."
PADDED = "with blanks or invisible characters around it in row 2. Trim the column."
HIDDEN = "with a control or invisible character inside in row 2. Export only its visible characters."
LONG = "longer than 1,000 characters in row 2. Check that it is the right column."
NO_DIGITS = "a number with an exponent, without its last digits, in row 2. Export ids as text."
EMPTY = "empty in row 2. Give every row a value."
NO_TIME = "It is a placeholder for a missing time: write the real time."
LEAVE_EMPTY = "It is a placeholder for a missing time: leave the value empty."
UNIT = "convert with the right unit."
OLD = (
    "before 2000-01-01 in row 1. Correct it if it is a placeholder; if it is real, set WINBACK_EARLIEST_AT to an "
    "earlier time."
)

IDS = {
    **dict.fromkeys(["NULL", "null", "nan", "NaN", "None", "undefined", "\\N", "N/A", "#N/A", "(null)", "<NA>", "NaT"], STAND_IN),
    **dict.fromkeys(["[object Object]", "-", "00000000-0000-0000-0000-000000000000", "anonymous", "inf", "nil"], STAND_IN),
    **dict.fromkeys(["1.2E+10", "1e+10", "-3E-7", "1.0e10"], NO_DIGITS),
    **dict.fromkeys([" u1", "u1 ", "u1\t", "\u00a0u1", "u1\u200b", "\ufeffu1", '"\nu1"'], PADDED),
    **dict.fromkeys(["u\0x", "u\u200bx", "u\u00adx", "u\u202ex", '"u\nx"', "u\x9fx"], HIDDEN),
    "u" * 1001: LONG,
    **dict.fromkeys(["", "  ", "\u200b", "\u00a0\u2060", "\u3164"], EMPTY),
}  # fmt: skip


@pytest.mark.parametrize("value", IDS)
def test_what_is_no_id_is_refused(warehouse: DuckDBWarehouse, tmp_path: Path, value: str) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT, event(user_id=value)))
    assert refusal(warehouse, {"events": tmp_path / "e.csv"}) == [f"e.csv, user_id: {IDS[value]}"]


@pytest.mark.parametrize(
    ("value", "told"), [(" viewed", PADDED), ("view\u200bed", HIDDEN), ("view\0ed", HIDDEN), ("v" * 1001, LONG)]
)
@pytest.mark.parametrize("column", ["event_name", "step"])
def test_a_name_that_configuration_could_not_have_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, column: str, value: str, told: str
) -> None:
    header = f"{EVENTS},step"
    (tmp_path / "e.csv").write_text(lines(header, f"{EVENT},", row(header, f"{EVENT},", {column: value})))
    assert refusal(warehouse, {"events": tmp_path / "e.csv"}) == [f"e.csv, {column}: {told}"]


@pytest.mark.parametrize(
    ("key", "column"), [("events", "event_id"), ("users", "user_id"), ("redemptions", "redemption_id")]
)
def test_every_id_of_every_table_is_asked(warehouse: DuckDBWarehouse, tmp_path: Path, key: str, column: str) -> None:
    rows = {
        "events": (EVENTS, EVENT, event(event_id="NULL")),
        "users": (USERS, user(), user(user_id="NULL")),
        "redemptions": (REDEMPTIONS, REDEMPTION, REDEMPTION.replace("r1", "NULL")),
    }[key]
    (tmp_path / "f.csv").write_text(lines(*rows))
    assert refusal(warehouse, {key: tmp_path / "f.csv"}) == [f"f.csv, {column}: {STAND_IN}"]


def test_ids_that_only_look_odd_are_taken(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    odd = ["000123", "123", "12345.0", "1e10", "5E10ab", "user 7", "NULLIFY", "naïve", "😀", "a@b.example", "-1"]
    loaded = load_text(warehouse, tmp_path, "events", EVENTS, *(event(user_id=value) for value in odd))
    ids = {row["user_id"] for row in contents(warehouse)["events"]}
    assert (loaded.count_rows, ids <= set(odd)) == (len(odd), True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1970-01-21T14:00:00Z", f"near 1970-01-01 in row 1. Seconds were read as milliseconds: {UNIT}"),
        ("1970-01-01 00:29:30Z", "near 1970-01-01 in row 1. Seconds were read as microseconds, or milliseconds as "
            f"nanoseconds: {UNIT}"),
        ("1970-01-01T00:00:01.77Z", f"near 1970-01-01 in row 1. Seconds were read as nanoseconds: {UNIT}"),
        ("1970-01-01T00:00:00Z", f"at 1970-01-01 00:00:00, the Unix time 0, in row 1. {NO_TIME}"),
        ("1970-01-01T01:00:00+01:00", f"at 1970-01-01 00:00:00, the Unix time 0, in row 1. {NO_TIME}"),
        ("0027-01-31T10:00:00Z", "in a year of two digits in row 1. Write the year with its century: 2027, not 27."),
        ("1899-12-30T00:00:00Z", f"on the first day of a spreadsheet's calendar in row 1. {NO_TIME}"),
        ("0001-01-01T00:00:00Z", f"on the first or last day of the calendar in row 1. {NO_TIME}"),
        ("9999-12-31T23:59:59Z", f"on the first or last day of the calendar in row 1. {NO_TIME}"),
        ("2999-01-01T00:00:00Z", f"more than 50 years in the future in row 1. {NO_TIME}"),
        ("1999-12-31T23:59:59Z", OLD),
        ("1770000000", "a number that looks like seconds since 1970, in row 1. "
            "Write times such as 2026-01-31T23:59:59Z, converted from seconds; numbers are not accepted."),
        ("1770000000123", "a number that looks like milliseconds since 1970, in row 1. "
            "Write times such as 2026-01-31T23:59:59Z, converted from milliseconds; numbers are not accepted."),
        ("1770000000123456", "a number that looks like microseconds since 1970, in row 1. "
            "Write times such as 2026-01-31T23:59:59Z, converted from microseconds; numbers are not accepted."),
        ("1770000000.5", "a number that looks like seconds since 1970, in row 1. "
            "Write times such as 2026-01-31T23:59:59Z, converted from seconds; numbers are not accepted."),
        ("46054", "not a timestamp in row 1. Write it as 2026-01-31T23:59:59Z."),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_is_told_with_its_likely_cause(
    warehouse: DuckDBWarehouse, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, event(occurred_at=text)))
    assert refusal(warehouse, {"events": tmp_path / "e.csv"}) == [f"e.csv, occurred_at: {told}"]


@pytest.mark.parametrize("text", ["9999-12-31T00:00:00Z", "2999-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
def test_an_optional_time_may_be_left_empty_instead(warehouse: DuckDBWarehouse, tmp_path: Path, text: str) -> None:
    (tmp_path / "u.csv").write_text(lines(f"{USERS},erased_at", f"{user()},{text}"))
    [told] = refusal(warehouse, {"users": tmp_path / "u.csv"})
    assert (told[:18], told.split(" in row 1. ")[1]) == ("u.csv, erased_at: ", LEAVE_EMPTY)


def test_each_cause_is_counted_by_itself(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    times = ["1970-01-21T14:00:00Z", "1970-01-01T00:00:00Z", "1970-01-21T15:00:00Z", "1995-01-01T00:00:00Z"]
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT, *(event(occurred_at=text) for text in times)))
    assert refusal(warehouse, {"events": tmp_path / "e.csv"}) == [
        f"e.csv, occurred_at: at 1970-01-01 00:00:00, the Unix time 0, in row 3. {NO_TIME}",
        f"e.csv, occurred_at: near 1970-01-01 in 2 rows (2, 4). Seconds were read as milliseconds: {UNIT}",
        f"e.csv, occurred_at: {OLD.replace('row 1', 'row 5')}",
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array([1_770_000_000_000], pa.timestamp("s", "UTC")),
            f"thousands of years ahead in row 1. Milliseconds were read as seconds: {UNIT}"),
        (pa.array([1_770_000_000], pa.timestamp("ms", "UTC")),
            f"near 1970-01-01 in row 1. Seconds were read as milliseconds: {UNIT}"),
        (pa.array([1_770_000_000]), "stored as BIGINT. The values look like seconds since 1970. "
            "Store the column as a timestamp with time zone (UTC)."),
        (pa.array([1_770_000_000_123.0]), "stored as DOUBLE. The values look like milliseconds since 1970. "
            "Store the column as a timestamp with time zone (UTC)."),
        (pa.array([7]), "stored as BIGINT. Store the column as a timestamp with time zone (UTC)."),
    ],
)  # fmt: skip
def test_the_unit_of_a_parquet_column_is_named(
    warehouse: DuckDBWarehouse, tmp_path: Path, values: pa.Array, told: str
) -> None:
    pq.write_table(event_table(occurred_at=values), tmp_path / "f.parquet")
    assert refusal(warehouse, {"events": tmp_path / "f.parquet"}) == [f"f.parquet, occurred_at: {told}"]


def test_the_earliest_time_can_be_set(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, event(occurred_at="1995-06-01T00:00:00Z")))
    load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, earliest=datetime(1990, 1, 1, tzinfo=UTC))
    assert contents(warehouse)["events"][0]["occurred_at"] == datetime(1995, 6, 1, tzinfo=UTC)
