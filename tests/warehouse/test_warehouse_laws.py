"""Guarantees of a warehouse, tested on DuckDB and BigQuery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from core.errors import ContractError
from tests.support.bigquery_environment import with_raw_tables
from tests.support.warehouse import MOMENT, VALUES, audits, epoch, full_row, numbers_in, rows_of, sparse_row
from warehouse import ledger
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.interface import Warehouse
from warehouse.tables import ALL, AUDITS, DECISIONS, REPORTS, RUNS, TIMESTAMP, Table


@pytest.fixture(params=["duckdb", "bigquery"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """Each warehouse in turn."""
    if request.param == "bigquery":
        emulator, prefix = request.getfixturevalue("emulator"), request.getfixturevalue("prefix")
        with closing(with_raw_tables(emulator, prefix)) as there:
            yield there
        return
    with closing(DuckDBWarehouse(tmp_path / "winback.duckdb")) as here:
        here.prepare()
        yield here


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_rows_come_back_as_they_went_in_with_times_in_utc(warehouse: Warehouse, table: Table) -> None:
    key = next(name for name in table.key if table.schema.field(name).type in (pa.string(), pa.int64()))
    second = 7 if table.schema.field(key).type == pa.int64() else "z"
    rows = rows_of(
        table, full_row(table, **{key: VALUES[table.schema.field(key).type]}), sparse_row(table, **{key: second})
    )
    bound = f" where {table.partition_on} >= timestamp '2026-05-20 00:00:00'" if table.partition_on else ""
    order = "desc" if second == 7 else "asc"
    source = warehouse.relation(table.layer, table.name)
    sql = f"select {', '.join(table.schema.names)} from {source}{bound} order by {key} {order}"

    assert warehouse.append(table, rows) == 2

    answers = {
        "query": warehouse.query(sql).to_pylist(),
        "stream": pa.Table.from_batches(warehouse.stream(sql, 10)).to_pylist(),
    }
    for way, answer in answers.items():
        assert answer == rows.to_pylist(), way
        assert {v.utcoffset() for row in answer for v in row.values() if isinstance(v, datetime)} == {timedelta(0)}


@pytest.mark.parametrize("value", [7, 0.25, "O'Brien", True, MOMENT], ids=lambda value: type(value).__name__)
def test_a_parameter_is_compared_as_what_it_is(warehouse: Warehouse, value: Any) -> None:
    column = next(c.name for t in (AUDITS, DECISIONS) for c in t.columns if isinstance(VALUES[c.type], type(value)))
    table = next(t for t in (AUDITS, DECISIONS) if column in t.schema.names)
    warehouse.append(table, rows_of(table, full_row(table, **{column: value})))
    source = f"{warehouse.relation(table.layer, table.name)} where {column} = $value"

    assert warehouse.query(f"select count(*) as n from {source}", {"value": value}).to_pylist() == [{"n": 1}]
    found = warehouse.query(f"select {column} as v from {source}", {"value": value}).to_pylist()[0]["v"]
    # A value from a result can be a parameter again.
    assert warehouse.query(f"select count(*) as n from {source}", {"value": found}).to_pylist() == [{"n": 1}]


def test_a_query_without_rows_still_names_its_columns(warehouse: Warehouse) -> None:
    answer = warehouse.query(f"select * from {warehouse.relation('ops', 'runs')}")

    assert answer.column_names == RUNS.schema.names
    assert answer.num_rows == 0


def test_nothing_appended_is_nothing(warehouse: Warehouse) -> None:
    assert warehouse.append(AUDITS, iter([])) == 0
    assert warehouse.append(AUDITS, audits()) == 0
    assert numbers_in(warehouse) == []


def test_an_append_that_breaks_off_leaves_no_row(warehouse: Warehouse) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from audits(1, 2).to_batches()
        raise ContractError("the rows do not add up")

    with pytest.raises((ContractError, duckdb.Error), match="add up"):
        warehouse.append(AUDITS, broken())

    assert numbers_in(warehouse) == []


def test_a_missing_value_that_every_row_must_have_refuses_all_rows(warehouse: Warehouse) -> None:
    without = rows_of(AUDITS, full_row(AUDITS), full_row(AUDITS, table_name=None))

    with pytest.raises((duckdb.ConstraintException, pa.ArrowInvalid)):
        warehouse.append(AUDITS, without)

    assert numbers_in(warehouse) == []


def test_columns_may_come_in_any_order_and_optional_ones_may_be_absent(warehouse: Warehouse) -> None:
    required = [column.name for column in REPORTS.columns if column.required]
    row = rows_of(REPORTS, full_row(REPORTS)).select(required[::-1])

    warehouse.append(REPORTS, row)

    found = warehouse.query(f"select * from {warehouse.relation('ops', 'reports')}").select(REPORTS.schema.names)
    assert found.to_pylist() == rows_of(REPORTS, sparse_row(REPORTS)).to_pylist()


@pytest.mark.parametrize(
    ("count_rows", "chunk_rows", "sizes"),
    [(25_000, 10_000, [10_000, 10_000, 5_000]), (20_000, 10_000, [10_000] * 2), (0, 10, [])],
)
def test_a_stream_comes_in_order_and_in_full_chunks(
    warehouse: Warehouse, count_rows: int, chunk_rows: int, sizes: list[int]
) -> None:
    numbers = pa.array(range(count_rows - 1, -1, -1), pa.int64())
    row = audits(0).to_pylist() or []
    rows = pa.Table.from_arrays(
        [
            numbers if n == "count_rows" else pa.repeat(pa.scalar(row[0][n], t), count_rows)
            for n, t in zip(AUDITS.schema.names, AUDITS.schema.types, strict=True)
        ],
        schema=AUDITS.schema,
    )
    warehouse.append(AUDITS, rows)

    chunks = list(
        warehouse.stream(
            f"select count_rows from {warehouse.relation('ops', 'audits')} order by count_rows", chunk_rows
        )
    )

    assert [chunk.num_rows for chunk in chunks] == sizes
    assert [n for chunk in chunks for n in chunk.column("count_rows").to_pylist()] == list(range(count_rows))


def test_the_schema_of_a_query_is_known_without_its_rows(warehouse: Warehouse) -> None:
    sql = f"select epoch, run_id, committed_at, epoch > 1 as is_late, epoch / 2 as half from {warehouse.relation('ops', 'runs')}"

    assert [(f.name, f.type) for f in warehouse.schema(sql)] == [
        ("epoch", pa.int64()),
        ("run_id", pa.string()),
        ("committed_at", TIMESTAMP),
        ("is_late", pa.bool_()),
        ("half", pa.float64()),
    ]


def test_of_two_rows_of_one_key_the_first_stays(warehouse: Warehouse) -> None:
    assert ledger.commit(warehouse, epoch(1, "theirs")) == epoch(1, "theirs")
    assert ledger.commit(warehouse, epoch(1, "mine")) == epoch(1, "theirs")
    assert ledger.commit(warehouse, epoch(2, "mine")) == epoch(2, "mine")
    assert [e.run_id for e in ledger.epochs(warehouse, 10)] == ["mine", "theirs"]


def test_discard_removes_the_rows_of_its_values_and_no_other(warehouse: Warehouse) -> None:
    other_day = MOMENT + timedelta(days=1)
    for run_id, decided_at in (("mine", MOMENT), ("theirs", MOMENT), ("mine", other_day)):
        warehouse.append(DECISIONS, rows_of(DECISIONS, full_row(DECISIONS, run_id=run_id, decided_at=decided_at)))

    warehouse.discard(DECISIONS, run_id="mine", decided_at=MOMENT)

    left = f"select run_id, decided_at from {warehouse.relation('ops', 'decisions')} where decided_at >= $since order by run_id"
    assert [
        (r["run_id"], r["decided_at"]) for r in warehouse.query(left, {"since": MOMENT - timedelta(days=1)}).to_pylist()
    ] == [
        ("mine", other_day),
        ("theirs", MOMENT),
    ]


def test_a_table_is_known_to_exist(warehouse: Warehouse) -> None:
    assert warehouse.exists("ops", "runs")
    assert not warehouse.exists("ops", "walks")
    assert not warehouse.exists("marts", "crm_profiles")


def test_preparing_twice_changes_nothing(warehouse: Warehouse) -> None:
    warehouse.append(AUDITS, audits(1))

    warehouse.prepare()

    assert numbers_in(warehouse) == [1]
