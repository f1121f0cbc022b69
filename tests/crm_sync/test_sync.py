"""Sync: pending rows reach the CRM in the right order, and only confirmed rows count as delivered.

Uses a real DuckDB file with marts made by hand, and a real CRM over HTTP.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from core.errors import RetryableError
from crm_sync.destination import BatchRefusedError, Outcome, Run
from crm_sync.diff import Change
from crm_sync.sync import SyncCounts, count_pending, sync
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_crm import fault
from tests.support.sync.builders import (
    BLACKLISTED,
    FINISHED,
    GRANTED,
    MAPPING,
    NEXT_WEEK,
    SCORED,
    RecordingDestination,
    braze,
    deliveries,
    log_of,
    marts_in,
    outcomes,
    pending,
    pending_users,
    plan,
    run,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import CRM_STATE


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


# What the CRM receives


def test_a_delivery_lands_in_the_crm_in_its_own_words(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
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
    assert (counts, stopped) == (SyncCounts(differing=1, delivered=1, requests=1, attributes=9, audience=0), None)


def test_a_withdrawal_sends_what_changed_and_keeps_the_rest(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending(warehouse, "ada", before=SCORED | GRANTED, **FINISHED)
    counts, _ = run(warehouse, braze(crm))
    row = deliveries(warehouse)["ada"]
    assert row["fields_sent"] == "churn_probability,churn_risk_band,voucher_eligible,voucher_reason,voucher_valid_until"
    assert {name: row[name] for name in CRM_STATE} == dict.fromkeys(CRM_STATE) | SCORED | FINISHED
    assert crm.store.profile("ada") == {"voucher_eligible": False, "voucher_reason": "completed"}
    assert counts == SyncCounts(differing=1, delivered=1, withdrawals=1, requests=1, attributes=5, audience=0)


def test_a_rejected_row_is_logged_with_its_code_and_without_a_state(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    for user in ("ada", "bob", "cyd"):
        pending(warehouse, user)
    fault(crm, kind="row_error", external_ids=["bob"])
    counts, stopped = run(warehouse, braze(crm))
    assert outcomes(warehouse) == {"ada": "delivered", "bob": "rejected", "cyd": "delivered"}
    row = deliveries(warehouse)["bob"]
    assert (row["http_status"], row["error_code"], row["desired_hash"]) == (201, BLACKLISTED, "hash-of-bob")
    assert {name: row[name] for name in CRM_STATE} == dict.fromkeys(CRM_STATE)
    assert sorted(crm.store.profiles()) == ["ada", "cyd"]
    assert (counts.errors, stopped) == ({BLACKLISTED: 1}, None)


def test_nothing_pending_is_nothing_done(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    assert run(warehouse, braze(crm)) == (SyncCounts(audience=0), None)


def test_a_row_with_nothing_to_send_is_unchanged_and_not_logged(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending(warehouse, "ada", before=SCORED, churn_scored_at=NEXT_WEEK)
    pending(warehouse, "bob", before=SCORED, experiment_arm=None)
    pending(warehouse, "cyd")
    counts, _ = run(warehouse, braze(crm))
    assert (counts.differing, counts.unchanged, counts.delivered, counts.deferred) == (3, 2, 1, {})
    assert list(deliveries(warehouse)) == list(crm.store.profiles()) == ["cyd"]


def test_the_suppressed_are_counted_by_reason_and_nobody_tells_the_crm_of_them(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    for user, reason in [("ada", "erased"), ("bob", "holdout"), ("cyd", "holdout"), ("dan", None)]:
        pending(warehouse, user, suppressed_because=reason)
    assert count_pending(warehouse) == 1
    counts, _ = run(warehouse, braze(crm))
    assert (counts.differing, counts.suppressed) == (4, {"erased": 1, "holdout": 2})
    assert list(deliveries(warehouse)) == list(crm.store.profiles()) == ["dan"]


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


def test_with_threads_to_spare_a_grant_still_waits_for_the_answer_to_every_withdrawal(
    warehouse: DuckDBWarehouse,
) -> None:
    grant_came, overtaken = threading.Event(), list[bool]()

    class Watching(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            if batch[0].is_withdrawal:
                overtaken.append(grant_came.wait(0.2))  # long enough for a grant that does not wait
            else:
                grant_came.set()
            return super().send(batch, run)

    for user in ("ada", "bob"):
        pending(warehouse, user, before=SCORED | GRANTED, **FINISHED)
    pending(warehouse, "cyd", **GRANTED)
    crm = Watching(max_batch=1, max_in_flight=4)
    run(warehouse, crm)
    assert (crm.arrived[-1], overtaken) == ("cyd", [False, False])


def test_more_rows_than_one_read_keep_their_order_and_land_once(
    warehouse: DuckDBWarehouse, crm: LocalCrm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crm_sync.sync.READ_ROWS", 7)
    for number in range(50):
        pending(warehouse, f"u{number:02d}", churn_probability=number / 100)
    counts, _ = run(warehouse, braze(crm, max_batch=4))
    assert in_order_of_arrival(crm) == [f"u{number:02d}" for number in reversed(range(50))]
    # Seven reads of seven rows with two requests each, and one read of one row.
    assert (counts.delivered, counts.requests) == (50, 15)


def test_no_request_holds_withdrawals_and_others(warehouse: DuckDBWarehouse) -> None:
    pending(warehouse, "ada", before=SCORED | GRANTED, **FINISHED)
    pending(warehouse, "bob")
    counts, _ = run(warehouse, RecordingDestination(max_batch=75))
    assert (counts.delivered, counts.withdrawals, counts.requests) == (2, 1, 2)


# A batch refused as a whole


@pytest.mark.parametrize("poison", [{"u000"}, {"u031"}, {"u074"}, {"u010", "u011", "u060"}])
def test_halving_finds_the_rows_at_fault_and_the_others_land(warehouse: DuckDBWarehouse, poison: set[str]) -> None:
    everybody = pending_users(warehouse, 75)
    crm = RecordingDestination(max_batch=75, poison=frozenset(poison))
    counts, stopped = run(warehouse, crm)
    assert crm.arrived == [user for user in everybody if user not in poison]
    assert {user for user, outcome in outcomes(warehouse).items() if outcome == "rejected"} == poison
    logged = {deliveries(warehouse)[user][name] for user in poison for name in ("http_status", "error_reason")}
    assert logged == {413, "too large"}
    assert (counts.errors, stopped) == ({"http_413": len(poison)}, None)
    assert counts.requests <= 1 + 2 * 7 * len(poison)  # 2 to the 7th is above 75


def test_what_a_refusal_of_a_batch_says_of_a_user_is_not_kept(warehouse: DuckDBWarehouse) -> None:
    class Quoting(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            raise BatchRefusedError(400, "http_400", "The id ada lovelace is on no list")

    pending(warehouse, "ada lovelace")
    run(warehouse, Quoting())
    assert deliveries(warehouse)["ada lovelace"]["error_reason"] == "The id ... is on no list"


def test_a_batch_too_large_for_the_crm_lands_in_halves(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending_users(warehouse, 100)
    destination = braze(crm)
    destination.max_batch = 100  # more than the options allow: the CRM may lower its documented limit
    counts, _ = run(warehouse, destination)
    assert (counts.delivered, counts.requests, len(crm.store.profiles())) == (100, 3, 100)


def test_a_refusal_that_does_not_come_again_leaves_nobody_behind(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending_users(warehouse, 10)
    fault(crm, kind="status", status=400)
    counts, _ = run(warehouse, braze(crm))
    assert (counts.delivered, counts.rejected, counts.requests) == (10, 0, 3)


# What is logged before sending


def test_before_a_request_goes_out_it_is_written_down_what_the_crm_may_then_hold(warehouse: DuckDBWarehouse) -> None:
    seen: list[dict[str, object]] = []

    class Reading(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            with warehouse.connection.cursor() as cursor:
                rows = cursor.execute("select user_id, outcome, voucher_reason from ops.deliveries order by user_id")
                seen.extend(dict(zip(("user", "outcome", "reason"), row, strict=True)) for row in rows.fetchall())
            return super().send(batch, run)

    pending(warehouse, "ada", **GRANTED)
    pending(warehouse, "bob")
    run(warehouse, Reading(max_batch=2))
    assert seen == [
        {"user": "ada", "outcome": "sending", "reason": "granted"},
        {"user": "bob", "outcome": "sending", "reason": "budget_run"},
    ]


# Replies without an outcome


def test_a_row_without_the_crm_s_word_is_deferred_and_not_logged(warehouse: DuckDBWarehouse) -> None:
    class Vague(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            return [Outcome("delivered", 200), Outcome("deferred", 200, "unconfirmed"), Outcome("deferred")]

    users = pending_users(warehouse, 3)
    counts, stopped = run(warehouse, Vague(max_batch=3))
    assert (counts.delivered, counts.deferred, stopped) == (1, {"unconfirmed": 2}, None)
    assert outcomes(warehouse) == {users[0]: "delivered"}


@pytest.mark.parametrize(
    ("count_users", "count_taken", "told"), [(9, 0, False), (10, 0, True), (33, 0, True), (10, 1, False)]
)
@pytest.mark.parametrize("code", ["unconfirmed", "unable_to_lock_row"])
def test_a_crm_that_answers_and_takes_nobody_is_told(
    warehouse: DuckDBWarehouse, count_users: int, count_taken: int, told: bool, code: str
) -> None:
    class Vague(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            return [
                Outcome("delivered", 200) if n < count_taken else Outcome("deferred", 200, code)
                for n in range(len(batch))
            ]

    pending_users(warehouse, count_users)
    counts, stopped = run(warehouse, Vague(max_batch=50))
    assert counts.deferred == {code: count_users - count_taken}
    assert (isinstance(stopped, RetryableError), stopped is None) == (told, not told)
    assert stopped is None or f"The CRM took none of {count_users} users: most were deferred as {code}." in str(stopped)


def test_a_destination_that_loses_count_is_no_source_of_deliveries(warehouse: DuckDBWarehouse) -> None:
    class Forgetful(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            return super().send(batch, run)[1:]

    pending_users(warehouse, 2)
    with pytest.raises(ValueError, match="shorter"):
        sync(warehouse, Forgetful(), MAPPING, plan(warehouse), log=log_of(warehouse))
    assert deliveries(warehouse) == {}


def test_a_lost_reply_within_the_budget_is_one_delivery(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending_users(warehouse, 3)
    fault(crm, kind="lose_reply", times=2)
    counts, stopped = run(warehouse, braze(crm))
    assert (counts.delivered, stopped) == (3, None)


def test_progress_is_told_what_is_pending_and_then_of_every_batch(warehouse: DuckDBWarehouse) -> None:
    pending_users(warehouse, 5)
    told: list[int] = []

    def announce(pending: int) -> Callable[[int], None]:
        told.append(pending)
        return told.append

    run(warehouse, RecordingDestination(max_batch=2), announce=announce)
    assert told == [5, 2, 2, 1]
