"""`winback migrate` on BigQuery: the same command gives the same rows as on DuckDB."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from jobs.transform.schema_version import check_schema_version
from tests.support.bigquery_emulator.process import PROJECT, Emulator
from tests.support.bigquery_environment import BigQueryWorld, bigquery_settings, connection_to
from tests.support.migrate import old_warehouse
from tests.support.migrate.builders import AUDIENCE, CRM, LATE, REBUILD, VIEWS, migrated, query
from tests.support.migrate.old_warehouse import WITHDRAWN, WITHOUT_PROFILE
from warehouse.bigquery.warehouse import BigQueryWarehouse

KINDS = {
    "VARCHAR": "string",
    "BIGINT": "int64",
    "DOUBLE": "float64",
    "BOOLEAN": "bool",
    "TIMESTAMP": "timestamp",
    "DATE": "date",
}
# The partition column of each table that dbt partitions; the others have none.
DAYS = {
    "intermediate.int_events__deduplicated": "occurred_on",
    "intermediate.int_sessions": "started_on",
    "marts.fct_unfinished_exits": "exited_on",
    "marts.fct_exit_features": "exited_on",
    "marts.fct_exit_features_logged": "exited_on",
    "marts.fct_late_events": "loaded_on",
}
TABLES = {
    "intermediate.int_events__deduplicated": "*",
    "intermediate.int_outcomes": "*",
    "intermediate.int_sessions": "*",
    "marts.fct_unfinished_exits": "*",
    "marts.fct_exit_features": "*",
    "marts.fct_exit_features_logged": "*",
    "marts.crm_profiles": "*",
    "marts.crm_acknowledged": "*",
    "ops.decisions": "*",
    "ops.deliveries": "*",
    "ops.runs": "*",
}


def statements(prefix: str) -> Iterator[str]:
    """Yield the tables of the old warehouse and their rows as BigQuery SQL. The raw ones belong to the app."""
    for statement in old_warehouse.SQL.read_text().split(";\n"):
        named = re.search(r"(?:CREATE TABLE|insert into) (\w+)\.(\w+)", statement)
        if not named:
            continue
        layer, name = named.groups()
        title, table = f"{layer}.{name}", f"`{PROJECT}`.{prefix}_{layer}.{name}"
        if statement.lstrip().startswith("insert"):
            yield statement.replace(title, table, 1)
            continue
        columns = re.findall(r'(\w+)"? (VARCHAR|BIGINT|DOUBLE|BOOLEAN|TIMESTAMP|DATE)( NOT NULL)?', statement)
        day = f" partition by {DAYS[title]}" if title in DAYS else ""
        told = ", ".join(f"{column} {KINDS[kind]}{required.lower()}" for column, kind, required in columns)
        yield f"create table {table} ({told}){day}"


@pytest.fixture
def old(emulator: Emulator, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BigQueryWarehouse]:
    # Data tests are half of the statements and change nothing.
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as warehouse:
        for layer in ("raw", "ops", "intermediate", "marts"):
            warehouse._make_dataset(layer)
        for statement in statements(prefix):
            warehouse.change(statement)
        yield warehouse


def rows(world: BigQueryWorld | Path, table: str) -> list[str]:
    found = query(world, f"select * from {table}") if isinstance(world, Path) else world.query(f"select * from {table}")
    return sorted(str(sorted((name, value) for name, value in row.items() if name != "loaded_at")) for row in found)


# dbt-bigquery's query for the partitioning of a table that it replaces.
@pytest.mark.filterwarnings("ignore:This method will be deprecated:PendingDeprecationWarning")
def test_it_is_migrated_to_the_rows_of_duckdb(  # noqa: PLR0917 - fixtures
    old: BigQueryWarehouse,
    emulator: Emulator,
    prefix: str,
    tmp_path: Path,
    parsed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = tmp_path / "duckdb", tmp_path / "bigquery"
    here.mkdir()
    there.mkdir()
    old_warehouse.restore(here / "winback.duckdb")
    settings = bigquery_settings(emulator, prefix, there)
    with pytest.raises(ContractError, match="winback migrate --dry-run, then winback migrate"):
        check_schema_version(old)
    # raw.users belongs to the app, so it stays without an arrival time.
    steps = {
        "columns": "add ops.runs.funnel, ops.deliveries.crm_number",
        "tables": "create ops.nights, ops.crms",
        "views": VIEWS,
        "CRM of deliveries": CRM,
        "events, sessions, exits": REBUILD,
        "late events": LATE,
        "audience": AUDIENCE,
    }
    assert migrated(there, parsed, settings=settings, dry_run=True).steps == steps

    assert migrated(there, parsed, settings=settings).steps == steps

    assert migrated(there, parsed, settings=settings).steps == {}
    check_schema_version(old)
    migrated(here, parsed)
    world = BigQueryWorld(there, None, parsed, emulator=emulator, prefix=prefix)  # type: ignore[arg-type]
    assert [table for table in TABLES if rows(world, table) != rows(here, table)] == []
    sql = (
        f"select user_id, voucher_reason from marts.crm_profiles where user_id in ('{WITHDRAWN}', '{WITHOUT_PROFILE}')"
    )
    assert {row["user_id"]: row["voucher_reason"] for row in world.query(sql)} == {
        WITHDRAWN: "no_consent",
        WITHOUT_PROFILE: "no_profile",
    }
