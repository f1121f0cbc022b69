"""Helpers for tests of `winback migrate`: an old warehouse in a folder, and the command without a CRM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.progress import NullProgress
from crm_sync.destinations.braze import Braze
from crm_sync.destinations.http.transport import RetryBudget
from jobs.context import JobContext, open_context
from jobs.upkeep.migrate import Migrated, migrate
from tests.support.environment import API_KEY, NOW, at, settings_in
from tests.support.migrate.old_warehouse import COUNT_HOURS
from warehouse.duckdb.warehouse import DuckDBWarehouse

# The reasons differ by facts that the old code could not know.
AUDIENCE = "build the audience again for all users, with late withdrawals of consent and the reason no_profile"
VIEWS = "create the views of staging and of the sync's log again"
CRM = "create the view of the deliveries again, with crm_number"
REBUILD = "build events, sessions and exits again from the raw events"
LATE = "remove 1 rows of marts.fct_late_events that the next run writes again"


HOURS = 2 * COUNT_HOURS
# Start of the raw events in the warehouse that `trim` leaves.
TRIMMED_AT = at(-24)


class Steps(NullProgress):
    """Records the progress lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, what: str, **facts: Any) -> None:
        self.lines.append(what)


@contextmanager
def migrating(folder: Path, parsed: dict[str, Any], **parts: Any) -> Iterator[JobContext]:
    """Open the warehouse in the folder unchanged. No CRM is running, and nothing is sent."""
    parts.setdefault("destination", Braze("http://127.0.0.1:9", API_KEY, budget=RetryBudget(seconds=0.1)))
    settings = parts.pop("settings", None) or settings_in(folder)
    with open_context(settings, is_migrating=True, parsed=parsed, now=lambda: NOW, **parts) as context:
        yield context


def migrated(folder: Path, parsed: dict[str, Any], *, dry_run: bool = False, **parts: Any) -> Migrated:
    with migrating(folder, parsed, **parts) as context:
        return migrate(context, dry_run=dry_run)


def query(folder: Path, sql: str) -> list[dict[str, Any]]:
    with closing(DuckDBWarehouse(folder / "winback.duckdb")) as warehouse:
        rows: list[dict[str, Any]] = warehouse.query(sql).to_pylist()
        return rows


def take_away(folder: Path) -> None:
    """Remove the columns and tables that earlier versions lacked."""
    with closing(DuckDBWarehouse(folder / "winback.duckdb")) as warehouse:
        for column in (
            "marts.fct_exit_features_logged drop column fields_filled_ratio_per_input",
            "marts.crm_acknowledged drop column is_in_doubt",
            "marts.crm_acknowledged drop column rejected_reason",
            "ops.deliveries drop column error_reason",
            "ops.reports drop column count_audience",
        ):
            warehouse.connection.execute(f"alter table {column}")
        warehouse.connection.execute("drop table ops.leases; drop table ops.shadow_scores")


def trim(folder: Path) -> None:
    """Let a user finish, and delete all but the raw events of the last days, as an app may do."""
    with closing(DuckDBWarehouse(folder / "winback.duckdb")) as warehouse:
        for sql in (
            "insert into intermediate.int_outcomes by name select user_id, occurred_at as finished_at, 'finished' as outcome, "
            "occurred_at as finished_effective_at, occurred_at as first_outcome_at, loaded_at as last_loaded_at "
            "from raw.app_events where event_id = 'odd-4'",
            f"delete from raw.app_events where loaded_at < '{TRIMMED_AT:%Y-%m-%d %H:%M}'",
        ):
            warehouse.connection.execute(sql)
