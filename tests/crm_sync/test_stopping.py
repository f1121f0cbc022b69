"""Stopping: a sync that ends early logs what was acknowledged and defers the rest with a reason."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from core.errors import CircuitOpenError, ContractError
from crm_sync import sync as sync_module
from crm_sync.batches import Batch, Sent
from crm_sync.deadline import Deadline
from crm_sync.destination import DeadlineExceededError, Outcome, Run, UnavailableError
from crm_sync.diff import Change
from crm_sync.workers import Workers
from jobs.signals import stop_on_signals
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_crm import fault
from tests.support.sync.builders import (
    BLACKLISTED,
    GRANTED,
    RUN_ID,
    SCORED,
    RecordingDestination,
    Time,
    braze,
    deadline,
    deliveries,
    marts_in,
    outcomes,
    pending,
    pending_users,
    plan,
    run,
    written,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


# The circuit breaker


@pytest.mark.parametrize(
    ("count_refused", "max_rejected_ratio", "is_open"),
    [(25, 0.5, False), (26, 0.5, True), (0, 0.0, False), (1, 0.0, True), (50, 1.0, False), (50, 0.99, True)],
)
def test_the_circuit_opens_above_the_ratio_and_not_at_it(
    warehouse: DuckDBWarehouse, crm: LocalCrm, count_refused: int, max_rejected_ratio: float, is_open: bool
) -> None:
    users = pending_users(warehouse, 60)
    fault(crm, kind="row_error", external_ids=users[:count_refused])
    how = plan(warehouse, max_rejected_ratio=max_rejected_ratio)
    counts, stopped = run(warehouse, braze(crm, max_batch=50), how)
    assert isinstance(stopped, CircuitOpenError) == is_open
    assert counts.rejected == count_refused
    assert counts.deferred == ({"circuit_open": 10} if is_open else {})


@pytest.mark.parametrize(("count", "is_open"), [(49, False), (50, True)])
def test_the_circuit_does_not_judge_a_share_of_fewer_than_50_attempts(
    warehouse: DuckDBWarehouse, crm: LocalCrm, count: int, is_open: bool
) -> None:
    fault(crm, kind="row_error", external_ids=pending_users(warehouse, count)[1:])
    counts, stopped = run(warehouse, braze(crm, max_batch=7), plan(warehouse, max_rejected_ratio=0.1))
    assert isinstance(stopped, CircuitOpenError) == is_open
    assert (counts.rejected, counts.deferred) == (count - 1, {})


@pytest.mark.parametrize(
    ("count", "max_rejected_ratio", "is_open"),
    [(9, 0.5, False), (10, 0.5, True), (18, 0.5, True), (49, 0.99, True), (18, 1.0, False)],
)
def test_of_few_users_the_circuit_opens_at_the_end_where_all_were_rejected(
    warehouse: DuckDBWarehouse, crm: LocalCrm, count: int, max_rejected_ratio: float, is_open: bool
) -> None:
    fault(crm, kind="row_error", external_ids=pending_users(warehouse, count))
    how = plan(warehouse, max_rejected_ratio=max_rejected_ratio)
    counts, stopped = run(warehouse, braze(crm, max_batch=7), how)
    assert isinstance(stopped, CircuitOpenError) == is_open
    assert (counts.rejected, counts.deferred) == (count, {})


def test_an_open_circuit_tells_how_many_and_why_and_nobody_s_id(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=pending_users(warehouse, 60))
    _, stopped = run(warehouse, braze(crm, max_batch=50))
    assert str(stopped) == (
        f"The CRM rejected 50 of 50 users, most with {BLACKLISTED}. Sending was stopped. "
        "See winback dead-letters; after fixing the cause: winback dead-letters retry"
    )


# Time


class Slow(RecordingDestination):
    """A CRM that needs a second for each batch."""

    time = Time()

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        self.time.add(1)
        return super().send(batch, run)


@pytest.mark.parametrize(("seconds", "delivered"), [(0.0, 0), (1.5, 4), (2.5, 8), (3.5, 10), (100.0, 10)])
def test_when_the_time_is_up_the_rest_is_deferred(warehouse: DuckDBWarehouse, seconds: float, delivered: int) -> None:
    users = pending_users(warehouse, 10)
    crm = Slow(max_batch=4)
    crm.time = Time()
    counts, stopped = run(warehouse, crm, plan(warehouse, deadline(seconds, crm.time)))
    assert (counts.delivered, counts.deferred) == (delivered, {"deadline": 10 - delivered} if delivered < 10 else {})
    assert isinstance(stopped, DeadlineExceededError) == (delivered < 10)
    assert crm.arrived == users[:delivered]


# The CRM


def test_a_crm_that_is_down_defers_what_it_did_not_take(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    pending_users(warehouse, 10)
    fault(crm, kind="status", status=503, retry_after=3_599)
    counts, stopped = run(warehouse, braze(crm, max_batch=4))
    assert isinstance(stopped, UnavailableError)
    assert (counts.deferred, crm.store.profiles(), deliveries(warehouse)) == ({"unavailable": 10}, {}, {})


def test_a_crm_that_goes_down_half_way_through_a_halved_batch_keeps_what_it_took(warehouse: DuckDBWarehouse) -> None:
    users = pending_users(warehouse, 4)

    class GoesDown(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            if self.arrived:
                raise UnavailableError("down", "throttled")
            return super().send(batch, run)

    counts, stopped = run(warehouse, GoesDown(max_batch=4, poison=frozenset({"u003"})))
    assert isinstance(stopped, UnavailableError)
    assert outcomes(warehouse) == {users[0]: "delivered", users[1]: "delivered"}
    assert (counts.delivered, counts.deferred) == (2, {"throttled": 2})


def test_what_the_crm_took_without_saying_so_is_not_logged_as_delivered(
    warehouse: DuckDBWarehouse, crm: LocalCrm
) -> None:
    pending_users(warehouse, 3)
    fault(crm, kind="lose_reply")
    counts, stopped = run(warehouse, braze(crm, budget_seconds=1e-9))
    assert isinstance(stopped, UnavailableError)
    assert len(crm.store.profiles()) == 3
    assert (counts.delivered, counts.deferred, deliveries(warehouse)) == (0, {"unavailable": 3}, {})
    # The next run sends it again; the CRM already has it and changes nothing.
    counts, stopped = run(warehouse, braze(crm))
    assert (counts.delivered, stopped) == (3, None)
    assert all(len(crm.store.history(user)) == 7 for user in ("u000", "u001", "u002"))


def test_a_withdrawal_that_cannot_be_sent_keeps_the_grants_back(warehouse: DuckDBWarehouse) -> None:
    class Down(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            if batch[0].is_withdrawal:
                raise UnavailableError("down")
            return super().send(batch, run)

    pending(warehouse, "ada", before=SCORED | GRANTED, churn_probability=None)
    pending(warehouse, "bob", **GRANTED)
    crm = Down(max_batch=1, max_in_flight=4)
    counts, _ = run(warehouse, crm)
    assert (crm.arrived, counts.deferred) == ([], {"unavailable": 2})


def test_refused_credentials_end_the_run_and_keep_what_was_logged(warehouse: DuckDBWarehouse) -> None:
    users = pending_users(warehouse, 8)

    class LosesPermission(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            if self.arrived:
                raise ContractError("no permission")
            return super().send(batch, run)

    counts, stopped = run(warehouse, LosesPermission(max_batch=4))
    assert isinstance(stopped, ContractError)
    assert (counts.delivered, counts.deferred) == (4, {"stopped": 4})
    assert outcomes(warehouse) == dict.fromkeys(users[:4], "delivered")


# A person or the platform


class Gate(RecordingDestination):
    """Calls `at_second` when the second batch arrives. With `hangs`, the CRM then never answers."""

    hangs = False
    at_second: Callable[[], None]

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        if self.arrived:
            self.at_second()
            if self.hangs:
                threading.Event().wait()
        return super().send(batch, run) if not self.arrived else [Outcome("delivered", 201)] * len(batch)


def test_told_to_stop_a_sync_takes_in_what_is_under_way_and_sends_no_more(warehouse: DuckDBWarehouse) -> None:
    users, how = pending_users(warehouse, 10), deadline()
    crm = Gate(max_batch=2)
    crm.at_second = lambda: how.stop("SIGTERM")
    counts, stopped = run(warehouse, crm, plan(warehouse, how))
    assert outcomes(warehouse) == dict.fromkeys(users[:4], "delivered")
    assert counts.deferred == {"stopped": 6}
    assert written(warehouse, "deferred") == users[4:]  # no user is in doubt
    assert str(stopped) == "The run was stopped (SIGTERM); the next run continues."


def test_a_request_that_hangs_does_not_keep_a_sync_that_was_told_to_stop(
    warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "GRACE_SECONDS", 0.0)
    users, how = pending_users(warehouse, 10), deadline()
    crm = Gate(max_batch=2)
    crm.hangs = True
    crm.at_second = lambda: how.stop("SIGINT")
    counts, _ = run(warehouse, crm, plan(warehouse, how))
    assert outcomes(warehouse) == dict.fromkeys(users[:2], "delivered")
    assert counts.deferred == {"stopped": 8}
    assert written(warehouse, "deferred") == users[4:]  # the two in flight are in doubt


def test_a_request_that_hangs_does_not_keep_a_sync_beyond_its_deadline(
    warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a signal: users in flight are in doubt, users not sent are deferred."""
    monkeypatch.setattr(sync_module, "GRACE_SECONDS", 0.0)
    time = Time()
    users, how = pending_users(warehouse, 10), deadline(60, time)
    crm = Gate(max_batch=2)
    crm.hangs = True
    crm.at_second = lambda: time.add(60)
    counts, stopped = run(warehouse, crm, plan(warehouse, how))
    assert outcomes(warehouse) == dict.fromkeys(users[:2], "delivered")
    assert (counts.deferred, isinstance(stopped, DeadlineExceededError)) == ({"deadline": 8}, True)
    assert written(warehouse, "deferred") == users[4:]  # the two in flight are in doubt


def test_what_is_answered_within_the_grace_after_the_deadline_is_taken_in(warehouse: DuckDBWarehouse) -> None:
    time = Time()
    users, how = pending_users(warehouse, 10), deadline(60, time)
    crm = Gate(max_batch=2)
    crm.at_second = lambda: time.add(60)
    counts, _ = run(warehouse, crm, plan(warehouse, how))
    assert outcomes(warehouse) == dict.fromkeys(users[:4], "delivered")
    assert counts.deferred == {"deadline": 6}


def test_however_many_batches_were_under_way_what_they_bring_is_logged(warehouse: DuckDBWarehouse) -> None:
    """More batches than the grace period has tenths of a second."""
    users, how = pending_users(warehouse, 64), deadline()

    class Together(RecordingDestination):
        met = threading.Barrier(64, action=lambda: how.stop("SIGTERM"))

        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            self.met.wait()
            return [Outcome("delivered", 201)] * len(batch)

    counts, stopped = run(warehouse, Together(max_batch=1, max_in_flight=64), plan(warehouse, how))
    assert (counts.delivered, sorted(outcomes(warehouse))) == (64, users)
    assert isinstance(stopped, DeadlineExceededError)


def test_the_grace_is_given_once_however_often_the_sync_waits(
    warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for withdrawals, for a free worker, and at the end. Three grace periods would exceed the platform's time limit."""
    waited: list[float] = []

    class Watched(Workers[Batch, Sent]):
        def next(self, seconds: float) -> Sent | None:
            waited.append(seconds)
            return super().next(0)

    monkeypatch.setattr(sync_module, "Workers", Watched)
    how = deadline()

    class Hangs(RecordingDestination):
        def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
            how.stop("SIGTERM")
            threading.Event().wait()
            raise AssertionError

    for user in ("ada", "bob"):
        pending(warehouse, user, before=SCORED | GRANTED, churn_probability=None)
    pending(warehouse, "cyd")
    run(warehouse, Hangs(max_batch=1, max_in_flight=2), plan(warehouse, how))
    assert 0 < sum(waited) < 4


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_and_a_second_one_has_its_usual_effect(which: signal.Signals) -> None:
    usual: list[int] = []
    before = signal.signal(which, lambda number, _: usual.append(number))
    try:
        run = Deadline(RUN_ID, 3_600)
        with stop_on_signals(run):
            os.kill(os.getpid(), which)
            with pytest.raises(DeadlineExceededError, match=which.name) as stopped:
                run.sleep(3_000)
            assert (stopped.value.code, usual) == ("stopped", [])
            os.kill(os.getpid(), which)
            assert usual == [which]
        os.kill(os.getpid(), which)
        assert usual == [which, which]
    finally:
        signal.signal(which, before)


def test_on_a_thread_that_signals_do_not_go_to_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    within: list[object] = []

    def work() -> None:
        with stop_on_signals(deadline()):
            within.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within == [before]
