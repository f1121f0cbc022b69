"""Klaviyo's limits: requests stay within them, and temporary refusals are waited out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crm_sync.destination import Outcome, UnavailableError
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import COMPLETE, DELIVERED, QUEUED, changes, described_crm, job, klaviyo
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


@pytest.mark.parametrize(
    "passing",
    [Canned(500), Canned(503, b"<html>"), Canned(202, b"garbage"), Canned(202, b"{"), Canned(408), Canned(429)],
)
def test_a_passing_fault_is_tried_again(passing: Canned, run: FakeRunContext) -> None:
    with scripted_server(passing, passing, QUEUED, passing, COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert [asked.method for asked in server.asked] == ["POST"] * 3 + ["GET"] * 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"Retry-After": "Mon, 15 Jun 2026 10:00:42 GMT"}, 42)],
)
def test_the_wait_that_a_429_asks_for_is_kept(headers: dict[str, str], seconds: float, run: FakeRunContext) -> None:
    with scripted_server(Canned(429, {"errors": []}, headers), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [seconds]


def test_a_429_without_a_wait_is_waited_out_by_our_own(run: FakeRunContext) -> None:
    with scripted_server(Canned(429, {"errors": []}), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert 0 < run.clock() <= 1


def test_a_throttling_that_does_not_end_says_so(run: FakeRunContext) -> None:
    with scripted_server(Canned(429, {}, {"Retry-After": "60"})) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url, budget_seconds=100).send(changes("ada"), run)
    assert refusal.value.code == "throttled"


def test_a_minute_that_others_have_used_up_is_left_to_them(run: FakeRunContext) -> None:
    spent = {"RateLimit-Limit": "150", "RateLimit-Remaining": "0", "RateLimit-Reset": "17"}
    with scripted_server(Canned(202, job("queued", 1, 0), spent), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.clock() == 60


def test_no_limit_of_klaviyo_is_ever_exceeded(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = klaviyo(crm.url, first_poll_seconds=0.01, max_poll_seconds=0.01)
    for n in range(70):  # three requests each: more than 150 per minute
        assert destination.send(changes(f"user-{n}"), run) == [DELIVERED]
    assert destination.erase([f"user-{n}" for n in range(70)], run) == [Outcome("delivered", 202)] * 70
    assert {name: allowance.refused for name, allowance in crm.desk.allowances.items() if allowance.refused} == {}
    assert crm.desk.by_endpoint["klaviyo.poll"] == {"200": 140}
    assert crm.store.profiles() == {}


def test_without_a_limit_of_ours_klaviyo_s_own_is_waited_out(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = klaviyo(crm.url, limits=(), first_poll_seconds=0.01, max_poll_seconds=0.01)
    for n in range(30):
        assert destination.send(changes(f"user-{n}"), run) == [DELIVERED]
    assert crm.desk.allowances["klaviyo.poll.burst"].refused > 0
