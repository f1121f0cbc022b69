"""Transport: which replies are returned, which are retried and after what wait, and which stop the run. Uses real HTTP."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError, WinbackError
from crm_sync.deadline import Deadline
from crm_sync.destination import BatchRefusedError, DeadlineExceededError, RequestRefusedError, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimit, RateLimiter, RateLimitInfo
from crm_sync.destinations.http.transport import Reply, ResponseParser, RetryBudget, Transport
from crm_sync.destinations.meanings import Meaning
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, Script, scripted_server

DONE = {"done": True}


def transport(url: str, budget_seconds: float = 120.0, dialect: ResponseParser | None = None) -> Transport:
    return Transport(url, {"X-Key": "k"}, RateLimiter([]), budget=RetryBudget(budget_seconds), dialect=dialect)


def ask(script: Script, run: FakeRunContext, budget_seconds: float = 120.0, **more: Any) -> Reply:
    """Send one small request with its retries."""
    return transport(script.url, budget_seconds).request(run, "POST", "/path?page=2", **({"body": {"a": 1}} | more))


# Replies that are returned


@pytest.mark.parametrize("status", [200, 201, 202, 207, 299])
def test_a_success_is_returned_as_it_came(status: int) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status, DONE, {"X-SoMe": "header"})) as script:
        reply = ask(script, run)
    assert (reply.status, reply.body, json.loads(reply.text)) == (status, DONE, DONE)
    assert reply.headers["x-some"] == "header"
    assert run.waits == []


def test_a_byte_order_mark_before_a_reply_is_not_part_of_it() -> None:
    with scripted_server(Canned(200, b'\xef\xbb\xbf{"done": true}'), Canned(200, b"\xef\xbb\xbfid,ok\n")) as script:
        assert ask(script, FakeRunContext()).body == DONE
        assert ask(script, FakeRunContext(), expects="text").text == "id,ok\n"


@pytest.mark.parametrize("status", [200, 204])
def test_a_success_without_a_body_is_one_without_a_value(status: int) -> None:
    with scripted_server(Canned(status)) as script:
        reply = ask(script, FakeRunContext())
    assert (reply.status, reply.text, reply.body) == (status, "", None)


@pytest.mark.parametrize("status", [404, 409, 303])
def test_a_status_that_the_caller_takes_for_an_answer_is_returned(status: int) -> None:
    with scripted_server(Canned(status, DONE)) as script:
        assert ask(script, FakeRunContext(), answers=frozenset({status})).body == DONE


def test_a_request_goes_out_as_json_with_the_run_s_name_and_our_headers() -> None:
    with scripted_server(Canned(200, DONE)) as script:
        ask(script, FakeRunContext(), body={"name": "Zoë", "list": [1.5, None]}, headers={"revision": "2026-07-15"})
    asked = script.asked[0]
    assert (asked.method, asked.path) == ("POST", "/path?page=2")
    assert asked.content == '{"name":"Zoë","list":[1.5,null]}'.encode()
    told = {name: asked.headers[name] for name in ("content-type", "user-agent", "x-key", "revision")}
    assert told == {
        "content-type": "application/json",
        "user-agent": "winback (00000007-test)",
        "x-key": "k",
        "revision": "2026-07-15",
    }


def test_bytes_go_out_as_they_are_and_a_text_comes_back_as_it_is() -> None:
    with scripted_server(Canned(200, "Zoë,1\n".encode())) as script:
        reply = ask(
            script, FakeRunContext(), body=None, data=b"a,b\n", headers={"Content-Type": "text/csv"}, expects="text"
        )
    assert (script.asked[0].content, script.asked[0].headers["content-type"]) == (b"a,b\n", "text/csv")
    assert (reply.text, reply.body) == ("Zoë,1\n", None)


def test_what_is_no_number_in_json_is_not_sent() -> None:
    with scripted_server(Canned(200, DONE)) as script, pytest.raises(ValueError, match="JSON compliant"):
        ask(script, FakeRunContext(), body={"score": float("nan")})
    assert script.asked == []


# Refusals, and replies that stop the run


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_refusal_of_what_was_sent_is_not_tried_again(status: int) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status, {"message": "no"})) as script, pytest.raises(BatchRefusedError) as refusal:
        ask(script, run)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.reason) == (status, f"http_{status}", None)
    assert (len(script.asked), run.waits) == (1, [])


def test_a_refusal_is_worded_by_the_dialect_also_when_it_is_no_json() -> None:
    dialect = ResponseParser(refusal=lambda reply: (f"code_{reply.body}", "reason"))
    for content, code in ((b'"x"', "code_x"), (b"<html>", "code_None"), (b"", "code_None")):
        with scripted_server(Canned(400, content)) as script, pytest.raises(BatchRefusedError) as refusal:
            transport(script.url, dialect=dialect).request(FakeRunContext(), "POST", "/", body={})
        assert (refusal.value.code, refusal.value.reason) == (code, "reason")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 401, 403, 404])
def test_wrong_credentials_address_or_a_redirect_name_the_settings(status: int) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(200, DONE)) as elsewhere:
        redirect = Canned(status, None if status == 304 else {}, {"Location": elsewhere.url + "/stolen"})
        with scripted_server(redirect) as script, pytest.raises(ContractError) as refusal:
            ask(script, run)
    assert str(refusal.value) == (
        f"The CRM answered HTTP {status} to /path. "
        "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions: winback doctor"
    )
    assert (elsewhere.asked, len(script.asked), run.waits) == ([], 1, [])


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (402, "a larger plan"),
        (405, "correct WINBACK_CRM_URL"),
        (406, "another version in config/crm.yml"),
        (407, "A proxy in between requires credentials"),
        (410, "This version of the API was retired"),
        (411, "drops the request's length"),
        (412, "winback doctor"),
        (414, "shorten max_batch"),
        (415, "does not accept this content type"),
        (416, "winback doctor"),
        (417, "winback doctor"),
        (418, "winback doctor"),
        (421, "does not serve the account"),
        (426, "requires a newer protocol"),
        (428, "winback doctor"),
        (431, "WINBACK_CRM_API_KEY holds only the key"),
        (451, "for legal reasons"),
        (499, "winback doctor"),
    ],
)
def test_a_refusal_that_is_not_about_rows_stops_the_run_and_says_what_to_do(status: int, advice: str) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status, {"message": "no"})) as script, pytest.raises(RequestRefusedError) as refusal:
        ask(script, run)
    assert f"HTTP {status} to /path. " in str(refusal.value)
    assert advice in str(refusal.value)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.exit_code) == (status, f"http_{status}", 2)
    assert (len(script.asked), run.waits) == (1, [])


@pytest.mark.parametrize(
    ("meaning", "error"),
    [("rows", BatchRefusedError), ("person", RequestRefusedError), ("later", UnavailableError)],
)
def test_the_crm_s_own_code_counts_more_than_the_status(meaning: Meaning, error: type[WinbackError]) -> None:
    dialect = ResponseParser(meaning=lambda reply: meaning if reply.body == {"code": "x"} else None)
    for status in (400, 403, 418):
        with scripted_server(Canned(status, {"code": "x"})) as script, pytest.raises(error):
            transport(script.url, dialect=dialect, budget_seconds=1e-9).request(FakeRunContext(), "POST", "/", body={})


@pytest.mark.parametrize("url", ["http://127.0.0.1:canary", "http://*canary.example", "http://127.0.0.1:99999"])
def test_what_is_no_address_names_the_setting_without_its_value(url: str) -> None:
    run = FakeRunContext()
    with pytest.raises(ContractError) as refusal:
        transport(url).request(run, "POST", "/", body={})
    assert str(refusal.value) == "WINBACK_CRM_URL is not a valid URL for requests."
    assert run.waits == []


# Temporary faults


@pytest.mark.parametrize("status", [408, 423, 424, 425, 429, 500, 501, 502, 503, 504, 505, 507, 520, 522, 529, 599])
def test_a_passing_fault_is_tried_again_until_it_has_passed(status: int) -> None:
    run = FakeRunContext()
    with scripted_server(*[Canned(status, {})] * 3, Canned(200, DONE)) as script:
        assert ask(script, run).body == DONE
    assert len(run.waits) == 3
    assert all(wait <= most for wait, most in zip(run.waits, [0.5, 1, 2], strict=True))
    assert len({asked.content for asked in script.asked}) == 1


def test_the_waits_of_our_own_grow_and_stay_below_a_minute() -> None:
    run = FakeRunContext()
    with scripted_server(*[Canned(500)] * 20, Canned(200, DONE)) as script:
        ask(script, run, budget_seconds=3_600)
    assert len(run.waits) == 20
    assert 0 < max(run.waits) <= 60


@pytest.mark.parametrize(
    ("status", "code"), [(429, "throttled"), (503, "unavailable"), (500, "unavailable"), (408, "unavailable")]
)
def test_a_fault_that_does_not_pass_ends_with_the_budget(status: int, code: str) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status)) as script, pytest.raises(UnavailableError, match=f"HTTP {status}") as left:
        ask(script, run)
    assert left.value.code == code
    assert str(left.value) == f"The CRM did not take the request within 120 s: HTTP {status}."
    assert 0 < sum(run.waits) < 120
    assert len(script.asked) == len(run.waits) + 1


def test_a_storm_of_429_with_waits_ends_before_the_wait_that_would_end_outside_of_the_budget() -> None:
    run = FakeRunContext()
    with scripted_server(Canned(429, {}, {"Retry-After": "50"})) as script, pytest.raises(UnavailableError) as left:
        ask(script, run)
    assert (run.waits, left.value.code) == ([50, 50], "throttled")


def test_the_run_s_time_ends_a_wait_before_it_begins() -> None:
    run = FakeRunContext(seconds_left=40)
    with scripted_server(Canned(503, {}, {"Retry-After": "50"})) as script, pytest.raises(DeadlineExceededError):
        ask(script, run)
    assert run.waits == []


# A limit per day


SPENT = ResponseParser(heard=lambda _: RateLimitInfo(is_exhausted=True))


@pytest.mark.parametrize("status", [400, 403, 429])
def test_a_limit_that_no_wait_within_the_run_opens_again_defers_the_rest(status: int) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status)) as script, pytest.raises(UnavailableError, match="daily limit") as left:
        transport(script.url, dialect=SPENT).request(run, "POST", "/", body={})
    assert (left.value.code, run.waits) == ("throttled", [])


def test_the_last_request_of_the_day_is_still_a_success() -> None:
    with scripted_server(Canned(200, DONE)) as script:
        assert transport(script.url, dialect=SPENT).request(FakeRunContext(), "POST", "/", body={}).body == DONE


# Threads


def test_every_attempt_counts_against_the_limit() -> None:
    run = FakeRunContext()
    with scripted_server(Canned(503), Canned(503), Canned(200, DONE)) as script:
        limited = Transport(script.url, {}, RateLimiter([RateLimit(1, 10)]), budget=RetryBudget(100, 1e-3))
        limited.request(run, "POST", "/", body={})
    assert sum(run.waits) == pytest.approx(20, abs=0.1)


def test_a_request_that_failed_does_not_keep_its_place() -> None:
    """With room for one request, requests that end in every way still leave it free."""
    run = FakeRunContext()
    endings: list[tuple[Canned, Callable[[], Any]]] = [
        (Canned(400), lambda: pytest.raises(BatchRefusedError)),
        (Canned(401), lambda: pytest.raises(ContractError)),
        (Canned(200, b"x", {"Content-Length": "9", "Connection": "close"}), lambda: pytest.raises(UnavailableError)),
    ]
    with scripted_server(*[said for said, _ in endings], Canned(200, DONE)) as script:
        limited = Transport(script.url, {}, RateLimiter([RateLimit(1, 10)]), budget=RetryBudget(1e-9))
        for _, ending in endings:
            with ending():
                limited.request(run, "POST", "/", body={})
        assert limited.request(run, "POST", "/", body={}).body == DONE


def test_all_threads_share_one_limit_and_the_server_has_none_to_refuse(tmp_path: Path) -> None:
    run = Deadline("00000007-test", 60)
    with LocalCrm(tmp_path / "crm.db") as crm:
        allowance = crm.desk.allowances["braze.track"]
        allowance.requests, allowance.seconds = 4, 0.1
        limited = Transport(crm.url, {"Authorization": "Bearer local-key"}, RateLimiter([RateLimit(4, 0.1)]))
        body = {"attributes": [{"external_id": "ada"}]}

        def work() -> None:
            for _ in range(4):
                limited.request(run, "POST", "/users/track", body=body)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        limited.close()
        assert (crm.desk.by_endpoint["braze.track"], allowance.refused) == ({"201": 24}, 0)
