"""Error codes of single rows and their meanings: one table for all CRMs, sent and erased over real HTTP.

A temporary fault is deferred with its code. A configuration fault exits with 2 and rejects no user. A fault of the row rejects
it, even if its message quotes a code of another kind.
"""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import MisconfiguredError, UnavailableError
from tests.support.crm.every_crm import change, connected
from tests.support.crm.klaviyo import job
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import COMPLETE, FILLED, ID_FIELD, failures, refused, result, successes

USERS = ["ada", "bob", "cyd"]
CONFIGURATION = "configuration"


def braze_said(**said: Any) -> list[Canned]:
    error = {"input_array": "attributes", "index": 1, **said}
    return [Canned(201, {"message": "success", "attributes_processed": 2, "errors": [error]})]


def hubspot_said(**said: Any) -> list[Canned]:
    error = {
        "status": "error",
        "category": "VALIDATION_ERROR",
        "message": "no",
        "context": {"objectWriteTraceId": ["1"]},
    }
    results = [{"id": f"9{row}", "objectWriteTraceId": row, "properties": {}} for row in ("0", "2")]
    return [Canned(207, {"status": "COMPLETE", "results": results, "numErrors": 1, "errors": [error | said]})]


def klaviyo_said(**said: Any) -> list[Canned]:
    words = {"code": "invalid", "title": "Invalid input.", "detail": "no", "original_payload": {"external_id": "bob"}}
    errors = {"data": [{"type": "import-error", "id": "E1", "attributes": words | said}]}
    return [Canned(202, job("complete", 3, 2, 1)), Canned(200, errors)]


def salesforce_said(**said: Any) -> list[Canned]:
    return [*FILLED, COMPLETE, successes("ada", "cyd"), failures(bob=said["error"])]


SAYS = {"braze": braze_said, "hubspot": hubspot_said, "klaviyo": klaviyo_said, "salesforce": salesforce_said}
WRAPPED = "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:ContactTrigger: execution of BeforeUpdate\n\ncaused by: "
# By CRM: its error for one row, and the outcome of that row.
ROWS: list[tuple[str, dict[str, Any], str]] = [
    # Braze: a code, or a sentence equal to the name of a status
    ("braze", {"type": "INTERNAL_ERROR"}, "deferred internal_error"),
    ("braze", {"type": "rate_limit_exceeded"}, "deferred rate_limit_exceeded"),
    ("braze", {"type": "Internal server error"}, "deferred internal_server_error"),
    ("braze", {"type": "Service Unavailable."}, "deferred service_unavailable"),
    ("braze", {"type": "The profile is being merged, try again later"}, "deferred the_profile_is_being_merged_try_again_later"),
    ("braze", {"type": "Too many requests"}, "deferred too_many_requests"),
    ("braze", {"type": "The attribute internal_notes is temporary"}, "rejected the_attribute_internal_notes_is_temporary"),
    ("braze", {"type": 'The value "try again later" is not allowed'}, "rejected the_value"),
    ("braze", {"type": "'external_id' must not be 'INTERNAL_ERROR'"}, "rejected unknown"),
    # HubSpot: its codes at any depth, then the HTTP status of the row
    ("hubspot", {"status": "429"}, "deferred throttled"),
    ("hubspot", {"status": "425"}, "deferred unavailable"),
    ("hubspot", {"status": "599"}, "deferred unavailable"),
    ("hubspot", {"category": "RATE_LIMIT_EXCEEDED"}, "deferred rate_limit_exceeded"),
    ("hubspot", {"category": "TOO_MANY_REQUESTS"}, "deferred too_many_requests"),
    ("hubspot", {"errors": [{"message": "no", "code": "CONTACT_LOCKED"}]}, "deferred contact_locked"),
    ("hubspot", {"errors": [{"message": "no", "subCategory": "DEADLOCK_DETECTED"}]}, "deferred deadlock_detected"),
    ("hubspot", {"message": 'no: [{"error":"REQUEST_TIMED_OUT","message":"x"}]'}, "deferred request_timed_out"),
    ("hubspot", {"message": "The note OBJECT_LOCKED is too long, try again later"}, "rejected validation_error"),
    ("hubspot", {"errors": [{"message": "RATE_LIMITS", "code": "INVALID_OPTION"}]}, "rejected invalid_option"),
    ("hubspot", {"status": "404", "category": "OBJECT_NOT_FOUND"}, "rejected object_not_found"),
    ("hubspot", {"status": "409", "category": "CONFLICT"}, "rejected conflict"),
    ("hubspot", {"status": "403", "category": "FORBIDDEN"}, CONFIGURATION),
    ("hubspot", {"status": "401", "category": "UNAUTHORIZED"}, CONFIGURATION),
    ("hubspot", {"status": "402", "category": "PLAN"}, CONFIGURATION),
    ("hubspot", {"errors": [{"message": "no", "code": "PROPERTY_DOESNT_EXIST"}]}, CONFIGURATION),
    # Klaviyo: its code, then the status of the error
    ("klaviyo", {"code": "throttled"}, "deferred throttled"),
    ("klaviyo", {"code": "Service_Unavailable"}, "deferred service_unavailable"),
    ("klaviyo", {"code": "rate_limited"}, "deferred rate_limited"),
    ("klaviyo", {"status": 503}, "deferred unavailable"),
    ("klaviyo", {"status": "423"}, "deferred locked"),
    ("klaviyo", {"status": 400}, "rejected invalid"),
    ("klaviyo", {"detail": "The value throttled, server_error is not allowed"}, "rejected invalid"),
    ("klaviyo", {"code": "permission_denied"}, CONFIGURATION),
    ("klaviyo", {"code": "not_authenticated"}, CONFIGURATION),
    ("klaviyo", {"status": 403}, CONFIGURATION),
    # Salesforce: the first code; for a trigger or a flow, the code that it names
    ("salesforce", {"error": "RATE_LIMIT_EXCEEDED:no:--"}, "deferred rate_limit_exceeded"),
    ("salesforce", {"error": f"{WRAPPED}System.LimitException: Too many DML rows: 10001:--"}, "deferred too_many_dml_rows"),
    (
        "salesforce",
        {"error": f"{WRAPPED}VoucherException: Too many vouchers for this contact:--"},
        "rejected cannot_insert_update_activate_entity",
    ),
    (
        "salesforce",
        {"error": f"{WRAPPED}NoteException: the note says 'UNABLE_TO_LOCK_ROW: x':--"},
        "rejected cannot_insert_update_activate_entity",
    ),
    (
        "salesforce",
        {"error": f"{WRAPPED}NoteException: „UNABLE_TO_LOCK_ROW: x“ «QUERY_TIMEOUT, x»:--"},
        "rejected cannot_insert_update_activate_entity",
    ),
    (
        "salesforce",
        {"error": f"{WRAPPED}TaskException: the campaign was running for too long:--"},
        "rejected cannot_insert_update_activate_entity",
    ),
    ("salesforce", {"error": "INVALID_FIELD_FOR_INSERT_UPDATE:no:--"}, CONFIGURATION),
]  # fmt: skip


def sent(name: str, replies: list[Canned]) -> list[str]:
    with scripted_server(*replies) as server:
        destination = connected(name, server.url, "key", limits=())
        try:
            outcomes = destination.send(
                [change(name, user, churn_risk_band="high") for user in USERS], FakeRunContext()
            )
        finally:
            destination.close()
    return [f"{outcome.kind} {outcome.code}" for outcome in outcomes]


@pytest.mark.parametrize(("name", "said", "outcome"), ROWS)
def test_what_is_said_of_one_row_is_that_row_s_alone(name: str, said: dict[str, Any], outcome: str) -> None:
    replies = SAYS[name](**said)
    if outcome == CONFIGURATION:
        with pytest.raises(MisconfiguredError, match="No user was set aside") as stop:
            sent(name, replies)
        assert [each.kind for each in stop.value.outcomes] == ["delivered", "deferred", "delivered"]
        assert stop.value.exit_code == 2
    else:
        assert sent(name, replies) == ["delivered None", outcome, "delivered None"]


# Refusals of whole requests, with statuses that can be about a row

VALIDATION = {"status": "error", "category": "VALIDATION_ERROR", "message": "no"}
FOUND = Canned(200, {"data": [{"type": "profile", "id": "P1", "attributes": {"external_id": "ada"}}]})
RECORD = Canned(200, {"totalSize": 1, "done": True, "records": [{"Id": "003xx000004TmiQAAS", ID_FIELD: "ada"}]})


@pytest.mark.parametrize("status", [400, 403, 409, 413, 422])
def test_a_property_that_hubspot_lacks_is_nobody_s_fault_whatever_the_status(status: int) -> None:
    said = Canned(status, VALIDATION | {"errors": [{"message": "no", "code": "PROPERTY_DOESNT_EXIST"}]})
    with pytest.raises(ContractError, match="lacks a property"):
        sent("hubspot", [said])


@pytest.mark.parametrize("code", ["API_DISABLED_FOR_ORG", "FUNCTIONALITY_NOT_ENABLED", "INVALID_TYPE"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_permission_that_is_missing_at_any_step_of_a_job_is_nobody_s_fault(code: str, step: int) -> None:
    with pytest.raises(ContractError, match=code.lower()):
        sent("salesforce", [*FILLED[:step], refused(400, code), Canned(200, {"state": "Open"})])


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_quota_that_is_used_up_at_any_step_of_a_job_waits_for_a_later_run(step: int) -> None:
    said = refused(400, "ExceededQuota", "ApiBatchItems Limit exceeded")
    with pytest.raises(UnavailableError) as left:
        sent("salesforce", [*FILLED[:step], said, Canned(200, {"state": "Open"})])
    assert left.value.code == "throttled"


# Erasure

ERASURES: list[tuple[str, list[Canned], str]] = [
    ("hubspot", [Canned(404, {"category": "OBJECT_NOT_FOUND", "correlationId": "c"})], "delivered not_found"),
    ("hubspot", [Canned(404, {"category": "OBJECT_TYPE_NOT_FOUND", "correlationId": "c"})], CONFIGURATION),
    ("hubspot", [Canned(404, {"category": "PROPERTY_DOESNT_EXIST", "correlationId": "c"})], CONFIGURATION),
    ("hubspot", [Canned(404, {"category": "TRANSIENT_ERROR", "correlationId": "c"})], "deferred transient_error"),
    ("hubspot", [Canned(422, {"category": "MISSING_SCOPES", "correlationId": "c"})], CONFIGURATION),
    ("hubspot", [Canned(400, VALIDATION | {"message": "OBJECT_LOCKED is not an id"})], "rejected validation_error"),
    ("klaviyo", [FOUND, Canned(400, {"errors": [{"code": "permission_denied"}]})], CONFIGURATION),
    ("klaviyo", [FOUND, Canned(400, {"errors": [{"code": "invalid", "detail": "throttled"}]})], "rejected invalid"),
    ("salesforce", [RECORD, refused(400, "API_DISABLED_FOR_ORG")], CONFIGURATION),
    ("salesforce", [RECORD, refused(400, "MALFORMED_ID", "UNABLE_TO_LOCK_ROW")], "rejected malformed_id"),
]


@pytest.mark.parametrize(("name", "replies", "outcome"), ERASURES)
def test_an_erasure_is_read_by_the_same_words(name: str, replies: list[Canned], outcome: str) -> None:
    with scripted_server(*replies) as server:
        destination = connected(name, server.url, "key", limits=())
        try:
            if outcome == CONFIGURATION:
                with pytest.raises(ContractError):
                    destination.erase(["ada"], FakeRunContext())
            else:
                (said,) = destination.erase(["ada"], FakeRunContext())
                assert f"{said.kind} {said.code}" == outcome
        finally:
            destination.close()


@pytest.mark.parametrize("total", [1, 2, "0", None, 0.0, True])
def test_a_query_that_counts_other_records_than_it_lists_erases_nobody(total: Any) -> None:
    said = Canned(200, {"totalSize": total, "done": True, "records": []})
    with scripted_server(said) as server, pytest.raises(UnavailableError) as left:
        connected("salesforce", server.url, "key").erase(["ada"], FakeRunContext())
    assert left.value.code == "unknown_reply"


# A failed job reports the reason, whatever its counts


@pytest.mark.parametrize("processed", [0, "0", None, 3, "3", [], 3.0])
def test_a_failed_job_without_a_row_s_outcome_says_why_it_failed(processed: Any) -> None:
    ended = Canned(
        200, {"state": "Failed", "numberRecordsProcessed": processed, "errorMessage": "InvalidVersion : gone"}
    )
    with pytest.raises(ContractError, match="invalidversion"):
        sent("salesforce", [*FILLED, ended, successes(), failures(), result(ID_FIELD, *USERS)])
