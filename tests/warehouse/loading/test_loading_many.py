"""Loading of several files, folders and patterns in one load; refused rows set aside; damaged files."""

import csv
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ContractError
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
    user,
)
from tests.support.gzipped import gzipped
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load
from warehouse.loading.paths import find_files
from warehouse.loading.spelling import misspellings


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


def ids(warehouse: DuckDBWarehouse) -> list[str]:
    return [row["event_id"] for row in contents(warehouse)["events"]]


# Several files


def test_several_files_of_a_table_are_one_load(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(EVENTS, EVENT, event(event_id="e2")))
    (tmp_path / "b.csv").write_text(lines(EVENTS + ",app", event(event_id="e3") + ",7", event(event_id="e2") + ",7"))
    pq.write_table(event_table(event_id=["e4"]), tmp_path / "c.parquet")
    loaded = load(warehouse, {"events": [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.parquet"]}, now=NOW)[
        "events"
    ]
    assert ids(warehouse) == ["e1", "e2", "e3", "e4"]
    assert (loaded.count_rows, loaded.count_new, loaded.count_repeated, loaded.ignored_columns) == (5, 4, 1, ("app",))
    assert loaded.absent_columns == ("device_type", "step", "properties")


def test_one_wrong_file_keeps_all_out_and_its_own_rows_are_named(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    for folder, row in (("1", EVENT), ("2", event(user_id=""))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-0.csv").write_text(lines(EVENTS, event(event_id=f"e{folder}"), row))
    files = {"events": [tmp_path / "1/part-0.csv", tmp_path / "2/part-0.csv"]}
    assert refusal(warehouse, files) == [f"{tmp_path}/2/part-0.csv, user_id: empty in row 2. Give every row a value."]


def test_a_contradiction_between_two_files_is_told_of_the_second(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(USERS, user()))
    (tmp_path / "b.csv").write_text(lines(USERS, user(user_id="u2"), user(age="35")))
    [told] = refusal(warehouse, {"users": [tmp_path / "a.csv", tmp_path / "b.csv"]})
    assert told.startswith("b.csv, user_id, updated_at: the same as in the warehouse or in an earlier row")
    assert " in row 2. " in told


def test_a_folder_a_pattern_and_a_name_with_wildcards(tmp_path: Path) -> None:
    for name in (
        "day/b.csv",
        "day/dt=1/a.parquet",
        "day/_SUCCESS",
        "day/.a.csv",
        "day/notes.txt",
        "x1.csv",
        "x[1].csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "day", tmp_path / "x*.csv", tmp_path / "x[1].csv", tmp_path / "x1.csv"])
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "day/b.csv",
        "day/dt=1/a.parquet",
        "x1.csv",
        "x[1].csv",
    ]
    assert [path.name for path in found.left_out] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    wrong = find_files([tmp_path / "none*.csv", tmp_path / "empty"]).problems
    assert [str(problem) for problem in wrong] == [
        "none*.csv: no file matches the pattern. Check the path.",
        "empty: a folder without .parquet, .csv or .csv.gz files. Check the path.",
    ]


# Damaged files and column names


def member(content: bytes, flags: int = 0, more: bytes = b"") -> bytes:
    """One gzip member with these flags in its header (RFC 1952)."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    return (
        b"\x1f\x8b\x08"
        + bytes([flags, 0, 0, 0, 0, 0, 3])
        + more
        + packed
        + struct.pack("<II", zlib.crc32(content), len(content))
    )


TEXT = lines(EVENTS, EVENT).encode()
BROKEN = "not a complete gzip file. It is truncated, damaged or of another kind: export it again."
FOLLOWED = "followed by bytes that are not gzip. It may be padded or written twice: export it again."
HEADER = (
    "a gzip file whose header has a comment, a checksum or a mark, which DuckDB does not read. "
    "Decompress it and compress it again with gzip."
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzipped(TEXT) + bytes(512), FOLLOWED),
        (gzipped(TEXT) + b"garbage", FOLLOWED),
        (member(TEXT, 0x10, b"a comment\0"), HEADER),
        (member(TEXT, 0x02, b"\0\0"), HEADER),
        (member(TEXT, 0x01), HEADER),
        (member(TEXT) + member(TEXT, 0x10, b"a comment\0"), HEADER),
        (gzipped(TEXT)[:-8] + bytes(8), BROKEN),
        (gzipped(TEXT)[:-4], BROKEN),
        (gzipped(TEXT)[:20], BROKEN),
        (b"\x1f", BROKEN),
    ],
)
def test_a_damaged_gzip_file_is_named(warehouse: DuckDBWarehouse, tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "f.csv.gz").write_bytes(content)
    assert refusal(warehouse, {"events": tmp_path / "f.csv.gz"}) == [f"f.csv.gz: {told}"]


def test_a_gzip_file_of_several_members_is_read_whole(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    rest = lines(event(event_id="e2")).encode()
    content = member(TEXT, 0x08, b"name\0") + member(b"") + member(rest, 0x04, b"\2\0ab")
    (tmp_path / "f.csv.gz").write_bytes(content)
    load(warehouse, {"events": tmp_path / "f.csv.gz"}, now=NOW)
    assert ids(warehouse) == ["e1", "e2"]


@pytest.mark.parametrize(
    ("second", "fix"), [("step", "Keep one."), ("Step", "Keep one: the names differ only in case.")]
)
def test_a_parquet_column_that_is_there_twice_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, second: str, fix: str
) -> None:
    table = event_table(step=["a"], properties=["{}"])
    names = [second if name == "properties" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / "f.parquet")
    told = refusal(warehouse, {"events": tmp_path / "f.parquet"})
    assert told == [f"f.parquet, step: the column occurs more than once. {fix}"]


def test_nested_columns_are_no_columns_of_the_table(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    table = event_table(context=pa.array([{"step": 1, "deep": {"user_id": 2}}]))
    pq.write_table(table, tmp_path / "f.parquet")
    assert load(warehouse, {"events": tmp_path / "f.parquet"}, now=NOW)["events"].ignored_columns == ("context",)


@pytest.mark.parametrize(
    ("names", "candidates", "expected"),
    [
        (["event_id"], ["event_date", "event", "device_id", "id"], {}),
        (["event_name"], ["event_time", "name"], {}),
        (["occurred_at"], ["occured_at"], {"occurred_at": "occured_at"}),
        (["occurred_at"], ["occurred_on", "created_at"], {}),
        (["event_id", "user_id"], ["EventID", "user id"], {"event_id": "EventID", "user_id": "user id"}),
        (["event_id", "event_name"], ["evnet_id"], {"event_id": "evnet_id"}),
        (["created_at", "updated_at"], ["update_at"], {"updated_at": "update_at"}),
    ],
)
def test_only_a_slip_of_the_keyboard_is_a_misspelling_and_each_name_is_offered_once(
    names: list[str], candidates: list[str], expected: dict[str, str]
) -> None:
    assert misspellings(names, candidates) == expected


# Rows set aside


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_refused_rows_are_set_aside_with_their_reason_and_the_rest_is_loaded(
    warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    (tmp_path / "e.csv").write_text(
        lines(
            EVENTS,
            EVENT,
            event(event_id="e2", user_id="NULL", occurred_at="2026-02-30T10:00:00Z"),
            event(event_id="e3"),
        )
    )
    (tmp_path / "u.csv").write_text(lines(USERS, user(), user(age="35"), user(user_id="u2")))
    files = {"events": tmp_path / "e.csv", "users": tmp_path / "u.csv"}
    loaded = load(warehouse, files, now=NOW, set_aside=tmp_path / "refused.csv")
    assert ids(warehouse) == ["e1", "e3"]
    assert {row["user_id"]: row["age"] for row in contents(warehouse)["users"]} == {"u1": 34, "u2": 34}
    assert [(each.count_rows, each.count_new, each.count_set_aside) for each in loaded.values()] == [
        (3, 2, 1),
        (3, 2, 1),
    ]
    first, second = read(tmp_path / "refused.csv")
    assert (first["table"], first["file"], first["row"], first["reason"], first["user_id"], first["occurred_at"]) == (
        "events",
        "e.csv",
        "2",
        "user_id: a placeholder for no id, such as NULL,; occurred_at: not a timestamp",
        "NULL",
        "2026-02-30T10:00:00Z",
    )
    assert (second["table"], second["row"], second["age"], second["updated_at"]) == (
        "users", "2", "35", "2026-01-02T00:00:00.000000Z",
    )  # fmt: skip
    assert loaded["events"].set_aside_because == (
        "e.csv, user_id: a placeholder for no id, such as NULL, in row 2. Leave out rows without an id, or give each row "
        "its own id.",
        "e.csv, occurred_at: not a timestamp in row 2. Write it as 2026-01-31T23:59:59Z.",
    )


def test_a_row_with_several_faults_is_one_row(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    """One good row and one with three faults: there are more faults than rows, but the good row is loaded."""
    odd = event(event_id="NULL", user_id="NULL", occurred_at="2026-02-30T10:00:00Z")
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT, odd))
    loaded = load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")
    assert ids(warehouse) == ["e1"]
    assert (loaded["events"].count_new, loaded["events"].count_set_aside) == (1, 1)
    assert [row["row"] for row in read(tmp_path / "refused.csv")] == ["2"]


def test_rows_that_were_set_aside_load_once_they_are_corrected(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT, event(event_id="e2", user_id="NULL")))
    load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")
    text = (tmp_path / "refused.csv").read_text()
    (tmp_path / "corrected.csv").write_text(text.replace("NULL,step", "u2,step"))
    loaded = load(warehouse, {"events": tmp_path / "corrected.csv"}, now=NOW)["events"]
    assert (loaded.count_new, loaded.ignored_columns) == (1, ("table", "file", "row", "reason", "line"))
    assert ids(warehouse) == ["e1", "e2"]


def test_a_line_of_too_many_values_is_set_aside_as_it_stands(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, EVENT, "e2,u2", event(event_id="e3")))
    loaded = load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")["events"]
    assert (loaded.count_rows, loaded.count_new, loaded.count_set_aside) == (3, 2, 1)
    [row] = read(tmp_path / "refused.csv")
    assert (row["row"], row["line"].strip()) == ("2", "e2,u2")
    assert row["reason"].startswith("more or fewer values than the header has columns")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([event(user_id="NULL"), event(event_id="")], "a placeholder for no id"),
        ([EVENT, event(event_id="e2", event_name='"open')], "broken quotes"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_not_set_aside(
    warehouse: DuckDBWarehouse, tmp_path: Path, rows: list[str], told: str
) -> None:
    (tmp_path / "e.csv").write_text(lines(EVENTS, *rows))
    with pytest.raises(ContractError, match=told):
        load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")
    assert (ids(warehouse), [path.name for path in tmp_path.glob("refused*")]) == ([], [])


def test_rows_are_set_aside_as_csv_alone(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(lines(REDEMPTIONS, REDEMPTION))
    with pytest.raises(ContractError, match=r"refused\.parquet would hold CSV\. Name a file .* that ends in \.csv\."):
        load(warehouse, {"redemptions": tmp_path / "r.csv"}, now=NOW, set_aside=tmp_path / "refused.parquet")


def test_no_file_is_made_where_no_row_is_refused_and_none_is_overwritten(
    warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    (tmp_path / "r.csv").write_text(lines(REDEMPTIONS, REDEMPTION))
    load(warehouse, {"redemptions": tmp_path / "r.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")
    assert not (tmp_path / "refused.csv").exists()
    (tmp_path / "refused.csv").write_text("kept")
    with pytest.raises(ContractError, match=r"refused\.csv exists already\. Name a new file"):
        load(warehouse, {"redemptions": tmp_path / "r.csv"}, now=NOW, set_aside=tmp_path / "refused.csv")
    assert (tmp_path / "refused.csv").read_text() == "kept"


def test_a_load_that_fails_leaves_no_file_of_refused_rows(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    load_text(warehouse, tmp_path, "events", EVENTS, EVENT)
    (tmp_path / "e.csv").write_text(lines(EVENTS, event(event_id="e2"), event(user_id="NULL")))

    def stop(count_bytes: int) -> None:
        if count_bytes and ids_are_staged.pop():
            raise KeyboardInterrupt

    ids_are_staged = [True, False]
    with pytest.raises(KeyboardInterrupt):
        load(warehouse, {"events": tmp_path / "e.csv"}, now=NOW, set_aside=tmp_path / "refused.csv", advance=stop)
    assert (ids(warehouse), (tmp_path / "refused.csv").exists()) == (["e1"], False)
