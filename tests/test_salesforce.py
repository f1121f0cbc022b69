"""Do upserts reach Salesforce as jobs, and is only what its result files say taken for an outcome? Real HTTP throughout.

Salesforce publishes no machine-readable specification of these endpoints: requests and the local CRM's replies are written after
its documentation, and what it words nowhere (most refusals) is assumed to be a 4xx with an errorCode.
"""

import json
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_sync.changes import Change, Value
from crm_sync.destination import BatchRefusedError, Outcome, OutOfTimeError, UnavailableError
from crm_sync.destinations.connect import check_host, check_names
from crm_sync.destinations.salesforce import ADAPTER, Salesforce, SalesforceOptions
from crm_sync.destinations.salesforce_rows import FAILURES, SUCCESSES, UNPROCESSED, as_csv, verdicts
from crm_sync.destinations.transport import RetryBudget
from crm_sync.fields import load_fields
from sandbox.crm_server import LocalCrm
from sandbox.wires.salesforce import SalesforceWire, described
from sandbox.wires.salesforce_jobs import canonical, read
from tests.crm_wire_kit import Patience, Said, saying
from warehouse.errors import ContractError, WinbackError

KEY = "00Dxx0000001gPL!kEy.7f3a9c51-canary"
MAPPING = load_fields(Path(__file__).parents[1] / "examples/salesforce/crm_fields.yml")
UNPACED = SalesforceOptions(limits=())
ID_FIELD = "Winback_User_Id__c"
DELIVERED = Outcome("delivered", 200)
UNCONFIRMED = Outcome("deferred", code="unconfirmed")
JOB = "7505fEXAMPLE00012A"
JOB_PATH = f"/services/data/v62.0/jobs/ingest/{JOB}"
ODD_IDS = [
    *(
        "plain",
        "a/b",
        "a,b",
        'a"b',
        "a'b",
        "a\\b",
        "a\nb",
        "a\r\nb",
        "=1+1",
        "Zoë 漢",
        "a;b",
        "a b",
        "..",
        "a?b=c&d#e%20",
    ),
]


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> Patience:
    return Patience()


def salesforce(
    url: str, options: SalesforceOptions = UNPACED, budget_seconds: float = 120.0, key: str = KEY
) -> Salesforce:
    return Salesforce(url, key, options, RetryBudget(budget_seconds))


def wire(crm: LocalCrm) -> SalesforceWire:
    found: SalesforceWire = crm.app.extensions["salesforce"]
    return found


def changes(*external_ids: str, **attributes: Value) -> list[Change]:
    return [Change(each, dict(attributes) or {"Churn_Risk_Band__c": "high"}) for each in external_ids]


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


# What Salesforce's documentation shows it to say, for what the local CRM would never say


def result(*lines: str) -> Said:
    return Said(200, "".join(f"{line}\n" for line in lines).encode(), {"Content-Type": "text/csv"})


def successes(*external_ids: str) -> Said:
    return result(
        f'"sf__Id","sf__Created",{ID_FIELD}', *(f'"003xx000004TmiQAAS","true",{each}' for each in external_ids)
    )


def failures(**errors: str) -> Said:
    return result(f'"sf__Id","sf__Error",{ID_FIELD}', *(f'"","{error}",{each}' for each, error in errors.items()))


OPENED, UPLOADED = Said(200, {"id": JOB, "state": "Open"}), Said(201)
CLOSED, COMPLETE = Said(200, {"id": JOB, "state": "UploadComplete"}), Said(200, {"id": JOB, "state": "JobComplete"})
FILLED = (OPENED, UPLOADED, CLOSED)
NONE_FAILED = failures()


def refused(status: int, code: str, text: str = "no") -> Said:
    return Said(status, [{"errorCode": code, "message": text}])


# What is sent


def test_a_batch_goes_as_one_job_with_one_csv(run: Patience) -> None:
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
    with saying(*FILLED, COMPLETE, successes("ada", '"eve, the 2nd"'), NONE_FAILED) as script:
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


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_any_external_id_comes_back_out_of_the_csv_as_it_went_in(external_ids: list[str]) -> None:
    fields = {ID_FIELD.lower(): described(ID_FIELD, "string"), "x__c": described("X__c", "string")}
    rows = read(as_csv(changes(*external_ids, X__c="1"), ID_FIELD), ID_FIELD, fields)
    assert [row[ID_FIELD] for row in rows] == external_ids


# What the CRM then holds


def test_every_kind_of_value_arrives_as_what_it_is(crm: LocalCrm, run: Patience) -> None:
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


def test_a_field_is_cleared_where_it_is_told_and_kept_where_it_is_not(crm: LocalCrm, run: Patience) -> None:
    destination = salesforce(crm.url)
    destination.send(changes("ada", "eve", Churn_Probability__c=0.5, Churn_Risk_Band__c="low"), run)
    batch = [Change("ada", {"Churn_Probability__c": None}), Change("eve", {"Churn_Risk_Band__c": "high"})]
    assert destination.send(batch, run) == [DELIVERED] * 2
    assert crm.store.profiles() == {
        "ada": {"churn_risk_band": "low"},
        "eve": {"churn_probability": 0.5, "churn_risk_band": "high"},
    }


def test_ids_with_odd_characters_are_written_and_erased_each_for_itself(crm: LocalCrm, run: Patience) -> None:
    destination = salesforce(crm.url)
    assert destination.send(changes(*ODD_IDS), run) == [DELIVERED] * len(ODD_IDS)
    assert set(crm.store.profiles()) == set(ODD_IDS)
    assert destination.erase(ODD_IDS[1:], run) == [DELIVERED] * (len(ODD_IDS) - 1)
    assert set(crm.store.profiles()) == {"plain"}


def test_the_rows_of_a_batch_share_no_fate(crm: LocalCrm, run: Patience) -> None:
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


def test_an_id_twice_in_a_job_is_refused_both_times(crm: LocalCrm, run: Patience) -> None:
    outcomes = salesforce(crm.url).send(changes("ada", "ada", "eve"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("rejected", "duplicate_value"),
        ("rejected", "duplicate_value"),
        ("delivered", None),
    ]


def test_a_user_salesforce_may_not_make_is_rejected_and_one_it_has_is_not(crm: LocalCrm, run: Patience) -> None:
    destination = salesforce(crm.url)
    destination.send(changes("ada"), run)
    wire(crm).fields["lastname"] = described("LastName", "string", nillable=False)
    outcomes = destination.send(changes("ada", "eve", Churn_Risk_Band__c="low"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("delivered", None),
        ("rejected", "required_field_missing"),
    ]


def test_a_field_that_salesforce_does_not_have_stops_the_run_and_is_named(crm: LocalCrm, run: Patience) -> None:
    batch = [*changes("ada"), Change("eve", {"Churn_Mood__c": "glum"})]
    with pytest.raises(ContractError) as refusal:
        salesforce(crm.url).send(batch, run)
    assert str(refusal.value) == "Salesforce has no field Churn_Mood__c that this key may write. See winback doctor"
    assert crm.store.profiles() == {}


# What the result files say


@pytest.mark.parametrize(
    ("files", "outcomes"),
    [
        ({SUCCESSES: successes("eve", "ada")}, [DELIVERED, DELIVERED]),
        ({SUCCESSES: successes("eve")}, [UNCONFIRMED, DELIVERED]),
        ({SUCCESSES: successes("eve", "bob", "Ada")}, [UNCONFIRMED, DELIVERED]),
        ({SUCCESSES: successes("ada", "ada")}, [DELIVERED, UNCONFIRMED]),
        ({SUCCESSES: successes("ada"), FAILURES: failures(ada="STRING_TOO_LONG:no:--")}, [UNCONFIRMED, UNCONFIRMED]),
        ({SUCCESSES: result(f"sf__Created,{ID_FIELD}", "true,ada")}, [UNCONFIRMED, UNCONFIRMED]),
        ({SUCCESSES: result(f"sf__Id,{ID_FIELD}", "maybe,ada")}, [UNCONFIRMED, UNCONFIRMED]),
        ({SUCCESSES: Said(200, b""), FAILURES: Said(200, b"")}, [UNCONFIRMED, UNCONFIRMED]),
        ({UNPROCESSED: result(ID_FIELD, "ada", "eve")}, [Outcome("deferred", 200, "unprocessed")] * 2),
        (
            {FAILURES: failures(ada="UNABLE_TO_LOCK_ROW:unable to obtain exclusive access:--", eve="")},
            [
                Outcome(
                    "deferred", 200, "unable_to_lock_row", "UNABLE_TO_LOCK_ROW:unable to obtain exclusive access:--"
                ),
                Outcome("rejected", 200, "unknown", ""),
            ],
        ),
        ({SUCCESSES: result("WINBACK_USER_ID__C,SF__ID", "ada,003xx000004TmiQAAS")}, [DELIVERED, UNCONFIRMED]),
    ],
)
def test_a_row_s_outcome_is_what_one_file_says_of_its_id(files: dict[str, Said], outcomes: list[Outcome]) -> None:
    texts = {kind: said.content.decode() for kind, said in files.items()}
    assert verdicts(changes("ada", "eve"), ID_FIELD, texts) == outcomes


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={kind: st.lists(st.sampled_from("abcd"), max_size=5) for kind in (SUCCESSES, FAILURES, UNPROCESSED)},
    )
)
def test_no_row_is_delivered_but_one_that_succeeded_and_did_nothing_else(told: dict[str, list[str]]) -> None:
    texts = {
        kind: f"sf__Id,sf__Error,{ID_FIELD}\n" + "".join(f"003xx000004TmiQAAS,,{each}\n" for each in ids)
        for kind, ids in told.items()
    }
    outcomes = verdicts(changes("a", "b", "c"), ID_FIELD, texts)
    others = {*told.get(FAILURES, []), *told.get(UNPROCESSED, [])}
    assert [outcome.kind == "delivered" for outcome in outcomes] == [
        each in told.get(SUCCESSES, []) and each not in others for each in "abc"
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Maintenance</html>",
        b"[]",
        b'[{"errorCode": "UNKNOWN_EXCEPTION"}]',
        b"sf__Id,sf__Created\n003xx000004TmiQAAS,true\n",
        b"sf__Id,sf__Created,Winback_User_Id__c\n003xx000004TmiQAAS,ada\n",
        b'sf__Id,Winback_User_Id__c\n003xx000004TmiQAAS,"ada\n',
        b"\xff\xfe\x00",
    ],
)
def test_a_result_file_of_unknown_shape_says_nothing_of_the_rows(content: bytes, run: Patience) -> None:
    with (
        saying(*FILLED, COMPLETE, Said(200, content), NONE_FAILED) as script,
        pytest.raises(UnavailableError) as failure,
    ):
        salesforce(script.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"


def test_a_job_dropped_by_somebody_else_leaves_what_it_did_not_do_for_later(run: Patience) -> None:
    aborted = Said(200, {"id": JOB, "state": "Aborted", "numberRecordsProcessed": 1})
    with saying(*FILLED, aborted, successes("ada"), NONE_FAILED, result(ID_FIELD, "eve")) as script:
        outcomes = salesforce(script.url).send(changes("ada", "eve", "zoe"), run)
    assert outcomes == [DELIVERED, Outcome("deferred", 200, "unprocessed"), UNCONFIRMED]


def test_a_job_that_failed_half_way_still_tells_of_its_rows(run: Patience) -> None:
    failed = Said(
        200, {"id": JOB, "state": "Failed", "numberRecordsProcessed": 2, "errorMessage": "InternalServerError : x"}
    )
    told = (successes("ada"), failures(eve="STRING_TOO_LONG:no:--"), result(ID_FIELD, "zoe"))
    with saying(*FILLED, failed, *told) as script:
        outcomes = salesforce(script.url).send(changes("ada", "eve", "zoe"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("delivered", None),
        ("rejected", "string_too_long"),
        ("deferred", "unprocessed"),
    ]


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
        ("InvalidEntity : Entity 'Contact' is not supported", ContractError, "invalidentity. See winback doctor"),
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
    message: Any, kind: type[WinbackError], said: str, run: Patience
) -> None:
    failed = Said(200, {"id": JOB, "state": "Failed", "numberRecordsProcessed": 0, "errorMessage": message})
    with saying(*FILLED, failed) as script, pytest.raises(kind, match=re.escape(said)):
        salesforce(script.url).send(changes("ada"), run)


def test_a_quota_of_jobs_that_is_used_up_is_no_fault_of_the_rows_or_of_a_person(run: Patience) -> None:
    for replies in (
        (refused(400, "ExceededQuota"),),
        (*FILLED, Said(200, {"state": "Failed", "errorMessage": "ExceededQuota : x"})),
    ):
        with saying(*replies) as script, pytest.raises(UnavailableError) as failure:
            salesforce(script.url).send(changes("ada"), run)
        assert failure.value.code == "throttled"


# A job's life


def test_a_job_is_asked_after_less_and_less_often(crm: LocalCrm, run: Patience) -> None:
    wire(crm).polls_until_done = 9
    assert salesforce(crm.url).send(changes("ada"), run) == [DELIVERED]
    assert run.waits == [2, 3, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30, 30]


def test_a_job_that_nobody_waits_for_any_more_is_dropped_and_writes_nothing(crm: LocalCrm) -> None:
    with pytest.raises(OutOfTimeError) as leaving:
        salesforce(crm.url).send(changes("ada"), Patience(seconds_left=4))
    assert leaving.value.code == "deadline"
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]
    assert crm.store.profiles() == {}


def test_a_job_without_end_is_dropped_after_its_time(crm: LocalCrm, run: Patience) -> None:
    wire(crm).polls_until_done = 1_000
    with pytest.raises(UnavailableError, match="had not ended after 64 s"):
        salesforce(crm.url, SalesforceOptions(limits=(), job_seconds=60)).send(changes("ada"), run)
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]


def test_a_run_that_leaves_is_not_held_up_by_a_crm_that_is_down(run: Patience) -> None:
    with saying(*FILLED, Said(503)) as script, pytest.raises(UnavailableError, match="HTTP 503"):
        salesforce(script.url, budget_seconds=1e-9).send(changes("ada"), run)
    assert [(each.method, each.body) for each in script.asked[-1:]] == [("PATCH", {"state": "Aborted"})]
    assert run.waits == [2]


@pytest.mark.parametrize("said", [{"id": JOB, "state": "Mending"}, {"id": JOB}, [], "JobComplete"])
def test_a_job_in_an_unknown_state_is_dropped_and_nothing_known_of_it(said: Any, run: Patience) -> None:
    with saying(*FILLED, Said(200, said)) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"
    assert script.asked[-1].body == {"state": "Aborted"}


@pytest.mark.parametrize("said", [{}, [], {"id": None}, {"id": "../../sobjects"}, {"id": 7}])
def test_a_job_without_a_usable_id_is_not_gone_on_with(said: Any, run: Patience) -> None:
    with saying(Said(200, said)) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).send(changes("ada"), run)
    assert (failure.value.code, len(script.asked)) == ("unknown_reply", 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [("INVALIDJOB", "invalidjob"), ("INVALIDENTITY", "invalidentity"), ("SOMETHING_NEW", "something_new")],
)
def test_a_job_that_may_not_be_opened_is_for_a_person_not_for_halving(code: str, said: str, run: Patience) -> None:
    with saying(refused(400, code, "ada@b.c")) as script, pytest.raises(ContractError) as refusal:
        salesforce(script.url).send(changes("ada"), run)
    assert str(refusal.value) == f"Salesforce opens no job for Contact: {said}. See winback doctor"


@pytest.mark.parametrize("status", [400, 413])
def test_a_file_that_is_refused_is_halved_and_its_job_dropped(status: int, run: Patience) -> None:
    still_open = Said(200, {"id": JOB, "state": "Open"})
    replies = (OPENED, refused(status, "TOO_BIG", "too big for ada"), refused(400, "INVALIDJOBSTATE"), still_open)
    with saying(*replies) as script, pytest.raises(BatchRefusedError) as refusal:
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
        (Said(200, {"state": "Failed", "errorMessage": "InternalServerError : nothing was uploaded"}),),
    ],
)
def test_a_refused_file_is_not_forgotten_however_its_empty_job_ends(ending: tuple[Said, ...], run: Patience) -> None:
    replies = (OPENED, refused(400, "TOO_BIG"), CLOSED, *ending)
    with saying(*replies) as script, pytest.raises(BatchRefusedError, match="too_big"):
        salesforce(script.url).send(changes("ada"), run)


# What passes, and what does not


@pytest.mark.parametrize("endpoint", ["open", "upload", "close", "job", "results"])
@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "lose_reply"},
        {"kind": "duplicate_reply"},
        {"kind": "reset"},
        {"kind": "reset", "at": "reply"},
        {"kind": "status", "status": 503, "retry_after": 7},
        {"kind": "status", "status": 429},
    ],
)
def test_trouble_at_any_step_passes_and_the_state_is_applied_once(
    crm: LocalCrm, run: Patience, endpoint: str, trouble: dict[str, object]
) -> None:
    fault(crm, endpoint=f"salesforce.{endpoint}", **trouble)
    assert salesforce(crm.url).send(changes("ada", "eve"), run) == [DELIVERED] * 2
    assert [(each.before, each.after) for each in crm.store.history("ada")] == [(None, "high")]
    assert "retry_after" not in trouble or 7 in run.waits


def test_a_batch_sent_again_after_its_word_was_lost_ends_in_the_same_state(crm: LocalCrm, run: Patience) -> None:
    destination = salesforce(crm.url, budget_seconds=1e-9)
    fault(crm, kind="lose_reply", endpoint="salesforce.results")
    with pytest.raises(UnavailableError):
        destination.send(changes("ada"), run)
    assert destination.send(changes("ada"), run) == [DELIVERED]
    assert len(crm.store.history("ada")) == 1


def test_a_page_in_place_of_results_is_no_success(crm: LocalCrm, run: Patience) -> None:
    fault(crm, kind="garbage", endpoint="salesforce.results")
    with pytest.raises(UnavailableError) as failure:
        salesforce(crm.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"


def test_requests_used_up_for_the_day_end_the_run_and_are_no_matter_of_permissions(
    crm: LocalCrm, run: Patience
) -> None:
    crm.desk.allowances["salesforce.day"].requests = 4
    with pytest.raises(UnavailableError) as failure:
        salesforce(crm.url).send(changes("ada"), run)
    assert (failure.value.code, run.waits) == ("throttled", [2, 3])


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_refused_key_or_address_names_the_settings(status: int, run: Patience) -> None:
    with (
        saying(refused(status, "INVALID_SESSION_ID")) as script,
        pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"),
    ):
        salesforce(script.url).send(changes("ada"), run)
    assert run.waits == []


def test_a_wrong_key_changes_nothing(crm: LocalCrm, run: Patience) -> None:
    with pytest.raises(ContractError, match=re.escape("HTTP 401 to /services/data/v62.0/jobs/ingest")):
        salesforce(crm.url, key="another").send(changes("ada"), run)
    assert crm.store.profiles() == {}


def test_25_requests_take_20_seconds_unless_it_is_told_otherwise(crm: LocalCrm, run: Patience) -> None:
    hasty: dict[str, Any] = {"first_poll_seconds": 0.001, "longest_poll_seconds": 0.001}
    destination = salesforce(crm.url, SalesforceOptions(**hasty))
    for _ in range(5):  # of 7 requests each
        destination.send(changes("ada"), run)
    assert 20 <= run.clock() < 40
    unpaced = Patience()
    salesforce(crm.url, SalesforceOptions(limits=(), **hasty)).send(changes("ada"), unpaced)
    assert unpaced.clock() < 0.01


# Erasure


def records(*found: tuple[str, str]) -> Said:
    listed = [{"Id": record, ID_FIELD: external_id} for record, external_id in found]
    return Said(200, {"totalSize": len(listed), "done": True, "records": listed})


ADA = ("003xx000004TmiQAAS", "ada")


def test_whom_salesforce_does_not_know_is_erased_already(crm: LocalCrm, run: Patience) -> None:
    destination = salesforce(crm.url)
    destination.send(changes("ada"), run)
    assert destination.erase(["ada", "eve"], run) == [DELIVERED, Outcome("delivered", 200, "not_found")]
    assert crm.store.profiles() == {}


def test_a_record_whose_id_differs_by_its_case_is_somebody_else_s(run: Patience) -> None:
    with saying(records(("003xx000004TmiRAAS", "Ada"))) as script:
        assert salesforce(script.url).erase(["ada"], run) == [Outcome("delivered", 200, "not_found")]
    assert len(script.asked) == 1


def test_all_records_of_a_user_are_erased_together(run: Patience) -> None:
    gone = {"success": False, "errors": [{"statusCode": "ENTITY_IS_DELETED", "message": "x"}]}
    with saying(records(ADA, ("003xx000004TmiRAAS", "ada")), Said(200, [{"success": True}, gone])) as script:
        assert salesforce(script.url).erase(["ada"], run) == [DELIVERED]
    assert script.asked[1].path == (
        "/services/data/v62.0/composite/sobjects?ids=003xx000004TmiQAAS%2C003xx000004TmiRAAS&allOrNone=false"
    )


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (
            Said(
                200,
                [{"success": False, "errors": [{"statusCode": "DELETE_FAILED", "message": "ada has cases: 00001003"}]}],
            ),
            Outcome("rejected", 200, "delete_failed", "... has cases: ..."),
        ),
        (Said(200, [{"success": False}]), Outcome("rejected", 200, "unknown")),
        (refused(400, "MALFORMED_ID", "bad id"), Outcome("rejected", 400, "malformed_id", "bad id")),
    ],
)
def test_a_deletion_that_is_refused_says_why(said: Said, outcome: Outcome, run: Patience) -> None:
    with saying(records(ADA), said) as script:
        assert salesforce(script.url).erase(["ada"], run) == [outcome]


@pytest.mark.parametrize(
    "replies",
    [
        (Said(200, {}),),
        (Said(200, []),),
        (Said(200, {"done": False, "records": []}),),
        (Said(200, {"done": True, "records": [7]}),),
        (records(("../../limits", "ada")),),
        (records(ADA), Said(200, {})),
        (records(ADA), Said(200, [])),
        (records(ADA), Said(200, [{}])),
        (records(ADA), Said(200, [{"success": "yes"}])),
    ],
)
def test_an_unknown_shape_erases_nobody(replies: tuple[Said, ...], run: Patience) -> None:
    with saying(*replies) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).erase(["ada"], run)
    assert failure.value.code == "unknown_reply"


@pytest.mark.parametrize("code", ["INVALID_FIELD", "INVALID_TYPE"])
def test_a_field_that_is_not_there_is_never_taken_for_a_user_who_is_not(code: str, run: Patience) -> None:
    with saying(refused(400, code, "No such column")) as script, pytest.raises(ContractError, match="cannot look for"):
        salesforce(script.url).erase(["ada"], run)


# What doctor finds out


def test_an_org_with_all_fields_is_found_in_order(crm: LocalCrm, run: Patience) -> None:
    wire(crm).fields["ownerid"] = described("OwnerId", "reference", nillable=False, defaultedOnCreate=True)
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    assert [(finding.state, finding.says) for finding in findings] == [
        ("ok", "Winback_User_Id__c is a unique external id of Contact"),
        ("ok", "Contact has all 9 fields with fitting types"),
        ("ok", "The org has used 1 of its 100,000 API requests of 24 hours"),
    ]
    assert (crm.store.profiles(), wire(crm).jobs) == ({}, {})


def test_the_commands_for_what_is_missing_make_it(crm: LocalCrm, run: Patience) -> None:
    wire(crm).fields.clear()
    destination = salesforce(crm.url)
    missing = destination.examine(MAPPING.kinds, run)
    assert [finding.state for finding in missing[:2]] == ["failed", "failed"]
    commands = [line for finding in missing for line in finding.do if line.startswith("curl ")]
    assert len(commands) == 10
    for command in commands:
        path, body = re.search(r'"\$WINBACK_CRM_URL(\S+)".* -d \'(.*)\'$', command).groups()  # type: ignore[union-attr]
        headers = {"Authorization": f"Bearer {KEY}"}
        assert requests.post(crm.url + path, json=json.loads(body), headers=headers, timeout=10).status_code == 201
    assert [finding.state for finding in destination.examine(MAPPING.kinds, run)] == ["ok", "ok", "ok"]
    assert destination.send(changes("ada", Churn_Probability__c=0.8421), run) == [DELIVERED]


@pytest.mark.parametrize(
    ("field", "facts", "said"),
    [
        (ID_FIELD, {"unique": False}, "Winback_User_Id__c is not unique"),
        (ID_FIELD, {"caseSensitive": None}, "Winback_User_Id__c is not case-sensitive"),
        (
            ID_FIELD,
            {"externalId": False, "caseSensitive": False},
            "Winback_User_Id__c is not an external id, case-sensitive",
        ),
        ("Churn_Probability__c", {"type": "string"}, "cannot be written with what winback sends: Churn_Probability__c"),
        ("Churn_Probability__c", {"scale": 2}, "cannot be written with what winback sends: Churn_Probability__c"),
        ("Voucher_Eligible__c", {"type": "string"}, "cannot be written with what winback sends: Voucher_Eligible__c"),
        ("Churn_Scored_At__c", {"type": "date"}, "cannot be written with what winback sends: Churn_Scored_At__c"),
        ("Experiment_Arm__c", {"updateable": False}, "cannot be written with what winback sends: Experiment_Arm__c"),
    ],
)
def test_a_field_that_cannot_take_the_values_is_named(
    crm: LocalCrm, run: Patience, field: str, facts: dict[str, object], said: str
) -> None:
    wire(crm).fields[field.lower()] |= facts
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    (failed,) = [finding for finding in findings if finding.state == "failed"]
    assert failed.says.endswith(said)
    assert failed.do


@pytest.mark.parametrize(
    ("field", "facts", "said"),
    [
        ("Churn_Risk_Band__c", {"restrictedPicklist": True, "type": "picklist"}, "take only the values listed"),
        ("LastName", {"nillable": False}, "makes no Contact without LastName"),
    ],
)
def test_what_may_reject_users_is_a_warning(
    crm: LocalCrm, run: Patience, field: str, facts: dict[str, object], said: str
) -> None:
    wire(crm).fields[field.lower()] = described(field, "string") | facts
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    (warning,) = [finding for finding in findings if finding.state == "warning"]
    assert said in warning.says


def test_names_that_no_custom_field_has_are_answered_with_the_example(crm: LocalCrm, run: Patience) -> None:
    finding = salesforce(crm.url).examine({"churn_risk_band": "text"}, run)[1]
    assert (finding.state, finding.do) == (
        "failed",
        ("The names of custom fields end in __c: map to such, as examples/salesforce/crm_fields.yml does.",),
    )


@pytest.mark.parametrize(
    ("reply", "state", "said"),
    [
        (refused(401, "INVALID_SESSION_ID"), "failed", "HTTP 401"),
        (refused(404, "NOT_FOUND"), "failed", "HTTP 404"),
        (Said(200, {"fields": 7}), "failed", "in an unknown shape"),
        (
            Said(200, {"fields": [], "createable": True, "updateable": False}),
            "failed",
            "may not create and edit Contact",
        ),
    ],
)
def test_an_object_that_cannot_be_looked_at_is_a_finding(reply: Said, state: str, said: str, run: Patience) -> None:
    with saying(reply) as script:
        (finding,) = salesforce(script.url).examine(MAPPING.kinds, run)
    assert finding.state == state
    assert said in finding.says


def test_requests_nearly_used_up_are_a_warning(run: Patience) -> None:
    usage = {"Sforce-Limit-Info": "api-usage=4500/5000; per-app-api-usage=17/250(appName=x)"}
    with saying(Said(200, {"fields": []}, usage)) as script:
        finding = salesforce(script.url).examine({}, run)[-1]
    assert (finding.state, finding.says) == ("warning", "The org has used 4,500 of its 5,000 API requests of 24 hours")


# Settings


def test_the_example_mapping_is_one_for_salesforce_and_for_the_local_crm(crm: LocalCrm) -> None:
    check_names(ADAPTER, MAPPING)
    assert {name.lower() for name in MAPPING.kinds} | {ID_FIELD.lower()} == set(wire(crm).fields)
    assert {canonical(name) for name in MAPPING.kinds} == {
        *("churn_probability", "churn_risk_band", "churn_reasons", "churn_scored_at", "churn_model_version"),
        *("voucher_eligible", "voucher_reason", "voucher_valid_until", "experiment_arm"),
    }


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *[
            (each, True)
            for each in ("Churn__c", "Churn_Risk_Band__c", "Description", "x9__c", "winback__Churn__c", "Band__pc")
        ],
        *[
            (each, False)
            for each in (
                "_a__c",
                "9a__c",
                "a__b",
                "Churn___c",
                "Churn__x",
                "Chu-rn__c",
                "Churn_",
                "a__b__c__c",
                "",
                "ä__c",
            )
        ],
    ],
)
def test_only_what_salesforce_can_call_a_field_is_a_name(name: str, is_one: bool) -> None:
    assert bool(ADAPTER.property_pattern.fullmatch(name)) is is_one


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("example.my.salesforce.com", True),
        ("example--uat.sandbox.my.salesforce.com", True),
        ("salesforce.com.example.org", False),
        ("notsalesforce.com", False),
    ],
)
def test_the_key_goes_to_salesforce_s_hosts_only(host: str, is_allowed: bool) -> None:
    try:
        check_host(ADAPTER, f"https://{host}", ())
    except ContractError:
        assert not is_allowed
    else:
        assert is_allowed


# What must never be said

CANARY = "ada.lovelace+canary@example.org"
FAILED_ROW = failures(**{CANARY: f"INVALID_FIELD:bad value: {CANARY} of 'x': lovelace@x.y glum:--"})


@pytest.mark.parametrize(
    "replies",
    [
        (refused(400, CANARY, f"{CANARY} {KEY}"),),
        (refused(403, "INSUFFICIENT_ACCESS", f"{CANARY} {KEY}"),),
        (OPENED, refused(400, "TOO_BIG", f"{CANARY} {KEY} glum"), refused(400, CANARY), Said(200, {"state": "Open"})),
        (*FILLED, Said(200, {"state": CANARY})),
        (*FILLED, Said(200, {"state": "Failed", "errorMessage": f"InvalidBatch : {CANARY} '{KEY}'"})),
        (*FILLED, Said(200, {"state": "Failed", "errorMessage": CANARY})),
        (*FILLED, COMPLETE, result(CANARY)),
        (*FILLED, COMPLETE, successes(), FAILED_ROW),
    ],
)
def test_neither_the_key_nor_a_user_nor_a_value_is_said(
    replies: tuple[Said, ...], run: Patience, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with saying(*replies) as script:
        try:
            told = repr(salesforce(script.url).send(changes(CANARY, Churn_Risk_Band__c="glum"), run))
        except WinbackError as error:
            told = "".join(traceback.format_exception(error)) + repr(vars(error))
    streams = capfd.readouterr()
    everything = f"{told} {caplog.text} {streams.out} {streams.err}".lower()
    for secret in (KEY, CANARY, "lovelace", "7f3a9c51"):
        assert secret.lower() not in everything


def test_an_erasure_that_fails_does_not_say_whose(run: Patience) -> None:
    for replies in (
        (refused(403, "NO"),),
        (refused(400, "INVALID_FIELD", CANARY),),
        (records(("003xx000004TmiQAAS", CANARY)), refused(403, "NO")),
    ):
        with saying(*replies) as script, pytest.raises(ContractError) as refusal:
            salesforce(script.url).erase([CANARY], run)
        assert "lovelace" not in str(refusal.value)
