"""The BigQuery emulator of the tests: it follows BigQuery's rules, most of which bqemulator alone breaks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, Forbidden
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient

from tests.support.bigquery_emulator.known_gaps import without_declared_columns
from tests.support.bigquery_emulator.process import Emulator, clients

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        pa.field("exit_id", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("exited_at", pa.timestamp("us", tz="UTC")),
    ]
)
APPEND = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
DENIED = {"status": 403, "reason": "accessDenied", "message": "Access Denied"}
LIMIT_SECONDS = 30


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator:
        clients(emulator)[0].create_dataset("shop")
        yield emulator


@pytest.fixture
def bq(emulator: Emulator) -> tuple[bigquery.Client, BigQueryReadClient]:
    emulator.forget()
    client, reader = clients(emulator)
    client.delete_table("local.shop.exits", not_found_ok=True)
    fields = [
        bigquery.SchemaField("exit_id", "STRING", mode="REQUIRED"),
        bigquery.SchemaField("score", "FLOAT64"),
        bigquery.SchemaField("exited_at", "TIMESTAMP"),
    ]
    client.create_table(bigquery.Table("local.shop.exits", fields))
    return client, reader


def load(client: bigquery.Client, rows: pa.Table, job_id: str | None = None, *, in_one: bool = False) -> Any:
    file = io.BytesIO()
    pq.write_table(rows, file)
    size = file.tell() if in_one else None  # with a known size the client uploads in one request of two parts
    return client.load_table_from_file(
        file, "local.shop.exits", rewind=True, size=size, job_id=job_id, job_config=APPEND
    )


def exits(*ids: str, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist([{"exit_id": i, "score": 0.5, "exited_at": NOON} for i in ids], schema=schema)


def ids_held(client: bigquery.Client) -> list[str]:
    rows = client.query("select exit_id from shop.exits order by exit_id").result(timeout=LIMIT_SECONDS)
    return [row["exit_id"] for row in rows]


def test_loads_append_under_the_id_they_ask_for_and_count_their_own_rows(bq: Any) -> None:
    client, _ = bq
    resumable = load(client, exits("a", "b"), "appends-1").result(timeout=LIMIT_SECONDS)
    multipart = load(client, exits("c"), "appends-2", in_one=True).result(timeout=LIMIT_SECONDS)
    assert (resumable.job_id, resumable.output_rows) == ("appends-1", 2)
    assert (multipart.job_id, multipart.output_rows) == ("appends-2", 1)
    assert ids_held(client) == ["a", "b", "c"]


def test_parquet_is_loaded_by_name_and_an_absent_column_is_null(bq: Any) -> None:
    client, _ = bq
    load(client, exits("a").select(["exited_at", "exit_id"])).result(timeout=LIMIT_SECONDS)
    (row,) = client.query("select * from shop.exits").result(timeout=LIMIT_SECONDS)
    assert dict(row) == {"exit_id": "a", "score": None, "exited_at": NOON}


def test_a_file_whose_required_column_may_be_null_is_refused_and_leaves_nothing(bq: Any) -> None:
    client, _ = bq
    loose = pa.schema([pa.field("exit_id", pa.string()), *list(SCHEMA)[1:]])
    with pytest.raises(BadRequest, match="exit_id has changed mode from REQUIRED to NULLABLE"):
        load(client, exits("a", schema=loose)).result(timeout=LIMIT_SECONDS)
    assert ids_held(client) == []


def test_a_second_job_with_the_same_id_gets_409_and_the_first_can_be_read(bq: Any) -> None:
    client, _ = bq
    load(client, exits("a"), "second-1").result(timeout=LIMIT_SECONDS)
    with pytest.raises(Conflict, match=r"Already Exists: Job local:US\.second-1") as refused:
        load(client, exits("b"), "second-1")
    assert refused.value.errors[0]["reason"] == "duplicate"
    with pytest.raises(Conflict):
        client.query("select 1", job_id="second-1", job_retry=None)
    assert client.get_job("second-1").output_rows == 1
    assert ids_held(client) == ["a"]


def test_of_two_jobs_with_one_id_at_once_exactly_one_runs(bq: Any) -> None:
    client, _ = bq
    both = Barrier(2)

    def contend(name: str) -> bool:
        both.wait()
        try:
            load(client, exits(name), "race-1").result(timeout=LIMIT_SECONDS)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        won = list(threads.map(contend, ["a", "b"]))
    assert sorted(won) == [False, True]
    assert ids_held(client) == [["a", "b"][won.index(True)]]


def test_a_job_that_failed_has_burnt_its_id(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    emulator.fail("load shop.exits", {"reason": "backendError", "message": "Try again"})
    with pytest.raises(Exception, match="Try again"):
        load(client, exits("a"), "burnt-1").result(timeout=LIMIT_SECONDS)
    with pytest.raises(BadRequest):
        client.query("select absent from shop.exits", job_id="burnt-2", job_retry=None).result(timeout=LIMIT_SECONDS)
    for job_id in ("burnt-1", "burnt-2"):
        with pytest.raises(Conflict):
            client.query("select 1", job_id=job_id, job_retry=None)
        assert client.get_job(job_id).error_result["reason"] in {"backendError", "invalidQuery"}
    assert ids_held(client) == []


def test_an_ordered_read_arrives_in_order_through_the_storage_api(bq: Any) -> None:
    client, reader = bq
    load(client, exits(*(f"{n:06}" for n in range(20_000)))).result(timeout=LIMIT_SECONDS)
    job = client.query("select exit_id from shop.exits order by exit_id desc", job_id="winback-read-1", job_retry=None)
    batches = list(job.result(timeout=LIMIT_SECONDS).to_arrow_iterable(bqstorage_client=reader))
    read = pa.Table.from_batches(batches).column("exit_id").to_pylist()
    assert read == [f"{n:06}" for n in reversed(range(20_000))]


def test_named_parameters_reach_a_read(bq: Any) -> None:
    client, reader = bq
    load(client, exits("a", "b")).result(timeout=LIMIT_SECONDS)
    parameters = [
        bigquery.ScalarQueryParameter("id", "STRING", "b"),
        bigquery.ScalarQueryParameter("n", "INT64", 7),
        bigquery.ScalarQueryParameter("at", "TIMESTAMP", NOON),
    ]
    job = client.query(
        "select exit_id, @n as n from shop.exits where exit_id = @id and exited_at = @at",
        job_id="winback-read-2",
        job_retry=None,
        job_config=bigquery.QueryJobConfig(query_parameters=parameters),
    )
    read = job.result(timeout=LIMIT_SECONDS).to_arrow(bqstorage_client=reader)
    assert read.to_pylist() == [{"exit_id": "b", "n": 7}]


def test_a_dry_run_tells_the_schema_and_runs_nothing(bq: Any) -> None:
    client, _ = bq
    load(client, exits("a")).result(timeout=LIMIT_SECONDS)
    dry = bigquery.QueryJobConfig(dry_run=True)
    job = client.query("select exit_id, score from shop.exits", job_config=dry)
    assert [(f.name, f.field_type) for f in job.schema] == [("exit_id", "STRING"), ("score", "FLOAT")]
    assert job.total_bytes_processed == 0
    client.query("delete from shop.exits where true", job_config=dry)
    assert ids_held(client) == ["a"]


def test_a_refused_statement_has_bigquerys_shape_and_makes_no_job(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    emulator.refuse("select 'secret'", DENIED)
    with pytest.raises(Forbidden) as refused:
        client.query("select 'secret'", job_id="refused-1", job_retry=None)
    assert refused.value.errors == [{"message": "Access Denied", "domain": "global", "reason": "accessDenied"}]
    assert list(client.query("select 'secret' as s", job_id="refused-1", job_retry=None).result(timeout=LIMIT_SECONDS))


def test_a_lost_reply_was_performed_all_the_same(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    emulator.lose_reply("as lost-1")
    # The client sends the load again after the connection breaks. Its id is then in use.
    with pytest.raises(Conflict):
        load(client, exits("a"), "lost-1")
    assert client.get_job("lost-1").state == "DONE"
    assert ids_held(client) == ["a"]


def test_something_can_happen_between_a_request_and_its_reply(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    emulator.after("as after-1", lambda: load(client, exits("b")).result(timeout=LIMIT_SECONDS))
    load(client, exits("a"), "after-1").result(timeout=LIMIT_SECONDS)
    assert ids_held(client) == ["a", "b"]


def test_statements_are_written_down_with_their_labels(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    config = bigquery.QueryJobConfig(labels={"run_id": "r1"})
    client.query("select 1 as one", job_config=config).result(timeout=LIMIT_SECONDS)
    client.query_and_wait("select 2 as two", wait_timeout=LIMIT_SECONDS)
    assert emulator.statements == ["select 1 as one", "select 2 as two"]
    assert emulator.asked[0].labels == {"run_id": "r1"}


def test_what_was_loaded_survives_the_death_of_the_process(bq: Any, emulator: Emulator) -> None:
    client, _ = bq
    load(client, exits("a"), "survives-1").result(timeout=LIMIT_SECONDS)
    emulator.kill()
    emulator.start()
    assert ids_held(client) == ["a"]
    with pytest.raises(Conflict):
        load(client, exits("b"), "survives-1")


def test_a_contract_of_dbt_is_taken(bq: Any) -> None:
    client, _ = bq
    sql = "create or replace table `local`.`shop`.`exits` (exit_id string, score float64) as (select 'a' as exit_id, .5 as score)"
    client.query(sql).result(timeout=LIMIT_SECONDS)
    assert ids_held(client) == ["a"]


@pytest.mark.parametrize(
    "sql",
    [
        "create table `d`.`t` as (select count(*) as n from (select 1))",
        "create table `d`.`t` (n int64)",
        "create or replace table `d.t` partition by day OPTIONS(description='n') as (select 1 as n)",
        "merge into `d`.`t` using (select 1 as n) on false when not matched then insert (n) values (n)",
    ],
)
def test_other_statements_are_left_as_they_are(sql: str) -> None:
    assert without_declared_columns(sql) == sql
