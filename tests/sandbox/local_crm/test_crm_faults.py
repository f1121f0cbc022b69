"""Faults of the local CRM: each hits exactly the requests that it names, in the way that it names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import urllib3

from sandbox.local_crm.faults import Faults, parse
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_crm import KEY, counters, fault, post, serving, track


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with serving(tmp_path) as server:
        yield server


def stream(crm: LocalCrm, timeout: float = 10) -> requests.Response:
    body = {
        "attributes": [{"external_id": "ada", "a": 1}],
        "ignored": "x" * 200_000,
    }  # more than fits into a socket's buffer
    return requests.post(crm.url + "/users/track", json=body, headers=KEY, stream=True, timeout=timeout)


@pytest.mark.parametrize(
    ("status", "retry_after"), [(429, "2"), (503, "Mon, 23 Nov 2026 09:00:05 GMT"), (500, None), (202, None)]
)
def test_told_to_answer_with_a_status_it_does_so_n_times_and_applies_nothing(
    crm: LocalCrm, status: int, retry_after: str | None
) -> None:
    fault(crm, kind="status", status=status, retry_after=retry_after, times=2)
    replies = [track(crm, {"external_id": "ada", "a": number}) for number in range(3)]
    assert [reply.status_code for reply in replies] == [status, status, 201]
    assert [reply.headers.get("Retry-After") for reply in replies] == [retry_after, retry_after, None]
    assert [list(reply.json()) for reply in replies[:2]] == [["message"], ["message"]]
    assert len(crm.store.history("ada")) == 1
    assert counters(crm)["by_status"] == {str(status): 2, "201": 1}


@pytest.mark.parametrize(
    ("body", "content", "kind"),
    [({"code": 7}, b'{"code": 7}', "application/json"), ("<b>down</b>", b"<b>down</b>", "text/html; charset=utf-8")],
)
def test_told_what_to_say_with_a_status_it_says_that(crm: LocalCrm, body: object, content: bytes, kind: str) -> None:
    fault(crm, kind="status", status=502, body=body)
    reply = track(crm, {"external_id": "ada"})
    assert (reply.status_code, reply.content, reply.headers["Content-Type"]) == (502, content, kind)


def test_told_to_refuse_a_user_it_does_so_until_cleared(crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=["bob"])
    for _ in range(2):
        answer = track(crm, {"external_id": "ada", "a": 1}, {"external_id": "bob", "a": 1}).json()
        assert [(error["input_array"], error["index"]) for error in answer["errors"]] == [("attributes", 1)]
    requests.delete(crm.url + "/_control/faults", timeout=10)
    assert "errors" not in track(crm, {"external_id": "bob", "a": 1}).json()


def test_told_to_refuse_a_user_a_number_of_times_in_these_words_it_does_so(crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=["bob"], times=1, message="not today")
    answers = [track(crm, {"external_id": "bob", "a": 1}).json() for _ in range(2)]
    assert answers[0]["errors"] == [{"type": "not today", "input_array": "attributes", "index": 0}]
    assert "errors" not in answers[1]


@pytest.mark.parametrize(
    ("order", "is_applied"),
    [
        ({"kind": "lose_reply"}, True),
        ({"kind": "reset"}, False),
        ({"kind": "reset", "at": "request"}, False),
        ({"kind": "reset", "at": "reply"}, True),
    ],
)
def test_told_to_hang_up_it_sends_no_reply(crm: LocalCrm, order: dict[str, str], is_applied: bool) -> None:
    fault(crm, **order)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        track(crm, {"external_id": "ada", "a": 1})
    assert crm.store.profile("ada") == ({"a": 1} if is_applied else None)
    assert counters(crm)["by_status"] == {"no reply": 1}
    assert track(crm, {"external_id": "ada", "a": 1}).status_code == 201


def test_a_reset_in_the_reply_comes_after_half_of_it(crm: LocalCrm) -> None:
    whole = stream(crm).raw.read()
    fault(crm, kind="reset", at="reply")
    reply = stream(crm)
    assert (reply.status_code, reply.headers["Content-Length"]) == (201, str(len(whole)))
    assert reply.raw.read(len(whole) // 2) == whole[: len(whole) // 2]
    with pytest.raises(urllib3.exceptions.ProtocolError):
        reply.raw.read()


def test_a_slow_body_drips_and_keeps_nobody_from_leaving(crm: LocalCrm) -> None:
    fault(crm, kind="slow_body", bytes=4, pause_seconds=3_600)
    reply = stream(crm, timeout=0.2)
    assert reply.raw.read(4) == b'{"at'
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        reply.raw.read(1)
    assert crm.store.profile("ada") == {"a": 1}


def test_a_slow_body_arrives_whole_in_the_end(crm: LocalCrm) -> None:
    fault(crm, kind="slow_body", bytes=7, pause_seconds=0)
    assert track(crm, {"external_id": "ada"}).json() == {"message": "success", "attributes_processed": 1}


def test_a_request_that_hangs_is_not_applied_and_others_are_answered(crm: LocalCrm) -> None:
    fault(crm, kind="hang")
    with pytest.raises(requests.ReadTimeout):
        stream(crm, timeout=0.2)
    assert crm.store.profile("ada") is None
    assert counters(crm)["by_status"] == {"no reply": 1}
    assert track(crm, {"external_id": "bob"}).status_code == 201


def test_a_request_repeated_on_its_way_is_applied_twice_and_answered_once(crm: LocalCrm) -> None:
    fault(crm, kind="duplicate_reply")
    assert track(crm, {"external_id": "ada", "a": 1}, run_id="7").json()["attributes_processed"] == 1
    (written,) = crm.store.written_by("7", limit=9)
    assert (written.external_id, written.writes, written.fields) == ("ada", 2, ["a"])
    assert len(crm.store.history("ada")) == 1


@pytest.mark.parametrize(
    ("order", "status", "content"),
    [
        ({}, 200, b"<html><body>Bad gateway</body></html>"),
        ({"body": ["other", "shape"], "status": 201}, 201, b'["other", "shape"]'),
        ({"body": ""}, 200, b""),
    ],
)
def test_garbage_is_said_of_work_that_was_done(
    crm: LocalCrm, order: dict[str, object], status: int, content: bytes
) -> None:
    fault(crm, kind="garbage", **order)
    reply = track(crm, {"external_id": "ada", "a": 1})
    assert (reply.status_code, reply.content) == (status, content)
    assert crm.store.profile("ada") == {"a": 1}


def test_faults_happen_in_the_order_they_were_given(crm: LocalCrm) -> None:
    fault(crm, kind="status", status=500)
    fault(crm, kind="status", status=429)
    assert [track(crm, {"external_id": "ada"}).status_code for _ in range(3)] == [500, 429, 201]


def test_a_fault_of_one_endpoint_spares_the_others(crm: LocalCrm) -> None:
    fault(crm, kind="status", status=500, endpoint="braze.delete")
    assert track(crm, {"external_id": "ada"}).status_code == 201
    assert post(crm, "/users/delete", {"external_ids": ["ada"]}).status_code == 500
    assert counters(crm)["by_endpoint"] == {"braze.delete": {"500": 1}, "braze.track": {"201": 1}}


def test_a_request_over_the_limit_uses_up_no_fault(crm: LocalCrm) -> None:
    crm.desk.allowances["braze.track"].requests = 1
    fault(crm, kind="status", status=500, after=1)
    assert [track(crm, {"external_id": "ada"}).status_code for _ in range(2)] == [201, 429]
    crm.desk.allowances["braze.track"].is_on = False
    assert track(crm, {"external_id": "ada"}).status_code == 500


@pytest.mark.parametrize(
    ("orders", "hits"),
    [
        ([{"kind": "hang", "after": 2, "times": 2}], [None, None, "hang", "hang", None]),
        ([{"kind": "hang", "after": 1}, {"kind": "reset"}], ["reset", "hang", None, None, None]),
        ([{"kind": "hang"}, {"kind": "reset", "after": 1}], ["hang", "reset", None, None, None]),
        ([{"kind": "hang", "times": 2}, {"kind": "reset"}], ["hang", "hang", "reset", None, None]),
        ([{"kind": "hang", "endpoint": "other"}, {"kind": "reset"}], ["reset", None, None, None, None]),
    ],
)
def test_each_fault_counts_the_requests_that_match_it_and_the_first_that_is_due_hits(
    orders: list[dict[str, object]], hits: list[str | None]
) -> None:
    faults = Faults()
    faults.waiting = [parse(order) for order in orders]
    struck = [faults.strike("braze.track")[0] for _ in hits]
    assert [fault.kind if fault else None for fault in struck] == hits


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "fire"},
        {"kind": []},
        {"kind": "status", "status": []},
        {"kind": "status"},
        {"kind": "status", "status": 999},
        {"kind": "status", "status": 500, "pause_seconds": 1},
        {"kind": "garbage", "status": 100},
        {"kind": "reset", "times": 0},
        {"kind": "reset", "after": -1},
        {"kind": "reset", "at": "dawn"},
        {"kind": "reset", "at": []},
        {"kind": "reset", "endpoint": 5},
        {"kind": "row_error"},
        {"kind": "row_error", "external_ids": [5]},
        {"kind": "slow_body", "bytes": 0},
        {"kind": "slow_body", "pause_seconds": -1},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(crm: LocalCrm, body: dict[str, object]) -> None:
    refused = post(crm, "/_control/faults", body)
    assert (refused.status_code, list(refused.json())) == (400, ["message"])
    assert requests.get(crm.url + "/_control/faults", timeout=10).json() == {"faults": []}


def test_faults_are_listed_with_what_is_left_of_them(crm: LocalCrm) -> None:
    fault(crm, kind="reset", times=3, after=1)
    track(crm, {"external_id": "ada"})
    assert requests.get(crm.url + "/_control/faults", timeout=10).json() == {
        "faults": [{"kind": "reset", "times": 3, "after": 0, "endpoint": None, "at": "request"}]
    }
