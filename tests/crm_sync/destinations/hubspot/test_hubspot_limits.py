"""HubSpot's limits: which refusals are waited out and for how long, and which end the run or the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import ContractError
from crm_sync.destination import BatchRefusedError, DeadlineExceededError, RequestRefusedError, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimitInfo
from crm_sync.destinations.http.transport import Reply
from crm_sync.destinations.hubspot.client import payload
from crm_sync.destinations.hubspot.replies import heard
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.hubspot import (
    DELIVERED,
    ID,
    KEY,
    UPSERT,
    Connect,
    changes,
    complete,
    connecting,
    post,
    result,
)
from tests.support.crm.local_api import DATE_SECONDS, Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    """A CRM that uses the run's clock."""
    start = datetime.fromtimestamp(DATE_SECONDS, UTC)
    with LocalCrm(tmp_path / "crm.db", api_key=KEY, clock=lambda: start + timedelta(seconds=run.clock())) as server:
        yield server


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_refusal_of_the_batch_is_not_tried_again(connected: Connect, run: FakeRunContext, status: int) -> None:
    with scripted_server(Canned(status, b"<html>no</html>"), Canned(200, complete(result("0")))) as script:
        with pytest.raises(BatchRefusedError) as refusal:
            connected(script.url).send(changes("a"), run)
        assert (refusal.value.http_status, refusal.value.code) == (status, f"http_{status}")
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [402, 405, 407, 410, 411, 414, 415, 421, 426, 431, 451])
def test_a_refusal_that_is_not_about_rows_stops_the_run(connected: Connect, run: FakeRunContext, status: int) -> None:
    with scripted_server(Canned(status, b"<html>no</html>"), Canned(200, complete(result("0")))) as script:
        with pytest.raises(RequestRefusedError) as refusal:
            connected(script.url).send(changes("a"), run)
        assert (refusal.value.http_status, refusal.value.exit_code) == (status, 2)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "message",
    [
        "Unable to perform update/upsert by non-unique 0-1 property winback_user_id in portal ID 1",
        'Property values were not valid: [{"isValid":false,"error":"PROPERTY_DOESNT_EXIST","name":"churn_probability"}]',
        'Property values were not valid: [{"error":"INVALID_OPTION","name":"a"},{"error":"PROPERTY_DOESNT_EXIST"}]',
        'Property values were not valid: [{"isValid":false,"error":"READ_ONLY_VALUE","name":"churn_probability"}]',
    ],
)
def test_what_only_a_person_can_mend_stops_the_run_instead_of_rejecting_everybody(
    connected: Connect, run: FakeRunContext, message: str
) -> None:
    body = {"status": "error", "category": "VALIDATION_ERROR", "message": message}
    with scripted_server(Canned(400, body)) as script, pytest.raises(ContractError, match="winback doctor"):
        connected(script.url).send(changes("a", "b"), run)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 521, 522, 523, 524, 525, 526])
def test_a_passing_fault_is_tried_again(connected: Connect, run: FakeRunContext, status: int) -> None:
    with scripted_server(*[Canned(status, {})] * 2, Canned(200, complete(result("0")))) as script:
        assert connected(script.url).send(changes("a"), run) == [DELIVERED]
    assert len(script.asked) == 3
    assert [each.content for each in script.asked] == [script.asked[0].content] * 3


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_success_without_json_is_a_success_for_nobody(
    connected: Connect, run: FakeRunContext, content: bytes
) -> None:
    with scripted_server(Canned(200, content)) as script, pytest.raises(UnavailableError):
        connected(script.url, budget_seconds=1e-9).send(changes("a"), run)


def test_a_lock_is_waited_out_two_seconds_at_a_time_and_rejects_nobody(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(*[Canned(423, {})] * 3, Canned(200, complete(result("0")))) as script:
        assert connected(script.url, limits=[]).send(changes("a"), run) == [DELIVERED]
    assert run.waits == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("status", "code"), [(423, "throttled"), (477, "unavailable")])
def test_an_account_that_stays_locked_or_is_being_moved_is_left_for_a_later_run(
    connected: Connect, run: FakeRunContext, status: int, code: str
) -> None:
    with scripted_server(Canned(status, {"message": "no"}, {"Retry-After": "7200"} if status == 477 else {})) as script:
        with pytest.raises(UnavailableError) as failure:
            connected(script.url).send(changes("a"), run)
        assert failure.value.code == code
    assert sum(run.waits) <= 30


# The limit


def limited(policy: str | None, headers: dict[str, str] | None = None, status: int = 429) -> Reply:
    body = {"status": "error", "errorType": "RATE_LIMIT"} | ({"policyName": policy} if policy else {})
    names = {f"x-hubspot-ratelimit-{name}" if name != "retry-after" else name: v for name, v in (headers or {}).items()}
    return Reply(status, names, json.dumps(body))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (limited("TEN_SECONDLY_ROLLING"), RateLimitInfo(10)),
        (limited("TEN_SECONDLY_ROLLING", {"interval-milliseconds": "11000"}), RateLimitInfo(11)),
        (limited("SECONDLY", {"interval-milliseconds": "10000"}), RateLimitInfo(1)),
        (limited("DAILY"), RateLimitInfo(10, is_exhausted=True)),
        (limited(None), RateLimitInfo(10)),
        (limited(None, {"daily-remaining": "0"}), RateLimitInfo(10, is_exhausted=True)),
        (limited("TEN_SECONDLY_ROLLING", {"daily-remaining": "0"}), RateLimitInfo(10)),
        (limited("TEN_SECONDLY_ROLLING", {"retry-after": "4"}), RateLimitInfo(4)),
        (limited("TEN_SECONDLY_ROLLING", {"retry-after": "0"}), RateLimitInfo(10)),
        (limited("SOMETHING_NEW", {"retry-after": "soon"}), RateLimitInfo(10)),
        (Reply(429, {}, "<html>"), RateLimitInfo(10)),
        (Reply(429, {}, "[" * 100_000), RateLimitInfo(10)),
        (Reply(429, {}, "[]"), RateLimitInfo(10)),
        (
            limited(None, {"max": "100", "remaining": "7", "interval-milliseconds": "10000"}, 200),
            RateLimitInfo(None, 100, 7),
        ),
        (limited(None, {"max": "100", "remaining": "7"}, 200), RateLimitInfo(None, 100, 7)),
        # a limit for another window is ignored
        (limited(None, {"max": "19", "remaining": "7", "interval-milliseconds": "1000"}, 200), RateLimitInfo(None)),
        (limited(None, {"max": "many", "remaining": "-1", "daily-remaining": "0"}, 200), RateLimitInfo(None)),
        (limited(None, {"retry-after": "9"}, 503), RateLimitInfo(9)),
        (limited(None, status=423), RateLimitInfo(2)),
        (limited(None, {"retry-after": "5"}, 423), RateLimitInfo(5)),
    ],
)
def test_headers_and_the_policy_say_how_long_to_wait(reply: Reply, says: RateLimitInfo) -> None:
    assert heard(reply, 10) == says


@pytest.mark.parametrize(("policy", "seconds"), [("TEN_SECONDLY_ROLLING", 10), ("SECONDLY", 1)])
def test_a_429_is_waited_out_by_its_policy(
    connected: Connect, run: FakeRunContext, policy: str, seconds: float
) -> None:
    with scripted_server(Canned(429, {"policyName": policy}), Canned(200, complete(result("0")))) as script:
        assert connected(script.url).send(changes("a"), run) == [DELIVERED]
    assert sum(run.waits) == seconds


def test_a_daily_limit_that_is_spent_ends_the_run_at_once(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(429, {"policyName": "DAILY"})) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).send(changes("a"), run)
    assert (failure.value.code, len(script.asked), run.waits) == ("throttled", 1, [])


def test_a_run_that_has_no_time_for_the_wait_leaves_before_it(connected: Connect) -> None:
    run = FakeRunContext(seconds_left=5)
    with (
        scripted_server(Canned(429, {"policyName": "TEN_SECONDLY_ROLLING"})) as script,
        pytest.raises(DeadlineExceededError) as left,
    ):
        connected(script.url).send(changes("a"), run)
    assert (left.value.code, run.waits) == ("deadline", [])


def test_an_account_with_less_than_we_assume_is_not_asked_for_more(connected: Connect, run: FakeRunContext) -> None:
    headers = {"X-HubSpot-RateLimit-Max": "2", "X-HubSpot-RateLimit-Interval-Milliseconds": "10000"}
    with scripted_server(Canned(200, complete(result("0")), headers)) as script:
        hubspot = connected(script.url)
        for _ in range(5):
            hubspot.send(changes("a"), run)
    assert run.clock() >= 20  # two windows with two requests each, and one more request


def test_no_window_of_the_fake_s_sees_more_than_190(crm: LocalCrm, connected: Connect, run: FakeRunContext) -> None:
    hubspot = connected(crm.url)
    for number in range(400):
        hubspot.send(changes(f"u{number}"), run)
    assert crm.desk.allowances["hubspot.batch"].refused == 0
    assert run.clock() <= 21.5  # 400 requests at 19 per second


def test_the_limit_of_the_fake_is_waited_out_and_the_daily_one_is_not(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    crm.desk.allowances["hubspot.batch"].requests = 1
    post(crm, UPSERT, payload(changes("z"), ID))
    hubspot = connected(crm.url)
    assert hubspot.send(changes("a"), run) == [DELIVERED]
    assert run.clock() == 10
    crm.desk.allowances["hubspot.batch"].requests, crm.desk.allowances["hubspot.daily"].requests = 100, 1
    with pytest.raises(UnavailableError) as failure:
        hubspot.send(changes("b"), run)
    assert failure.value.code == "throttled"
