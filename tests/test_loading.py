"""Files get in whole, once, or not at all, and a refusal says where and what to do without quoting anybody's data."""

import gzip
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError, RetryableError
from warehouse.loading import Loaded, load
from warehouse.tables import RAW, Table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LOAN_FILES = Path(__file__).parents[2] / "shared/data/loan_applications"
HEAD = "Rows are data rows, counted from 1 without the header."
EVENTS = "event_id,user_id,event_name,occurred_at,loaded_at,fields_filled_ratio"
EVENT = "e1,u1,step_viewed,2026-02-01T10:00:00Z,2026-02-01T10:05:00Z,0.5"
USERS = "user_id,created_at,updated_at,marketing_consent,age,income,previous_year_filing"
USER = "u1,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z,true,34,1000,yes"
REDEMPTIONS = "redemption_id,user_id,campaign,redeemed_at,loaded_at"
REDEMPTION = "r1,u1,spring,2026-02-02T00:00:00Z,2026-02-02T00:00:00Z"
OTHER = "the same as in the warehouse or in a row above, but the other columns differ,"
HEADERS = {"events": EVENTS, "users": USERS, "redemptions": REDEMPTIONS}


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def event(**changes: str) -> str:
    return row(EVENTS, EVENT, changes)


def user(**changes: str) -> str:
    return row(USERS, USER, changes)


def row(header: str, example: str, changes: dict[str, str]) -> str:
    return ",".join((dict(zip(header.split(","), example.split(","), strict=True)) | changes).values())


def event_table(**columns: Any) -> pa.Table:
    at = pa.array([NOW - timedelta(days=9)], pa.timestamp("us", "UTC"))
    start = {"event_id": ["e1"], "user_id": ["u1"], "event_name": ["step_viewed"], "occurred_at": at, "loaded_at": at}
    return pa.table({name: values for name, values in (start | columns).items() if values is not None})


def contents(warehouse: DuckDBWarehouse) -> dict[str, list[dict[str, Any]]]:
    return {key: warehouse.query(f'from "raw"."{table.name}" order by all').to_pylist() for key, table in RAW.items()}


def load_text(warehouse: DuckDBWarehouse, folder: Path, key: str, *rows: str) -> Loaded:
    (folder / f"{key}.csv").write_text(lines(*rows))
    return load(warehouse, {key: folder / f"{key}.csv"}, now=NOW)[key]


def refusal(warehouse: DuckDBWarehouse, files: dict[str, Path]) -> list[str]:
    """Load what must be refused, beside a file that is right; return the message's lines after the first.

    The tables, which hold something, stay as they are, and nothing else is left behind.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_text(warehouse, folder, "events", EVENTS, event(event_id="resident"))
        load_text(warehouse, folder, "users", USERS, user(user_id="resident"))
        before = contents(warehouse)
        (folder / "right.csv").write_text(lines(REDEMPTIONS, REDEMPTION))
        with pytest.raises(ContractError) as caught:
            load(warehouse, {"redemptions": folder / "right.csv"} | files, now=NOW)
    assert contents(warehouse) == before
    assert warehouse.query("from duckdb_tables() where temporary").num_rows == 0
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    first, *rest = str(caught.value).split("\n")
    assert re.fullmatch(rf"Nothing was loaded: \d+ problems?\. {re.escape(HEAD)}", first)
    return rest


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
    assert len(before["events"]) == 2  # the same event, delivered twice: normal


def test_of_a_redelivered_event_the_first_content_is_kept(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    other = event(event_name="app_closed")
    assert load_text(warehouse, tmp_path, "events", EVENTS, EVENT, other).count_differing == 1
    again = load_text(warehouse, tmp_path, "events", EVENTS, other, event(event_id="e2"))
    assert (again.count_new, again.count_already_there, again.count_differing) == (1, 1, 1)
    assert {row["event_name"] for row in contents(warehouse)["events"]} == {"step_viewed"}


@pytest.mark.parametrize(
    ("key", "incoming", "expected"),
    [
        (
            "users",
            [user(user_id="u2"), user(user_id="u2", age="35"), USER, user(income="")],
            ("user_id, updated_at", "A changed user needs a later updated_at."),
        ),
        (
            "redemptions",
            [
                REDEMPTION.replace("r1", "r2"),
                REDEMPTION.replace("r1,u1", "r2,u2"),
                REDEMPTION,
                REDEMPTION.replace("spring", "fall"),
            ],
            ("redemption_id", "Give each redemption an id of its own."),
        ),
    ],
)
def test_a_key_that_is_there_with_other_content_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, key: str, incoming: list[str], expected: tuple[str, str]
) -> None:
    load_text(warehouse, tmp_path, key, HEADERS[key], incoming[2])
    (tmp_path / "new.csv").write_text(lines(HEADERS[key], *incoming))
    column, fix = expected
    assert refusal(warehouse, {key: tmp_path / "new.csv"}) == [f"new.csv, {column}: {OTHER} in 2 rows (2, 4). {fix}"]


CLOCK = "Is it in UTC, and is this computer's clock right?"
FUTURE = f"in the future (after 2026-03-01 12:00:00 UTC) in row 1. {CLOCK}"
FORM = "Write it as 2026-01-31T23:59:59Z."
ZONE = "End each in Z or an offset such as +01:00."
QUOTES = 'Quote the whole value and double the quotes inside it: "a ""b"" c".'
AGE = "f.csv, age: not a whole number from 0 to 130 in row 1. Give years, or leave it empty."
FINITE = "not a finite number in row 1. Write digits and a decimal point, or leave it empty."
RAGGED = "f.csv: more or fewer values than the header has columns in row 2. Is a value with a comma in it quoted?"
UNREADABLE = "f.csv: cannot be read. Is it whole, in UTF-8, with one kind of line end? Export it again."
NO_COLUMNS = (
    "f.csv: names none of the columns. Needed: event_id, user_id, event_name, occurred_at, loaded_at. "
    "In a CSV file the first line names them, separated by commas."
)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([EVENT, event(event_id="")], "f.csv, event_id: empty in row 2. Give every row a value."),
        ([event(user_id="  "), event(user_id='""')], "f.csv, user_id: empty in 2 rows (1, 2). Give every row a value."),
        (
            [event(event_name="")] * 6,
            "f.csv, event_name: empty in 6 rows (1, 2, 3, 4, 5, ...). Give every row a value.",
        ),
        ([event(loaded_at="")], "f.csv, loaded_at: empty in row 1. Give every row a value."),
        ([event(occurred_at="2026-02-01T10:00:00")], f"f.csv, occurred_at: without time zone in row 1. {ZONE}"),
        ([event(occurred_at="2026-02-01")], f"f.csv, occurred_at: without time zone in row 1. {ZONE}"),
        ([event(occurred_at="2026-02-01 10:00:00 UTC")], f"f.csv, occurred_at: not a timestamp in row 1. {FORM}"),
        ([event(occurred_at="2026-02-30T10:00:00Z")], f"f.csv, occurred_at: not a timestamp in row 1. {FORM}"),
        ([event(occurred_at="0000-01-01T10:00:00Z")], f"f.csv, occurred_at: not a timestamp in row 1. {FORM}"),
        ([event(occurred_at="infinity")], f"f.csv, occurred_at: not a timestamp in row 1. {FORM}"),
        ([event(occurred_at="1769940000")], f"f.csv, occurred_at: not a timestamp in row 1. {FORM}"),
        ([event(loaded_at="2026-03-01T12:00:01Z")], f"f.csv, loaded_at: {FUTURE}"),
        (
            [event(occurred_at="2026-02-02T10:05:00Z"), event(occurred_at="2026-02-02T10:05:01Z", event_id="e2")],
            "f.csv, occurred_at: more than 1 day after loaded_at in row 2. "
            "Are both in UTC, and was the device's clock right?",
        ),
        (
            [event(fields_filled_ratio="50"), event(fields_filled_ratio="-0.1"), event(fields_filled_ratio="1")],
            "f.csv, fields_filled_ratio: outside 0 to 1 in 2 rows (1, 2). 0 to 100 given? Divide by 100.",
        ),
        ([event(fields_filled_ratio="half")], f"f.csv, fields_filled_ratio: {FINITE}"),
        ([event(fields_filled_ratio="nan")], f"f.csv, fields_filled_ratio: {FINITE}"),
        ([EVENT, "e2,u2", EVENT], RAGGED),
        ([EVENT, EVENT + ",x,y", EVENT], RAGGED),
        ([EVENT, event(event_name='"a"b')], f"f.csv: broken quotes in row 2. {QUOTES}"),
        ([EVENT, event(event_name='"open'), EVENT], f"f.csv: broken quotes in row 2. {QUOTES}"),
    ],
)
def test_a_wrong_event_is_told_by_column_and_row(
    warehouse: DuckDBWarehouse, tmp_path: Path, rows: list[str], expected: str
) -> None:
    (tmp_path / "f.csv").write_text(lines(EVENTS, *rows))
    assert refusal(warehouse, {"events": tmp_path / "f.csv"}) == [expected]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"age": "-1"}, AGE),
        ({"age": "131"}, AGE),
        ({"age": "34.5"}, AGE),
        ({"age": "thirty"}, AGE),
        ({"age": "1e300"}, AGE),
        ({"income": "inf"}, f"f.csv, income: {FINITE}"),
        ({"income": "1.000.000"}, f"f.csv, income: {FINITE}"),
        ({"marketing_consent": ""}, "f.csv, marketing_consent: empty in row 1. Give every row a value."),
        ({"marketing_consent": "y"}, "f.csv, marketing_consent: neither true nor false in row 1. Write true or false."),
        (
            {"previous_year_filing": "2"},
            "f.csv, previous_year_filing: neither true nor false in row 1. Write true or false.",
        ),
        ({"created_at": "2026-03-02T00:00:00Z"}, f"f.csv, created_at: {FUTURE}"),
    ],
)
def test_a_wrong_user_is_told_by_column_and_row(
    warehouse: DuckDBWarehouse, tmp_path: Path, changes: dict[str, str], expected: str
) -> None:
    (tmp_path / "f.csv").write_text(lines(USERS, user(**changes)))
    assert refusal(warehouse, {"users": tmp_path / "f.csv"}) == [expected]


GZIP_BROKEN = "f.csv.gz: not a whole gzip file. It is truncated, damaged or of another kind: export it again."
PARQUET_BROKEN = "f.parquet: not a whole Parquet file. It is truncated, damaged or of another kind: export it again."


def whole_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(event_table(), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.csv", None, "f.csv: there is no such file. Check the path."),
        ("f.csv", b"", "f.csv: empty (0 bytes). Export it again."),
        ("f.parquet", b"", "f.parquet: empty (0 bytes). Export it again."),
        ("f.json", b"[]", "f.json: of an unknown kind. Convert it to .parquet, .csv or .csv.gz."),
        ("f.parquet", lines(EVENTS, EVENT).encode(), PARQUET_BROKEN),
        ("f.parquet", whole_parquet()[:-1], PARQUET_BROKEN),
        ("f.parquet", b"PAR1" + bytes(100) + b"PAR1", PARQUET_BROKEN),
        ("f.csv.gz", lines(EVENTS, EVENT).encode(), GZIP_BROKEN),
        ("f.csv.gz", gzip.compress(lines(EVENTS, EVENT).encode())[:-9], GZIP_BROKEN),
        ("f.csv", lines(EVENTS, EVENT).encode("utf-16"), NO_COLUMNS),
        ("f.csv", lines(EVENT, EVENT).encode(), NO_COLUMNS),
        ("f.csv", lines(EVENTS, EVENT).replace(",", ";").encode(), NO_COLUMNS),
        ("f.csv", b'"event_id', NO_COLUMNS),
        (
            "f.csv",
            lines(EVENTS, event(user_id="é")).encode("latin-1"),
            "f.csv: not UTF-8 in row 1. Save the file as UTF-8.",
        ),
        ("f.csv", f"{EVENTS}\r\n{EVENT}\n{EVENT}\r\n".encode(), UNREADABLE),
        (
            "f.csv",
            lines(EVENTS.replace("event_id", "Event ID").replace("loaded_at", "at"), EVENT).encode(),
            "f.csv, event_id: the column is missing. Column 1 is named much like it: rename that one?\n"
            "f.csv, loaded_at: the column is missing. Add it.",
        ),
        (
            "f.csv",
            lines(EVENTS + ",step,step", EVENT + ",a,b").encode(),
            "f.csv, step: the column is there more than once. Keep one.",
        ),
    ],
)
def test_an_unusable_file_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert refusal(warehouse, {"events": tmp_path / name}) == expected.split("\n")


def test_a_folder_is_refused(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "f.csv").mkdir()
    assert refusal(warehouse, {"events": tmp_path / "f.csv"}) == [
        "f.csv: cannot be opened. Is it a file, and may you read it?"
    ]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (
            "occurred_at",
            pa.array([0], pa.timestamp("us")),
            "stored as TIMESTAMP. Store the column as a timestamp with time zone (UTC).",
        ),
        (
            "loaded_at",
            pa.array([0], pa.timestamp("ns")),
            "stored as TIMESTAMP_NS. Store the column as a timestamp with time zone (UTC).",
        ),
        (
            "loaded_at",
            pa.array(["2026-01-01T00:00:00Z"]),
            "stored as VARCHAR. Store the column as a timestamp with time zone (UTC).",
        ),
        ("event_id", pa.array([1.5]), "stored as DOUBLE. Store the column as text."),
        ("properties", pa.array([{"secret": 1}]), "stored as STRUCT. Store the column as text."),
        ("step", pa.array([["a"]]), "stored as LIST. Store the column as text."),
        ("fields_filled_ratio", pa.array(["0.5"]), "stored as VARCHAR. Store the column as a number."),
        ("fields_filled_ratio", pa.array([float("nan")]), FINITE),
        ("user_id", pa.nulls(1), "empty in row 1. Give every row a value."),
        ("user_id", pa.array([""]), "empty in row 1. Give every row a value."),
        (
            "occurred_at",
            pa.array([2**62], pa.timestamp("us", "UTC")),
            "not a timestamp in row 1. Give years from 1 to 9999.",
        ),
        ("loaded_at", pa.array([2**51], pa.timestamp("us", "UTC")), FUTURE),
    ],
)
def test_a_wrong_parquet_column_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, column: str, values: pa.Array, expected: str
) -> None:
    pq.write_table(event_table(**{column: values}), tmp_path / "f.parquet")
    assert refusal(warehouse, {"events": tmp_path / "f.parquet"}) == [f"f.parquet, {column}: {expected}"]


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


def test_one_error_tells_the_problems_of_all_files(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    load_text(warehouse, tmp_path, "events", EVENTS, event(event_id="before"))
    wrong = event(event_id="", occurred_at="2026-02-01T10:00:00", fields_filled_ratio="50")
    (tmp_path / "e.csv").write_text(lines(EVENTS, event(event_id="new"), wrong))
    (tmp_path / "u.csv").write_text(lines(USERS, user(), user(age="35"), user(user_id="")))
    (tmp_path / "r.csv").write_text(lines(REDEMPTIONS, REDEMPTION))
    files = {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv", "redemptions": tmp_path / "r.csv"}
    with pytest.raises(ContractError) as caught:
        load(warehouse, files, now=NOW)
    assert str(caught.value) == (
        f"Nothing was loaded: 5 problems. {HEAD}\n"
        "e.csv, event_id: empty in row 2. Give every row a value.\n"
        f"e.csv, occurred_at: without time zone in row 2. {ZONE}\n"
        "e.csv, fields_filled_ratio: outside 0 to 1 in row 2. 0 to 100 given? Divide by 100.\n"
        "u.csv, user_id: empty in row 3. Give every row a value.\n"
        f"u.csv, user_id, updated_at: {OTHER} in row 2. A changed user needs a later updated_at."
    )
    loaded = contents(warehouse)
    assert [row["event_id"] for row in loaded["events"]] == ["before"]
    assert (loaded["users"], loaded["redemptions"]) == ([], [])


def test_a_long_list_of_problems_is_cut(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    for key, table in RAW.items():
        names = [column.name for column in table.columns]
        broken = ["" if column.required else "?" for column in table.columns]
        past = [
            "2026-13-01T00:00:00Z" if name.endswith("_at") else value for name, value in zip(names, broken, strict=True)
        ]
        (tmp_path / f"{key}.csv").write_text(lines(",".join(names), ",".join(broken), ",".join(past)))
    told = refusal(warehouse, {key: tmp_path / f"{key}.csv" for key in RAW})
    assert len(told) == 19
    assert told[-1] == "... and 7 more problems: mend these and load again to see the rest."


def test_no_message_quotes_a_value(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    secret = "SECRET"
    for count in range(len(EVENT.split(",")) + 2):
        (tmp_path / "f.csv").write_text(lines(EVENTS, ",".join([secret] * count) + '"'))
        assert secret not in "".join(refusal(warehouse, {"events": tmp_path / "f.csv"}))
    (tmp_path / "f.csv").write_text(lines("SECRET,event_idSECRET,user_id", "a,b,c"))
    assert secret not in "".join(refusal(warehouse, {"events": tmp_path / "f.csv"}))


def test_a_failure_while_storing_leaves_nothing_behind(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT))
    (tmp_path / "u.csv").write_text(lines(USERS, USER))
    warehouse.connection.execute("drop table raw.users; create table raw.users (user_id varchar, updated_at timestamp)")
    with pytest.raises(RetryableError) as caught:
        load(warehouse, {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv"}, now=NOW)
    assert str(caught.value) == (
        "Nothing was loaded: DuckDB failed (BinderException). Are memory and disk large enough? Load again."
    )
    assert contents(warehouse)["events"] == []


def test_an_interruption_between_two_files_leaves_nothing_behind(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT))
    (tmp_path / "u.csv").write_text(lines(USERS, USER))
    calls = itertools.count(1)

    def interrupt(count_bytes: int) -> None:
        if next(calls) == 3:  # both files are checked and the first is stored
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


def test_row_numbers_are_the_files_own_across_threads(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    good, bad = event() + "\n", event(user_id="") + "\n"
    count_rows, wrong = 600_000, [3, 250_001, 499_999, 600_000]  # 40 MB: more than one of DuckDB's 32 MB buffers
    rows = [good] * count_rows
    for number in wrong:
        rows[number - 1] = bad
    (tmp_path / "f.csv").write_text(EVENTS + "\n" + "".join(rows))
    told = refusal(warehouse, {"events": tmp_path / "f.csv"})
    assert told == ["f.csv, user_id: empty in 4 rows (3, 250001, 499999, 600000). Give every row a value."]


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


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5) | st.sampled_from(
    ["a,b", 'say "x"', "two\nlines"]
)
IDS = TEXTS.filter(lambda text: text.strip() != "")
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2026, 3, 1), timezones=st.just(UTC))
VALUES: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "string": lambda: TEXTS,
    "double": lambda: st.floats(allow_nan=False, allow_infinity=False),
    "int64": lambda: st.integers(0, 130),
    "bool": st.booleans,
    "timestamp[us, tz=UTC]": lambda: MOMENTS,
}


def rows_of(table: Table) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Valid rows; few distinct ids and moments, so that keys and whole rows repeat."""
    columns = {}
    for column in table.columns:
        values = VALUES[str(column.type)]()
        if column.name.endswith("_ratio"):
            values = st.floats(0, 1)
        if column.required and str(column.type) == "string":
            values = st.sampled_from(["a", "b"]) | IDS
        columns[column.name] = values if column.required else st.none() | values
    same = MOMENTS.flatmap(
        lambda at: st.fixed_dictionaries(
            columns | ({"occurred_at": st.just(at), "loaded_at": st.just(at)} if "occurred_at" in columns else {})
        )
    )
    unique = st.lists(same, max_size=6, unique_by=lambda row: tuple(row[name] for name in table.key))
    return unique.flatmap(
        lambda rows: (
            st.lists(st.sampled_from(rows), max_size=4).map(lambda more: rows + more) if rows else st.just(rows)
        )
    )


def nullable(rows: list[dict[str, Any]], table: Table) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(column.name, column.type) for column in table.columns]))


@settings(max_examples=25, deadline=None)
@given(tables=st.fixed_dictionaries({key: rows_of(table) for key, table in RAW.items()}))
def test_twice_is_once_and_parquet_is_csv(tables: dict[str, list[dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_kind = []
        for kind in ("parquet", "csv"):
            opened = DuckDBWarehouse(folder / f"{kind}.duckdb")
            files = {key: folder / f"{key}.{kind}" for key in tables}
            for key, rows in tables.items():
                written = pa.Table.from_pylist(rows, schema=RAW[key].schema)
                if kind == "parquet":
                    pq.write_table(written, files[key])
                else:
                    pacsv.write_csv(written, files[key])
            once = load(opened, files, now=NOW)
            after_once = contents(opened)
            twice = load(opened, files, now=NOW)
            assert contents(opened) == after_once
            for key, rows in tables.items():
                distinct = {tuple(row[name] for name in RAW[key].key) for row in rows}
                assert (once[key].count_rows, once[key].count_new) == (len(rows), len(distinct))
                assert (twice[key].count_new, twice[key].count_already_there) == (0, len(distinct))
                assert len(after_once[key]) == len(distinct)
            by_kind.append(after_once)
            opened.close()
        assert by_kind[0] == by_kind[1]


@settings(max_examples=15, deadline=None)
@given(
    tables=st.fixed_dictionaries({key: rows_of(table) for key, table in RAW.items()}),
    key=st.sampled_from(sorted(RAW)),
    data=st.data(),
)
def test_one_empty_cell_keeps_everything_out(
    tables: dict[str, list[dict[str, Any]]], key: str, data: st.DataObject
) -> None:
    column = data.draw(st.sampled_from([column.name for column in RAW[key].columns if column.required]))
    [wrong] = data.draw(rows_of(RAW[key]).filter(bool).map(lambda rows: rows[:1]))
    with tempfile.TemporaryDirectory() as name:
        opened = DuckDBWarehouse(Path(name) / "w.duckdb")
        opened.prepare()
        files = {other: Path(name) / f"{other}.parquet" for other in RAW}
        for other, rows in tables.items():
            broken = [*rows, wrong | {column: None}] if other == key else rows
            pq.write_table(nullable(broken, RAW[other]), files[other])
        place = len(tables[key]) + 1
        assert refusal(opened, files) == [f"{key}.parquet, {column}: empty in row {place}. Give every row a value."]
        opened.close()


def test_a_new_row_that_no_run_would_read_is_refused(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(lines(EVENTS, EVENT))
    load(warehouse, {"events": path}, now=NOW)
    watermark = datetime(2026, 2, 1, 11, tzinfo=UTC)
    path.write_text(lines(EVENTS, EVENT, event(event_id="e2"), event(event_id="e3", loaded_at="2026-02-01T11:00:00Z")))

    with pytest.raises(ContractError) as refusal:
        load(warehouse, {"events": path}, now=NOW, watermark=watermark)

    assert str(refusal.value).splitlines()[1] == (
        "events.csv, loaded_at: new, but before the watermark (2026-02-01 11:00 UTC), and no run would read it: in row 2. "
        "Give the time at which the row is loaded now."
    )
    path.write_text(lines(EVENTS, EVENT, event(event_id="e3", loaded_at="2026-02-01T11:00:00Z")))
    assert load(warehouse, {"events": path}, now=NOW, watermark=watermark)["events"].count_new == 1
