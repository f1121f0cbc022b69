"""Erasure in HubSpot: each user is deleted by a request of their own, and only a deletion counts as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import Outcome, UnavailableError
from tests.support.crm.hubspot import (
    ERASE,
    ID,
    Connect,
    connecting,
)
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


def test_each_erasure_is_a_request_that_names_the_property(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [Outcome("delivered", 204)] * 2
    assert [(each.method, each.path, each.body) for each in script.asked] == [
        ("POST", ERASE, {"objectId": "ada", "idProperty": ID}),
        ("POST", ERASE, {"objectId": "bob", "idProperty": ID}),
    ]


def test_an_erasure_that_is_refused_is_rejected_for_that_user_only(connected: Connect, run: FakeRunContext) -> None:
    said = Canned(400, {"message": "ada has a reason", "category": "VALIDATION_ERROR"})
    with scripted_server(said, Canned(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [
            Outcome("rejected", 400, "validation_error", "... has a reason"),
            Outcome("delivered", 204),
        ]


@pytest.mark.parametrize("body", [b"<html>Not found</html>", {"message": "no"}, b"", []])
def test_a_path_that_is_not_there_is_no_user_that_is_not_there(
    connected: Connect, run: FakeRunContext, body: Any
) -> None:
    with scripted_server(Canned(404, body)) as script, pytest.raises(ContractError, match="WINBACK_CRM_URL"):
        connected(script.url).erase(["ada"], run)


def test_a_deletion_answered_in_an_unknown_way_is_none(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, {"status": "queued"})) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).erase(["ada"], run)
    assert failure.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "said",
    [
        Canned(400, {"category": "TRANSIENT_ERROR", "message": "x"}),
        Canned(423, {}),
        Canned(409, {"category": "OBJECT_LOCKED"}),
    ],
)
def test_an_erasure_that_is_not_possible_now_is_tried_again_and_rejects_nobody(
    connected: Connect, run: FakeRunContext, said: Canned
) -> None:
    with scripted_server(said, said, Canned(204)) as script:
        assert [each.kind for each in connected(script.url).erase(["ada"], run)] == ["delivered"]
    with scripted_server(said) as script, pytest.raises(UnavailableError):
        connected(script.url).erase(["ada"], run)
