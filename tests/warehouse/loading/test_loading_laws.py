"""Properties of loading: a second load changes nothing, Parquet equals CSV, and one wrong cell stops the load."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders.loading import NOW, contents, refusal
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.checks import NAMES
from warehouse.loading.id_checks import PLACEHOLDERS
from warehouse.loading.load import load
from warehouse.tables import RAW, Table

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5) | st.sampled_from(
    ["a,b", 'say "x"', "two\nlines"]
)
SHOWN = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), max_size=5) | st.sampled_from(
    ["a,b", 'say "x"']
)
# Visible at both ends, because texts that look equal must be equal. Placeholders such as "-" have their own tests.
ENDS = st.characters(categories=["L", "N"], exclude_characters="\u115f\u1160\u3164\uffa0")
IDS = st.builds(lambda first, text, last: f"{first}{text}{last}", ENDS, SHOWN, ENDS).filter(
    lambda text: text.lower() not in PLACEHOLDERS
)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2026, 3, 1), timezones=st.just(UTC))
VALUES: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "string": lambda: TEXTS,
    "double": lambda: st.floats(allow_nan=False, allow_infinity=False),
    "int64": lambda: st.integers(0, 130),
    "bool": st.booleans,
    "timestamp[us, tz=UTC]": lambda: MOMENTS,
}


def rows_of(table: Table) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Valid rows with few distinct ids and times, so that keys and whole rows repeat."""
    columns = {}
    for column in table.columns:
        values = VALUES[str(column.type)]()
        if column.name.endswith("_ratio"):
            values = st.floats(0, 1)
        if column.required and str(column.type) == "string":
            values = st.sampled_from(["a", "b"]) | IDS
        elif column.name in NAMES:
            values = IDS
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


@settings(max_examples=25)
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


@settings(max_examples=15)
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
