"""Braze client: upserts, deletions and queries, and the outcomes it reads. Uses real HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destination import BatchRefusedError, Outcome, UnavailableError
from crm_sync.destinations.braze import Braze, BrazeOptions, heard, verdicts
from crm_sync.destinations.http.rate_limiter import RateLimitInfo
from crm_sync.destinations.http.transport import Reply, RetryBudget
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import DATE, DATE_SECONDS, Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault

KEY = "kEy-7f3a9c51-canary"
DELIVERED = Outcome("delivered", 201)
SUCCESS = {"message": "success"}


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


def braze(url: str, budget_seconds: float = 120.0, key: str = KEY) -> Braze:
    return Braze(url, key, budget=RetryBudget(budget_seconds))


def changes(*external_ids: str, **attributes: Any) -> list[Change]:
    return [Change(external_id, attributes or {"score": 0.5}) for external_id in external_ids]


# Accepted rows


def test_a_full_batch_is_75_users_and_lands_whole(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = braze(crm.url)
    batch = [
        Change(f"user-{n}", {"churn_probability": n / 100, "churn_reasons": ["a", "b"]})
        for n in range(destination.max_batch)
    ]
    assert destination.send(batch, run) == [DELIVERED] * 75
    assert crm.store.profiles() == {
        f"user-{n}": {"churn_probability": n / 100, "churn_reasons": ["a", "b"]} for n in range(75)
    }
    assert run.waits == []


@pytest.mark.parametrize(
    "value", ["2026-06-15T10:00:00Z", "", "Zoë 🦊", 0.8421, 0.0, 1e-9, True, False, ["a", "b; c"], []]
)
def test_a_value_of_every_kind_lands_as_it_is(crm: LocalCrm, run: FakeRunContext, value: Any) -> None:
    assert braze(crm.url).send(changes("ada", property=value), run) == [DELIVERED]
    assert crm.store.profile("ada") == {"property": value}


def test_the_longest_external_id_that_braze_takes_is_that_user_s(crm: LocalCrm, run: FakeRunContext) -> None:
    assert braze(crm.url).send(changes("a" * 997), run) == [DELIVERED]
    assert crm.store.profiles() == {"a" * 997: {"score": 0.5}}


def test_the_request_holds_the_external_id_and_the_attributes_alone(run: FakeRunContext) -> None:
    with scripted_server(Canned(201, SUCCESS)) as script:
        braze(script.url).send(changes("ada", voucher_eligible=True, score=None), run)
    assert (script.asked[0].method, script.asked[0].path) == ("POST", "/users/track")
    assert script.asked[0].body == {"attributes": [{"external_id": "ada", "voucher_eligible": True, "score": None}]}
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_one_more_than_braze_takes_is_refused_and_changes_nothing(crm: LocalCrm, run: FakeRunContext) -> None:
    with pytest.raises(BatchRefusedError) as refusal:
        braze(crm.url).send(changes(*map(str, range(76))), run)
    assert (refusal.value.http_status, refusal.value.code) == (400, "http_400")
    assert refusal.value.reason == "at most ... attributes, events and purchases combined, got ..."
    assert crm.store.profiles() == {}


def test_an_error_for_a_row_is_that_row_s_outcome_and_the_others_land(crm: LocalCrm, run: FakeRunContext) -> None:
    fault(crm, kind="row_error", external_ids=["b", "d"])
    text = "provided external_id is blacklisted and disallowed"
    found = braze(crm.url).send(changes("a", "b", "c", "d"), run)
    assert [(outcome.kind, outcome.http_status, outcome.code) for outcome in found] == [
        ("delivered", 201, None),
        ("rejected", 201, text.replace(" ", "_")),
    ] * 2
    assert crm.store.profiles() == {"a": {"score": 0.5}, "c": {"score": 0.5}}


def test_of_an_error_the_words_are_kept_and_not_the_user(run: FakeRunContext) -> None:
    error = {"type": "User ada is unknown to ada@example.org", "input_array": "attributes", "index": 0}
    with scripted_server(Canned(201, SUCCESS | {"errors": [error]})) as script:
        found = braze(script.url).send(changes("ada"), run)
    assert found == [Outcome("rejected", 201, "user_is_unknown_to", "User ... is unknown to ...")]


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [SUCCESS, {"message": "queued"}, SUCCESS | {"errors": []}, SUCCESS | {"errors": None}])
def test_a_success_that_says_so_is_one_for_every_row(status: int, body: Any, run: FakeRunContext) -> None:
    with scripted_server(Canned(status, body)) as script:
        assert braze(script.url).send(changes("a", "b"), run) == [Outcome("delivered", status)] * 2


# Refused rows


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "success",
        {},
        {"message": "ok"},
        {"message": None},
        {"message": ["success"]},
        {"errors": []},
        SUCCESS | {"errors": "all of them"},
        SUCCESS | {"errors": {"index": 0}},
        SUCCESS | {"errors": ["bad"]},
        SUCCESS | {"errors": [{}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes"}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 3}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": -1}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": "0"}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 0.0}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": True}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "events", "index": 0}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 0}, None]},
    ],
)
def test_a_reply_of_unknown_shape_says_nothing_of_any_row(body: Any, run: FakeRunContext) -> None:
    with scripted_server(Canned(201, body)) as script, pytest.raises(UnavailableError) as left:
        braze(script.url).send(changes("a", "b", "c"), run)
    assert (left.value.code, len(script.asked)) == ("unknown_reply", 1)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["success", "attributes", "index", "bad"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "input_array", "type", "message"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["success", "queued", "ok", None]), st.lists(JSONS, max_size=4) | JSONS, st.integers(1, 4))
def test_any_reply_gives_every_row_one_outcome_or_none_and_no_error_goes_unheard(
    message: Any, errors: Any, count: int
) -> None:
    try:
        outcomes = verdicts(Reply(201, {}, "", {"message": message, "errors": errors}), [str(n) for n in range(count)])
    except UnavailableError:
        return  # the outcomes are unknown
    assert message in {"success", "queued"}
    assert len(outcomes) == count
    assert any(outcome.kind == "rejected" for outcome in outcomes) == bool(errors)


# Rate limit headers


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {"retry-after": "7"}, RateLimitInfo(7)),
        (429, {"x-ratelimit-retry-after": "11"}, RateLimitInfo(11)),
        (429, {"x-ratelimit-reset": f"{DATE_SECONDS + 3}"}, RateLimitInfo(3)),
        (429, {"x-ratelimit-reset": f"{DATE_SECONDS + 3}000"}, RateLimitInfo(3)),
        (429, {"x-ratelimit-reset": f"{DATE_SECONDS + 3}500"}, RateLimitInfo(3.5)),
        (429, {"x-ratelimit-reset": "2.5"}, RateLimitInfo(2.5)),
        (429, {"x-ratelimit-retry-after": "2, 2"}, RateLimitInfo(2)),
        (429, {"retry-after": "7", "x-ratelimit-reset": "2"}, RateLimitInfo(7)),
        (429, {"x-ratelimit-retry-after": "0", "x-ratelimit-reset": "2"}, RateLimitInfo(2)),
        (429, {"x-ratelimit-reset": "tomorrow"}, RateLimitInfo()),
        (429, {"x-ratelimit-reset": "nan"}, RateLimitInfo()),
        # After a success, the reset is the end of the window and not a request to wait.
        (201, {"x-ratelimit-reset": "2"}, RateLimitInfo()),
        (201, {"x-ratelimit-limit": "3000", "x-ratelimit-remaining": "0"}, RateLimitInfo(None, 3_000, 0)),
        (201, {"x-ratelimit-limit": "many", "x-ratelimit-remaining": "\u00b2"}, RateLimitInfo()),
    ],
)
def test_the_headers_of_the_rate_limit_are_read(status: int, headers: dict[str, str], expected: RateLimitInfo) -> None:
    assert heard(Reply(status, {"date": DATE} | headers)) == expected


@pytest.mark.parametrize("reset", ["nan", "tomorrow", f"{DATE_SECONDS - 60}"])
def test_a_reset_that_is_over_or_cannot_be_read_falls_back_to_our_own_wait(reset: str, run: FakeRunContext) -> None:
    with scripted_server(Canned(429, {}, {"X-RateLimit-Reset": reset}), Canned(201, SUCCESS)) as script:
        assert braze(script.url).send(changes("a"), run) == [DELIVERED]
    assert len(run.waits) == 1
    assert 0 < run.waits[0] <= 0.5


def test_the_limit_of_braze_itself_is_waited_out_or_left(crm: LocalCrm, run: FakeRunContext) -> None:
    allowance = crm.desk.allowances["braze.track"]
    allowance.requests, allowance.seconds = 1, 60
    destination = Braze(crm.url, KEY, BrazeOptions(limits=()), RetryBudget(1))
    assert destination.send(changes("a"), run) == [DELIVERED]
    with pytest.raises(UnavailableError, match="HTTP 429") as left:  # must wait for a minute, with a second left
        destination.send(changes("b"), run)
    assert left.value.code == "throttled"
    assert crm.store.profiles() == {"a": {"score": 0.5}}


# Deletions


def test_more_than_50_are_deleted_by_50(run: FakeRunContext) -> None:
    ids = [f"u{number}" for number in range(120)]
    replies = [Canned(201, SUCCESS | {"deleted": count}) for count in (50, 50, 20)]
    with scripted_server(*replies) as script:
        assert braze(script.url).erase(ids, run) == [DELIVERED] * 120
    assert [asked.path for asked in script.asked] == ["/users/delete"] * 3
    assert [asked.body for asked in script.asked] == [
        {"external_ids": ids[:50]},
        {"external_ids": ids[50:100]},
        {"external_ids": ids[100:]},
    ]


def test_nobody_to_delete_is_no_request(run: FakeRunContext) -> None:
    with scripted_server(Canned(500)) as script:
        assert braze(script.url).erase([], run) == []
    assert script.asked == []


@pytest.mark.parametrize("body", [None, [], {}, SUCCESS, {"deleted": "1"}, {"deleted": True}, {"deleted": None}])
def test_a_deletion_without_a_count_is_not_believed(body: Any, run: FakeRunContext) -> None:
    with scripted_server(Canned(201, body)) as script, pytest.raises(UnavailableError) as left:
        braze(script.url).erase(["a"], run)
    assert left.value.code == "unknown_reply"


def test_a_refused_deletion_is_rejected_and_the_next_fifty_are_still_asked_for(run: FakeRunContext) -> None:
    replies = [Canned(400, {"message": "'a@b.c' is not an id"}), Canned(201, SUCCESS | {"deleted": 1})]
    with scripted_server(*replies) as script:
        found = braze(script.url).erase([str(number) for number in range(51)], run)
    assert found == [Outcome("rejected", 400, "http_400", "... is not an id")] * 50 + [DELIVERED]
