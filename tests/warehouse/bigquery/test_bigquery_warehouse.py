"""Requests to BigQuery: their cost limits, and the tables that winback creates."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from core.errors import ContractError
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import connection_to, with_raw_tables
from tests.support.warehouse import MOMENT, full_row, rows_of, sparse_row
from warehouse.bigquery.loads import write_parquet
from warehouse.bigquery.warehouse import BigQueryWarehouse, _in_chunks
from warehouse.interface import count
from warehouse.tables import ALL, APP_EVENTS, DECISIONS, Table


@pytest.fixture
def bigquery_warehouse(emulator: Emulator, prefix: str) -> Iterator[BigQueryWarehouse]:
    with closing(with_raw_tables(emulator, prefix)) as warehouse:
        emulator.forget()
        yield warehouse


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
    # The emulator reports no bytes, so the estimate of BigQuery is patched in.
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


# Created tables


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
    # The emulator drops this property.
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
