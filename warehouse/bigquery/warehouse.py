"""The warehouse in BigQuery.

Small results are read as frames with pandas-gbq, large ones as Arrow chunks with the Storage Read API. Rows are written with load
jobs that count once (warehouse/bigquery/loads.py).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas_gbq
import pyarrow as pa
from google.api_core import exceptions as api
from google.cloud import bigquery

from core.errors import ContractError
from warehouse.bigquery.connection import Connection, ReadClient, connect, connect_storage
from warehouse.bigquery.errors import REASONS, explained
from warehouse.bigquery.loads import STANDARD, TYPES, load_once, schema_of, write_parquet
from warehouse.interface import LAYERS, UserTable
from warehouse.tables import ALL, Column, Table

_PARAMETERS = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", datetime: "TIMESTAMP"}
# Only dbt creates DATE columns.
_ARROW = {name: kind for kind, name in TYPES.items()} | {"DATE": pa.date32()}


class BigQueryWarehouse:
    """A Warehouse in the datasets `<prefix>_raw`, `<prefix>_ops` and dbt's own. Uses Google's default credentials."""

    # BigQuery allows 1,500 load jobs per table and day, 62 per hour: https://cloud.google.com/bigquery/quotas#load_jobs
    rows_per_append = 10_000
    is_exclusive = False

    def __init__(self, connection: Connection) -> None:
        """Connect. Unless the location is given, BigQuery is queried for that of the raw dataset.

        Raises: ContractError without credentials or without the raw dataset, RetryableError if BigQuery is unreachable.
        """
        self.connection = connection
        self._retry = bigquery.DEFAULT_RETRY.with_timeout(connection.retry_seconds)
        with explained():
            self.location = connection.location or self._location_of_raw()
            self.client = connect(connection, self.location)

    def _location_of_raw(self) -> str:
        return str(connect(self.connection).get_dataset(self._dataset("raw"), retry=self._retry).location)

    @cached_property
    def storage(self) -> ReadClient:
        """The client for the Storage Read API."""
        return connect_storage(self.connection, self.client._credentials)

    def _dataset(self, layer: str) -> str:
        return f"{self.connection.project}.{self.connection.prefix}_{layer}"

    def _id(self, table: Table) -> str:
        return f"{self._dataset(table.layer)}.{table.name}"

    def relation(self, layer: str, name: str) -> str:
        """Return the table as `project`.`prefix_layer`.`name`."""
        return ".".join(f"`{part}`" for part in (*self._dataset(layer).split("."), name))

    def exists(self, layer: str, name: str) -> bool:
        """Return whether the table or view exists."""
        with explained():
            try:
                self.client.get_table(f"{self._dataset(layer)}.{name}", retry=self._retry)
            except api.NotFound:
                return False
        return True

    def prepare(self) -> None:
        """Create the missing tables of `ops`. The raw tables belong to the app and are only checked.

        Raises: ContractError with the names of missing raw tables.
        """
        with explained():
            there = {table.table_id for table in self.client.list_tables(self._dataset("raw"), retry=self._retry)}
            missing = [table.name for table in ALL if table.layer == "raw" and table.name not in there]
            if missing:
                raise ContractError(
                    f"The dataset {self._dataset('raw')} has no {', '.join(missing)}, which the app's ingestion writes. "
                    "Check the project and the prefix in WINBACK_WAREHOUSE."
                )
            self._make_dataset("ops")
            there = {table.table_id for table in self.client.list_tables(self._dataset("ops"), retry=self._retry)}
        for table in ALL:
            if table.layer == "ops" and table.name not in there:
                self.create(table)

    def check(self) -> None:
        """Accept the datasets as they are: a run or a migration names what they lack."""

    def create(self, table: Table) -> None:
        """Create a table and its dataset if missing. Growing tables are partitioned by day; rows are clustered by user."""
        made = bigquery.Table(self._id(table), schema=schema_of(table))
        if table.partition_on:
            made.time_partitioning = bigquery.TimePartitioning(field=table.partition_on)
            made.require_partition_filter = True
        if "user_id" in table.schema.names:
            made.clustering_fields = ["user_id"]
        with explained():
            self._make_dataset(table.layer)
            self.client.create_table(made, exists_ok=True, retry=self._retry)

    def absent(self) -> list[Table]:
        """Tables of `ops` that do not exist yet."""
        return [table for table in ALL if table.layer == "ops" and not self.exists(table.layer, table.name)]

    def lacking(self) -> list[tuple[Table, Column]]:
        """Columns missing in tables of `ops`. The raw tables belong to the app; staging works without their optional columns."""
        found = []
        for table in ALL:
            if table.layer == "ops" and self.exists(table.layer, table.name):
                name, day = self.relation(table.layer, table.name), table.partition_on
                # Select a day without rows, so that nothing is read from a large table.
                none = f" where {day} >= timestamp '1970-01-01' and {day} < timestamp '1970-01-02'" if day else ""
                names = set(self.schema(f"select * from {name}{none}").names)
                found += [(table, column) for column in table.columns if column.name not in names]
        return found

    def add_column(self, table: Table, column: Column) -> None:
        """Add an optional column."""
        kind = STANDARD.get(TYPES[column.type], TYPES[column.type])
        self.change(
            f"alter table {self.relation(table.layer, table.name)} add column if not exists {column.name} {kind}"
        )

    def change(self, sql: str) -> None:
        """Run a statement and wait for it."""
        with explained():
            job = self.client.query(sql, job_retry=None, retry=self._retry)
            job.result(retry=self._retry, job_retry=None)

    def _make_dataset(self, layer: str) -> None:
        """Create a dataset if missing. Checks first, because creating needs a permission even if the dataset exists."""
        try:
            self.client.get_dataset(self._dataset(layer), retry=self._retry)
        except api.NotFound:
            made = bigquery.Dataset(self._dataset(layer))
            made.location = self.location
            self.client.create_dataset(made, exists_ok=True, retry=self._retry)

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        """Return the result of a query with a small result."""
        sql = re.sub(r"\$(\w+)", r"@\1", sql)
        given = [_parameter(name, value) for name, value in (parameters or {}).items()]
        config = bigquery.QueryJobConfig(query_parameters=given) if given else bigquery.QueryJobConfig()
        with explained():
            frame = pandas_gbq.read_gbq(
                sql,
                configuration=config.to_api_repr(),
                bigquery_client=self.client,
                location=self.location,
                progress_bar_type=None,
            )
        return pa.Table.from_pandas(frame, preserve_index=False)

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the result of a query in chunks, in the order of the query."""
        with explained():
            job = self.client.query(sql, job_id=f"winback-read-{uuid.uuid4()}", job_retry=None, retry=self._retry)
            rows = job.result(retry=self._retry, job_retry=None)
            batches = rows.to_arrow_iterable(bqstorage_client=self.storage, max_queue_size=1)
            yield from _in_chunks(batches, chunk_rows)

    def hash_of(self, columns: Sequence[str]) -> str:
        """SQL for a hash of the columns."""
        return f"farm_fingerprint(to_json_string(struct({', '.join(columns)})))"

    def number_of(self, column: str) -> str:
        """SQL for 60 bits of the MD5 hash."""
        return f"cast(concat('0x', substr(to_hex(md5({column})), 1, 15)) as int64)"

    def user_hash(self, column: str) -> str:
        """SQL for the SHA-256 hash in hex."""
        return f"to_hex(sha256({column}))"

    def spelling_of(self, column: str) -> str:
        """SQL for an id without spelling variants."""
        plain = f"lower(trim({column}))"
        exponent = f"regexp_contains({plain}, r'^[0-9]+([.][0-9]+)?e[+]?[0-9]{{1,2}}$')"
        whole = f"case when {exponent} then safe_cast(safe_cast({plain} as numeric) as string) end"
        text = f"regexp_replace(coalesce({whole}, {plain}), r'[^a-z0-9.]', '')"
        text = f"regexp_replace({text}, r'[.]0+$', '')"
        return f"regexp_replace(regexp_replace({text}, r'^0*[a-z.]*0*([1-9][0-9]*)$', r'\\1'), r'^0+', '')"

    def user_tables(self) -> list[UserTable]:
        """Tables of our datasets; the raw ones belong to the app. Uses the API, which is free; INFORMATION_SCHEMA is billed."""
        found = []
        with explained():
            for layer in LAYERS:
                try:
                    listed = list(self.client.list_tables(self._dataset(layer), retry=self._retry))
                    tables = [self.client.get_table(t, retry=self._retry) for t in listed if t.table_type == "TABLE"]
                except api.NotFound:
                    continue
                found += [
                    UserTable(layer, table.table_id, is_ours=layer != "raw", bound=_bound(table))
                    for table in tables
                    if "user_id" in {field.name for field in table.schema}
                ]
        return found

    def schema(self, sql: str) -> pa.Schema:
        """Return the columns of a query's result, with a dry run, which is not billed.

        Raises: ContractError if BigQuery does not accept the query, or if it would read more bytes than allowed.
        """
        with explained():
            config = bigquery.QueryJobConfig(dry_run=True)
            job = self.client.query(sql, job_config=config, job_retry=None, retry=self._retry)
        if (job.total_bytes_processed or 0) > self.connection.max_bytes_billed:
            verdict = REASONS["bytesBilledLimitExceeded"]
            raise verdict.error(verdict.text)
        kinds = {column.name: STANDARD.get(column.field_type, column.field_type) for column in job.schema or ()}
        return pa.schema([pa.field(name, _ARROW[kind]) for name, kind in kinds.items()])

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        """Append rows with one load job, named after its content. The same batches again are the same job and count once."""
        batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
        with tempfile.TemporaryFile() as file, explained():
            count = write_parquet(table, batches, file)
            if count:
                file.seek(0)
                content = hashlib.file_digest(file, "sha256").hexdigest()[:32]
                load_once(self.client, table, self._id(table), file, content)
        return count

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        """Append one row with a load job named after the row's key. Returns False if such a job has succeeded before."""
        key = "-".join(str(row[name]) for name in table.key)
        with tempfile.TemporaryFile() as file, explained():
            write_parquet(table, pa.Table.from_pylist([row], schema=table.schema).to_batches(), file)
            return load_once(self.client, table, self._id(table), file, key)

    def discard(self, table: Table, **values: Any) -> None:
        """Remove the rows with these values."""
        where = " and ".join(f"{name} = @{name}" for name in values)
        parameters = [_parameter(name, value) for name, value in values.items()]
        config = bigquery.QueryJobConfig(query_parameters=parameters)
        sql = f"delete from {self.relation(table.layer, table.name)} where {where}"
        with explained():
            job = self.client.query(sql, job_config=config, job_retry=None, retry=self._retry)
            job.result(retry=self._retry, job_retry=None)

    def delete_users(self, table: UserTable, whose: str, parameters: dict[str, Any]) -> int:
        """Delete rows. Returns 0 for a table that a build has dropped since it was listed."""
        given = [_parameter(name, value) for name, value in parameters.items()]
        config = bigquery.QueryJobConfig(query_parameters=given)
        sql = f"delete from {self.relation(table.layer, table.name)} where {table.bound} and {whose}"
        with explained():
            try:
                job = self.client.query(
                    re.sub(r"\$(\w+)", r"@\1", sql), job_config=config, job_retry=None, retry=self._retry
                )
                job.result(retry=self._retry, job_retry=None)
            except api.NotFound:
                return 0
        return int(job.num_dml_affected_rows or 0)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()  # type: ignore[no-untyped-call]
        if "storage" in self.__dict__:
            self.storage.transport.close()


def _bound(table: bigquery.Table) -> str:
    """SQL that includes every partition. The year 1 is BigQuery's first."""
    column = table.time_partitioning.field if table.time_partitioning else None
    if column is None:
        return "true"
    kind = next(field.field_type for field in table.schema if field.name == column)
    return f"{column} >= {kind.lower()} '0001-01-01'"


def _parameter(name: str, value: Any) -> bigquery.ScalarQueryParameter:
    return bigquery.ScalarQueryParameter(name, _PARAMETERS[type(value)], value)


def _in_chunks(batches: Iterator[pa.RecordBatch], chunk_rows: int) -> Iterator[pa.RecordBatch]:
    """Combine small batches and split large ones, because BigQuery chooses its own batch sizes."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= chunk_rows:
            *full, rest = _cut(waiting, chunk_rows)
            yield from full
            waiting, count = [rest], rest.num_rows
    if count:
        yield from _cut(waiting, chunk_rows)


def _cut(batches: list[pa.RecordBatch], chunk_rows: int) -> list[pa.RecordBatch]:
    cut: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches(max_chunksize=chunk_rows)
    return cut
