"""Does what is pending reach the CRM in the right order, and is nothing believed that the CRM did not say?

A real DuckDB file with the marts made by hand, and a real CRM over HTTP.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from crm_sync.destination import BatchRefusedError, Destination, Outcome, UnavailableError
from crm_sync.destinations.braze import Braze
from crm_sync.destinations.transport import RetryBudget
from crm_sync.fields import Change, load_fields
from crm_sync.sync import Plan, SyncCounts, sync
from sandbox.crm_server import LocalCrm
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import CircuitOpenError, ContractError, RetryableError, WinbackError

MAPPING = load_fields(Path(__file__).parents[1] / "config/crm_fields.yml")
NINE, TEN = datetime(2026, 6, 15, 9, tzinfo=UTC), datetime(2026, 6, 15, 10, tzinfo=UTC)
NEXT_WEEK = datetime(2026, 6, 22, 10, tzinfo=UTC)
ATTEMPTED = datetime(2026, 6, 15, 10, 3, tzinfo=UTC)
BLACKLISTED = "provided_external_id_is_blacklisted_and_disallowed"  # what Braze says of a row that LocalCrm refuses

# The columns that sync reads of dbt/models/marts/crm_pending.sql and its neighbours.
STATE = {
    "churn_probability": "double",
    "churn_risk_band": "varchar",
    "churn_reasons": "varchar",
    "churn_scored_at": "timestamp",
    "churn_model_version": "varchar",
    "is_voucher_eligible": "boolean",
    "voucher_reason": "varchar",
    "voucher_valid_until": "timestamp",
    "experiment_arm": "varchar",
}
PENDING = {
    "user_id": "varchar",
    "desired_hash": "varchar",
    "is_withdrawal": "boolean",
    **STATE,
    **{f"acknowledged_{name}": kind for name, kind in STATE.items()},
}
PROFILES = {"user_id": "varchar", "is_erased": "boolean", "voucher_reason": "varchar", "churn_probability": "double"}
ACKNOWLEDGED = {"user_id": "varchar", "acknowledged_at": "timestamp"}

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


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    house = DuckDBWarehouse(tmp_path / "winback.duckdb")
    house.prepare()
    house.connection.execute("create schema marts")
    for name, columns in (("crm_pending", PENDING), ("crm_profiles", PROFILES), ("crm_acknowledged", ACKNOWLEDGED)):
        typed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        house.connection.execute(f"create table marts.{name} ({typed})")
    yield house
    house.close()


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


def braze(crm: LocalCrm, max_batch: int = 75, budget_seconds: float = 120.0) -> Braze:
    budget = RetryBudget(budget_seconds, sleep=lambda _: None)
    return Braze(crm.url, "local-key", budget=budget, max_batch=max_batch)


def insert(warehouse: DuckDBWarehouse, table: str, row: dict[str, Any]) -> None:
    values = {name: v.replace(tzinfo=None) if isinstance(v, datetime) else v for name, v in row.items()}
    marks = ", ".join(f"${name}" for name in values)
    warehouse.connection.execute(f"insert into marts.{table} ({', '.join(values)}) values ({marks})", values)


def pending(warehouse: DuckDBWarehouse, user_id: str, before: dict[str, Any] | None = None, **changes: Any) -> None:
    """A user who is scored but for `changes`, and of whom the CRM acknowledged `before`."""
    desired, acknowledged = SCORED | changes, before or {}
    is_withdrawal = bool(acknowledged.get("is_voucher_eligible")) and not desired["is_voucher_eligible"]
    row = {"user_id": user_id, "desired_hash": f"hash-of-{user_id}", "is_withdrawal": is_withdrawal, **desired}
    insert(warehouse, "crm_pending", row | {f"acknowledged_{name}": value for name, value in acknowledged.items()})


def plan(max_rejected_ratio: float = 0.5, is_time_up: Callable[[], bool] = lambda: False) -> Plan:
    return Plan("00000002-run", 2, max_rejected_ratio, lambda: ATTEMPTED, is_time_up)


def deliveries(warehouse: DuckDBWarehouse) -> dict[str, dict[str, Any]]:
    rows = warehouse.query("select * from ops.deliveries").to_pylist()
    found = {row["user_id"]: row for row in rows}
    assert len(found) == len(rows), "a user was logged twice"
    return found


def outcomes(warehouse: DuckDBWarehouse) -> dict[str, str]:
    return {user: row["outcome"] for user, row in deliveries(warehouse).items()}


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def run(
    warehouse: DuckDBWarehouse, destination: Destination, how: Plan | None = None
) -> tuple[SyncCounts, WinbackError | None]:
    """Sync, and check what holds of every sync: each pending row ends in one outcome, and the counts are the log's."""
    counts, stopped = sync(warehouse, destination, MAPPING, how or plan())
    logged = list(outcomes(warehouse).values())
    assert counts.pending == counts.delivered + counts.rejected + counts.unchanged + counts.deferred
    assert (counts.delivered, counts.rejected) == (logged.count("delivered"), logged.count("rejected"))
    assert sum(counts.errors.values()) == counts.rejected
    return counts, stopped


@dataclass
class Notebook:
    """A CRM that knows who arrived, and refuses a batch that holds somebody of `poison`."""

    max_batch: int = 2
    poison: frozenset[str] = frozenset()
    arrived: set[str] = field(default_factory=set)

    def send(self, batch: Sequence[Change]) -> list[Outcome]:
        if self.poison & {change.external_id for change in batch}:
            raise BatchRefusedError(413, "http_413")
        self.arrived |= {change.external_id for change in batch}
        return [Outcome("delivered", 201)] * len(batch)


# What lands, and what is written down


def test_a_delivery_lands_in_the_crm_and_is_logged_with_the_state_it_left_there(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    pending(warehouse, "ada", churn_reasons="short last visit; many errors in total", **GRANTED)
    counts, stopped = run(warehouse, braze(crm))
    assert crm.store.profiles() == {
        "ada": {
            "churn_probability": 0.5,
            "churn_risk_band": "medium",
            "churn_reasons": ["short last visit", "many errors in total"],
            "churn_scored_at": "2026-06-15T10:00:00Z",
            "churn_model_version": "m1",
            "voucher_eligible": True,
            "voucher_reason": "granted",
            "voucher_valid_until": "2026-06-22T10:00:00Z",
            "experiment_arm": "treatment",
        }
    }
    assert deliveries(warehouse) == {
        "ada": {
            "run_id": "00000002-run",
            "epoch": 2,
            "user_id": "ada",
            "desired_hash": "hash-of-ada",
            "fields_sent": (
                "churn_probability,churn_risk_band,churn_reasons,churn_scored_at,churn_model_version,"
                "voucher_eligible,voucher_reason,voucher_valid_until,experiment_arm"
            ),
            "attempted_at": ATTEMPTED,
            "outcome": "delivered",
            "http_status": 201,
            "error_code": None,
            **SCORED,
            "churn_reasons": "short last visit; many errors in total",
            **GRANTED,
        }
    }
    assert stopped is None
    assert counts == SyncCounts(pending=1, delivered=1, requests=1, attributes=9)


def test_a_withdrawal_sends_what_changed_and_keeps_the_rest_in_the_state(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    finished = {"churn_probability": None, "churn_risk_band": None, "voucher_reason": "completed"}
    pending(warehouse, "ada", before=SCORED | GRANTED, **finished)
    counts, _ = run(warehouse, braze(crm))
    row = deliveries(warehouse)["ada"]
    assert row["fields_sent"] == "churn_probability,churn_risk_band,voucher_eligible,voucher_reason,voucher_valid_until"
    assert {name: row[name] for name in STATE} == dict.fromkeys(STATE) | SCORED | finished
    assert crm.store.profile("ada") == {"voucher_eligible": False, "voucher_reason": "completed"}
    assert counts == SyncCounts(pending=1, delivered=1, withdrawals=1, requests=1, attributes=5)


def test_a_rejected_row_is_logged_with_its_code_and_without_a_state(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    for user in ("ada", "bob", "cyd"):
        pending(warehouse, user)
    fault(crm, kind="row_error", external_ids=["bob"])
    counts, stopped = run(warehouse, braze(crm))
    assert outcomes(warehouse) == {"ada": "delivered", "bob": "rejected", "cyd": "delivered"}
    row = deliveries(warehouse)["bob"]
    assert (row["http_status"], row["error_code"], row["desired_hash"]) == (201, BLACKLISTED, "hash-of-bob")
    assert {name: row[name] for name in STATE} == dict.fromkeys(STATE)
    assert sorted(crm.store.profiles()) == ["ada", "cyd"]
    assert (counts.errors, stopped) == ({BLACKLISTED: 1}, None)


def test_nothing_pending_is_nothing_done(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    assert run(warehouse, braze(crm)) == (SyncCounts(), None)


def test_a_row_with_nothing_to_send_is_unchanged_and_not_logged(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending(warehouse, "ada", before=SCORED, churn_scored_at=NEXT_WEEK)
    pending(warehouse, "bob", before=SCORED, experiment_arm=None)
    pending(warehouse, "cyd")
    counts, _ = run(warehouse, braze(crm))
    assert (counts.unchanged, counts.delivered, counts.deferred) == (2, 1, 0)
    assert list(deliveries(warehouse)) == list(crm.store.profiles()) == ["cyd"]


def test_the_suppressed_are_counted_and_no_part_of_the_pending(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    for user, is_erased, reason, probability, acknowledged_at in [
        ("erased", True, "granted", 0.5, NINE),
        ("never mentioned", False, "no_consent", None, None),
        ("mentioned before", False, "no_consent", None, NINE),
        ("completed", False, "completed", None, None),
        ("scored", False, "granted", 0.5, None),
    ]:
        row = {"user_id": user, "is_erased": is_erased, "voucher_reason": reason, "churn_probability": probability}
        insert(warehouse, "crm_profiles", row)
        if acknowledged_at:
            insert(warehouse, "crm_acknowledged", {"user_id": user, "acknowledged_at": acknowledged_at})
    assert run(warehouse, braze(crm)) == (SyncCounts(suppressed=2), None)


# Order


def in_order_of_arrival(crm: LocalCrm) -> list[str]:
    return [write[0].external_id for write in reversed(crm.store.latest_writes(1_000))]


def test_withdrawals_go_before_grants_and_grants_before_everything_else(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    pending(warehouse, "low", churn_probability=0.1)
    pending(warehouse, "no score", before=SCORED, churn_probability=None, voucher_reason="completed")
    pending(warehouse, "grant", churn_probability=0.6, **GRANTED)
    pending(warehouse, "high", churn_probability=0.9)
    pending(warehouse, "high too", churn_probability=0.9)
    pending(warehouse, "better grant", churn_probability=0.8, **GRANTED)
    pending(warehouse, "withdrawal", before=SCORED | GRANTED, churn_probability=None)
    pending(warehouse, "withdrawal, scored", before=SCORED | GRANTED, churn_probability=0.2)
    run(warehouse, braze(crm, max_batch=3))
    assert in_order_of_arrival(crm) == [
        "withdrawal, scored",
        "withdrawal",
        "better grant",
        "grant",
        "high",
        "high too",
        "low",
        "no score",
    ]


def test_more_rows_than_one_read_keep_their_order_and_land_once(
    warehouse: DuckDBWarehouse, crm: LocalCrm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crm_sync.sync.READ_ROWS", 7)
    for number in range(50):
        pending(warehouse, f"u{number:02d}", churn_probability=number / 100)
    counts, _ = run(warehouse, braze(crm, max_batch=4))
    assert in_order_of_arrival(crm) == [f"u{number:02d}" for number in reversed(range(50))]
    assert (counts.delivered, counts.requests) == (50, 13)


# A batch that is refused whole


@pytest.mark.parametrize("poison", [{"u00"}, {"u31"}, {"u74"}, {"u10", "u11", "u60"}])
def test_halving_finds_the_rows_at_fault_and_the_others_land(warehouse: DuckDBWarehouse, poison: set[str]) -> None:
    everybody = {f"u{number:02d}" for number in range(75)}
    for user in everybody:
        pending(warehouse, user)
    crm = Notebook(max_batch=75, poison=frozenset(poison))
    counts, stopped = run(warehouse, crm)
    assert crm.arrived == everybody - poison
    assert {user for user, outcome in outcomes(warehouse).items() if outcome == "rejected"} == poison
    assert {deliveries(warehouse)[user]["http_status"] for user in poison} == {413}
    assert (counts.errors, stopped) == ({"http_413": len(poison)}, None)
    assert counts.requests <= 1 + 2 * 7 * len(poison)  # 2 to the 7th is above 75


def test_a_batch_too_large_for_the_crm_lands_in_halves(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    for number in range(100):
        pending(warehouse, f"u{number:02d}")
    counts, _ = run(warehouse, braze(crm, max_batch=100))
    assert (counts.delivered, counts.requests, len(crm.store.profiles())) == (100, 3, 100)


def test_a_refusal_that_does_not_come_again_leaves_nobody_behind(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    for number in range(10):
        pending(warehouse, f"u{number}")
    fault(crm, kind="status", status=400)
    counts, _ = run(warehouse, braze(crm))
    assert (counts.delivered, counts.rejected, counts.requests) == (10, 0, 3)


# Stopping


def crowd(warehouse: DuckDBWarehouse, count: int) -> list[str]:
    """Pending users in the order in which they are sent."""
    users = [f"u{number:03d}" for number in range(count)]
    for user in users:
        pending(warehouse, user)
    return users


@pytest.mark.parametrize(
    ("count_refused", "max_rejected_ratio", "is_open"),
    [(25, 0.5, False), (26, 0.5, True), (0, 0.0, False), (1, 0.0, True), (50, 1.0, False), (50, 0.99, True)],
)
def test_the_circuit_opens_above_the_ratio_and_not_at_it(
    warehouse: DuckDBWarehouse, crm: LocalCrm, count_refused: int, max_rejected_ratio: float, is_open: bool
) -> None:
    users = crowd(warehouse, 60)
    fault(crm, kind="row_error", external_ids=users[:count_refused])
    counts, stopped = run(warehouse, braze(crm, max_batch=50), plan(max_rejected_ratio))
    assert isinstance(stopped, CircuitOpenError) == is_open
    assert counts.rejected == count_refused
    assert counts.deferred == (10 if is_open else 0)


@pytest.mark.parametrize(("count", "is_open"), [(49, False), (50, True)])
def test_the_circuit_does_not_judge_fewer_than_50_attempts(
    warehouse: DuckDBWarehouse, crm: LocalCrm, count: int, is_open: bool
) -> None:
    fault(crm, kind="row_error", external_ids=crowd(warehouse, count))
    counts, stopped = run(warehouse, braze(crm, max_batch=7), plan(0.1))
    assert isinstance(stopped, CircuitOpenError) == is_open
    assert (counts.rejected, counts.deferred) == (count, 0)


def test_an_open_circuit_tells_how_many_and_why_and_nobody_s_id(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=crowd(warehouse, 60))
    _, stopped = run(warehouse, braze(crm, max_batch=50))
    assert str(stopped) == (
        f"The CRM rejected 50 of 50 users, most with {BLACKLISTED}. Sending was stopped. "
        "See winback dead-letters; after the cause is mended: winback dead-letters retry"
    )


@pytest.mark.parametrize(("batches", "delivered"), [(0, 0), (1, 4), (2, 8), (3, 10)])
def test_when_the_time_is_up_the_rest_is_deferred(
    warehouse: DuckDBWarehouse, crm: LocalCrm, batches: int, delivered: int
) -> None:
    users = crowd(warehouse, 10)
    looks = iter([*[False] * batches, *[True] * 10])
    counts, stopped = run(warehouse, braze(crm, max_batch=4), plan(is_time_up=lambda: next(looks)))
    assert (counts.delivered, counts.deferred) == (delivered, 10 - delivered)
    assert isinstance(stopped, RetryableError) == (delivered < 10)
    assert sorted(crm.store.profiles()) == users[:delivered]


def test_a_crm_that_is_down_defers_what_it_did_not_take(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    crowd(warehouse, 10)
    fault(crm, kind="status", status=503, retry_after=3_600, times=1)
    counts, stopped = run(warehouse, braze(crm, max_batch=4))
    assert isinstance(stopped, UnavailableError)
    assert (counts.deferred, crm.store.profiles(), deliveries(warehouse)) == (10, {}, {})


def test_a_crm_that_goes_down_half_way_through_a_halved_batch_keeps_what_it_took(warehouse: DuckDBWarehouse) -> None:
    users = crowd(warehouse, 4)

    class GoesDown(Notebook):
        def send(self, batch: Sequence[Change]) -> list[Outcome]:
            if self.arrived:
                raise UnavailableError("down")
            return super().send(batch)

    counts, stopped = run(warehouse, GoesDown(max_batch=4, poison=frozenset({"u003"})))
    assert isinstance(stopped, UnavailableError)
    assert outcomes(warehouse) == {users[0]: "delivered", users[1]: "delivered"}
    assert (counts.delivered, counts.deferred) == (2, 2)


def test_what_the_crm_took_without_saying_so_is_not_logged_as_delivered(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    crowd(warehouse, 3)
    fault(crm, kind="lose_reply")
    counts, stopped = run(warehouse, braze(crm, budget_seconds=1e-9))
    assert isinstance(stopped, UnavailableError)
    assert len(crm.store.profiles()) == 3
    assert (counts.delivered, counts.deferred, deliveries(warehouse)) == (0, 3, {})
    # The next run says it again; the CRM, which knew already, changes nothing.
    counts, stopped = run(warehouse, braze(crm))
    assert (counts.delivered, stopped) == (3, None)
    assert all(len(crm.store.history(user)) == 7 for user in ("u000", "u001", "u002"))


def test_a_lost_reply_within_the_budget_is_one_delivery(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    crowd(warehouse, 3)
    fault(crm, kind="lose_reply", times=2)
    counts, stopped = run(warehouse, braze(crm))
    assert (counts.delivered, stopped) == (3, None)


def test_refused_credentials_end_the_run_and_keep_what_was_logged(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    users = crowd(warehouse, 8)

    class LosesPermission(Notebook):
        def send(self, batch: Sequence[Change]) -> list[Outcome]:
            if self.arrived:
                raise ContractError("no permission")
            return super().send(batch)

    counts, stopped = sync(warehouse, LosesPermission(max_batch=4), MAPPING, plan())
    assert isinstance(stopped, ContractError)
    assert (counts.delivered, counts.deferred) == (4, 4)
    assert outcomes(warehouse) == dict.fromkeys(users[:4], "delivered")


def test_a_destination_that_loses_count_is_no_source_of_deliveries(warehouse: DuckDBWarehouse) -> None:
    crowd(warehouse, 2)

    class Forgetful(Notebook):
        def send(self, batch: Sequence[Change]) -> list[Outcome]:
            return super().send(batch)[1:]

    with pytest.raises(ValueError, match="shorter"):
        sync(warehouse, Forgetful(), MAPPING, plan())
    assert deliveries(warehouse) == {}


def test_progress_is_told_what_is_pending_and_then_of_every_batch(warehouse: DuckDBWarehouse) -> None:
    crowd(warehouse, 5)
    told: list[int] = []

    def announce(pending: int) -> Callable[[int], None]:
        told.append(pending)
        return told.append

    sync(warehouse, Notebook(max_batch=2), MAPPING, plan(), announce=announce)
    assert told == [5, 2, 2, 1]
