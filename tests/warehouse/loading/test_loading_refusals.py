"""Refused files: the message gives place and fix and quotes no user's data; nothing is stored."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import ContractError
from tests.support.builders.loading import (
    EVENT,
    EVENTS,
    FINITE,
    FUTURE,
    HEAD,
    HEADERS,
    NOW,
    OTHER,
    REDEMPTION,
    REDEMPTIONS,
    USER,
    USERS,
    ZONE,
    contents,
    event,
    lines,
    load_text,
    refusal,
    user,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load
from warehouse.tables import RAW


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


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
            ("redemption_id", "Give each redemption its own id."),
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


FORM = "Write it as 2026-01-31T23:59:59Z."

QUOTES = 'Quote the whole value and double the quotes inside it: "a ""b"" c".'
AGE = "f.csv, age: not a whole number from 0 to 130 in row 1. Write years, or leave it empty."

RAGGED = "f.csv: more or fewer values than the header has columns in row 2. Quote values that contain a comma."


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
        (
            [event(occurred_at="1769940000")],
            "f.csv, occurred_at: a number that looks like seconds since 1970, in row 1. "
            "Write times such as 2026-01-31T23:59:59Z, converted from seconds; numbers are not accepted.",
        ),
        ([event(loaded_at="2026-03-01T12:00:01Z")], f"f.csv, loaded_at: {FUTURE}"),
        (
            [event(occurred_at="2026-02-02T10:05:00Z"), event(occurred_at="2026-02-02T10:05:01Z", event_id="e2")],
            "f.csv, occurred_at: more than 1 day after loaded_at in row 2. "
            "Check that both are in UTC and that the device's clock was correct.",
        ),
        (
            [event(fields_filled_ratio="50"), event(fields_filled_ratio="-0.1"), event(fields_filled_ratio="1")],
            "f.csv, fields_filled_ratio: outside 0 to 1 in 2 rows (1, 2). If it is a percentage, divide it by 100.",
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
        "e.csv, fields_filled_ratio: outside 0 to 1 in row 2. If it is a percentage, divide it by 100.\n"
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
    assert told[-1] == "... and 8 more problems: fix these and load again to see the rest."


def test_no_message_quotes_a_value(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    secret = "SECRET"
    for count in range(len(EVENT.split(",")) + 2):
        (tmp_path / "f.csv").write_text(lines(EVENTS, ",".join([secret] * count) + '"'))
        assert secret not in "".join(refusal(warehouse, {"events": tmp_path / "f.csv"}))
    (tmp_path / "f.csv").write_text(lines("SECRET,event_idSECRET,user_id", "a,b,c"))
    assert secret not in "".join(refusal(warehouse, {"events": tmp_path / "f.csv"}))


def test_row_numbers_are_the_files_own_across_threads(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    good, bad = event() + "\n", event(user_id="") + "\n"
    count_rows, wrong = 600_000, [3, 250_001, 499_999, 600_000]  # 40 MB, more than one of DuckDB's 32 MB buffers
    rows = [good] * count_rows
    for number in wrong:
        rows[number - 1] = bad
    (tmp_path / "f.csv").write_text(EVENTS + "\n" + "".join(rows))
    told = refusal(warehouse, {"events": tmp_path / "f.csv"})
    assert told == ["f.csv, user_id: empty in 4 rows (3, 250001, 499999, 600000). Give every row a value."]


def test_a_new_row_that_no_run_would_read_is_refused(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(lines(EVENTS, EVENT))
    load(warehouse, {"events": path}, now=NOW)
    watermark = datetime(2026, 2, 1, 11, tzinfo=UTC)
    path.write_text(lines(EVENTS, EVENT, event(event_id="e2"), event(event_id="e3", loaded_at="2026-02-01T11:00:00Z")))

    with pytest.raises(ContractError) as refusal:
        load(warehouse, {"events": path}, now=NOW, watermark=watermark)

    assert str(refusal.value).splitlines()[1] == (
        "events.csv, loaded_at: new, but before the watermark (2026-02-01 11:00 UTC), where no run would read it, in row 2. "
        "Use the current time of loading."
    )
    path.write_text(lines(EVENTS, EVENT, event(event_id="e3", loaded_at="2026-02-01T11:00:00Z")))
    assert load(warehouse, {"events": path}, now=NOW, watermark=watermark)["events"].count_new == 1
