"""Contradicting counts: if a CRM's counts contradict its rows, the rows it did not name are unconfirmed."""

from __future__ import annotations

from typing import Any

import pytest

from crm_sync.destination import Outcome, UnavailableError
from crm_sync.destinations.braze import verdicts
from crm_sync.destinations.http.reply import Reply
from crm_sync.diff import Change
from tests.support.crm.every_crm import change, connected
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server

IDS = ["ada", "bob", "cyd"]


def batch(name: str) -> list[Change]:
    return [change(name, user, churn_risk_band="high") for user in IDS]


def sent(name: str, *replies: Canned, **options: Any) -> list[tuple[str, str | None]]:
    """Send a batch of three users to a server with these replies. Returns the outcomes' kinds and codes."""
    with scripted_server(*replies) as server:
        destination = connected(name, server.url, "key", **options)
        outcomes = destination.send(batch(name), FakeRunContext())
        destination.close()
    return [(outcome.kind, outcome.code) for outcome in outcomes]


DELIVERED, UNCONFIRMED = ("delivered", None), ("deferred", "unconfirmed")


# Braze


ERROR = {"type": "bad", "input_array": "attributes", "index": 1}


@pytest.mark.parametrize(
    ("counted", "errors", "expected"),
    [
        (3, [], [DELIVERED] * 3),
        (2, [ERROR], [DELIVERED, ("rejected", "bad"), DELIVERED]),
        (2, [ERROR, ERROR], [DELIVERED, ("rejected", "bad"), DELIVERED]),
        # Counts that do not match the other rows
        (0, [], [UNCONFIRMED] * 3),
        (2, [], [UNCONFIRMED] * 3),
        (4, [], [UNCONFIRMED] * 3),
        (-1, [], [UNCONFIRMED] * 3),
        (3, [ERROR], [UNCONFIRMED, ("rejected", "bad"), UNCONFIRMED]),
        (0, [ERROR], [UNCONFIRMED, ("rejected", "bad"), UNCONFIRMED]),
        # Values that are not counts
        ("3", [], [UNCONFIRMED] * 3),
        (None, [], [UNCONFIRMED] * 3),
        (3.0, [], [UNCONFIRMED] * 3),
        (True, [], [UNCONFIRMED] * 3),
        ([3], [], [UNCONFIRMED] * 3),
    ],
)
def test_braze_counts_whom_it_took_on(counted: Any, errors: list[Any], expected: list[tuple[str, str | None]]) -> None:
    said = {"message": "success", "attributes_processed": counted, "errors": errors}
    assert sent("braze", Canned(201, said)) == expected


def test_without_a_count_braze_s_errors_are_all_that_is_known() -> None:
    assert sent("braze", Canned(201, {"message": "success", "errors": [ERROR]}))[1] == ("rejected", "bad")
    assert sent("braze", Canned(202, {"message": "queued"})) == [DELIVERED] * 3


def test_a_201_that_took_on_none_of_33_delivers_none() -> None:
    reply = Reply(201, {}, body={"message": "success", "attributes_processed": 0})
    outcomes = verdicts(reply, [f"u{n:02d}" for n in range(33)])
    assert outcomes == [Outcome("deferred", 201, "unconfirmed")] * 33


@pytest.mark.parametrize("deleted", [-1, 3, "1", None, True])
def test_braze_cannot_have_deleted_more_than_it_was_asked_to(deleted: Any) -> None:
    with scripted_server(Canned(201, {"message": "success", "deleted": deleted})) as server:
        with pytest.raises(UnavailableError) as left:
            connected("braze", server.url, "key").erase(["ada", "bob"], FakeRunContext())
        assert left.value.code == "unknown_reply"


# HubSpot: each result names its user


def result(number: int) -> dict[str, Any]:
    return {"id": str(number), "objectWriteTraceId": str(number), "properties": {"winback_user_id": IDS[number]}}


@pytest.mark.parametrize(
    ("status", "numbers", "results", "expected"),
    [
        (200, {}, [0, 1, 2], [DELIVERED] * 3),
        (200, {"numErrors": 0}, [0, 2], [DELIVERED, UNCONFIRMED, DELIVERED]),
        (207, {"numErrors": 2}, [0], [DELIVERED, UNCONFIRMED, UNCONFIRMED]),
        (207, {"numErrors": 1}, [], [UNCONFIRMED] * 3),
        (201, {"numErrors": 0, "total": 3}, [], [UNCONFIRMED] * 3),
        (207, {"numErrors": 1}, [0, 1, 2], [UNCONFIRMED] * 3),
        (207, {"numErrors": 2}, [0, 2], [UNCONFIRMED] * 3),
        (207, {"numErrors": "1"}, [0, 1, 2], [DELIVERED] * 3),
    ],
)
def test_hubspot_delivers_only_whom_it_names_whatever_it_counts(
    status: int, numbers: dict[str, int], results: list[int], expected: list[tuple[str, str | None]]
) -> None:
    said = {"status": "COMPLETE", "results": [result(number) for number in results], **numbers}
    assert sent("hubspot", Canned(status, said)) == expected


# Klaviyo: counts, and errors that name the failed rows


def job(status: str, total: int, completed: int, failed: int) -> dict[str, Any]:
    counts = {"total_count": total, "completed_count": completed, "failed_count": failed}
    return {"data": {"type": "profile-bulk-import-job", "id": "j1", "attributes": {"status": status, **counts}}}


@pytest.mark.parametrize(
    ("counts", "named", "expected"),
    [
        ((3, 3, 0), [], [DELIVERED] * 3),
        ((3, 2, 1), ["bob"], [DELIVERED, ("rejected", "invalid"), DELIVERED]),
        ((3, 0, 0), [], [UNCONFIRMED] * 3),
        ((3, 2, 0), [], [UNCONFIRMED] * 3),
        ((0, 0, 0), [], [UNCONFIRMED] * 3),
        ((33, 33, 0), [], [UNCONFIRMED] * 3),
        ((3, 4, -1), [], [UNCONFIRMED] * 3),
        ((3, 1, 2), ["bob"], [UNCONFIRMED, ("rejected", "invalid"), UNCONFIRMED]),
        ((3, 2, 1), ["bob", "cyd"], [UNCONFIRMED, ("rejected", "invalid"), ("rejected", "invalid")]),
    ],
)
def test_klaviyo_s_counts_must_fit_the_rows_it_names(
    counts: tuple[int, int, int], named: list[str], expected: list[tuple[str, str | None]]
) -> None:
    errors = [
        {"type": "import-error", "attributes": {"code": "invalid", "original_payload": {"external_id": user}}}
        for user in named
    ]
    replies = [Canned(202, job("complete", *counts)), Canned(200, {"data": errors, "links": {"next": None}})]
    assert sent("klaviyo", *replies) == expected


# Salesforce: the files name each user; the job's counts do not decide


@pytest.mark.parametrize("numbers", [(3, 0), (0, 0), (3, 3), (33, 0)])
@pytest.mark.parametrize(
    ("succeeded", "expected"),
    [
        (["ada", "bob", "cyd"], [DELIVERED] * 3),
        (["bob"], [UNCONFIRMED, DELIVERED, UNCONFIRMED]),
        ([], [UNCONFIRMED] * 3),
    ],
)
def test_salesforce_delivers_only_whom_its_files_name_whatever_the_job_counts(
    numbers: tuple[int, int], succeeded: list[str], expected: list[tuple[str, str | None]]
) -> None:
    processed, failed = numbers
    ended = {"state": "JobComplete", "numberRecordsProcessed": processed, "numberRecordsFailed": failed}
    header = "sf__Id,sf__Created,Winback_User_Id__c\n"
    successes = header + "".join(f"00300000000{user:A>4}AAA,true,{user}\n" for user in succeeded)
    replies = [
        Canned(200, {"id": "750000000000001AAA", "state": "Open"}),
        Canned(201),
        Canned(200, {"state": "UploadComplete"}),
        Canned(200, ended),
        Canned(200, successes.encode()),
        Canned(200, b"sf__Id,sf__Error,Winback_User_Id__c\n"),
    ]
    assert sent("salesforce", *replies) == expected
