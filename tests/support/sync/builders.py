"""Helpers for tests of the sync: a DuckDB file with marts made by hand, simulated time, and CRMs that record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.errors import WinbackError
from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import BatchRefusedError, Destination, Finding, Outcome, Run
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind, load_fields
from crm_sync.outcomes import UNSENDABLE
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, SyncCounts, sync
from sandbox.local_crm.server import LocalCrm
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import CRM_STATE, TIMESTAMP

MAPPING = load_fields(Path(__file__).parents[3] / "config/crm_fields.yml")
RUN_ID = "00000002-run"
NINE, TEN = datetime(2026, 6, 15, 9, tzinfo=UTC), datetime(2026, 6, 15, 10, tzinfo=UTC)
NEXT_WEEK = datetime(2026, 6, 22, 10, tzinfo=UTC)
ATTEMPTED = datetime(2026, 6, 15, 10, 3, tzinfo=UTC)
BLACKLISTED = "provided_external_id_is_blacklisted_and_disallowed"  # Braze's code of a row that LocalCrm refuses

# The columns of dbt/models/marts/audience/crm_pending.sql that the sync reads.
PENDING = pa.schema(
    {
        "user_id": pa.string(),
        "desired_hash": pa.string(),
        "suppressed_because": pa.string(),
        "is_withdrawal": pa.bool_(),
        "is_in_doubt": pa.bool_(),
        **CRM_STATE,
        **{f"acknowledged_{name}": kind for name, kind in CRM_STATE.items()},
    }
)
_TYPES = {pa.string(): "varchar", pa.bool_(): "boolean", pa.float64(): "double", TIMESTAMP: "timestamp"}

SCORED: dict[str, Any] = {
    "churn_probability": 0.5,
    "churn_risk_band": "medium",
    "churn_scored_at": TEN,
    "churn_model_version": "m1",
    "is_voucher_eligible": False,
    "voucher_reason": "budget_run",
    "experiment_arm": "treatment",
}
GRANTED: dict[str, Any] = {"is_voucher_eligible": True, "voucher_reason": "granted", "voucher_valid_until": NEXT_WEEK}
FINISHED: dict[str, Any] = {"churn_probability": None, "churn_risk_band": None, "voucher_reason": "completed"}


@contextmanager
def marts_in(folder: Path) -> Iterator[DuckDBWarehouse]:
    """A warehouse whose marts are empty tables."""
    warehouse = DuckDBWarehouse(folder / "winback.duckdb")
    warehouse.prepare()
    columns = ", ".join(f"{column.name} {_TYPES[column.type]}" for column in PENDING)
    warehouse.connection.execute("create schema marts")
    warehouse.connection.execute(f"create table marts.crm_pending ({columns})")
    warehouse.connection.execute("create table marts.crm_profiles (user_id varchar, churn_probability double)")
    try:
        yield warehouse
    finally:
        warehouse.close()


def row_of(user_id: str, before: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of crm_pending: a scored user with `changes`, and the state `before` that the CRM acknowledged."""
    desired, acknowledged = SCORED | changes, before or {}
    is_withdrawal = bool(acknowledged.get("is_voucher_eligible")) and not desired["is_voucher_eligible"]
    row: dict[str, Any] = {"user_id": user_id, "desired_hash": f"hash-of-{user_id}", "is_withdrawal": is_withdrawal}
    row |= {"is_in_doubt": False, **desired}
    return row | {f"acknowledged_{name}": value for name, value in acknowledged.items()}


def fill(warehouse: DuckDBWarehouse, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to crm_pending."""
    staged = pa.Table.from_pylist([dict(row) for row in rows], schema=PENDING)
    with warehouse.connection.cursor() as cursor:
        cursor.register("staged", staged)
        cursor.execute("set TimeZone = 'UTC'")
        cursor.execute("insert into marts.crm_pending by name select * from staged")


def pending(warehouse: DuckDBWarehouse, user_id: str, before: Mapping[str, Any] | None = None, **changes: Any) -> None:
    """Append one row; see `row_of`."""
    fill(warehouse, [row_of(user_id, before, **changes)])


def pending_users(warehouse: DuckDBWarehouse, count: int) -> list[str]:
    """Return pending users in the order in which they are sent."""
    users = [f"u{number:03d}" for number in range(count)]
    fill(warehouse, [row_of(user) for user in users])
    return users


class Time:
    """A clock that advances by waits, and by what a test adds."""

    def __init__(self) -> None:
        self.now, self._lock = 0.0, threading.Lock()

    def __call__(self) -> float:
        return self.now

    def add(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


def deadline(seconds: float = 3_600.0, time: Time | None = None) -> Deadline:
    time = time or Time()
    return Deadline(RUN_ID, seconds, clock=time, wait=time.add)


def plan(
    warehouse: DuckDBWarehouse,
    run: Deadline | None = None,
    *,
    max_rejected_ratio: float = 0.5,
    recheck: Recheck | None = None,
    **more: Any,
) -> Plan:
    """Return the plan of a run at three past ten. Its recheck has no outcomes unless one is given."""
    return Plan(
        run_id=RUN_ID,
        epoch=2,
        run=run or deadline(),
        now=lambda: ATTEMPTED,
        recheck=recheck or Recheck(warehouse, TEN, {}, lambda: ATTEMPTED),
        max_rejected_ratio=max_rejected_ratio,
        **more,
    )


def log_of(warehouse: DuckDBWarehouse) -> DeliveryLog:
    return DeliveryLog(warehouse, RUN_ID, 2, lambda: ATTEMPTED)


def written(warehouse: DuckDBWarehouse, outcome: str) -> list[str]:
    """Return the users with this outcome in the log."""
    sql = "select user_id from ops.deliveries where outcome = $outcome order by user_id"
    users: list[str] = warehouse.query(sql, {"outcome": outcome}).column("user_id").to_pylist()
    return users


def deliveries(warehouse: DuckDBWarehouse) -> dict[str, dict[str, Any]]:
    """Return the CRM's logged replies, by user."""
    rows = warehouse.query("select * from ops.deliveries where outcome in ('delivered', 'rejected')").to_pylist()
    found = {row["user_id"]: row for row in rows}
    assert len(found) == len(rows), "a user was logged twice"
    return found


def outcomes(warehouse: DuckDBWarehouse) -> dict[str, str]:
    return {user: row["outcome"] for user, row in deliveries(warehouse).items()}


def run(
    warehouse: DuckDBWarehouse,
    destination: Destination,
    how: Plan | None = None,
    announce: Callable[[int], Callable[[int], None]] | None = None,
) -> tuple[SyncCounts, WinbackError | None]:
    """Sync, and check what every sync must fulfil.

    Each row ends in one outcome, and the counts match the log. A user with a reply has an earlier log row "sending"; a user who
    could not be sent has none.
    """
    how = how or plan(warehouse)
    counts, stopped = sync(warehouse, destination, MAPPING, how, announce=announce, log=log_of(warehouse))
    logged = list(outcomes(warehouse).values())
    assert counts.is_complete
    assert (counts.delivered, counts.rejected) == (logged.count("delivered"), logged.count("rejected"))
    assert sum(counts.errors.values()) == counts.rejected
    unsendable = {user for user, row in deliveries(warehouse).items() if row["error_code"] == UNSENDABLE}
    answered, sending = set(outcomes(warehouse)) - unsendable, set(written(warehouse, "sending"))
    assert sending >= answered | set(written(warehouse, "deferred"))
    assert not sending & unsendable
    assert not set(outcomes(warehouse)) & set(written(warehouse, "deferred"))
    return counts, stopped


def braze(crm: LocalCrm, max_batch: int = 75, budget_seconds: float = 120.0) -> Braze:
    """Return a client of the local CRM's Braze API, with one thread, so that the order is visible."""
    options = BrazeOptions(max_batch=max_batch, max_in_flight=1)
    return Braze(crm.url, "local-key", options, RetryBudget(budget_seconds))


@dataclass
class RecordingDestination:
    """A CRM that records users, and refuses a batch with a user of `poison`."""

    max_batch: int = 2
    max_in_flight: int = 1
    poison: frozenset[str] = frozenset()
    arrived: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        run.check()
        if self.poison & {change.external_id for change in batch}:
            raise BatchRefusedError(413, "http_413", "too large")
        with self.lock:
            self.arrived += [change.external_id for change in batch]
        return [Outcome("delivered", 201)] * len(batch)

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        raise NotImplementedError

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing, because nothing is open."""
