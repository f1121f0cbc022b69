"""A small world whose tables are in Google's reference implementation: jobs, dbt and BigQueryWarehouse use it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from core.settings import Settings
from jobs.context import JobContext
from tests.support.dbt.on_google_sql import Note, dbt_reaches
from tests.support.environment import World, settings_in
from tests.support.google_sql.engine import GoogleSql
from warehouse.bigquery.connection import Connection
from warehouse.bigquery.loads import TYPES
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.interface import UserTable
from warehouse.tables import ALL, Table

PROJECT, PREFIX = "some-project", "winback"
ROOT = Path(__file__).parents[3]
_LAYERS = re.compile(r"\b(raw|ops|staging|intermediate|marts)\.(?=[a-z])")
_ARROW = {name: kind for kind, name in TYPES.items()} | {"DATE": pa.date32()}
_PYTHON_ROOMS = ("jobs", "crm_sync", "scoring", "warehouse")


@dataclass
class Sent:
    """Statements that Python sent, and the lines of our code that sent them."""

    statements: list[str] = field(default_factory=list)
    places: set[tuple[str, int]] = field(default_factory=set)

    def note(self, sql: str) -> None:
        """Record a statement, and every line of our code on the stack."""
        self.statements.append(sql)
        frame = sys._getframe(1)
        while frame:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in _PYTHON_ROOMS:
                self.places.add((str(path.relative_to(ROOT)), frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]


class _Client:
    """The part of Google's client that BigQueryWarehouse uses, on the reference implementation."""

    def __init__(self, google: GoogleSql, sent: Sent) -> None:
        self._google, self._sent = google, sent

    def query(self, sql: str, job_config: Any = None, **_: Any) -> Any:
        """Return a finished job."""
        self._sent.note(sql)
        given = {p.name: p.value for p in (job_config.query_parameters if job_config else ())}
        if job_config is not None and job_config.dry_run:
            columns = self._google.analyse(sql, given)
            named = [SimpleNamespace(name=name, field_type=kind) for name, kind in columns.items()]
            return SimpleNamespace(schema=named, total_bytes_processed=0)
        if changed := re.match(r"\s*delete from (\S+)", sql, re.IGNORECASE):
            name = changed[1].replace("`", "")
            before = len(self._google.rows(name))
            self._google.run(sql, given)
            return SimpleNamespace(result=lambda **_: None, num_dml_affected_rows=before - len(self._google.rows(name)))
        table = as_arrow(self._google, sql, given)
        return SimpleNamespace(
            result=lambda **_: SimpleNamespace(to_arrow_iterable=lambda **_: iter(table.to_batches()))
        )

    def close(self) -> None:
        """Do nothing, because nothing is open."""


def as_arrow(google: GoogleSql, sql: str, parameters: dict[str, Any]) -> pa.Table:
    """Return the result of a query as BigQueryWarehouse does."""
    result = google.run(sql, parameters)
    schema = pa.schema([pa.field(name, _ARROW[kind]) for name, kind in result.columns.items()])
    columns = list(zip(*result.rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, type=f.type) for column, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


class GoogleWarehouse(BigQueryWarehouse):
    """BigQueryWarehouse's own SQL, with its API calls replaced."""

    def __init__(self, google: GoogleSql, sent: Sent) -> None:
        self.connection = Connection(PROJECT, PREFIX, "US")
        self.location = "US"
        self.google, self.sent = google, sent
        self.client = _Client(google, sent)  # type: ignore[assignment]
        self._retry = None  # type: ignore[assignment]

    @property
    def storage(self) -> Any:
        return None

    def exists(self, layer: str, name: str) -> bool:
        return f"{self._dataset(layer)}.{name}" in self.google.relations

    def prepare(self) -> None:
        for table in ALL:
            self.create(table)

    def create(self, table: Table) -> None:
        if self._id(table) not in self.google.relations:
            self.google.create(self._id(table), {c.name: TYPES[c.type] for c in table.columns})

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        text = re.sub(r"\$(\w+)", r"@\1", sql)
        self.sent.note(text)
        return as_arrow(self.google, text, parameters or {})

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        self.sent.note(sql)  # now, while the caller is on the stack
        return super().stream(sql, chunk_rows)

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        batches = rows.to_batches() if isinstance(rows, pa.Table) else list(rows)
        made = [row for batch in batches for row in batch.to_pylist()]
        self.google.append(self._id(table), made)
        return len(made)

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        key = [row[name] for name in table.key]
        if any([there[name] for name in table.key] == key for there in self.google.rows(self._id(table))):
            return False
        self.google.append(self._id(table), [row])
        return True

    def user_tables(self) -> list[UserTable]:
        found = []
        for name, relation in self.google.relations.items():
            layer, table = name.removeprefix(f"{PROJECT}.{PREFIX}_").split(".")
            if "user_id" in relation.columns and not relation.query:
                found.append(UserTable(layer, table, is_ours=layer != "raw"))
        return found


def google_settings(folder: Path) -> Settings:
    """Settings with BigQuery as warehouse, and all other paths in the folder."""
    values: dict[str, Any] = {
        "warehouse": f"bigquery://{PROJECT}/{PREFIX}",
        # No server listens there and nothing connects: with plain HTTP, dbt does not look for credentials.
        "bigquery_endpoint": "http://127.0.0.1:9",
        "lease_seconds": 0,
    }
    return settings_in(folder, **values)


@contextmanager
def warehouse_is(warehouse: GoogleWarehouse, note: Note) -> Iterator[None]:
    """Within this block, a job that opens BigQuery gets this warehouse, and dbt uses its tables."""
    with pytest.MonkeyPatch.context() as patch, dbt_reaches(warehouse.google, note):
        patch.setattr("jobs.context.open_warehouse", lambda settings, **_: warehouse)
        yield


@dataclass
class GoogleWorld(World):
    """A world in Google's reference implementation. SQL names layers as in DuckDB: `marts.crm_profiles`."""

    google: GoogleSql = field(default_factory=GoogleSql)
    sent: Sent = field(default_factory=Sent)
    by_dbt: list[tuple[str, str]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return google_settings(self.folder)

    @contextmanager
    def context(self, **parts: Any) -> Iterator[JobContext]:
        parts.setdefault("settings", self.settings)
        with (
            warehouse_is(self.warehouse(), lambda node, sql: self.by_dbt.append((node, sql))),
            super().context(**parts) as h,
        ):
            yield h

    def warehouse(self) -> GoogleWarehouse:
        """Open a connection to the tables."""
        return GoogleWarehouse(self.google, self.sent)

    def query(self, sql: str) -> list[dict[str, Any]]:
        named = _LAYERS.sub(rf"`{PROJECT}`.`{PREFIX}_\1`.", sql)
        rows: list[dict[str, Any]] = as_arrow(self.google, named, {}).to_pylist()
        return rows

    def _append(self, table: Table, row: dict[str, Any]) -> None:
        self.warehouse().append(table, pa.Table.from_pylist([row], schema=table.schema))
