"""Faults of an hourly run: the state left for the next run when the CRM fails, refuses users, or the run is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from core.errors import CircuitOpenError, RetryableError
from crm_sync.destination import Outcome
from crm_sync.destination import Run as SyncRun
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.diff import Change
from jobs.hourly.run import hourly
from jobs.upkeep import dead_letters
from tests.support.crm.local_crm import fault
from tests.support.environment import API_KEY, World, at
from tests.support.run_assertions import (
    a_candidate,
    assert_crm_holds_the_desired_state,
    decisions,
    delivered,
    restore_crm,
    take_crm_down,
)


def test_a_crm_that_is_down_defers_and_the_next_run_delivers_the_same_decisions(world: World) -> None:
    take_crm_down(world)
    down = world.run(1)
    made = decisions(world)
    assert isinstance(down.stopped, RetryableError)
    waiting = down.sync.differing - sum(down.sync.suppressed.values())
    assert (down.sync.delivered, down.sync.deferred) == (0, {"unavailable": waiting})
    assert world.crm.store.profiles() == {}

    restore_crm(world)
    up = world.run(1)

    assert up.stopped is None
    assert up.sync.delivered == waiting > 0
    assert decisions(world) == made
    assert_crm_holds_the_desired_state(world)


def test_a_lost_reply_costs_one_more_upsert_and_nothing_else(world: World) -> None:
    fault(world.crm, kind="lose_reply", times=1)

    result = world.run(1)

    assert result.sync.delivered == result.sync.differing - sum(result.sync.suppressed.values()) > 0
    assert len(delivered(world)) == result.sync.delivered
    assert_crm_holds_the_desired_state(world)


def test_a_rejected_user_waits_as_a_dead_letter_until_a_person_asks(world: World) -> None:
    user = a_candidate(world)
    fault(world.crm, kind="row_error", external_ids=[user])

    first, second = world.run(1), world.run(1)

    assert (first.sync.rejected, second.sync.requests) == (1, 0)
    restore_crm(world)
    with world.context() as context:
        assert [row["count_users"] for row in dead_letters.listed(context)] == [1]
        assert dead_letters.retry(context) == 1
        assert dead_letters.listed(context) == []
    third = world.run(1)
    assert third.sync.delivered == 1
    assert world.crm.store.profile(user) is not None


def test_a_dead_letter_is_tried_again_when_there_is_something_new_to_say(world: World) -> None:
    user = a_candidate(world)
    fault(world.crm, kind="row_error", external_ids=[user])
    assert world.run(1).sync.rejected == 1
    restore_crm(world)

    world.append_event(user, "help_opened", at(1.1), at(1.2))
    world.run(2)

    assert world.crm.store.profile(user) is not None


def test_the_circuit_opens_when_most_users_are_rejected(world: World) -> None:
    with world.context() as context:
        hourly(context, at(24), dry_run=True)
    users = [row["user_id"] for row in world.query("select distinct user_id from marts.fct_scoring_candidates")]
    fault(world.crm, kind="row_error", external_ids=users)

    one_at_a_time = Braze(world.crm.url, API_KEY, BrazeOptions(max_in_flight=1))
    result = world.run(24, destination=one_at_a_time)

    assert isinstance(result.stopped, CircuitOpenError)
    assert result.stopped.exit_code == 3
    assert result.sync.rejected == 75  # one batch, not a second one
    assert result.sync.is_complete
    assert list(result.sync.deferred) == ["circuit_open"]


def test_a_run_told_to_stop_while_it_sends_logs_what_was_acknowledged_and_the_next_does_the_rest(world: World) -> None:
    class Stopped(Braze):
        def send(self, batch: Sequence[Change], run: SyncRun) -> list[Outcome]:
            outcomes = super().send(batch, run)
            os.kill(os.getpid(), signal.SIGTERM)
            return outcomes

    few = BrazeOptions(max_batch=5, max_in_flight=1)
    with pytest.raises(RetryableError, match=r"was stopped \(SIGTERM\)"):
        world.run(1, destination=Stopped(world.crm.url, API_KEY, few))
    assert len(delivered(world)) == 5
    assert set(delivered(world)) == set(world.crm.store.profiles())

    rest = world.run(1)
    assert rest.stopped is None
    assert_crm_holds_the_desired_state(world)
    assert len(delivered(world)) == 5 + rest.sync.delivered
