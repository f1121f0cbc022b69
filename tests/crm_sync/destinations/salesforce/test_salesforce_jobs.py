"""Salesforce's jobs: slow, failed, refused and abandoned ones."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError, WinbackError
from crm_sync.destination import BatchRefusedError, DeadlineExceededError, UnavailableError
from crm_sync.destinations.salesforce.client import SalesforceOptions
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import (
    CLOSED,
    COMPLETE,
    DELIVERED,
    FILLED,
    JOB,
    KEY,
    NONE_FAILED,
    OPENED,
    changes,
    refused,
    salesforce,
    successes,
    wire,
)


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("InvalidBatch : Records not processed", BatchRefusedError, "HTTP 200, invalidbatch"),
        ("ClientInputError : Failed to parse", BatchRefusedError, "HTTP 200, clientinputerror"),
        ("InvalidBatch : Field name not found : Churn_Risk_Band__c", ContractError, "no field Churn_Risk_Band__c that"),
        (
            "InvalidBatch : InvalidBatch : Field name not found : ada@b.c. Batch will not be retried.",
            ContractError,
            "of the mapping",
        ),
        ("InvalidEntity : Entity 'Contact' is not supported", ContractError, "invalidentity. Run winback doctor"),
        ("InvalidUser : not yours", ContractError, "invaliduser"),
        ("ExceededQuota : ApiBatchItems Limit exceeded.", UnavailableError, "exceededquota"),
        ("InternalServerError : try again", UnavailableError, "internalservererror"),
        ("TooManyLockFailure : 200", UnavailableError, "toomanylockfailure"),
        ("ada@b.c is not valid", UnavailableError, "A Salesforce job failed: unknown"),
        (None, UnavailableError, "A Salesforce job failed: unknown"),
        ({"a": 1}, UnavailableError, "A Salesforce job failed: unknown"),
    ],
)
def test_a_job_that_did_nothing_asks_for_halving_a_person_or_time(
    message: Any, kind: type[WinbackError], said: str, run: FakeRunContext
) -> None:
    failed = Canned(200, {"id": JOB, "state": "Failed", "numberRecordsProcessed": 0, "errorMessage": message})
    with scripted_server(*FILLED, failed) as script, pytest.raises(kind, match=re.escape(said)):
        salesforce(script.url).send(changes("ada"), run)


def test_a_quota_of_jobs_that_is_used_up_is_no_fault_of_the_rows_or_of_a_person(run: FakeRunContext) -> None:
    for replies in (
        (refused(400, "ExceededQuota"),),
        (*FILLED, Canned(200, {"state": "Failed", "errorMessage": "ExceededQuota : x"})),
    ):
        with scripted_server(*replies) as script, pytest.raises(UnavailableError) as failure:
            salesforce(script.url).send(changes("ada"), run)
        assert failure.value.code == "throttled"


# Life cycle of a job


def test_a_job_is_asked_after_less_and_less_often(crm: LocalCrm, run: FakeRunContext) -> None:
    wire(crm).polls_until_done = 9
    assert salesforce(crm.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [2, 3, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30, 30]


def test_a_job_that_nobody_waits_for_any_more_is_dropped_and_writes_nothing(crm: LocalCrm) -> None:
    with pytest.raises(DeadlineExceededError) as leaving:
        salesforce(crm.url).send(changes("ada"), FakeRunContext(seconds_left=4))
    assert leaving.value.code == "deadline"
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]
    assert crm.store.profiles() == {}


def test_a_job_without_end_is_dropped_after_its_time(crm: LocalCrm, run: FakeRunContext) -> None:
    wire(crm).polls_until_done = 1_000
    with pytest.raises(UnavailableError, match="had not ended after 64 s"):
        salesforce(crm.url, SalesforceOptions(limits=(), job_seconds=60)).send(changes("ada"), run)
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]


def test_a_run_that_leaves_is_not_held_up_by_a_crm_that_is_down(run: FakeRunContext) -> None:
    with scripted_server(*FILLED, Canned(503)) as script, pytest.raises(UnavailableError, match="HTTP 503"):
        salesforce(script.url, budget_seconds=1e-9).send(changes("ada"), run)
    assert [(each.method, each.body) for each in script.asked[-1:]] == [("PATCH", {"state": "Aborted"})]
    assert run.waits == [2]


@pytest.mark.parametrize("said", [{"id": JOB, "state": "Mending"}, {"id": JOB}, [], "JobComplete"])
def test_a_job_in_an_unknown_state_is_dropped_and_nothing_known_of_it(said: Any, run: FakeRunContext) -> None:
    with scripted_server(*FILLED, Canned(200, said)) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"
    assert script.asked[-1].body == {"state": "Aborted"}


@pytest.mark.parametrize("said", [{}, [], {"id": None}, {"id": "../../sobjects"}, {"id": 7}])
def test_a_job_without_a_usable_id_is_not_gone_on_with(said: Any, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, said)) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).send(changes("ada"), run)
    assert (failure.value.code, len(script.asked)) == ("unknown_reply", 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [("INVALIDJOB", "invalidjob"), ("INVALIDENTITY", "invalidentity"), ("SOMETHING_NEW", "something_new")],
)
def test_a_job_that_may_not_be_opened_is_for_a_person_not_for_halving(
    code: str, said: str, run: FakeRunContext
) -> None:
    with scripted_server(refused(400, code, "ada@b.c")) as script, pytest.raises(ContractError) as refusal:
        salesforce(script.url).send(changes("ada"), run)
    assert str(refusal.value) == f"Salesforce does not open a job for Contact: {said}. Run winback doctor"


@pytest.mark.parametrize("status", [400, 413])
def test_a_file_that_is_refused_is_halved_and_its_job_dropped(status: int, run: FakeRunContext) -> None:
    still_open = Canned(200, {"id": JOB, "state": "Open"})
    replies = (OPENED, refused(status, "TOO_BIG", "too big for ada"), refused(400, "INVALIDJOBSTATE"), still_open)
    with scripted_server(*replies) as script, pytest.raises(BatchRefusedError) as refusal:
        salesforce(script.url).send(changes("ada"), run)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.reason) == (
        status,
        "too_big",
        "too big for ...",
    )
    assert script.asked[-1].body == {"state": "Aborted"}


@pytest.mark.parametrize(
    "ending",
    [
        (COMPLETE, successes(), NONE_FAILED),
        (Canned(200, {"state": "Failed", "errorMessage": "InternalServerError : nothing was uploaded"}),),
    ],
)
def test_a_refused_file_is_not_forgotten_however_its_empty_job_ends(
    ending: tuple[Canned, ...], run: FakeRunContext
) -> None:
    replies = (OPENED, refused(400, "TOO_BIG"), CLOSED, *ending)
    with scripted_server(*replies) as script, pytest.raises(BatchRefusedError, match="too_big"):
        salesforce(script.url).send(changes("ada"), run)


# The limits


def test_requests_used_up_for_the_day_end_the_run_and_are_no_matter_of_permissions(
    crm: LocalCrm, run: FakeRunContext
) -> None:
    crm.desk.allowances["salesforce.day"].requests = 4
    with pytest.raises(UnavailableError) as failure:
        salesforce(crm.url).send(changes("ada"), run)
    assert (failure.value.code, run.waits) == ("throttled", [2, 3])


def test_25_requests_take_20_seconds_unless_it_is_told_otherwise(crm: LocalCrm, run: FakeRunContext) -> None:
    hasty: dict[str, Any] = {"first_poll_seconds": 0.001, "longest_poll_seconds": 0.001}
    destination = salesforce(crm.url, SalesforceOptions(**hasty))
    for _ in range(5):  # 7 requests each
        destination.send(changes("ada"), run)
    assert 20 <= run.clock() < 40
    unpaced = FakeRunContext()
    salesforce(crm.url, SalesforceOptions(limits=(), **hasty)).send(changes("ada"), unpaced)
    assert unpaced.clock() < 0.01
