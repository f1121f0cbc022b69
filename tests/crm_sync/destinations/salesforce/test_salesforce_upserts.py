"""Upserts to Salesforce: one job with one CSV file, and every value in its type. Uses real HTTP.

Salesforce publishes no machine-readable specification of these endpoints. Requests and the local CRM's replies follow its
documentation. Undocumented replies (most refusals) are assumed to be a 4xx with an errorCode.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ContractError
from crm_sync.destination import Outcome
from crm_sync.destinations.salesforce.rows import as_csv
from crm_sync.diff import Change, Value
from sandbox.local_crm.apis.salesforce import described
from sandbox.local_crm.apis.salesforce_jobs import read
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault
from tests.support.crm.salesforce import (
    COMPLETE,
    DELIVERED,
    FILLED,
    ID_FIELD,
    JOB_PATH,
    KEY,
    NONE_FAILED,
    changes,
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


def test_a_batch_goes_as_one_job_with_one_csv(run: FakeRunContext) -> None:
    batch = [
        Change(
            "ada",
            {
                "Churn_Probability__c": 0.8421,
                "Voucher_Eligible__c": True,
                "Churn_Reasons__c": ["met errors", "left late"],
            },
        ),
        Change("eve, the 2nd", {"Churn_Probability__c": None, "Voucher_Valid_Until__c": "2026-06-22T09:00:00Z"}),
    ]
    with scripted_server(*FILLED, COMPLETE, successes("ada", '"eve, the 2nd"'), NONE_FAILED) as script:
        assert salesforce(script.url).send(batch, run) == [DELIVERED] * 2
    opened, uploaded, closed, *asked = script.asked
    assert (opened.method, opened.path, opened.body) == (
        "POST",
        "/services/data/v62.0/jobs/ingest",
        {
            "object": "Contact",
            "operation": "upsert",
            "externalIdFieldName": ID_FIELD,
            "contentType": "CSV",
            "lineEnding": "CRLF",
            "columnDelimiter": "COMMA",
        },
    )
    assert (uploaded.method, uploaded.path, uploaded.content.decode()) == (
        "PUT",
        f"{JOB_PATH}/batches/",
        "Winback_User_Id__c,Churn_Probability__c,Churn_Reasons__c,Voucher_Eligible__c,Voucher_Valid_Until__c\r\n"
        "ada,0.8421,met errors;left late,true,\r\n"
        '"eve, the 2nd",#N/A,,,2026-06-22T09:00:00Z\r\n',
    )
    assert uploaded.headers["content-type"] == "text/csv; charset=UTF-8"
    assert (closed.method, closed.path, closed.body) == ("PATCH", JOB_PATH, {"state": "UploadComplete"})
    assert [(each.method, each.path) for each in asked] == [
        ("GET", JOB_PATH),
        ("GET", f"{JOB_PATH}/successfulResults/"),
        ("GET", f"{JOB_PATH}/failedResults/"),
    ]
    assert {each.headers["authorization"] for each in script.asked} == {f"Bearer {KEY}"}
    assert {each.headers["user-agent"] for each in script.asked} == {"winback (00000007-test)"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8421, "0.8421"),
        (0.00001, "0.00001"),
        (1.0, "1.0"),
        (3, "3"),
        (True, "true"),
        (False, "false"),
        ("high", "high"),
        ("=1+1", "=1+1"),
        ("a,b", '"a,b"'),
        ('say "hi"', '"say ""hi"""'),
        (["one", "two"], "one;two"),
        (None, "#N/A"),
        ("", "#N/A"),
        ([], "#N/A"),
    ],
)
def test_a_value_is_written_as_salesforce_reads_it(value: Value, text: str) -> None:
    assert as_csv(changes("ada", X__c=value), ID_FIELD).decode() == f"{ID_FIELD},X__c\r\nada,{text}\r\n"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_any_external_id_comes_back_out_of_the_csv_as_it_went_in(external_ids: list[str]) -> None:
    fields = {ID_FIELD.lower(): described(ID_FIELD, "string"), "x__c": described("X__c", "string")}
    rows = read(as_csv(changes(*external_ids, X__c="1"), ID_FIELD), ID_FIELD, fields)
    assert [row[ID_FIELD] for row in rows] == external_ids


def test_every_kind_of_value_arrives_as_what_it_is(crm: LocalCrm, run: FakeRunContext) -> None:
    row = Change(
        "ada",
        {
            "Churn_Probability__c": 0.8421,
            "Churn_Risk_Band__c": "high",
            "Churn_Reasons__c": ["short last visit", "met errors, twice"],
            "Churn_Scored_At__c": "2026-06-15T09:00:00Z",
            "Voucher_Eligible__c": True,
        },
    )
    assert salesforce(crm.url).send([row], run) == [DELIVERED]
    assert crm.store.profiles() == {
        "ada": {
            "churn_probability": 0.8421,
            "churn_risk_band": "high",
            "churn_reasons": ["short last visit", "met errors, twice"],
            "churn_scored_at": "2026-06-15T09:00:00Z",
            "voucher_eligible": True,
        }
    }


def test_the_rows_of_a_batch_share_no_fate(crm: LocalCrm, run: FakeRunContext) -> None:
    fault(crm, kind="row_error", external_ids=["eve"], message="FIELD_CUSTOM_VALIDATION_EXCEPTION:No eve here:--")
    batch = [
        *changes("ada", "eve"),
        Change("bob", {"Churn_Probability__c": "many"}),
        Change("joe", {"Churn_Risk_Band__c": "x" * 256}),
        *changes("zoe"),
    ]
    assert salesforce(crm.url).send(batch, run) == [
        DELIVERED,
        Outcome(
            "rejected", 200, "field_custom_validation_exception", "FIELD_CUSTOM_VALIDATION_EXCEPTION:No ... here:--"
        ),
        Outcome(
            "rejected",
            200,
            "invalid_type_on_field_in_record",
            "INVALID_TYPE_ON_FIELD_IN_RECORD:Churn Probability: value not of required type: ...:Churn_Probability__c --",
        ),
        Outcome(
            "rejected",
            200,
            "string_too_long",
            "STRING_TOO_LONG:Churn Risk Band: data value too large: ... (max ... --",
        ),
        DELIVERED,
    ]
    assert set(crm.store.profiles()) == {"ada", "zoe"}


def test_an_id_twice_in_a_job_is_refused_both_times(crm: LocalCrm, run: FakeRunContext) -> None:
    outcomes = salesforce(crm.url).send(changes("ada", "ada", "eve"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("rejected", "duplicate_value"),
        ("rejected", "duplicate_value"),
        ("delivered", None),
    ]


def test_a_user_salesforce_may_not_make_is_rejected_and_one_it_has_is_not(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = salesforce(crm.url)
    destination.send(changes("ada"), run)
    wire(crm).fields["lastname"] = described("LastName", "string", nillable=False)
    outcomes = destination.send(changes("ada", "eve", Churn_Risk_Band__c="low"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("delivered", None),
        ("rejected", "required_field_missing"),
    ]


def test_a_field_that_salesforce_does_not_have_stops_the_run_and_is_named(crm: LocalCrm, run: FakeRunContext) -> None:
    batch = [*changes("ada"), Change("eve", {"Churn_Mood__c": "glum"})]
    with pytest.raises(ContractError) as refusal:
        salesforce(crm.url).send(batch, run)
    assert str(refusal.value) == "Salesforce has no field Churn_Mood__c that this key may write. Run winback doctor"
    assert crm.store.profiles() == {}
