"""Klaviyo's jobs: a row counts as delivered only if the job's counts and errors confirm it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destination import DeadlineExceededError, Outcome, RequestRefusedError, UnavailableError
from crm_sync.destinations.klaviyo.replies import Job, verdicts
from tests.support.crm.klaviyo import (
    COMPLETE,
    DELIVERED,
    JOBS,
    QUEUED,
    UNCONFIRMED,
    at,
    changes,
    error,
    job,
    klaviyo,
    rejected,
)
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


def test_a_job_is_asked_after_with_growing_waits_until_it_is_complete(run: FakeRunContext) -> None:
    under_way = [Canned(200, job("queued", 1, 0)), *[Canned(200, job("processing", 1, 0))] * 5]
    with scripted_server(QUEUED, *under_way, COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [1, 2, 4, 8, 15, 15, 15]
    assert {asked.path for asked in server.asked[1:]} == {f"{JOBS}/J1"}


def test_a_run_that_has_to_leave_before_the_job_is_complete_says_so(run: FakeRunContext) -> None:
    run.seconds_left = 10
    with (
        scripted_server(QUEUED, Canned(200, job("processing", 1, 0))) as server,
        pytest.raises(DeadlineExceededError) as leaving,
    ):
        klaviyo(server.url).send(changes("ada"), run)
    assert leaving.value.code == "deadline"
    assert run.waits == [1, 2, 4]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Canned(200, job("cancelled", 2, 1)), Outcome("deferred", 200, "cancelled")),
        (Canned(200, job("cancelled", 2, 1, 1)), Outcome("deferred", 200, "cancelled")),
        (Canned(404, {"errors": []}), UNCONFIRMED),
    ],
)
def test_a_job_that_was_cancelled_or_forgotten_confirms_nothing(
    said: Canned, outcome: Outcome, run: FakeRunContext
) -> None:
    with scripted_server(Canned(202, job("queued", 2, 0)), said) as server:
        assert klaviyo(server.url).send(changes("ada", "bob"), run) == [outcome] * 2
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("counts", "errors", "outcomes"),
    [
        ((3, 3, 0), [], [DELIVERED] * 3),
        ((3, 2, 1), [error(at(1))], [DELIVERED, rejected(), DELIVERED]),
        ((3, 2, 1), [error("/data/attributes/profiles/data/1")], [DELIVERED, rejected(), DELIVERED]),
        ((3, 2, 1), [error("/data", "bob")], [DELIVERED, rejected(), DELIVERED]),
        # Two errors of one row count as one row.
        ((3, 2, 1), [error(at(1)), error(at(1), detail="Also too long.")], [DELIVERED, rejected(), DELIVERED]),
        # The quoted id counts; the index may refer to a part of the job.
        ((3, 2, 1), [error(at(0), "cyd")], [DELIVERED, DELIVERED, rejected()]),
        # All rows failed, whichever the errors name.
        ((3, 0, 3), [error(at(0))], [rejected(), *[Outcome("rejected", 200, "unknown")] * 2]),
        # One unnamed row failed, so no row is confirmed.
        ((3, 2, 1), [], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error("/data")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error(at(3))], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error(at(1), "unknown")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error("/data/attributes/profiles/data/-1")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [None], [UNCONFIRMED] * 3),
        ((3, 1, 2), [error(at(1))], [UNCONFIRMED, rejected(), UNCONFIRMED]),
        ((3, 2, 1), [error(at(0)), error(at(1))], [rejected(), rejected(), UNCONFIRMED]),
        # Counts that do not add up confirm no row.
        ((3, 2, 0), [], [UNCONFIRMED] * 3),
        ((2, 2, 0), [], [UNCONFIRMED] * 3),
        ((4, 4, 0), [], [UNCONFIRMED] * 3),
        ((0, 0, 0), [], [UNCONFIRMED] * 3),
        ((3, 3, 1), [error(at(1))], [UNCONFIRMED, rejected(), UNCONFIRMED]),
        ((3, 4, -1), [], [UNCONFIRMED] * 3),
    ],
)
def test_a_row_is_delivered_only_where_the_counts_and_the_errors_leave_no_doubt(
    counts: tuple[int, int, int], errors: list[Any], outcomes: list[Outcome]
) -> None:
    assert verdicts(Job("J1", "complete", *counts), errors, changes("ada", "bob", "cyd")) == outcomes


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["ada", "bob", "eve", at(0), at(2), "/data"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["attributes", "source", "pointer", "original_payload", "external_id", "code", "detail"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(-1, 4), st.integers(-1, 4), st.integers(-1, 4), st.lists(JSONS, max_size=4))
def test_whatever_klaviyo_says_every_row_has_one_outcome_and_no_failure_passes_for_a_success(
    total: int, completed: int, failed: int, errors: list[Any]
) -> None:
    outcomes = verdicts(Job("J1", "complete", total, completed, failed), errors, changes("ada", "bob", "cyd"))
    kinds = [outcome.kind for outcome in outcomes]
    assert len(kinds) == 3
    if "delivered" in kinds:
        assert (total, kinds.count("delivered"), kinds.count("rejected")) == (3, completed, failed)


def test_the_errors_are_read_page_by_page_without_following_an_address_elsewhere(run: FakeRunContext) -> None:
    elsewhere = {"links": {"next": "http://127.0.0.1:9/errors?page%5Bcursor%5D=c%2B2&page%5Bsize%5D=1"}}
    replies = [
        Canned(202, job("complete", 3, 1, 2)),
        Canned(200, {"data": [error(at(0))], **elsewhere}),
        Canned(200, {"data": [error(at(2))], "links": {"next": None}}),
    ]
    with scripted_server(*replies) as server:
        assert klaviyo(server.url).send(changes("ada", "bob", "cyd"), run) == [rejected(), DELIVERED, rejected()]
    assert [asked.path for asked in server.asked[1:]] == [
        f"{JOBS}/J1/import-errors?page%5Bsize%5D=100",
        f"{JOBS}/J1/import-errors?page%5Bsize%5D=100&page%5Bcursor%5D=c%2B2",
    ]


@pytest.mark.parametrize("data", [[], [error("/data")]])
def test_pages_that_do_not_end_are_left(data: list[Any], run: FakeRunContext) -> None:
    page = {"data": data, "links": {"next": "https://a.klaviyo.com/?page%5Bcursor%5D=again"}}
    with scripted_server(Canned(202, job("complete", 2, 1, 1)), Canned(200, page)) as server:
        assert klaviyo(server.url).send(changes("ada", "bob"), run) == [UNCONFIRMED] * 2


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        [],
        {"data": None},
        {"data": []},
        {"data": {"id": "J1"}},
        {"data": {**job()["data"], "id": None}},
        {"data": {**job()["data"], "id": ""}},
        job("done"),
        job(None),  # type: ignore[arg-type]
        job(["complete"]),  # type: ignore[arg-type]
        job("complete", "1"),  # type: ignore[arg-type]
        job("complete", True),
        job("complete", 1, 1.0),  # type: ignore[arg-type]
    ],
)
def test_a_job_of_unknown_shape_stops_the_sync(body: Any, run: FakeRunContext) -> None:
    for replies in ((Canned(202, body),), (QUEUED, Canned(200, body))):
        with scripted_server(*replies) as server, pytest.raises(UnavailableError) as refusal:
            klaviyo(server.url).send(changes("ada"), run)
        assert refusal.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "replies",
    [
        (QUEUED, Canned(200, job(name="J2"))),  # another job
        (Canned(202, job("complete", 1, 0, 1)), Canned(200, {"data": {}})),
        (Canned(202, job("complete", 1, 0, 1)), Canned(200, {"errors": []})),
        # A refused query is not a refusal of the rows.
        (QUEUED, Canned(400, {"errors": []})),
        (Canned(202, job("complete", 1, 0, 1)), Canned(409, {"errors": []})),
    ],
)
def test_a_reply_about_something_else_stops_the_sync(replies: tuple[Canned, ...], run: FakeRunContext) -> None:
    with scripted_server(*replies) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url).send(changes("ada"), run)
    assert refusal.value.code == "unknown_reply"


@pytest.mark.parametrize("status", [401, 403, 405, 410, 415, 426, 451])
def test_a_question_after_a_job_that_every_job_would_be_refused_stops_the_run(status: int, run: FakeRunContext) -> None:
    with (
        scripted_server(QUEUED, Canned(status, {"errors": []})) as server,
        pytest.raises(RequestRefusedError) as refusal,
    ):
        klaviyo(server.url).send(changes("ada"), run)
    assert refusal.value.http_status == status


def test_errors_that_klaviyo_no_longer_has_confirm_nothing(run: FakeRunContext) -> None:
    with scripted_server(Canned(202, job("complete", 2, 1, 1)), Canned(404, {"errors": []})) as server:
        assert klaviyo(server.url).send(changes("ada", "bob"), run) == [UNCONFIRMED] * 2
