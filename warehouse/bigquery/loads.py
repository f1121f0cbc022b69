"""Load jobs with an id derived from their content, so that BigQuery stores rows once.

BigQuery accepts each job id once. A second job with the same id is refused (409), and the caller reads the first job's outcome.
So a repeated append counts once, and of two commits one wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core import exceptions as api
from google.cloud import bigquery

from core.errors import ContractError
from warehouse.bigquery.connection import Client
from warehouse.tables import TIMESTAMP, Table, fitted

TYPES = {
    pa.string(): "STRING",
    pa.float64(): "FLOAT64",
    pa.int64(): "INT64",
    pa.bool_(): "BOOL",
    TIMESTAMP: "TIMESTAMP",
}
# BigQuery returns some types with their names in legacy SQL.
STANDARD = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
# Maximum failed attempts per load across runs: enough for an hour that fails for a week.
_MAX_ATTEMPTS = 200


def schema_of(table: Table) -> list[bigquery.SchemaField]:
    """Return the table's columns as BigQuery's schema."""
    return [
        bigquery.SchemaField(column.name, TYPES[column.type], mode="REQUIRED" if column.required else "NULLABLE")
        for column in table.columns
    ]


def write_parquet(table: Table, batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> int:
    """Write the rows in the table's columns, one batch at a time, and return their number."""
    count = 0
    with pq.ParquetWriter(file, table.schema) as writer:
        for batch in batches:
            writer.write_batch(fitted(batch, table.schema))
            count += batch.num_rows
    return count


def load_once(client: Client, table: Table, table_id: str, file: IO[bytes], name: str) -> bool:
    """Load a Parquet file under a job id derived from the table and the name. Returns False if it was loaded before.

    The table's creation time is part of the id, because BigQuery remembers the jobs of a table that was dropped and recreated.

    Raises: ContractError after too many failed jobs, and BigQuery's error for a failing one.
    """
    retry = bigquery.DEFAULT_RETRY.with_timeout(client.retry_seconds)
    created = client.get_table(table_id, retry=retry).created
    place = "-".join(table_id.split(".")[-2:])
    for attempt in range(_MAX_ATTEMPTS):
        job_id = f"winback-{place}-{created:%Y%m%d%H%M%S%f}-{name}-{attempt}"
        if _ran(client, table, table_id, file, job_id):
            return True
        # A failed job has used up its id. All runs read the same failure and continue with the same next id.
        found: Any = client.get_job(job_id, location=client.location, retry=retry)
        if found.exception() is None:
            return False
    raise ContractError(f"{_MAX_ATTEMPTS} load jobs into {table.name} have failed. Run `winback doctor` for details.")


def _ran(client: Client, table: Table, table_id: str, file: IO[bytes], job_id: str) -> bool:
    """Run the job. Returns False if a job with its id exists, or may exist because the reply was lost."""
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        schema=schema_of(table),
    )
    # An upload waits 1, 2, 4, ... seconds between attempts; this many fit into our retry time.
    tries = int(math.log2(client.retry_seconds + 1))
    options: Any = {"rewind": True, "location": client.location, "num_retries": tries}
    try:
        job = client.load_table_from_file(file, table_id, job_id=job_id, job_config=config, **options)
    except (api.Conflict, OSError):  # the base class of requests' connection errors
        return False
    job.result(retry=bigquery.DEFAULT_RETRY.with_timeout(client.retry_seconds))
    return True
