"""Refusals: when the CRM refuses users one by one, either they or the requests are at fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from core.errors import CircuitOpenError, ContractError
from crm_sync.destination import BatchRefusedError, Outcome, Run
from crm_sync.destinations.hubspot.client import HubSpot, HubSpotOptions
from crm_sync.diff import Change
from crm_sync.sync import sync
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, scripted_server
from tests.support.crm.local_crm import fault
from tests.support.sync.builders import (
    FINISHED,
    GRANTED,
    MAPPING,
    SCORED,
    RecordingDestination,
    braze,
    fill,
    marts_in,
    outcomes,
    pending_users,
    plan,
    row_of,
    run,
    written,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse

FOR_EVER = 1_000_000


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as made:
        yield made


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


def withdrawals(warehouse: DuckDBWarehouse, count: int) -> list[str]:
    users = [f"w{number:03d}" for number in range(count)]
    fill(warehouse, [row_of(user, before=SCORED | GRANTED, **FINISHED) for user in users])
    return users


def test_a_refusal_of_every_request_rejects_nobody_and_the_next_run_sends_all(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    users = pending_users(warehouse, 33)
    fault(crm, kind="status", status=400, times=FOR_EVER, message="The workspace is closed")
    counts, stopped = run(warehouse, braze(crm))
    assert isinstance(stopped, ContractError)
    assert "refused 20 users one by one with the code of their whole batch (HTTP 400, http_400)" in str(stopped)
    assert (counts.rejected, counts.deferred) == (0, {"stopped": 33})
    # The CRM accepted nothing, so its state is known.
    assert (outcomes(warehouse), written(warehouse, "deferred")) == ({}, users)
    crm.desk.faults.waiting.clear()
    counts, stopped = sync(warehouse, braze(crm), MAPPING, plan(warehouse))
    assert (counts.delivered, stopped) == (33, None)


def test_withdrawals_that_are_refused_stay_first_in_line(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    leaving = withdrawals(warehouse, 25)
    pending_users(warehouse, 30)
    fault(crm, kind="status", status=422, times=FOR_EVER)
    counts, stopped = run(warehouse, braze(crm))
    assert isinstance(stopped, ContractError)
    assert (counts.deferred, outcomes(warehouse)) == ({"stopped": 55}, {})
    assert set(written(warehouse, "deferred")) >= set(leaving)
    crm.desk.faults.waiting.clear()
    sync(warehouse, braze(crm), MAPPING, plan(warehouse))
    assert [write[0].external_id for write in reversed(crm.store.latest_writes(1_000))][:25] == leaving


@pytest.mark.parametrize("max_batch", [1, 4, 75])
def test_of_few_users_refused_each_is_at_fault(warehouse: DuckDBWarehouse, max_batch: int) -> None:
    users = pending_users(warehouse, 9)
    counts, stopped = run(warehouse, RecordingDestination(max_batch=max_batch, poison=frozenset(users)))
    assert (counts.rejected, set(outcomes(warehouse).values())) == (9, {"rejected"})
    assert not isinstance(stopped, ContractError)


@pytest.mark.parametrize("max_batch", [1, 3, 20, 75])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_users_of_several_small_batches_count_together(
    warehouse: DuckDBWarehouse, max_batch: int, in_flight: int
) -> None:
    users = pending_users(warehouse, 40)
    crm = RecordingDestination(max_batch=max_batch, max_in_flight=in_flight, poison=frozenset(users))
    counts, stopped = run(warehouse, crm)
    assert isinstance(stopped, ContractError)
    assert (counts.rejected, counts.deferred) == (0, {"stopped": 40})


@pytest.mark.parametrize("max_batch", [75, 100, 10_000])
def test_a_cluster_of_bad_users_does_not_stop_the_others_of_the_batch(
    warehouse: DuckDBWarehouse, max_batch: int
) -> None:
    users = pending_users(warehouse, 75)
    crm = RecordingDestination(max_batch=max_batch, poison=frozenset(users[:25]))
    counts, stopped = run(warehouse, crm)
    assert (counts.delivered, counts.rejected, stopped) == (50, 25, None)
    assert sorted(crm.arrived) == users[25:]


def test_users_refused_after_others_were_taken_are_at_fault(warehouse: DuckDBWarehouse) -> None:
    users = pending_users(warehouse, 100)
    counts, stopped = run(warehouse, RecordingDestination(max_batch=50, poison=frozenset(users[50:90])))
    assert (counts.delivered, counts.rejected, stopped) == (60, 40, None)


def test_a_batch_of_bad_users_beside_good_ones_opens_the_circuit_after_fifty(warehouse: DuckDBWarehouse) -> None:
    users = pending_users(warehouse, 300)
    counts, stopped = run(warehouse, RecordingDestination(max_batch=150, poison=frozenset(users[150:])))
    assert isinstance(stopped, CircuitOpenError)
    assert (counts.delivered, counts.rejected) == (150, 50)


def test_withdrawals_that_are_taken_say_nothing_of_the_others(warehouse: DuckDBWarehouse) -> None:
    leaving = withdrawals(warehouse, 25)
    users = pending_users(warehouse, 30)
    counts, stopped = run(warehouse, RecordingDestination(max_batch=75, poison=frozenset(users)))
    assert isinstance(stopped, ContractError)
    assert (outcomes(warehouse), counts.deferred) == (dict.fromkeys(leaving, "delivered"), {"stopped": 30})


@pytest.mark.parametrize("counts", [(15, 15), (10, 10), (19, 1)])
def test_withdrawals_and_others_that_are_all_refused_count_together(
    warehouse: DuckDBWarehouse, crm: LocalCrm, counts: tuple[int, int]
) -> None:
    leaving, coming = counts
    withdrawals(warehouse, leaving)
    pending_users(warehouse, coming)
    fault(crm, kind="status", status=400, times=FOR_EVER)
    said, stopped = run(warehouse, braze(crm))
    assert isinstance(stopped, ContractError)
    assert (outcomes(warehouse), said.deferred) == ({}, {"stopped": leaving + coming})


@pytest.mark.parametrize("count", [20, 33])
def test_an_error_in_a_reply_that_names_no_user_is_a_refusal_too(warehouse: DuckDBWarehouse, count: int) -> None:
    """HubSpot reports some faults of the whole request in a 207 with an error that names no row."""
    pending_users(warehouse, count)
    error = {"status": "error", "category": "ACCOUNT_SUSPENDED", "message": "no", "context": {}}
    with scripted_server(
        Canned(207, {"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [error]})
    ) as script:
        counts, stopped = run(warehouse, HubSpot(script.url, "key", HubSpotOptions(max_in_flight=1)))
    assert isinstance(stopped, ContractError)
    assert "(HTTP 207, account_suspended)" in str(stopped)
    assert (outcomes(warehouse), counts.deferred) == ({}, {"stopped": count})


@pytest.mark.parametrize(("leaving", "coming", "is_open"), [(12, 30, True), (10, 1, True), (9, 30, False)])
def test_withdrawals_that_are_all_rejected_open_the_circuit_though_others_are_taken(
    warehouse: DuckDBWarehouse, leaving: int, coming: int, is_open: bool
) -> None:
    users = withdrawals(warehouse, leaving)
    pending_users(warehouse, coming)
    counts, stopped = run(
        warehouse, RecordingDestination(max_batch=75, poison=frozenset(users)), plan(warehouse, max_rejected_ratio=0.95)
    )
    assert (counts.delivered, counts.rejected, counts.withdrawals_rejected) == (coming, leaving, leaving)
    assert isinstance(stopped, CircuitOpenError) is is_open
    assert not is_open or f"rejected all {leaving} withdrawals of a voucher" in str(stopped)


def test_others_that_are_all_rejected_open_the_circuit_though_withdrawals_are_taken(warehouse: DuckDBWarehouse) -> None:
    leaving = withdrawals(warehouse, 15)
    users = pending_users(warehouse, 12)
    counts, stopped = run(warehouse, RecordingDestination(max_batch=75, poison=frozenset(users)))
    assert (counts.withdrawals, counts.rejected, counts.withdrawals_rejected) == (len(leaving), 12, 0)
    assert "rejected all 12 other users, and took 15 of the rest" in str(stopped)


@dataclass
class Particular(RecordingDestination):
    """Refuses all users: a batch with one code, a single user with another."""

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        run.check()
        raise BatchRefusedError(400, "too_many" if len(batch) > 1 else "bad_id", "no")


def test_users_refused_with_a_code_of_their_own_are_at_fault(warehouse: DuckDBWarehouse) -> None:
    pending_users(warehouse, 30)
    counts, stopped = run(warehouse, Particular(max_batch=75))
    assert (counts.errors, isinstance(stopped, ContractError)) == ({"bad_id": 30}, False)


def test_a_large_batch_that_is_refused_for_the_request_costs_few_requests(warehouse: DuckDBWarehouse) -> None:
    users = pending_users(warehouse, 10_000)
    counts, _ = run(warehouse, RecordingDestination(max_batch=10_000, poison=frozenset(users)))
    # 14 halvings to the first user, two requests for each other user, and one for each waiting part.
    assert counts.requests <= 14 + 2 * 20 + 14


@pytest.mark.parametrize("status", [402, 405, 407, 410, 411, 415, 421, 426, 431, 451])
def test_a_status_that_is_not_about_rows_stops_at_the_first_request(
    warehouse: DuckDBWarehouse, crm: LocalCrm, status: int
) -> None:
    withdrawals(warehouse, 3)
    pending_users(warehouse, 5)
    fault(crm, kind="status", status=status, times=FOR_EVER)
    counts, stopped = run(warehouse, braze(crm))
    assert isinstance(stopped, ContractError)
    assert f"HTTP {status}" in str(stopped)
    assert (counts.requests, counts.deferred, outcomes(warehouse)) == (1, {"stopped": 8}, {})


def test_a_property_that_was_removed_stops_the_run_and_no_withdrawal_is_lost(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    leaving = withdrawals(warehouse, 3)
    users = pending_users(warehouse, 5)
    destination = HubSpot(crm.url, "local-key", HubSpotOptions(max_in_flight=1))
    requests.delete(
        f"{crm.url}/crm/v3/properties/contacts/churn_probability",
        headers={"Authorization": "Bearer local-key"},
        timeout=10,
    ).raise_for_status()
    counts, stopped = run(warehouse, destination)
    assert isinstance(stopped, ContractError)
    assert "property_doesnt_exist" in str(stopped)
    assert (counts.rejected, counts.delivered + sum(counts.deferred.values())) == (0, 8)
    assert set(outcomes(warehouse).values()) <= {"delivered"}
    assert set(written(warehouse, "sending")) == {*leaving, *users}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"status": "423"}, "locked"),
        ({"category": "RATE_LIMITS"}, "throttled"),
        ({"category": "TRANSIENT_ERROR"}, "transient_error"),
        ({"status": "503", "category": "VALIDATION_ERROR"}, "unavailable"),
    ],
)
def test_a_row_that_hubspot_does_not_take_now_is_deferred(
    warehouse: DuckDBWarehouse, crm: LocalCrm, more: dict[str, str], code: str
) -> None:
    users = pending_users(warehouse, 4)
    fault(crm, kind="row_error", external_ids=[users[1]], body=more)
    counts, stopped = run(warehouse, HubSpot(crm.url, "local-key", HubSpotOptions(max_in_flight=1)))
    assert (counts.delivered, counts.rejected, counts.deferred, stopped) == (3, 0, {code: 1}, None)
