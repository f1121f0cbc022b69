"""What does a warehouse promise, whichever it is, and what does BigQuery's keep besides?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from tests.bigquery_world import connection_to, with_raw_tables
from tests.emulator import Emulator
from warehouse import ledger
from warehouse.bigquery import BigQueryWarehouse, _in_chunks
from warehouse.bigquery_loads import write_parquet
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError, RetryableError
from warehouse.interface import Warehouse, count
from warehouse.tables import ALL, APP_EVENTS, AUDITS, DECISIONS, REPORTS, RUNS, TIMESTAMP, Table

INDIA = timezone(timedelta(hours=5, minutes=30))
MOMENT = datetime(2026, 5, 20, 21, 30, 0, 123456, tzinfo=INDIA)
VALUES: dict[pa.DataType, Any] = {
    pa.string(): 'O\'Brien "ä" \\ ; -- $x @y',
    pa.float64(): 0.1,
    pa.int64(): 2**53 + 1,  # a double would lose it
    pa.bool_(): False,
    TIMESTAMP: MOMENT,
}
FAILED = {"reason": "internalError", "message": "An internal error occurred."}


def full_row(table: Table, **values: Any) -> dict[str, Any]:
    return {column.name: VALUES[column.type] for column in table.columns} | values


def sparse_row(table: Table, **values: Any) -> dict[str, Any]:
    return {c.name: VALUES[c.type] if c.required else None for c in table.columns} | values


def rows_of(table: Table, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=table.schema)


def audits(*numbers: int, audit_id: str = "a") -> pa.Table:
    """So many rows of a table without partitions, told apart by a number."""
    return rows_of(AUDITS, *(full_row(AUDITS, audit_id=audit_id, count_rows=number) for number in numbers))


def numbers_in(warehouse: Warehouse) -> list[int]:
    found = warehouse.query(f"select count_rows from {warehouse.relation('ops', 'audits')} order by count_rows")
    numbers: list[int] = found.column("count_rows").to_pylist()
    return numbers


def epoch(number: int, run_id: str) -> ledger.Epoch:
    return ledger.Epoch(number, run_id, "hourly", MOMENT, MOMENT, 3, 2, 1, 1, MOMENT.astimezone(UTC))


@pytest.fixture
def bigquery_warehouse(emulator: Emulator, prefix: str) -> Iterator[BigQueryWarehouse]:
    with closing(with_raw_tables(emulator, prefix)) as warehouse:
        emulator.forget()
        yield warehouse


@pytest.fixture(params=["duckdb", "bigquery"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """Every law that asks for it holds for both."""
    if request.param == "bigquery":
        yield request.getfixturevalue("bigquery_warehouse")
        return
    with closing(DuckDBWarehouse(tmp_path / "winback.duckdb")) as warehouse:
        warehouse.prepare()
        yield warehouse


# Laws of the interface


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
    # What a query answered may be asked with again.
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


# What BigQuery's job ids are for


def test_the_same_rows_appended_again_count_once(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    assert bigquery_warehouse.append(AUDITS, audits(1, 2)) == 2
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
        assert another.append(AUDITS, iter(audits(1, 2).to_batches())) == 2
        another.append(AUDITS, audits(1, 2, audit_id="b"))

    assert numbers_in(bigquery_warehouse) == [1, 1, 2, 2]


def test_an_append_whose_reply_was_lost_counts_once(bigquery_warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    emulator.lose_reply("load ")

    assert bigquery_warehouse.append(AUDITS, audits(1, 2)) == 2

    assert numbers_in(bigquery_warehouse) == [1, 2]


def test_a_failed_load_is_told_and_the_next_try_takes_the_next_id(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator
) -> None:
    emulator.fail("load ", FAILED, times=2)

    for _ in range(2):
        with pytest.raises(RetryableError, match="passing fault"):
            bigquery_warehouse.append(AUDITS, audits(1))
        assert numbers_in(bigquery_warehouse) == []
    assert bigquery_warehouse.append(AUDITS, audits(1)) == 1

    assert numbers_in(bigquery_warehouse) == [1]
    asked = [str(asked.job_id).rsplit("-", 1) for asked in emulator.asked if asked.text.startswith("load ")]
    assert [attempt for _, attempt in asked] == ["0", "0", "1", "0", "1", "2"]
    assert len({stem for stem, _ in asked}) == 1


def test_of_two_that_commit_at_once_one_wins(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    both = Barrier(2)

    def contend(warehouse: BigQueryWarehouse, run_id: str) -> tuple[bool, str]:
        both.wait()
        is_mine = warehouse.append_once(RUNS, asdict(epoch(1, run_id)))
        return is_mine, ledger.commit(warehouse, epoch(1, run_id)).run_id

    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another, ThreadPoolExecutor(2) as threads:
        ways = ((bigquery_warehouse, "mine"), (another, "theirs"))
        answers = [f.result() for f in [threads.submit(contend, *way) for way in ways]]

    (row,) = ledger.epochs(bigquery_warehouse, 10)
    assert sorted(is_mine for is_mine, _ in answers) == [False, True]
    assert [winner for _, winner in answers] == [row.run_id] * 2


@pytest.mark.parametrize("is_mine", [True, False])
def test_a_commit_whose_reply_was_lost_names_the_winner(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str, is_mine: bool
) -> None:
    if not is_mine:
        with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
            ledger.commit(another, epoch(1, "theirs"))
    emulator.lose_reply("load ")

    winner = ledger.commit(bigquery_warehouse, epoch(1, "mine"))

    assert winner.run_id == ("mine" if is_mine else "theirs")
    assert ledger.epochs(bigquery_warehouse, 10) == [winner]


def test_after_a_failed_commit_all_contend_for_the_same_next_id(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    emulator.fail("load ", FAILED)

    with pytest.raises(RetryableError):
        ledger.commit(bigquery_warehouse, epoch(1, "mine"))
    assert ledger.epochs(bigquery_warehouse, 10) == []
    assert ledger.commit(bigquery_warehouse, epoch(1, "mine again")).run_id == "mine again"
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
        assert ledger.commit(another, epoch(1, "theirs")).run_id == "mine again"

    ids = [str(asked.job_id) for asked in emulator.asked if asked.text.startswith("load ")]
    assert [i.rsplit("-", 2)[1:] for i in ids] == [["1", "0"]] + [["1", "0"], ["1", "1"]] * 2
    assert len({i.rsplit("-", 1)[0] for i in ids}) == 1
    assert len(ledger.epochs(bigquery_warehouse, 10)) == 1


def test_a_table_made_anew_begins_its_epochs_anew(bigquery_warehouse: BigQueryWarehouse, prefix: str) -> None:
    assert bigquery_warehouse.append_once(RUNS, asdict(epoch(0, "before")))
    bigquery_warehouse.client.delete_table(f"{prefix}_ops.runs")
    bigquery_warehouse.prepare()

    assert bigquery_warehouse.append_once(RUNS, asdict(epoch(0, "after")))
    assert [e.run_id for e in ledger.epochs(bigquery_warehouse, 10)] == ["after"]


# What BigQuery is asked for


def test_every_job_is_labelled_and_every_query_is_limited(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator
) -> None:
    bigquery_warehouse.append(DECISIONS, rows_of(DECISIONS, full_row(DECISIONS)))
    relation = bigquery_warehouse.relation("ops", "decisions")
    count(bigquery_warehouse, relation)
    bigquery_warehouse.query(f"select run_id from {relation} where epoch = $e", {"e": 1})
    list(bigquery_warehouse.stream(f"select run_id from {relation}", 10))
    bigquery_warehouse.schema(f"select run_id from {relation}")
    bigquery_warehouse.discard(DECISIONS, run_id="mine", decided_at=MOMENT)

    assert len(emulator.asked) == 6
    for asked in emulator.asked:
        assert asked.labels == {"app": "winback"}, asked.text
        limit = None if asked.text.startswith("load ") else str(1 << 40)
        assert asked.configuration.get("maximumBytesBilled") == limit, asked.text


def test_discard_names_the_partition_s_column(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    bigquery_warehouse.discard(DECISIONS, run_id="mine", decided_at=MOMENT)

    assert emulator.statements == [
        f"delete from `local`.`{prefix}_ops`.`decisions` where run_id = @run_id and decided_at = @decided_at"
    ]


def test_the_schema_is_asked_for_without_running_anything(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator
) -> None:
    bigquery_warehouse.schema(f"select * from {bigquery_warehouse.relation('ops', 'runs')}")

    assert [asked.is_dry_run for asked in emulator.asked] == [True]


def test_a_query_above_the_limit_is_refused_before_it_runs(
    bigquery_warehouse: BigQueryWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stand-in reads nothing and says so: what BigQuery would foretell is put in its mouth.
    monkeypatch.setattr(bigquery.QueryJob, "total_bytes_processed", (1 << 40) + 1)

    with pytest.raises(ContractError, match="WINBACK_BIGQUERY_MAX_BYTES"):
        bigquery_warehouse.schema(f"select * from {bigquery_warehouse.relation('ops', 'runs')}")


def test_a_stream_holds_no_more_than_a_chunk_and_a_batch() -> None:
    pulled = yielded = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal pulled
        for size in [3, 0, 40, 7, 7, 7, 1, 100, 5] * 20:
            pulled += size
            yield pa.record_batch({"n": pa.array(range(size), pa.int64())})

    for chunk in _in_chunks(batches(), 16):
        assert pulled - yielded <= 16 + 100
        yielded += chunk.num_rows
    assert pulled == yielded == 170 * 20


def test_a_file_says_which_columns_must_have_values() -> None:
    file = io.BytesIO()
    write_parquet(DECISIONS, rows_of(DECISIONS, sparse_row(DECISIONS)).to_batches(), file)

    written = pq.read_schema(file)

    assert [(f.name, f.nullable) for f in written] == [(c.name, not c.required) for c in DECISIONS.columns]


# Which tables it makes


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_tables_are_made_by_day_and_close_together_by_user(
    bigquery_warehouse: BigQueryWarehouse, prefix: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bigquery.Table] = []
    monkeypatch.setattr(bigquery_warehouse.client, "create_table", lambda made, **_: asked.append(made))
    bigquery_warehouse.create(table)
    kept = bigquery_warehouse.client.get_table(f"{prefix}_{table.layer}.{table.name}")

    for made in (*asked, kept):
        assert (made.time_partitioning.field if made.time_partitioning else None) == table.partition_on
        assert made.clustering_fields == (["user_id"] if "user_id" in table.schema.names else None)
        modes = {c.name: "REQUIRED" if c.required else "NULLABLE" for c in table.columns}
        assert {f.name: f.mode for f in made.schema} == modes
    # The stand-in forgets this one.
    assert bool(asked[0].require_partition_filter) == (table.partition_on is not None)


def test_the_app_s_tables_are_never_made_and_those_missing_are_named(emulator: Emulator, prefix: str) -> None:
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as warehouse:
        warehouse.create(APP_EVENTS)

        with pytest.raises(ContractError, match=f"local.{prefix}_raw has no users, voucher_redemptions"):
            warehouse.prepare()

        assert [d.dataset_id for d in warehouse.client.list_datasets() if d.dataset_id.startswith(prefix)] == [
            f"{prefix}_raw"
        ]
        assert [t.table_id for t in warehouse.client.list_tables(f"{prefix}_raw")] == ["app_events"]
