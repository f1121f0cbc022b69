"""Salesforce's row errors: a fault of the row, a temporary fault, or a fault of configuration. Uses the local CRM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import MisconfiguredError, Outcome, UnavailableError
from crm_sync.destinations.factory import CrmFile, connect
from crm_sync.destinations.http.transport import Reply, RetryBudget
from crm_sync.destinations.salesforce.client import SalesforceOptions
from crm_sync.destinations.salesforce.errors import code_at_start, fault_of, heard
from crm_sync.destinations.salesforce.rows import SUCCESSES, verdicts
from crm_sync.field_mapping import FieldMapping
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.every_crm import SALESFORCE_FIELDS
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault
from tests.support.crm.salesforce import (
    COMPLETE,
    DELIVERED,
    FILLED,
    ID_FIELD,
    KEY,
    NONE_FAILED,
    changes,
    refused,
    salesforce,
    successes,
    wire,
)
from tests.support.sync.builders import MAPPING


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


TRIGGER = (
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:ContactTrigger: execution of AfterUpdate\n\ncaused by: System.DmlException: Update "
    "failed. First exception on row 0 with id 0010000000abcDEAAY; first error: {}: []\n\nTrigger.ContactTrigger: line 5:--"
)
NESTED = TRIGGER.format(
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY, ACCOUNT_TRIGGER: execution of BeforeUpdate\n\ncaused by: {}"
)
FLOW = (
    'CANNOT_EXECUTE_FLOW_TRIGGER:We can\'t save this record because the "Score" process failed. This error occurred when the '
    "flow tried to update records: {}. You can look up ExceptionCode values in the SOAP API Developer Guide.:--"
)
LOCKED = "UNABLE_TO_LOCK_ROW, unable to obtain exclusive access to this record or 1 records: 0010000000abcDEAAY"
# Salesforce's errors for a row, and their outcomes.
ROWS: dict[str, tuple[str, str]] = {
    # temporary
    "UNABLE_TO_LOCK_ROW:unable to obtain exclusive access to this record:--": ("deferred", "unable_to_lock_row"),
    TRIGGER.format(LOCKED): ("deferred", "unable_to_lock_row"),
    NESTED.format(f"System.DmlException: Upsert failed. first error: {LOCKED}"): ("deferred", "unable_to_lock_row"),
    FLOW.format("UNABLE_TO_LOCK_ROW: unable to obtain exclusive access"): ("deferred", "unable_to_lock_row"),
    "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE:read-only:--": (
        "deferred",
        "insert_update_delete_not_allowed_during_maintenance",
    ),
    TRIGGER.format("INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE, read only"): (
        "deferred",
        "insert_update_delete_not_allowed_during_maintenance",
    ),
    "QUERY_TIMEOUT:Your query request was running for too long.:--": ("deferred", "query_timeout"),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:T: execution of AfterUpdate\n\ncaused by: System.QueryException: Your query "
    "request was running for too long:--": ("deferred", "query_timeout"),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:T: System.LimitException: Apex CPU time limit exceeded:--": (
        "deferred",
        "apex_cpu_time_limit_exceeded",
    ),
    FLOW.format("Apex CPU time limit exceeded"): ("deferred", "apex_cpu_time_limit_exceeded"),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:T: System.LimitException: Too many SOQL queries: 101:--": (
        "deferred",
        "too_many_soql_queries",
    ),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:T: execution of BeforeUpdate\n\ncaused by: System.QueryException: Record Currently "
    "Unavailable: The record you are attempting to edit is currently being modified:--": (
        "deferred",
        "record_currently_unavailable",
    ),
    "SERVER_UNAVAILABLE:server busy:--": ("deferred", "server_unavailable"),
    "REQUEST_RUNNING_TOO_LONG:too long:--": ("deferred", "request_running_too_long"),
    "TOO_MANY_APEX_REQUESTS:--": ("deferred", "too_many_apex_requests"),
    # the row's own fault, even if the message quotes such a code
    'FIELD_CUSTOM_VALIDATION_EXCEPTION:Ask support about "UNABLE_TO_LOCK_ROW":--': (
        "rejected",
        "field_custom_validation_exception",
    ),
    "FIELD_CUSTOM_VALIDATION_EXCEPTION:first error: UNABLE_TO_LOCK_ROW, Apex CPU time limit exceeded:--": (
        "rejected",
        "field_custom_validation_exception",
    ),
    TRIGGER.format("FIELD_CUSTOM_VALIDATION_EXCEPTION, seen with UNABLE_TO_LOCK_ROW, too"): (
        "rejected",
        "field_custom_validation_exception",
    ),
    FLOW.format('REQUIRED_FIELD_MISSING: "UNABLE_TO_LOCK_ROW: x"'): ("rejected", "required_field_missing"),
    'CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY:T: the note says "UNABLE_TO_LOCK_ROW: x":--': (
        "rejected",
        "cannot_insert_update_activate_entity",
    ),
    "INVALID_FIELD:Foreign key external ID: acme not found for field Plan__c in entity Plan:--": (
        "rejected",
        "invalid_field",
    ),
    "ENTITY_IS_LOCKED:the record is in an approval:--": ("rejected", "entity_is_locked"),
    "STRING_TOO_LONG:Reason: data value too large: QUERY_TIMEOUT:--": ("rejected", "string_too_long"),
}
CONFIGURATION = [
    "INVALID_FIELD_FOR_INSERT_UPDATE:Unable to create/update fields: Churn_Risk_Band__c. Please check the security settings:--",
    "INVALID_FIELD:No such column 'Churn_Risk_Band__c' on entity 'Contact':--",
    "API_DISABLED_FOR_ORG:API is not enabled for this Organization or Partner:--",
    "FUNCTIONALITY_NOT_ENABLED:not enabled:--",
    "STORAGE_LIMIT_EXCEEDED:storage limit exceeded:--",
    TRIGGER.format("INVALID_FIELD_FOR_INSERT_UPDATE, Unable to create/update fields"),
]


@pytest.mark.parametrize("said", ROWS)
def test_a_row_is_deferred_for_what_passes_and_rejected_for_itself(
    said: str, crm: LocalCrm, run: FakeRunContext
) -> None:
    fault(crm, kind="row_error", external_ids=["user-a"], message=said)
    first, second = salesforce(crm.url).send(changes("user-a", "user-b"), run)
    assert ((first.kind, first.code), second) == (ROWS[said], DELIVERED)


@pytest.mark.parametrize("said", CONFIGURATION)
def test_a_permission_that_was_taken_away_stops_the_run_and_rejects_nobody(
    said: str, crm: LocalCrm, run: FakeRunContext
) -> None:
    fault(crm, kind="row_error", external_ids=["user-a"], message=said)
    fault(crm, kind="row_error", external_ids=["user-c"], message="STRING_TOO_LONG:no:--")
    with pytest.raises(MisconfiguredError, match="No user was set aside") as stop:
        salesforce(crm.url).send(changes("user-a", "user-b", "user-c"), run)
    assert [each.kind for each in stop.value.outcomes] == ["deferred", "delivered", "rejected"]


@pytest.mark.parametrize("said", [*ROWS, *CONFIGURATION])
def test_a_deletion_is_read_by_the_same_table(said: str, run: FakeRunContext) -> None:
    code, _, text = said.partition(":")
    found = Canned(200, {"done": True, "records": [{"Id": "003xx000004TmiQAAS", ID_FIELD: "user-a"}]})
    failed = Canned(200, [{"success": False, "errors": [{"statusCode": code, "message": text}]}])
    with scripted_server(found, failed) as script:
        if said in CONFIGURATION:
            with pytest.raises(ContractError, match="winback doctor"):
                salesforce(script.url).erase(["user-a"], run)
            return
        (outcome,) = salesforce(script.url).erase(["user-a"], run)
    assert (outcome.kind, outcome.code) == ROWS[said]


def test_the_first_code_decides_unless_it_says_only_that_something_behind_the_record_failed() -> None:
    assert fault_of("string_too_long", "first error: UNABLE_TO_LOCK_ROW, x") == ("string_too_long", None)
    text = "System.LimitException: Apex CPU time limit exceeded"
    assert fault_of(code_at_start(text), text) == ("apex_cpu_time_limit_exceeded", "later")


# Limits of the org

CONCURRENT = [
    "ConcurrentRequests (Concurrent API Requests) Limit exceeded.",
    "ConcurrentPerOrgLongTxn Limit exceeded.",
    "Too many concurrent requests",
]


@pytest.mark.parametrize("text", CONCURRENT)
def test_too_many_requests_at_once_are_over_in_seconds(text: str, run: FakeRunContext) -> None:
    busy = refused(403, "REQUEST_LIMIT_EXCEEDED", text)
    with scripted_server(busy, busy, *FILLED, COMPLETE, successes("ada"), NONE_FAILED) as script:
        assert salesforce(script.url).send(changes("ada"), run) == [DELIVERED]
    assert 0 < sum(run.waits) < 60


def test_only_the_day_s_limit_is_the_day_s() -> None:
    def said(text: str, status: int = 403, code: str = "REQUEST_LIMIT_EXCEEDED") -> Reply:
        return Reply(status, {}, refused(status, code, text).content.decode())

    assert heard(said("TotalRequests Limit exceeded.")).is_exhausted
    assert [heard(said(text)).is_exhausted for text in CONCURRENT] == [False] * 3
    assert not heard(said("REQUEST_LIMIT_EXCEEDED TotalRequests", code="INSUFFICIENT_ACCESS")).is_exhausted


# Slow jobs, other file formats, names in another case


def test_what_a_slow_job_has_done_by_its_time_is_acknowledged(crm: LocalCrm, run: FakeRunContext) -> None:
    wire(crm).polls_until_done, wire(crm).rows_until_aborted = 1_000, 2
    slow = SalesforceOptions(limits=(), job_seconds=60)
    outcomes = salesforce(crm.url, slow).send(changes("ada", "bob", "eve"), run)
    assert [each.kind for each in outcomes] == ["delivered", "delivered", "deferred"]
    assert sorted(crm.store.profiles()) == ["ada", "bob"]
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]


@pytest.mark.parametrize("said", [Canned(503), Canned(404), refused(400, "INVALIDJOBSTATE"), Canned(200, b"<html>")])
def test_a_slow_job_that_tells_nothing_is_one_that_had_not_ended(said: Canned, run: FakeRunContext) -> None:
    slow = SalesforceOptions(limits=(), job_seconds=1)
    under_way, aborted = Canned(200, {"state": "InProgress"}), Canned(200, {})
    with (
        scripted_server(*FILLED, under_way, aborted, said) as script,
        pytest.raises(UnavailableError, match="had not ended after 2 s"),
    ):
        salesforce(script.url, slow, budget_seconds=1e-9).send(changes("ada"), run)


@pytest.mark.parametrize("header", [ID_FIELD, ID_FIELD.lower(), ID_FIELD.upper()])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_another_case_of_the_id_column_change_nothing(header: str, mark: str) -> None:
    text = f"{mark}{header},sf__Id\nada,003xx000004TmiQAAS\n"
    assert verdicts(changes("ada"), ID_FIELD, {SUCCESSES: text}) == [DELIVERED]


def test_the_id_field_in_another_case_still_finds_whom_to_erase(crm: LocalCrm, run: FakeRunContext) -> None:
    salesforce(crm.url).send(changes("ada"), run)
    options = SalesforceOptions(limits=(), external_id_field=ID_FIELD.lower())
    canonical = Canned(200, {"done": True, "records": [{"Id": "003xx000004TmiQAAS", ID_FIELD: "ada"}]})
    with scripted_server(canonical, Canned(200, [{"success": True}])) as script:
        assert salesforce(script.url, options).erase(["ada"], run) == [DELIVERED]
    assert len(script.asked) == 2


# The field that identifies the user


def mapped_to(mapping: FieldMapping, name: str) -> FieldMapping:
    fields: dict[str, Any] = mapping.model_dump()
    fields["fields"]["voucher_reason"]["property"] = name
    return FieldMapping.model_validate(fields)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("salesforce", ID_FIELD), ("salesforce", "winback_USER_id__c"), ("hubspot", "winback_user_id")],
)
def test_a_field_mapped_to_what_finds_the_user_is_refused_at_start(name: str, wanted: str) -> None:
    mapping = mapped_to(SALESFORCE_FIELDS if name == "salesforce" else MAPPING, wanted)
    with pytest.raises(
        ContractError, match=r"crm_fields.yml writes voucher_reason to \w+, which identifies the user in \w+"
    ):
        connect(name, "http://127.0.0.1:9", KEY, CrmFile(), mapping, allowed_hosts=(), budget=RetryBudget(1))


def test_the_doctor_finds_it_too(run: FakeRunContext, crm: LocalCrm) -> None:
    findings = salesforce(crm.url).examine(mapped_to(SALESFORCE_FIELDS, ID_FIELD).kinds, run)
    assert "failed" in [each.state for each in findings if ID_FIELD in each.says]


def test_an_outcome_of_a_deferred_row_keeps_no_user(run: FakeRunContext, crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=["user-a"], message=TRIGGER.format(f"{LOCKED} user-a"))
    (outcome,) = salesforce(crm.url).send(changes("user-a"), run)
    assert isinstance(outcome, Outcome)
    assert "user-a" not in str(outcome.reason)
    assert "0010000000abcDEAAY" not in str(outcome.reason)
