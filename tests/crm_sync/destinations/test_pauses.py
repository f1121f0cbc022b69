"""Pauses: a pause requested in one thread holds all threads, within the run's time and the retry budget."""

import math

import pytest

from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimit, RateLimiter, RateLimitInfo
from tests.support.builders.pacing import Thread, asleep
from tests.support.crm.local_api import FakeRunContext


def test_a_pause_that_one_reply_asks_for_holds_every_thread() -> None:
    pace = RateLimiter([RateLimit(100, 1)])
    assert asleep(pace, Thread(10.0)) == 0
    pace.heard(RateLimitInfo(wait_seconds=30), 10.5)
    assert [asleep(pace, Thread(moment)) for moment in (11.0, 20.5, 40.0)] == [29.5, 20, 0.5]
    assert asleep(pace, Thread(40.5)) == 0


def test_a_thread_that_waits_already_waits_for_a_longer_pause_too() -> None:
    pace = RateLimiter([RateLimit(1, 1)])
    assert asleep(pace, Thread(0.0)) == 0
    assert asleep(pace, Thread(0.1)) == pytest.approx(0.7)
    pace.heard(RateLimitInfo(wait_seconds=7), 0.2)
    assert asleep(pace, Thread(0.8)) == pytest.approx(6.4)


@pytest.mark.parametrize("seconds", [0.0, -30.0, 3.0])
def test_a_pause_is_never_shortened_by_a_later_word(seconds: float) -> None:
    pace = RateLimiter([])
    assert (asleep(pace, Thread(0.0)), asleep(pace, Thread(0.0))) == (0, 0)
    pace.heard(RateLimitInfo(wait_seconds=30), 0.0)
    pace.heard(RateLimitInfo(wait_seconds=seconds), 1.0)
    assert asleep(pace, Thread(2.0)) == 28


def test_after_a_pause_its_budget_is_not_spent_at_once() -> None:
    limit = RateLimit(100, 10)
    pace = RateLimiter([limit])
    asleep(pace, Thread(0.0))
    pace.heard(RateLimitInfo(wait_seconds=60), 0.0)
    sent = 0
    while asleep(pace, Thread(60.0)) == 0:
        sent += 1
    assert sent <= 4  # those of 0.2 s, and the next one


def test_a_wait_that_ends_after_the_run_is_not_begun() -> None:
    pace, run = RateLimiter([RateLimit(1, 60)]), FakeRunContext(seconds_left=59)
    pace.wait(run)
    pace.heard(None, run.clock())
    with pytest.raises(DeadlineExceededError):
        pace.wait(run)
    assert run.waits == []


def test_a_run_that_has_to_leave_sends_nothing_more() -> None:
    with pytest.raises(DeadlineExceededError):
        RateLimiter([]).wait(FakeRunContext(seconds_left=0))


@pytest.mark.parametrize(("pause", "patience", "is_left"), [(100, 120, False), (121, 120, True), (math.inf, 120, True)])
def test_a_pause_longer_than_the_budget_is_left_by_every_thread(pause: float, patience: float, is_left: bool) -> None:
    pace, run = RateLimiter([]), FakeRunContext()
    pace.wait(run)
    pace.heard(RateLimitInfo(wait_seconds=pause), run.clock())
    if not is_left:
        pace.wait(run, patience)
        assert run.waits == [pause]
        return
    for _ in range(3):
        with pytest.raises(UnavailableError, match="a longer pause than the retry budget of 120 s") as left:
            pace.wait(run, patience)
        assert left.value.code == "throttled"
    assert run.waits == []
