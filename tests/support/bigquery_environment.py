"""A small world for tests whose tables are in the BigQuery emulator."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from core.settings import Settings
from jobs.context import JobContext, open_context
from jobs.models.train import train
from jobs.upkeep.backfill import backfill
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import SyntheticApp
from tests.support.bigquery_emulator.process import PROJECT, Emulator
from tests.support.environment import API_KEY, HISTORY_UNTIL, NOW, World, settings_in
from warehouse.bigquery.connection import Connection
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load
from warehouse.tables import RAW, Table

_LAYERS = re.compile(r"\b(raw|ops|staging|intermediate|marts)\.(?=[a-z])")
# One second of retries, because an endpoint that is unreachable in a test stays unreachable.
RETRY_SECONDS = 1
# The long form, for `make faults-test`.
IS_ALL = os.environ.get("FAULTS") == "all"


def connection_to(emulator: Emulator, prefix: str, **changes: Any) -> Connection:
    """Return a connection to a separate warehouse in the emulator."""
    made = Connection(
        PROJECT,
        prefix,
        "US",
        endpoint=emulator.url,
        storage_endpoint=emulator.storage_endpoint,
        labels={"app": "winback"},
        retry_seconds=RETRY_SECONDS,
    )
    return replace(made, **changes)


def with_raw_tables(emulator: Emulator, prefix: str) -> BigQueryWarehouse:
    """Create the app's tables, empty, as its ingestion would, and winback's own."""
    warehouse = BigQueryWarehouse(connection_to(emulator, prefix))
    for table in RAW.values():
        warehouse.create(table)
    warehouse.prepare()
    return warehouse


def bigquery_settings(emulator: Emulator, prefix: str, folder: Path, **changes: Any) -> Settings:
    """Settings with the emulator as warehouse, and all other paths in the folder."""
    values: dict[str, Any] = {
        "warehouse": f"bigquery://{PROJECT}/{prefix}",
        "bigquery_location": "US",
        "bigquery_endpoint": emulator.url,
        "bigquery_storage_endpoint": emulator.storage_endpoint,
        # No leases here; tests/warehouse/test_lease.py and test_concurrency.py test them.
        "lease_seconds": 0,
    }
    return settings_in(folder, **(values | changes))


@dataclass
class BigQueryWorld(World):
    """A world whose tables are in the emulator. SQL names layers as in DuckDB: `marts.crm_profiles`."""

    emulator: Emulator | None = None
    prefix: str = "winback"

    @contextmanager
    def context(self, **parts: Any) -> Iterator[JobContext]:
        assert self.emulator is not None
        parts.setdefault("settings", bigquery_settings(self.emulator, self.prefix, self.folder))
        with pytest.MonkeyPatch.context() as patch, super().context(**parts) as context:
            # Google's client retries a request for ten minutes, and waits as long for a job; dbt cannot change that.
            patch.setattr(bigquery.DEFAULT_RETRY, "_timeout", RETRY_SECONDS)
            patch.setattr("dbt.adapters.bigquery.retry._DEFAULT_POLLING_RETRY_DEADLINE", RETRY_SECONDS)
            context.warehouse.close()
            with closing(self.warehouse()) as impatient:
                yield replace(context, warehouse=impatient)

    def warehouse(self) -> BigQueryWarehouse:
        """Open another connection to the same tables."""
        assert self.emulator is not None
        return BigQueryWarehouse(connection_to(self.emulator, self.prefix))

    def query(self, sql: str) -> list[dict[str, Any]]:
        with closing(self.warehouse()) as warehouse:
            rows: list[dict[str, Any]] = warehouse.query(
                _LAYERS.sub(rf"`{PROJECT}`.{self.prefix}_\1.", sql)
            ).to_pylist()
            return rows

    def _append(self, table: Table, row: dict[str, Any]) -> None:
        with closing(self.warehouse()) as warehouse:
            warehouse.append(table, pa.Table.from_pylist([row], schema=table.schema))


@contextmanager
def twins(
    emulator: Emulator, name: str, app: SyntheticApp | Path, folder: Path, parsed: dict[str, Any], **parts: Any
) -> Iterator[tuple[World, BigQueryWorld]]:
    """Make a world in DuckDB and one in BigQuery with the same history and model, each with its own CRM.

    `app` is a synthetic one or a folder of its files; `config` and `history_until` replace those of tests/support/environment.py.
    """
    until, changes = parts.pop("history_until", HISTORY_UNTIL), parts
    here, there = folder / "duckdb", folder / "bigquery"
    here.mkdir()
    there.mkdir()
    files = app if isinstance(app, Path) else folder / "app"
    if not isinstance(app, Path):
        app.write(files)
    settings = settings_in(here, **changes)
    found = {name: files / f"{name}.parquet" for name in RAW if (files / f"{name}.parquet").is_file()}
    with closing(DuckDBWarehouse(here / "winback.duckdb")) as warehouse:
        load(warehouse, found, now=NOW)
    with open_context(settings, now=lambda: NOW, parsed=parsed) as context:
        backfill(context, until)
        train(context)

    with closing(with_raw_tables(emulator, name)) as bigquery_warehouse:
        for table, file in found.items():
            bigquery_warehouse.append(RAW[table], pq.read_table(file))
    shutil.copytree(here / "models", there / "models")
    with open_context(bigquery_settings(emulator, name, there, **changes), now=lambda: NOW, parsed=parsed) as context:
        backfill(context, until)
    with (
        LocalCrm(here / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm,
        LocalCrm(there / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as other_crm,
    ):
        yield World(here, crm, parsed), BigQueryWorld(there, other_crm, parsed, emulator=emulator, prefix=name)


Rows = list[dict[str, Any]]


def differences(these: World, those: World, tables: dict[str, str]) -> dict[str, Rows]:
    """Return by table the differing columns of each row, or rows that only one world has; also for the CRM.

    `tables` selects the rows that count. Run ids are random; nothing else may differ, to the last bit.
    """
    found: dict[str, Rows] = {}
    for table, counts in tables.items():
        here, there = (sorted_rows(world, f"{table} where {counts}") for world in (these, those))
        if len(here) != len(there):
            found[table] = [row for row in here if row not in there] + [row for row in there if row not in here]
        elif here != there:
            pairs = [(a, b) for a, b in zip(here, there, strict=True) if a != b]
            found[table] = [{name: (a[name], b.get(name)) for name in a if a[name] != b.get(name)} for a, b in pairs]
    mine, theirs = these.crm.store.profiles(), those.crm.store.profiles()
    if mine != theirs:
        users = sorted(user for user in mine.keys() | theirs.keys() if mine.get(user) != theirs.get(user))
        found["crm"] = [{user: (mine.get(user), theirs.get(user))} for user in users]
    return found


def sorted_rows(world: World, source: str) -> Rows:
    """Return rows in a fixed order, with columns in alphabetical order."""
    plain = [
        {name: row[name] for name in sorted(row) if name != "run_id"} for row in world.query(f"select * from {source}")
    ]
    return sorted(plain, key=lambda row: [str(value) for value in row.values()])
