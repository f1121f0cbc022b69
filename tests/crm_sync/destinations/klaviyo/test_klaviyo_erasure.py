"""Is a user erased in Klaviyo with every profile of theirs, and nobody else?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import Outcome, UnavailableError
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import described_crm, klaviyo
from tests.support.crm.local_api import Patience, Said, saying


@pytest.fixture
def run() -> Patience:
    return Patience()


@pytest.fixture
def crm(tmp_path: Path, run: Patience) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


CANARY = "ada.lovelace+canary@example.org"


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
