"""Is a user erased in HubSpot by a request of their own, and nothing else taken for an erasure?"""

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
from tests.support.crm.local_api import Patience, Said, saying


@pytest.fixture
def run() -> Patience:
    return Patience()


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


def test_each_erasure_is_a_request_that_names_the_property(connected: Connect, run: Patience) -> None:
    with saying(Said(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [Outcome("delivered", 204)] * 2
    assert [(each.method, each.path, each.body) for each in script.asked] == [
        ("POST", ERASE, {"objectId": "ada", "idProperty": ID}),
        ("POST", ERASE, {"objectId": "bob", "idProperty": ID}),
    ]


def test_an_erasure_that_is_refused_is_rejected_for_that_user_only(connected: Connect, run: Patience) -> None:
    said = Said(400, {"message": "ada has a reason", "category": "VALIDATION_ERROR"})
    with saying(said, Said(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [
            Outcome("rejected", 400, "validation_error", "... has a reason"),
            Outcome("delivered", 204),
        ]


@pytest.mark.parametrize("body", [b"<html>Not found</html>", {"message": "no"}, b"", []])
def test_a_path_that_is_not_there_is_no_user_that_is_not_there(connected: Connect, run: Patience, body: Any) -> None:
    with saying(Said(404, body)) as script, pytest.raises(ContractError, match="WINBACK_CRM_URL"):
        connected(script.url).erase(["ada"], run)


def test_a_deletion_answered_in_an_unknown_way_is_none(connected: Connect, run: Patience) -> None:
    with saying(Said(200, {"status": "queued"})) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).erase(["ada"], run)
    assert failure.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "said",
    [
        Said(400, {"category": "TRANSIENT_ERROR", "message": "x"}),
        Said(423, {}),
        Said(409, {"category": "OBJECT_LOCKED"}),
    ],
)
def test_an_erasure_that_is_not_possible_now_is_tried_again_and_rejects_nobody(
    connected: Connect, run: Patience, said: Said
) -> None:
    with saying(said, said, Said(204)) as script:
        assert [each.kind for each in connected(script.url).erase(["ada"], run)] == ["delivered"]
    with saying(said) as script, pytest.raises(UnavailableError):
        connected(script.url).erase(["ada"], run)
