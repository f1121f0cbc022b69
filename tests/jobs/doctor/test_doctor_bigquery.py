"""`winback doctor` on BigQuery: it finds each problem, changes nothing, and its remedies work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions as api
from google.cloud import bigquery

from jobs.context import open_context
from jobs.doctor.bigquery import findings
from jobs.doctor.finding import Finding
from jobs.doctor.remediation import BigQueryCommands
from jobs.doctor.run import doctor
from jobs.upkeep.migrate import migrate
from tests.support.bigquery_emulator.process import PROJECT, Emulator
from tests.support.bigquery_environment import bigquery_settings, connection_to, with_raw_tables
from tests.support.builders.doctor import named, troubles
from tests.support.environment import NOW
from warehouse.bigquery.doctor import examine
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.ledger import Epoch, commit


@pytest.fixture
def warehouse(emulator: Emulator, request: pytest.FixtureRequest) -> Iterator[BigQueryWarehouse]:
    """The tables of a first start, in datasets of this test only."""
    prefix = "d" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    with closing(with_raw_tables(emulator, prefix)) as warehouse:
        emulator.forget()
        yield warehouse


def looked(warehouse: BigQueryWarehouse, emulator: Emulator, **changes: Any) -> list[Finding]:
    prefix = warehouse.connection.prefix
    wanted = BigQueryCommands(PROJECT, prefix, "US", 1 << 40, emulator.url, emulator.storage_endpoint)
    return findings(examine(connection_to(emulator, prefix, **changes)), wanted)


# The emulator does not store partition filters.
BY_DAY = ("raw.app_events", "ops.decisions", "ops.shadow_scores", "ops.deliveries")
AS_THE_EMULATOR_HAS_IT = {f"{name} by day": "warning" for name in BY_DAY}


def everything_in(client: bigquery.Client) -> list[str]:
    datasets = [dataset.dataset_id for dataset in client.list_datasets()]
    tables = [client.get_table(table.reference) for dataset in datasets for table in client.list_tables(dataset)]
    return sorted([*datasets, *(f"{table.reference} {table.num_rows}" for table in tables)])


def test_a_first_start_lacks_history_and_a_model_and_nothing_else(
    warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path
) -> None:
    found = doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path)).findings

    assert troubles(found) == AS_THE_EMULATOR_HAS_IT | {
        "model": "failed",
        "history": "failed",
        "datasets to come": "warning",
        "CRM": "warning",  # the local one is not running
    }
    assert named(found, "history").do[1] == "winback backfill --until TIME"
    assert named(found, "permissions on " + warehouse.connection.prefix + "_raw").says == "cannot be checked here"
    assert named(found, "fast reading").state == "ok"


def test_nothing_is_created_loaded_or_altered(warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path) -> None:
    before = everything_in(warehouse.client)

    doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path))

    assert everything_in(warehouse.client) == before
    assert [asked.text for asked in emulator.asked if not asked.text.lstrip().startswith("select ")] == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_it_prescribes_mends_what_it_found(
    warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path
) -> None:
    prefix = warehouse.connection.prefix
    runs = f"{PROJECT}.{prefix}_ops.runs"
    without = [f for f in warehouse.client.get_table(runs).schema if f.name != "policy_version"]
    warehouse.client.delete_table(runs)
    warehouse.client.create_table(bigquery.Table(runs, without))
    sick = named(looked(warehouse, emulator), "tables of ops")
    assert sick.says == "ops.runs has no column policy_version"
    assert sick.do[1:] == ("winback migrate --dry-run", "winback migrate")

    with open_context(bigquery_settings(emulator, prefix, tmp_path), is_migrating=True) as context:
        migrate(context)

    # Read from the table, because the emulator's metadata lacks columns that were added later.
    assert warehouse.query(f"select policy_version from {warehouse.relation('ops', 'runs')}").num_rows == 0


def test_the_copy_it_prescribes_is_kept_by_day(warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    name = f"{PROJECT}.{warehouse.connection.prefix}_raw.app_events"
    schema = warehouse.client.get_table(name).schema
    warehouse.client.delete_table(name)
    warehouse.client.create_table(bigquery.Table(name, schema))
    sick = named(looked(warehouse, emulator), "raw.app_events by day")
    assert "not partitioned by the day of loaded_at" in sick.says

    for sql in sick.do[1:]:
        warehouse.client.query(sql).result()

    # In the emulator's metadata a renamed table keeps its old name and partitions.
    assert warehouse.client.get_table(f"{name}_by_day").time_partitioning.type_ == "DAY"
    assert warehouse.query(f"select * from {warehouse.relation('raw', 'app_events_unpartitioned')}").num_rows == 0


def test_a_project_without_datasets_is_told_what_to_create(emulator: Emulator, tmp_path: Path) -> None:
    found = doctor(bigquery_settings(emulator, "nowhere", tmp_path)).findings

    assert named(found, "dataset nowhere_raw").state == "failed"
    assert "bq --location=US mk --dataset local:nowhere_ops" in named(found, "datasets to come").do
    assert named(found, "history").state == "skipped"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("accessDenied", "bigquery.jobs.create is missing"),
        ("quotaExceeded", "A BigQuery quota is used up"),
        ("billingNotEnabled", "Billing is not enabled for the project"),
    ],
)
def test_a_project_that_refuses_queries_is_still_looked_at(
    warehouse: BigQueryWarehouse, emulator: Emulator, reason: str, told: str
) -> None:
    emulator.refuse("select 1", {"status": 403, "reason": reason, "message": "Refused"})

    found = looked(warehouse, emulator)

    assert told in named(found, "queries").says
    assert named(found, "raw.users").state == "ok"


def test_permissions_are_asked_of_one_table_of_each_dataset(
    warehouse: BigQueryWarehouse, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Any, table: Any, permissions: list[str], **__: Any) -> dict[str, Any]:
        mine = [one for one in permissions if table.dataset_id.endswith("_raw") or one != "bigquery.tables.delete"]
        return {"permissions": mine}

    monkeypatch.setattr(bigquery.Client, "test_iam_permissions", answer)
    found = looked(warehouse, emulator)

    prefix = warehouse.connection.prefix
    assert named(found, f"permissions on {prefix}_raw").says == "read"
    assert named(found, f"permissions on {prefix}_ops").says.startswith("bigquery.tables.delete is missing")
    assert "roles/bigquery.dataEditor" in named(found, f"permissions on {prefix}_ops").do[1]


def test_a_reading_session_that_is_refused_is_told(
    warehouse: BigQueryWarehouse, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise api.PermissionDenied("bigquery.readsessions.create")

    monkeypatch.setattr("google.cloud.bigquery_storage.BigQueryReadClient.create_read_session", refuse)

    assert "roles/bigquery.readSessionUser" in named(looked(warehouse, emulator), "fast reading").do[1]


def test_history_and_the_bytes_of_a_run_are_told(
    warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path
) -> None:
    commit(warehouse, Epoch(0, "run", "backfill", NOW, NOW, 0, 0, 0, 0, NOW))
    warehouse.client.create_dataset(f"{warehouse.connection.prefix}_marts")
    for name in ("fct_scoring_candidates", "crm_pending"):
        warehouse.client.query(f"create table {warehouse.relation('marts', name)} as select 'u' as user_id").result()

    found = doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path)).findings

    assert named(found, "history").says == "1 epochs, watermark 2026-06-01 00:00 UTC"
    assert named(found, "bytes to sync").says.startswith("a run reads 0 bytes of marts.crm_pending, of the 1.0 TiB")


def test_a_bigquery_out_of_reach_is_asked_once(warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    found = looked(warehouse, emulator, endpoint="http://127.0.0.1:9", retry_seconds=0.1)

    assert troubles(found) == {"queries": "failed"}
    assert "could not be reached" in named(found, "queries").says
