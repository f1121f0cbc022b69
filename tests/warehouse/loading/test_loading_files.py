"""Loading of unusable files: unreadable files and files with other columns are refused, with the fix."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders.loading import EVENT, EVENTS, FINITE, FUTURE, event, event_table, lines, load_text, refusal
from tests.support.gzipped import gzipped
from warehouse.duckdb.warehouse import DuckDBWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


NO_COLUMNS = (
    "f.csv: contains none of the column names. Needed: event_id, user_id, event_name, occurred_at, loaded_at. "
    "In a CSV file the first line names them, separated by commas."
)

UNREADABLE = "f.csv: cannot be read. It may be incomplete, not UTF-8, or have mixed line ends. Export it again."

GZIP = gzipped(lines(EVENTS, EVENT).encode())
CSV = lines(EVENTS, EVENT)
RENAME = "text, although its name says otherwise. Rename it to .csv if it is CSV."
CONVERT = "although its name says otherwise. Convert it to .parquet, .csv or .csv.gz."
WHOLE = "f.parquet: cannot be read. Its rows are damaged. Export it again."
GZIP_BROKEN = "f.csv.gz: not a complete gzip file. It is truncated, damaged or of another kind: export it again."
PARQUET_BROKEN = "f.parquet: not a complete Parquet file. It is truncated, damaged or of another kind: export it again."


def whole_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(event_table(), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.csv", None, "f.csv: the file does not exist. Check the path."),
        ("f.csv", b"", "f.csv: empty (0 bytes). Export it again."),
        ("f.parquet", b"", "f.parquet: empty (0 bytes). Export it again."),
        ("f.json", b"[]", "f.json: of an unknown kind. Convert it to .parquet, .csv or .csv.gz."),
        ("f.parquet", CSV.encode(), f"f.parquet: {RENAME}"),
        ("f.parquet", GZIP, "f.parquet: gzip, although its name says otherwise. Rename it to .csv.gz."),
        ("f.parquet", b"PARE" + whole_parquet()[4:],
            "f.parquet: encrypted Parquet, although its name says otherwise. Export it without encryption."),
        ("f.csv", whole_parquet(), "f.csv: Parquet, although its name says otherwise. Rename it to .parquet."),
        ("f.csv", GZIP, "f.csv: gzip, although its name says otherwise. Rename it to .csv.gz."),
        ("f.csv", b"PK\x03\x04" + bytes(99), f"f.csv: a zip archive or a spreadsheet (.xlsx), {CONVERT}"),
        ("f.csv", b'{"event_id": "e1"}', f"f.csv: JSON, {CONVERT}"),
        ("f.csv", b"ARROW1\0\0" + bytes(99), f"f.csv: Arrow (Feather), {CONVERT}"),
        ("f.csv", bytes(8) + b"DUCK" + bytes(99), f"f.csv: a DuckDB database, {CONVERT}"),
        ("f.csv", b"\x28\xb5\x2f\xfd" + bytes(9),
            "f.csv: zstd, although its name says otherwise. Decompress it, or compress it with gzip."),
        ("f.csv", b"<!doctype html>", "f.csv: a web page or XML, although its name says otherwise. The download may have "
            "been refused: open the file, and export it again."),
        ("f.csv", CSV.encode("utf-16"), "f.csv: UTF-16, although its name says otherwise. Save it as UTF-8."),
        ("f.csv", CSV.encode("utf-16-le"), "f.csv: UTF-16, although its name says otherwise. Save it as UTF-8."),
        ("f.csv", CSV.encode("utf-32"), "f.csv: UTF-32, although its name says otherwise. Save it as UTF-8."),
        ("f.csv.gz", gzipped(CSV.encode("utf-16")), "f.csv.gz: UTF-16, although its name says otherwise. Save it as UTF-8."),
        ("f.csv.gz", gzipped(whole_parquet()), "f.csv.gz: Parquet, although its name says otherwise. Rename it to .parquet."),
        ("f.csv.gz", gzipped(GZIP), "f.csv.gz: gzip, although its name says otherwise. Rename it to .csv.gz."),
        ("f.csv", CSV.replace(",", ";").encode(), "f.csv: its columns are separated by semicolons. Export it with commas."),
        ("f.csv", CSV.replace(",", "\t").encode(), "f.csv: its columns are separated by tabs. Export it with commas."),
        ("f.csv", CSV.replace(",", "|").encode(), "f.csv: its columns are separated by bars. Export it with commas."),
        ("f.csv", CSV.replace(",loaded_at", ", loaded_at").encode(),
            "f.csv, loaded_at: the column is missing. Column 5 has blanks around this name. Remove them."),
        ("f.parquet", whole_parquet()[:-1], PARQUET_BROKEN),
        ("f.parquet", b"PAR1" + bytes(100) + b"PAR1", PARQUET_BROKEN),
        ("f.csv.gz", CSV.encode(), f"f.csv.gz: {RENAME}"),
        ("f.csv.gz", gzipped(lines(EVENTS, EVENT).encode())[:-9], GZIP_BROKEN),
        ("f.csv", lines(EVENT, EVENT).encode(), NO_COLUMNS),
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
            "f.csv, event_id: the column is missing. Column 1 has a similar name: rename it if it is meant.\n"
            "f.csv, loaded_at: the column is missing. Add it.",
        ),
        (
            "f.csv",
            lines(EVENTS + ",step,step", EVENT + ",a,b").encode(),
            "f.csv, step: the column occurs more than once. Keep one.",
        ),
    ],
)  # fmt: skip
def test_an_unusable_file_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert refusal(warehouse, {"events": tmp_path / name}) == expected.split("\n")


def test_a_parquet_file_with_damaged_rows_is_not_taken_for_csv(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    content = whole_parquet()
    (tmp_path / "f.parquet").write_bytes(content[:4] + bytes(200) + content[204:])
    assert refusal(warehouse, {"events": tmp_path / "f.parquet"}) == [WHOLE]


def test_a_byte_order_mark_may_stand_twice(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    assert load_text(warehouse, tmp_path, "events", f"\ufeff\ufeff{EVENTS}", EVENT).count_new == 1


def test_a_folder_is_refused(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    (tmp_path / "f.csv").mkdir()
    assert refusal(warehouse, {"events": tmp_path / "f.csv"}) == [
        "f.csv: cannot be read. Check that it is a file, its disk and its permissions."
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
