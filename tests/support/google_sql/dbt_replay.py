"""Replays BigQuery run windows in Google's reference implementation without dbt, like tests/support/dbt_replay.py on DuckDB."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest

from jobs.context import open_context
from jobs.transform.dbt import Window
from tests.support.dbt_replay import FORMS, MARKS, Recording, changing, over
from tests.support.google_sql.engine import GoogleSql, flat
from tests.support.google_sql.environment import PREFIX, PROJECT, GoogleWarehouse, Sent, google_settings, warehouse_is
from warehouse.tables import APP_EVENTS, Table


@cache
def recorded() -> Recording:
    """Return all statements with which dbt changes BigQuery tables, by selector. Once per process; see test_bigquery_grammar."""
    sent: list[str] = []
    google = GoogleSql(is_checking=False)
    warehouse = GoogleWarehouse(google, Sent())
    recording = {}
    with (
        TemporaryDirectory() as folder,
        warehouse_is(warehouse, lambda node, sql: sent.append(sql)),
        open_context(google_settings(Path(folder))) as context,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
        for selector, is_full in FORMS.items():
            sent.clear()
            context.transform(Window(**MARKS)).build(selector, full_refresh=is_full)
            # The comment at the start names the model.
            commented = [sql[: sql.index("*/") + 2] + flat(sql) for sql in sent if "*/" in sql]
            recording[selector] = [s for sql in commented if (s := changing(sql))]
    return recording


class GoogleReplay:
    """Tables of one stream of events in Google's reference implementation."""

    def __init__(self, events: pa.Table) -> None:
        """Create the tables that Python writes, and load the events."""
        self.google = GoogleSql(is_checking=False)
        self.warehouse = GoogleWarehouse(self.google, Sent())
        self.warehouse.prepare()
        self.warehouse.append(APP_EVENTS, events)

    def build(self, selector: str, window: Window) -> None:
        """Do the same as `Transform(...).build(selector)`, with the backfill as a full refresh, without the data tests."""
        for statement in recorded()[selector]:
            self.google.run(over(window, statement))

    def append(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows to a table of Python or of the app."""
        self.google.append(f"{PROJECT}.{PREFIX}_{table.layer}.{table.name}", rows)

    def rows(self, title: str) -> list[dict[str, Any]]:
        """Return every row of a table or view, named as `marts.crm_profiles`."""
        return self.google.rows(f"{PROJECT}.{PREFIX}_{title}")
