"""Erasure in Salesforce: every record of the user is deleted, and no other one."""

import pytest

from core.errors import ContractError
from crm_sync.destination import Outcome, UnavailableError
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import DELIVERED, ID_FIELD, refused, salesforce


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


def records(*found: tuple[str, str]) -> Canned:
    listed = [{"Id": record, ID_FIELD: external_id} for record, external_id in found]
    return Canned(200, {"totalSize": len(listed), "done": True, "records": listed})


ADA = ("003xx000004TmiQAAS", "ada")


def test_a_record_whose_id_differs_by_its_case_is_somebody_else_s(run: FakeRunContext) -> None:
    with scripted_server(records(("003xx000004TmiRAAS", "Ada"))) as script:
        assert salesforce(script.url).erase(["ada"], run) == [Outcome("delivered", 200, "not_found")]
    assert len(script.asked) == 1


def test_all_records_of_a_user_are_erased_together(run: FakeRunContext) -> None:
    gone = {"success": False, "errors": [{"statusCode": "ENTITY_IS_DELETED", "message": "x"}]}
    with scripted_server(records(ADA, ("003xx000004TmiRAAS", "ada")), Canned(200, [{"success": True}, gone])) as script:
        assert salesforce(script.url).erase(["ada"], run) == [DELIVERED]
    assert script.asked[1].path == (
        "/services/data/v62.0/composite/sobjects?ids=003xx000004TmiQAAS%2C003xx000004TmiRAAS&allOrNone=false"
    )


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (
            Canned(
                200,
                [{"success": False, "errors": [{"statusCode": "DELETE_FAILED", "message": "ada has cases: 00001003"}]}],
            ),
            Outcome("rejected", 200, "delete_failed", "... has cases: ..."),
        ),
        (Canned(200, [{"success": False}]), Outcome("rejected", 200, "unknown")),
        (refused(400, "MALFORMED_ID", "bad id"), Outcome("rejected", 400, "malformed_id", "bad id")),
    ],
)
def test_a_deletion_that_is_refused_says_why(said: Canned, outcome: Outcome, run: FakeRunContext) -> None:
    with scripted_server(records(ADA), said) as script:
        assert salesforce(script.url).erase(["ada"], run) == [outcome]


@pytest.mark.parametrize(
    "replies",
    [
        (Canned(200, {}),),
        (Canned(200, []),),
        (Canned(200, {"done": False, "records": []}),),
        (Canned(200, {"done": True, "records": [7]}),),
        (records(("../../limits", "ada")),),
        (records(ADA), Canned(200, {})),
        (records(ADA), Canned(200, [])),
        (records(ADA), Canned(200, [{}])),
        (records(ADA), Canned(200, [{"success": "yes"}])),
    ],
)
def test_an_unknown_shape_erases_nobody(replies: tuple[Canned, ...], run: FakeRunContext) -> None:
    with scripted_server(*replies) as script, pytest.raises(UnavailableError) as failure:
        salesforce(script.url).erase(["ada"], run)
    assert failure.value.code == "unknown_reply"


@pytest.mark.parametrize("code", ["INVALID_FIELD", "INVALID_TYPE"])
def test_a_field_that_is_not_there_is_never_taken_for_a_user_who_is_not(code: str, run: FakeRunContext) -> None:
    with (
        scripted_server(refused(400, code, "No such column")) as script,
        pytest.raises(ContractError, match="cannot query"),
    ):
        salesforce(script.url).erase(["ada"], run)


CANARY = "ada.lovelace+canary@example.org"


def test_an_erasure_that_fails_does_not_say_whose(run: FakeRunContext) -> None:
    for replies in (
        (refused(403, "NO"),),
        (refused(400, "INVALID_FIELD", CANARY),),
        (records(("003xx000004TmiQAAS", CANARY)), refused(403, "NO")),
    ):
        with scripted_server(*replies) as script, pytest.raises(ContractError) as refusal:
            salesforce(script.url).erase([CANARY], run)
        assert "lovelace" not in str(refusal.value)
