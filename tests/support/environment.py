"""A small world for tests: a DuckDB file with history and a model, a real local CRM, and a fixed clock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.settings import Settings
from crm_sync.destinations.braze import Braze
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.field_mapping import load_fields
from jobs.context import JobContext, open_context
from jobs.hourly.run import Result, hourly
from jobs.models.train import train
from jobs.transform.dbt import Window
from jobs.transform.funnel import load_funnel
from jobs.transform.manifest_cache import NAME as PARSED
from jobs.upkeep.backfill import backfill
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import SyntheticApp, generate
from scoring.policy import load_policy
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load
from warehouse.tables import APP_EVENTS, USERS

CONFIG = Path(__file__).parents[2] / "config"
STARTS_ON = date(2026, 4, 1)
COUNT_DAYS = 60
HISTORY_UNTIL = datetime(2026, 5, 20, 16, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
API_KEY = "key-of-the-tests"


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Settings with every path in the folder."""
    values: dict[str, Any] = {
        "warehouse": f"duckdb:///{folder / 'winback.duckdb'}",
        "models": folder / "models",
        "registry": "none",
        "config": CONFIG,
        "dbt_target": folder / "dbt",
        "threads": 1,
    }
    return Settings(**(values | changes))


def small_app(seed: int = 3, count_users: int = 5_000) -> SyntheticApp:
    """Return sixty days of an app with few users."""
    return generate(seed=seed, count_users=count_users, starts_on=STARTS_ON, count_days=COUNT_DAYS)


def load_app(app: SyntheticApp, folder: Path, settings: Settings) -> None:
    """Load an app's files into the raw tables, as `winback load` does."""
    app.write(folder)
    assert settings.duckdb_file
    warehouse = DuckDBWarehouse(settings.duckdb_file)
    try:
        load(warehouse, {n: folder / f"{n}.parquet" for n in ("events", "users", "redemptions")}, now=NOW)
    finally:
        warehouse.close()


def make_history(folder: Path) -> None:
    """Load, backfill and train once; tests copy the result."""
    settings = settings_in(folder)
    load_app(small_app(), folder / "app", settings)
    with open_context(settings, now=lambda: NOW) as context:
        backfill(context, HISTORY_UNTIL)
        train(context)
        context.transform(Window(HISTORY_UNTIL, HISTORY_UNTIL, HISTORY_UNTIL)).parse()  # for later runs


def parse_ahead(settings: Settings, parsed: dict[str, Any], window: Window) -> None:
    """Parse the dbt project, so that processes forked from this one do not. Opens no warehouse."""
    nothing: Any = None
    context = JobContext(
        settings,
        load_funnel(settings.config / "funnel.yml"),
        load_policy(settings.config / "vouchers.yml"),
        load_fields(settings.config / "crm_fields.yml"),
        warehouse=nothing,
        destination=nothing,
        crm="braze local",
        parsed=parsed,
    )
    context.transform(window).parse()


@dataclass
class World:
    """One test's own copy of history, with its CRM."""

    folder: Path
    crm: LocalCrm
    parsed: dict[str, Any] = field(default_factory=dict)  # shared by all tests: parsing dbt takes a second

    @contextmanager
    def context(self, **parts: Any) -> Iterator[JobContext]:
        """Open a job context; `settings` and any part may be replaced."""
        settings = parts.pop("settings", None) or settings_in(self.folder)
        parts = {"destination": self.destination(), "now": lambda: NOW, "parsed": self.parsed, **parts}
        with open_context(settings, **parts) as context:
            yield context

    def destination(self) -> Braze:
        """Return a client of the local CRM's Braze API with short retries."""
        return Braze(self.crm.url, API_KEY, budget=RetryBudget(seconds=0.2, first_wait_seconds=0.01))

    def run(self, hours: float, **parts: Any) -> Result:
        """Run until this many hours after history, at that time. Rows that are loaded later are not visible yet."""
        parts.setdefault("now", lambda: at(hours))
        with self.context(**parts) as context:
            return hourly(context, at(hours))

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Query the tables."""
        warehouse = DuckDBWarehouse(self.folder / "winback.duckdb")
        try:
            rows: list[dict[str, Any]] = warehouse.query(sql).to_pylist()
            return rows
        finally:
            warehouse.close()

    def append_event(self, user_id: str, event_name: str, occurred: datetime, loaded: datetime) -> None:
        """Load one more event."""
        row = {
            "event_id": f"extra-{user_id}-{event_name}-{occurred.isoformat()}",
            "user_id": user_id,
            "event_name": event_name,
            "occurred_at": occurred,
            "loaded_at": loaded,
        }
        self._append(APP_EVENTS, row)

    def append_profile(self, user_id: str, updated_at: datetime, **changes: Any) -> None:
        """Load a new version of a user's profile; it arrives when it is written unless the changes override that."""
        row = self.query(f"select * from raw.users where user_id = '{user_id}' order by updated_at desc limit 1")[0]
        self._append(USERS, row | {"updated_at": updated_at, "loaded_at": updated_at} | changes)

    def _append(self, table: Any, row: dict[str, Any]) -> None:
        warehouse = DuckDBWarehouse(self.folder / "winback.duckdb")
        try:
            warehouse.append(table, pa.Table.from_pylist([row], schema=table.schema))
        finally:
            warehouse.close()


def at(hours: float) -> datetime:
    """Return the time this many hours after the end of history."""
    return HISTORY_UNTIL + timedelta(hours=hours)


def copy_history(history: Path, folder: Path) -> None:
    """Copy the file, the models and the parsed dbt project."""
    shutil.copy(history / "winback.duckdb", folder / "winback.duckdb")
    shutil.copytree(history / "models", folder / "models")
    (folder / "dbt").mkdir()
    shutil.copy(history / "dbt" / PARSED, folder / "dbt" / PARSED)
