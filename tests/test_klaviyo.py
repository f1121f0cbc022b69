"""Does Klaviyo come to hold what it is sent, and is only its own word for a row taken for one? Real HTTP throughout.

The local CRM lives by the run's clock, so that waits and limits agree without time passing. Everything the adapter asks of it,
and everything it says, is held against Klaviyo's own description where that is to be had.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Response, request
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_sync.changes import Change
from crm_sync.destination import BatchRefusedError, Outcome, OutOfTimeError, UnavailableError
from crm_sync.destinations.adapter import Limit
from crm_sync.destinations.connect import ADAPTERS
from crm_sync.destinations.klaviyo import Klaviyo, KlaviyoOptions, profile_of
from crm_sync.destinations.klaviyo_replies import Job, verdicts
from crm_sync.destinations.transport import RetryBudget
from sandbox.crm_server import LocalCrm
from tests.crm_wire_kit import Patience, Said, saying
from warehouse.errors import ContractError

KEY = "kEy-7f3a9c51-canary"
CANARY = "ada.lovelace+canary@example.org"
START = datetime(2026, 6, 15, 10, tzinfo=UTC)
SPECS = Path(__file__).parents[2] / "shared/specs"
DELIVERED = Outcome("delivered", 200)
UNCONFIRMED = Outcome("deferred", 200, "unconfirmed")
JOBS, DELETIONS = "/api/profile-bulk-import-jobs", "/api/data-privacy-deletion-jobs"
HEADERS = {
    "Authorization": f"Klaviyo-API-Key {KEY}",
    "revision": "2026-07-15",
    "Content-Type": "application/vnd.api+json",
}
ODD_IDS = ["a/b", "a,b", 'a"b', "a'b", "a\nb", "Zoë 零", "=1+1", "a\\b", "a)&b#c", "a+b", "%41", " "]


@pytest.fixture
def run() -> Patience:
    return Patience()


@pytest.fixture
def crm(tmp_path: Path, run: Patience) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY, clock=lambda: START + timedelta(seconds=run.clock())) as server:
        contradictions: list[str] = []
        if SPECS.exists():
            server.app.after_request(lambda response: held_against_the_description(response, contradictions))
        yield server
    assert contradictions == []


@cache
def description(name: str) -> Any:
    openapi_core = pytest.importorskip("openapi_core")
    return openapi_core.OpenAPI.from_dict(json.loads((SPECS / name).read_text()))


def held_against_the_description(response: Response, contradictions: list[str]) -> Response:
    """Note what contradicts the description: of a request where it was taken, of a reply always."""
    from openapi_core.contrib.flask import FlaskOpenAPIRequest, FlaskOpenAPIResponse  # noqa: PLC0415 - absent in places
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415

    class Asked(FlaskOpenAPIRequest):  # type: ignore[misc]  # it has no types
        host_url = "https://a.klaviyo.com"

        def __init__(self) -> None:
            super().__init__(request)
            # The only variable of a path, by the names that the description has for it.
            self.parameters.path = {name: v for v in (request.view_args or {}).values() for name in ("id", "job_id")}

    if request.path.startswith("/api/"):
        openapi = description("klaviyo_data_privacy.json" if request.path == DELETIONS else "klaviyo_profiles.json")
        try:
            if response.status_code < 400:
                openapi.validate_request(Asked())
            openapi.validate_response(Asked(), FlaskOpenAPIResponse(response))
        except OpenAPIError as error:
            contradictions.append(f"{request.method} {request.path} {response.status}: {error!r} {error.__cause__!r}")
    return response


def klaviyo(url: str, budget_seconds: float = 120.0, key: str = KEY, **options: Any) -> Klaviyo:
    return Klaviyo(url, key, KlaviyoOptions(**options), RetryBudget(budget_seconds))


def changes(*external_ids: str, **attributes: Any) -> list[Change]:
    return [Change(external_id, attributes or {"score": 0.5}) for external_id in external_ids]


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def job(status: str = "complete", total: int = 1, completed: int = 1, failed: int = 0, name: str = "J1") -> Any:
    counts = {"total_count": total, "completed_count": completed, "failed_count": failed}
    return {"data": {"type": "profile-bulk-import-job", "id": name, "attributes": {"status": status, **counts}}}


def error(pointer: str | None = None, external_id: str | None = None, detail: str = "It is invalid.") -> Any:
    words = {"code": "invalid", "title": "Invalid input.", "detail": detail, "source": {"pointer": pointer}}
    payload = {"original_payload": {"external_id": external_id}} if external_id else {}
    return {"type": "import-error", "id": "E1", "attributes": {**words, **payload}}


def at(index: int) -> str:
    return f"/data/attributes/profiles/data/{index}/attributes/external_id"


def rejected(reason: str = "It is invalid.") -> Outcome:
    return Outcome("rejected", 200, "invalid", reason)


QUEUED, COMPLETE = Said(202, job("queued", 1, 0)), Said(200, job())


# What is sent


@pytest.mark.parametrize(
    ("attributes", "profile"),
    [
        ({"score": 0.8421}, {"attributes": {"external_id": "ada", "properties": {"score": 0.8421}}}),
        ({"band": "high"}, {"attributes": {"external_id": "ada", "properties": {"band": "high"}}}),
        ({"eligible": False}, {"attributes": {"external_id": "ada", "properties": {"eligible": False}}}),
        (
            {"until": "2026-06-22T10:00:00Z"},
            {"attributes": {"external_id": "ada", "properties": {"until": "2026-06-22T10:00:00Z"}}},
        ),
        ({"reasons": ["a", "b"]}, {"attributes": {"external_id": "ada", "properties": {"reasons": ["a", "b"]}}}),
        ({"reasons": []}, {"attributes": {"external_id": "ada", "properties": {"reasons": []}}}),
        (
            {"until": None, "band": "low"},
            {
                "attributes": {"external_id": "ada", "properties": {"band": "low"}},
                "meta": {"patch_properties": {"unset": ["until"]}},
            },
        ),
        (
            {"until": None},
            {"attributes": {"external_id": "ada"}, "meta": {"patch_properties": {"unset": ["until"]}}},
        ),
    ],
)
def test_a_value_of_every_type_is_set_and_none_is_unset_by_name(attributes: Any, profile: Any) -> None:
    assert profile_of(Change("ada", attributes)) == {"type": "profile", **profile}


def test_an_import_carries_the_key_the_revision_and_the_run_and_nothing_but_ids_and_properties(run: Patience) -> None:
    with saying(Said(202, job())) as server:
        assert klaviyo(server.url, revision="2026-10-15").send(changes("ada"), run) == [DELIVERED]
    asked = server.asked[0]
    assert (asked.method, asked.path) == ("POST", JOBS)
    assert asked.headers["authorization"] == f"Klaviyo-API-Key {KEY}"
    assert asked.headers["revision"] == "2026-10-15"
    assert asked.headers["content-type"] == "application/vnd.api+json"
    assert asked.headers["user-agent"] == "winback (00000007-test)"
    profile = {"type": "profile", "attributes": {"external_id": "ada", "properties": {"score": 0.5}}}
    assert asked.body == {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": [profile]}}}}


def test_an_import_that_klaviyo_would_find_too_large_is_not_sent(run: Patience) -> None:
    with saying(COMPLETE) as server:
        destination = klaviyo(server.url, max_body_bytes=1_000)
        with pytest.raises(BatchRefusedError) as refusal:
            destination.send(changes("ada", "bob", text="x" * 500), run)
        assert (refusal.value.http_status, refusal.value.code) == (413, "too_large")
        assert server.asked == []
        assert destination.send(changes("ada", text="x" * 500), run) == [DELIVERED]


def test_ten_thousand_users_of_ordinary_size_fit_into_one_import(crm: LocalCrm, run: Patience) -> None:
    attributes: dict[str, Any] = {
        "churn_probability": 0.8421,
        "churn_risk_band": "high",
        "churn_reasons": ["Left at the income step", "Long pause before leaving", "No document uploaded"],
        "churn_scored_at": "2026-06-15T10:00:00Z",
        "churn_model_version": "2026-06-01-a1b2c3",
        "voucher_eligible": True,
        "voucher_reason": "granted",
        "voucher_valid_until": "2026-06-22T10:00:00Z",
        "experiment_arm": "treatment",
    }
    batch = [Change(f"user-{n:06d}", dict(attributes)) for n in range(KlaviyoOptions().max_batch)]
    assert klaviyo(crm.url).send(batch, run) == [DELIVERED] * 10_000
    assert crm.store.profile("user-009999") == attributes
    assert crm.store.totals()["profiles"] == 10_000


# What becomes of a job


def test_a_job_is_asked_after_with_growing_waits_until_it_is_complete(run: Patience) -> None:
    under_way = [Said(200, job("queued", 1, 0)), *[Said(200, job("processing", 1, 0))] * 5]
    with saying(QUEUED, *under_way, COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [1, 2, 4, 8, 15, 15, 15]
    assert {asked.path for asked in server.asked[1:]} == {f"{JOBS}/J1"}


def test_a_run_that_has_to_leave_before_the_job_is_complete_says_so(run: Patience) -> None:
    run.seconds_left = 10
    with (
        saying(QUEUED, Said(200, job("processing", 1, 0))) as server,
        pytest.raises(OutOfTimeError) as leaving,
    ):
        klaviyo(server.url).send(changes("ada"), run)
    assert leaving.value.code == "deadline"
    assert run.waits == [1, 2, 4]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Said(200, job("cancelled", 2, 1)), Outcome("deferred", 200, "cancelled")),
        (Said(200, job("cancelled", 2, 1, 1)), Outcome("deferred", 200, "cancelled")),
        (Said(404, {"errors": []}), UNCONFIRMED),
    ],
)
def test_a_job_that_was_cancelled_or_forgotten_confirms_nothing(said: Said, outcome: Outcome, run: Patience) -> None:
    with saying(Said(202, job("queued", 2, 0)), said) as server:
        assert klaviyo(server.url).send(changes("ada", "bob"), run) == [outcome] * 2
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("counts", "errors", "outcomes"),
    [
        ((3, 3, 0), [], [DELIVERED] * 3),
        ((3, 2, 1), [error(at(1))], [DELIVERED, rejected(), DELIVERED]),
        ((3, 2, 1), [error("/data/attributes/profiles/data/1")], [DELIVERED, rejected(), DELIVERED]),
        ((3, 2, 1), [error("/data", "bob")], [DELIVERED, rejected(), DELIVERED]),
        # Two errors of one row are one row's.
        ((3, 2, 1), [error(at(1)), error(at(1), detail="Also too long.")], [DELIVERED, rejected(), DELIVERED]),
        # The id it quotes is the row's own; an index may be that of a part of the job.
        ((3, 2, 1), [error(at(0), "cyd")], [DELIVERED, DELIVERED, rejected()]),
        # All of them failed, whatever is said of which.
        ((3, 0, 3), [error(at(0))], [rejected(), *[Outcome("rejected", 200, "unknown")] * 2]),
        # One failed and it is not known which, so no other is known to have succeeded.
        ((3, 2, 1), [], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error("/data")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error(at(3))], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error(at(1), "of nobody")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [error("/data/attributes/profiles/data/-1")], [UNCONFIRMED] * 3),
        ((3, 2, 1), [None], [UNCONFIRMED] * 3),
        ((3, 1, 2), [error(at(1))], [UNCONFIRMED, rejected(), UNCONFIRMED]),
        ((3, 2, 1), [error(at(0)), error(at(1))], [rejected(), rejected(), UNCONFIRMED]),
        # Counts that do not add up confirm nobody.
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


@settings(deadline=None)
@given(st.integers(-1, 4), st.integers(-1, 4), st.integers(-1, 4), st.lists(JSONS, max_size=4))
def test_whatever_klaviyo_says_every_row_has_one_outcome_and_no_failure_passes_for_a_success(
    total: int, completed: int, failed: int, errors: list[Any]
) -> None:
    outcomes = verdicts(Job("J1", "complete", total, completed, failed), errors, changes("ada", "bob", "cyd"))
    kinds = [outcome.kind for outcome in outcomes]
    assert len(kinds) == 3
    if "delivered" in kinds:
        assert (total, kinds.count("delivered"), kinds.count("rejected")) == (3, completed, failed)


def test_the_errors_are_read_page_by_page_without_following_an_address_elsewhere(run: Patience) -> None:
    elsewhere = {"links": {"next": "http://127.0.0.1:9/errors?page%5Bcursor%5D=c%2B2&page%5Bsize%5D=1"}}
    replies = [
        Said(202, job("complete", 3, 1, 2)),
        Said(200, {"data": [error(at(0))], **elsewhere}),
        Said(200, {"data": [error(at(2))], "links": {"next": None}}),
    ]
    with saying(*replies) as server:
        assert klaviyo(server.url).send(changes("ada", "bob", "cyd"), run) == [rejected(), DELIVERED, rejected()]
    assert [asked.path for asked in server.asked[1:]] == [
        f"{JOBS}/J1/import-errors?page%5Bsize%5D=100",
        f"{JOBS}/J1/import-errors?page%5Bsize%5D=100&page%5Bcursor%5D=c%2B2",
    ]


@pytest.mark.parametrize("data", [[], [error("/data")]])
def test_pages_that_do_not_end_are_left(data: list[Any], run: Patience) -> None:
    page = {"data": data, "links": {"next": "https://a.klaviyo.com/?page%5Bcursor%5D=again"}}
    with saying(Said(202, job("complete", 2, 1, 1)), Said(200, page)) as server:
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
def test_a_job_of_unknown_shape_stops_the_sync(body: Any, run: Patience) -> None:
    for replies in ((Said(202, body),), (QUEUED, Said(200, body))):
        with saying(*replies) as server, pytest.raises(UnavailableError) as refusal:
            klaviyo(server.url).send(changes("ada"), run)
        assert refusal.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "replies",
    [
        (QUEUED, Said(200, job(name="J2"))),  # another job's word
        (Said(202, job("complete", 1, 0, 1)), Said(200, {"data": {}})),
        (Said(202, job("complete", 1, 0, 1)), Said(200, {"errors": []})),
        # A question that is refused is no refusal of the rows.
        (QUEUED, Said(400, {"errors": []})),
        (Said(202, job("complete", 1, 0, 1)), Said(410, {"errors": []})),
    ],
)
def test_a_reply_about_something_else_stops_the_sync(replies: tuple[Said, ...], run: Patience) -> None:
    with saying(*replies) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url).send(changes("ada"), run)
    assert refusal.value.code == "unknown_reply"


def test_errors_that_klaviyo_no_longer_has_confirm_nothing(run: Patience) -> None:
    with saying(Said(202, job("complete", 2, 1, 1)), Said(404, {"errors": []})) as server:
        assert klaviyo(server.url).send(changes("ada", "bob"), run) == [UNCONFIRMED] * 2


# What passes and what does not


@pytest.mark.parametrize(
    "passing", [Said(500), Said(503, b"<html>"), Said(202, b"garbage"), Said(202, b"{"), Said(408), Said(429)]
)
def test_a_passing_fault_is_tried_again(passing: Said, run: Patience) -> None:
    with saying(passing, passing, QUEUED, passing, COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert [asked.method for asked in server.asked] == ["POST"] * 3 + ["GET"] * 2


def test_an_import_whose_reply_was_lost_is_posted_again_to_the_same_effect(crm: LocalCrm, run: Patience) -> None:
    fault(crm, kind="lose_reply", endpoint="klaviyo.import")
    assert klaviyo(crm.url).send(changes("ada", score=0.5, until=None), run) == [DELIVERED]
    assert crm.store.profiles() == {"ada": {"score": 0.5}}
    assert crm.desk.by_endpoint["klaviyo.import"] == {"no reply": 1, "202": 1}


def test_an_import_done_twice_changes_once(crm: LocalCrm, run: Patience) -> None:
    for _ in range(2):
        assert klaviyo(crm.url).send(changes("ada"), run) == [DELIVERED]
    assert [(change.before, change.after) for change in crm.store.history("ada")] == [(None, 0.5)]


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (
            {
                "errors": [
                    {"code": "invalid", "title": "Invalid input.", "detail": CANARY, "source": {"pointer": at(0)}}
                ]
            },
            "invalid",
            "Invalid input. external_id",
        ),
        ({"errors": [{"code": "invalid", "title": f"No {CANARY}"}]}, "invalid", "No ..."),
        ({"errors": []}, "http_400", None),
        ({"errors": {}}, "http_400", None),
        ({"errors": [{"code": 7, "title": None, "source": []}]}, "http_400", None),
        ([CANARY], "http_400", None),
        (CANARY.encode(), "http_400", None),
    ],
)
def test_a_refusal_of_the_whole_import_is_told_by_its_code_and_quotes_nobody(
    body: Any, code: str, reason: str | None, run: Patience
) -> None:
    with saying(Said(400, body)) as server, pytest.raises(BatchRefusedError) as refusal:
        klaviyo(server.url).send(changes(CANARY), run)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.reason) == (400, code, reason)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_wrong_credentials_or_a_wrong_address_name_the_settings(status: int, run: Patience) -> None:
    with saying(Said(status, {})) as server, pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"):
        klaviyo(server.url).send(changes("ada"), run)
    assert run.waits == []


@pytest.mark.parametrize(
    "detail",
    [
        f"{CANARY} is not valid",
        f"'{CANARY}' is not valid",
        "lovelace is not valid",
        "Left at the income step is no number",
        "silver is no number",
    ],
)
def test_an_error_of_a_row_quotes_neither_its_id_nor_its_values(detail: str, run: Patience) -> None:
    batch = changes("lovelace", reasons=["Left at the income step"], band="silver")
    replies = (Said(202, job("complete", 1, 0, 1)), Said(200, {"data": [error(at(0), detail=detail)]}))
    with saying(*replies) as server:
        (outcome,) = klaviyo(server.url).send(batch, run)
    assert (outcome.kind, outcome.code) == ("rejected", "invalid")
    assert outcome.reason in ("... is not valid", "... is no number")


def test_what_is_sent_reaches_no_log(
    crm: LocalCrm, run: Patience, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert klaviyo(crm.url).send(changes(CANARY), run) == [DELIVERED]
    streams = capfd.readouterr()
    everything = caplog.text + streams.out + streams.err
    assert [secret for secret in (KEY, CANARY, "lovelace") if secret in everything] == []


# The limits


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"Retry-After": "Mon, 15 Jun 2026 10:00:42 GMT"}, 42)],
)
def test_the_wait_that_a_429_asks_for_is_kept(headers: dict[str, str], seconds: float, run: Patience) -> None:
    with saying(Said(429, {"errors": []}, headers), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [seconds]


def test_a_429_without_a_wait_is_waited_out_by_our_own(run: Patience) -> None:
    with saying(Said(429, {"errors": []}), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert 0 < run.clock() <= 1


def test_a_throttling_that_does_not_end_says_so(run: Patience) -> None:
    with saying(Said(429, {}, {"Retry-After": "60"})) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url, budget_seconds=100).send(changes("ada"), run)
    assert refusal.value.code == "throttled"


def test_a_minute_that_others_have_used_up_is_left_to_them(run: Patience) -> None:
    spent = {"RateLimit-Limit": "150", "RateLimit-Remaining": "0", "RateLimit-Reset": "17"}
    with saying(Said(202, job("queued", 1, 0), spent), COMPLETE) as server:
        assert klaviyo(server.url).send(changes("ada"), run) == [DELIVERED]
    assert run.clock() == 60


def test_no_limit_of_klaviyo_is_ever_exceeded(crm: LocalCrm, run: Patience) -> None:
    destination = klaviyo(crm.url, first_poll_seconds=0.01, max_poll_seconds=0.01)
    for n in range(70):  # three requests each: more than the 150 of a minute
        assert destination.send(changes(f"user-{n}"), run) == [DELIVERED]
    assert destination.erase([f"user-{n}" for n in range(70)], run) == [Outcome("delivered", 202)] * 70
    assert {name: allowance.refused for name, allowance in crm.desk.allowances.items() if allowance.refused} == {}
    assert crm.desk.by_endpoint["klaviyo.poll"] == {"200": 140}
    assert crm.store.profiles() == {}


def test_without_a_limit_of_ours_klaviyo_s_own_is_waited_out(crm: LocalCrm, run: Patience) -> None:
    destination = klaviyo(crm.url, limits=(), first_poll_seconds=0.01, max_poll_seconds=0.01)
    for n in range(30):
        assert destination.send(changes(f"user-{n}"), run) == [DELIVERED]
    assert crm.desk.allowances["klaviyo.poll.burst"].refused > 0


# What it comes to hold


def test_rows_that_klaviyo_refuses_are_rejected_and_the_others_land(crm: LocalCrm, run: Patience) -> None:
    ids = [f"user-{n}" for n in range(300)]
    fault(crm, kind="row_error", external_ids=ids[:250], endpoint="klaviyo.import")
    outcomes = klaviyo(crm.url).send(changes(*ids), run)
    assert outcomes == [rejected("The profile is not accepted.")] * 250 + [DELIVERED] * 50
    assert sorted(crm.store.profiles()) == sorted(ids[250:])
    assert crm.desk.by_endpoint["klaviyo.errors"] == {"200": 3}


def test_batches_under_way_at_the_same_time_are_not_mixed_up(crm: LocalCrm, run: Patience) -> None:
    destination = klaviyo(crm.url)
    batches = [[f"user-{batch}-{n}" for n in range(3)] for batch in range(6)]
    fault(crm, kind="row_error", external_ids=[ids[batch % 3] for batch, ids in enumerate(batches)])
    with ThreadPoolExecutor(destination.max_in_flight) as threads:
        sent = list(threads.map(lambda ids: destination.send(changes(*ids), run), batches))
    assert [[outcome.kind for outcome in outcomes].index("rejected") for outcomes in sent] == [0, 1, 2, 0, 1, 2]
    assert len(crm.store.profiles()) == 12


def test_a_property_is_cleared_and_the_others_stay(crm: LocalCrm, run: Patience) -> None:
    destination = klaviyo(crm.url)
    destination.send(changes("ada", until="2026-06-22T10:00:00Z", eligible=True, score=0.7), run)
    destination.send(changes("ada", until=None, eligible=False), run)
    assert crm.store.profiles() == {"ada": {"eligible": False, "score": 0.7}}


def test_users_with_odd_ids_are_written_and_erased(crm: LocalCrm, run: Patience) -> None:
    destination = klaviyo(crm.url)
    assert destination.send(changes(*ODD_IDS, "other"), run) == [DELIVERED] * (len(ODD_IDS) + 1)
    assert sorted(crm.store.profiles()) == sorted([*ODD_IDS, "other"])
    assert destination.erase(ODD_IDS, run) == [Outcome("delivered", 202)] * len(ODD_IDS)
    assert sorted(crm.store.profiles()) == ["other"]


# Erasure


def test_whom_klaviyo_does_not_know_is_erased_already(crm: LocalCrm, run: Patience) -> None:
    klaviyo(crm.url).send(changes("ada"), run)
    assert klaviyo(crm.url).erase(["bob"], run) == [Outcome("delivered", 200, "not_found")]
    assert sorted(crm.store.profiles()) == ["ada"]


@pytest.mark.parametrize("external_id", ['a"b', "a\\b"])
def test_an_id_that_may_have_been_misread_is_not_called_erased(external_id: str, crm: LocalCrm, run: Patience) -> None:
    (outcome,) = klaviyo(crm.url).erase([external_id], run)
    assert (outcome.kind, outcome.code) == ("deferred", "unconfirmed")


def profile(name: object, external_id: object) -> Any:
    return {"type": "profile", "id": name, "attributes": {"external_id": external_id}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": [profile("P1", "somebody else")]},
        {"data": [profile("P1", "ada"), profile("P2", "ADA")]},
        {"data": [profile(None, "ada")]},
        {"data": ["ada"]},
    ],
)
def test_nobody_is_deleted_when_it_is_not_certain_who_was_found(body: Any, run: Patience) -> None:
    with saying(Said(200, body)) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url).erase(["ada"], run)
    assert refusal.value.code == "unknown_reply"
    assert {asked.method for asked in server.asked} == {"GET"}


def test_every_profile_of_the_id_is_deleted(run: Patience) -> None:
    found = Said(200, {"data": [profile("P1", "ada"), profile("P2", "ada")]})
    with saying(found, Said(202), Said(202)) as server:
        assert klaviyo(server.url).erase(["ada"], run) == [Outcome("delivered", 202)]
    bodies = [asked.body["data"]["attributes"]["profile"]["data"] for asked in server.asked[1:]]
    assert bodies == [{"type": "profile", "id": name, "attributes": {}} for name in ("P1", "P2")]


def test_a_deletion_that_is_refused_is_that_user_s_outcome_and_the_next_goes_on(run: Patience) -> None:
    refused = Said(400, {"errors": [{"code": "invalid", "title": "Invalid input.", "detail": CANARY}]})
    found = Said(200, {"data": [profile("P1", "ada")]})
    with saying(found, refused, Said(200, {"data": []})) as server:
        assert klaviyo(server.url).erase(["ada", "bob"], run) == [
            Outcome("rejected", 400, "invalid", "Invalid input."),
            Outcome("delivered", 200, "not_found"),
        ]


def test_a_deletion_answered_with_another_success_is_none(run: Patience) -> None:
    with (
        saying(Said(200, {"data": [profile("P1", "ada")]}), Said(200, {})) as server,
        pytest.raises(UnavailableError) as refusal,
    ):
        klaviyo(server.url).erase(["ada"], run)
    assert refusal.value.code == "unknown_reply"


# The doctor


def test_a_key_that_may_is_told_apart_from_one_that_may_not_and_nothing_is_written(
    crm: LocalCrm, run: Patience
) -> None:
    may, properties = klaviyo(crm.url).examine({"score": "number", "band": "text"}, run)
    assert (may.state, properties.state) == ("ok", "ok")
    assert properties.says == "Klaviyo will make 2 properties with the first delivery: score, band"
    may_not, _ = klaviyo(crm.url, key="another").examine({"score": "number"}, run)
    assert may_not.state == "failed"
    for scope in ("profiles:read", "profiles:write", "lists:read", "lists:write", "data-privacy:write"):
        assert scope in may_not.do[0]
    assert crm.desk.by_endpoint == {"klaviyo.jobs": {"200": 1, "401": 1}}


def test_the_adapter_is_known_by_its_name_and_its_one_host() -> None:
    adapter = ADAPTERS["klaviyo"]
    assert adapter.hosts == ("a.klaviyo.com",)
    assert adapter.options is KlaviyoOptions
    assert KlaviyoOptions() == KlaviyoOptions(
        max_batch=10_000,
        max_in_flight=2,
        limits=(Limit(requests=150, seconds=60), Limit(requests=10, seconds=1)),
        lookup_limits=(Limit(requests=750, seconds=60), Limit(requests=75, seconds=1)),
        deletion_limits=(Limit(requests=60, seconds=60), Limit(requests=3, seconds=1)),
        revision="2026-07-15",
        max_body_bytes=5_000_000,
    )


# The local CRM, where the adapter does not lead


def ask(crm: LocalCrm, method: str, path: str, body: object = None, **headers: str) -> requests.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    return requests.request(method, crm.url + path, data=content, headers={**HEADERS, **headers}, timeout=10)


def import_of(*profiles: object) -> Any:
    return {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": list(profiles)}}}}


def user(external_id: object = "ada", **properties: object) -> Any:
    return {"type": "profile", "attributes": {"external_id": external_id, "properties": properties}}


def finished(crm: LocalCrm, body: object) -> Any:
    job_id = ask(crm, "POST", JOBS, body).json()["data"]["id"]
    return [ask(crm, "GET", f"{JOBS}/{job_id}").json()["data"]["attributes"] for _ in range(2)][-1]


def test_a_job_goes_on_with_each_poll_and_writes_when_it_is_complete(crm: LocalCrm) -> None:
    begun = ask(crm, "POST", JOBS, import_of(user(score=0.5)))
    assert (begun.status_code, begun.json()["data"]["attributes"]["status"]) == (202, "queued")
    statuses = []
    for _ in range(3):
        polled = ask(crm, "GET", f"{JOBS}/{begun.json()['data']['id']}").json()["data"]["attributes"]
        statuses.append((polled["status"], polled["completed_count"], len(crm.store.profiles())))
    assert statuses == [("processing", 0, 0), ("complete", 1, 1), ("complete", 1, 1)]
    assert len(crm.store.history("ada")) == 1


def test_an_import_passes_over_a_null_as_klaviyo_does(crm: LocalCrm) -> None:
    finished(crm, import_of(user(score=0.5, band="high")))
    finished(crm, import_of(user(score=None)))
    assert crm.store.profiles() == {"ada": {"score": 0.5, "band": "high"}}


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({"data": {"type": "profile"}}, 400, "/data"),
        (import_of(), 400, "/data/attributes/profiles/data"),
        (import_of(*[user()] * 10_001), 400, "/data/attributes/profiles/data"),
        (import_of(user(), {"type": "profile"}), 400, "/data/attributes/profiles/data/1"),
        (import_of(user(None)), 400, at(0)),
        (import_of(user("")), 400, at(0)),
        (import_of(user(), user(text="x" * 100_000)), 400, "/data/attributes/profiles/data/1"),
        (
            import_of({"type": "profile", "attributes": {"external_id": "ada", "subscriptions": {}}}),
            400,
            "/data/attributes/profiles/data/0/attributes/subscriptions",
        ),
        (
            import_of({**user(), "meta": {"patch_properties": {"unset": {}}}}),
            400,
            "/data/attributes/profiles/data/0/meta/patch_properties/unset",
        ),
        (b" " * 5_000_001, 413, None),
    ],
)
def test_a_malformed_or_too_large_import_is_refused_whole(
    crm: LocalCrm, body: object, status: int, pointer: str | None
) -> None:
    response = ask(crm, "POST", JOBS, body)
    (wrong,) = response.json()["errors"]
    assert (response.status_code, wrong["source"].get("pointer")) == (status, pointer)
    assert response.headers["Content-Type"] == "application/vnd.api+json"
    assert crm.store.profiles() == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Klaviyo-API-Key another"}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 401),
        ({"revision": ""}, 400),
        ({"Content-Type": "application/json"}, 415),
    ],
)
def test_a_request_without_its_headers_is_refused(crm: LocalCrm, headers: dict[str, str], status: int) -> None:
    assert ask(crm, "POST", JOBS, import_of(user()), **headers).status_code == status


def test_a_request_over_the_limit_is_told_when_to_come_back_and_nothing_else(crm: LocalCrm, run: Patience) -> None:
    replies = [ask(crm, "GET", JOBS) for _ in range(11)]
    assert [reply.status_code for reply in replies] == [200] * 10 + [429]
    assert [replies[9].headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["150", "140", "60"]
    assert replies[10].headers["Retry-After"] == "1"
    assert "RateLimit-Remaining" not in replies[10].headers
    run.sleep(1)
    assert ask(crm, "GET", JOBS).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{JOBS}/unknown", 404),
        (f"{JOBS}/unknown/import-errors", 404),
        (f"{JOBS}?page[size]=0", 400),
        (f"{JOBS}?page[size]=101", 400),
        (f"{JOBS}?page[cursor]=%21", 400),
        ("/api/profiles", 400),
        ('/api/profiles?filter=equals(email,"ada")', 400),
    ],
)
def test_what_is_not_there_or_not_understood_is_said_so(crm: LocalCrm, path: str, status: int) -> None:
    assert ask(crm, "GET", path).status_code == status


@pytest.mark.parametrize(
    "found",
    [
        {"type": "profile", "attributes": {}},
        {"type": "profile", "id": "!", "attributes": {}},
        {"type": "profile", "id": "YWRh", "attributes": {"email": "ada@example.org"}},
    ],
)
def test_a_deletion_needs_exactly_one_id(crm: LocalCrm, found: object) -> None:
    finished(crm, import_of(user()))
    body = {"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": found}}}}
    assert ask(crm, "POST", DELETIONS, body).status_code == 400
    assert sorted(crm.store.profiles()) == ["ada"]


@pytest.mark.skipif(not SPECS.exists(), reason="Klaviyo's description of its API is not part of this repository")
@pytest.mark.parametrize(
    "body", [{}, import_of({"type": "person", "attributes": {}}), import_of({"type": "profile"}), import_of(user(7))]
)
def test_the_description_finds_fault_with_a_malformed_import(body: object, crm: LocalCrm) -> None:
    exceptions = pytest.importorskip("openapi_core.exceptions")
    from openapi_core.contrib.requests import RequestsOpenAPIRequest  # noqa: PLC0415 - absent in places

    asked = requests.Request("POST", "https://a.klaviyo.com" + JOBS, headers=HEADERS, data=json.dumps(body))
    with pytest.raises(exceptions.OpenAPIError):
        description("klaviyo_profiles.json").validate_request(RequestsOpenAPIRequest(asked))
