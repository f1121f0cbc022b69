"""Salesforce's results: only the result files of a job decide the outcome of a row."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destination import Outcome, UnavailableError
from crm_sync.destinations.record_owners import RecordOwners
from crm_sync.destinations.salesforce.rows import FAILURES, SUCCESSES, UNPROCESSED, verdicts
from sandbox.local_crm.apis.salesforce_jobs import record_id
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault
from tests.support.crm.salesforce import (
    COMPLETE,
    DELIVERED,
    FILLED,
    ID_FIELD,
    JOB,
    KEY,
    NONE_FAILED,
    UNCONFIRMED,
    changes,
    failures,
    result,
    salesforce,
    successes,
)


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


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
        ({SUCCESSES: Canned(200, b""), FAILURES: Canned(200, b"")}, [UNCONFIRMED, UNCONFIRMED]),
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
        (
            {FAILURES: failures(ada=" UNABLE_TO_LOCK_ROW : no")},
            [Outcome("deferred", 200, "unable_to_lock_row", "UNABLE_TO_LOCK_ROW : no"), UNCONFIRMED],
        ),
        ({SUCCESSES: result("WINBACK_USER_ID__C,SF__ID", "ada,003xx000004TmiQAAS")}, [DELIVERED, UNCONFIRMED]),
    ],
)
def test_a_row_s_outcome_is_what_one_file_says_of_its_id(files: dict[str, Canned], outcomes: list[Outcome]) -> None:
    texts = {kind: said.content.decode() for kind, said in files.items()}
    assert verdicts(changes("ada", "eve"), ID_FIELD, texts) == outcomes


def test_two_users_who_are_one_record_are_both_collisions() -> None:
    files = {SUCCESSES: f"sf__Id,{ID_FIELD}\n003xx000004TmiQAAS,ada\n003xx000004TmiQ,Ada\n{record_id('eve')},eve\n"}
    outcomes = verdicts(changes("ada", "Ada", "eve"), ID_FIELD, files)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("rejected", "collision"),
        ("rejected", "collision"),
        ("delivered", None),
    ]


def test_a_record_that_answered_for_another_user_in_an_earlier_batch_is_a_collision() -> None:
    owners = RecordOwners()
    sent = [
        verdicts(changes(user), ID_FIELD, {SUCCESSES: f"sf__Id,{ID_FIELD}\n003xx000004TmiQAAS,{user}\n"}, owners)[
            0
        ].code
        for user in ("ada", "Ada", "ada")
    ]
    assert sent == [None, "collision", None]


@given(
    st.fixed_dictionaries(
        {},
        optional={kind: st.lists(st.sampled_from("abcd"), max_size=5) for kind in (SUCCESSES, FAILURES, UNPROCESSED)},
    )
)
def test_no_row_is_delivered_but_one_that_succeeded_and_did_nothing_else(told: dict[str, list[str]]) -> None:
    texts = {
        kind: f"sf__Id,sf__Error,{ID_FIELD}\n" + "".join(f"{record_id(each)},,{each}\n" for each in ids)
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
        b"sf__Id,Winback_User_Id__c,WINBACK_USER_ID__C\n003xx000004TmiQAAS,bob,ada\n",
        b"sf__Id,Winback_User_Id__c,sf__Id\n003xx000004TmiQAAS,ada,003xx000004TmiQAAS\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_result_file_of_unknown_shape_says_nothing_of_the_rows(content: bytes, run: FakeRunContext) -> None:
    with (
        scripted_server(*FILLED, COMPLETE, Canned(200, content), NONE_FAILED) as script,
        pytest.raises(UnavailableError) as failure,
    ):
        salesforce(script.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"


def test_a_page_in_place_of_results_is_no_success(crm: LocalCrm, run: FakeRunContext) -> None:
    fault(crm, kind="garbage", endpoint="salesforce.results")
    with pytest.raises(UnavailableError) as failure:
        salesforce(crm.url).send(changes("ada"), run)
    assert failure.value.code == "unknown_reply"


def test_a_batch_sent_again_after_its_word_was_lost_ends_in_the_same_state(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = salesforce(crm.url, budget_seconds=1e-9)
    fault(crm, kind="lose_reply", endpoint="salesforce.results")
    with pytest.raises(UnavailableError):
        destination.send(changes("ada"), run)
    assert destination.send(changes("ada"), run) == [DELIVERED]
    assert len(crm.store.history("ada")) == 1


def test_a_job_dropped_by_somebody_else_leaves_what_it_did_not_do_for_later(run: FakeRunContext) -> None:
    aborted = Canned(200, {"id": JOB, "state": "Aborted", "numberRecordsProcessed": 1})
    with scripted_server(*FILLED, aborted, successes("ada"), NONE_FAILED, result(ID_FIELD, "eve")) as script:
        outcomes = salesforce(script.url).send(changes("ada", "eve", "zoe"), run)
    assert outcomes == [DELIVERED, Outcome("deferred", 200, "unprocessed"), UNCONFIRMED]


def test_a_job_that_failed_half_way_still_tells_of_its_rows(run: FakeRunContext) -> None:
    failed = Canned(
        200, {"id": JOB, "state": "Failed", "numberRecordsProcessed": 2, "errorMessage": "InternalServerError : x"}
    )
    told = (successes("ada"), failures(eve="STRING_TOO_LONG:no:--"), result(ID_FIELD, "zoe"))
    with scripted_server(*FILLED, failed, *told) as script:
        outcomes = salesforce(script.url).send(changes("ada", "eve", "zoe"), run)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [
        ("delivered", None),
        ("rejected", "string_too_long"),
        ("deferred", "unprocessed"),
    ]
