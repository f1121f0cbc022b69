"""Erasure in Klaviyo: every profile of the user is deleted, and no other one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import Outcome, UnavailableError
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import described_crm, klaviyo
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


CANARY = "ada.lovelace+canary@example.org"


@pytest.mark.parametrize("external_id", ['a"b', "a\\b"])
def test_an_id_that_may_have_been_misread_is_not_called_erased(
    external_id: str, crm: LocalCrm, run: FakeRunContext
) -> None:
    (outcome,) = klaviyo(crm.url).erase([external_id], run)
    assert (outcome.kind, outcome.code) == ("deferred", "unconfirmed")


def profile(name: object, external_id: object) -> Any:
    return {"type": "profile", "id": name, "attributes": {"external_id": external_id}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": [profile("P1", "another user")]},
        {"data": [profile("P1", "ada"), profile("P2", "ADA")]},
        {"data": [profile(None, "ada")]},
        {"data": ["ada"]},
    ],
)
def test_nobody_is_deleted_when_it_is_not_certain_who_was_found(body: Any, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, body)) as server, pytest.raises(UnavailableError) as refusal:
        klaviyo(server.url).erase(["ada"], run)
    assert refusal.value.code == "unknown_reply"
    assert {asked.method for asked in server.asked} == {"GET"}


def test_every_profile_of_the_id_is_deleted(run: FakeRunContext) -> None:
    found = Canned(200, {"data": [profile("P1", "ada"), profile("P2", "ada")]})
    with scripted_server(found, Canned(202), Canned(202)) as server:
        assert klaviyo(server.url).erase(["ada"], run) == [Outcome("delivered", 202)]
    bodies = [asked.body["data"]["attributes"]["profile"]["data"] for asked in server.asked[1:]]
    assert bodies == [{"type": "profile", "id": name, "attributes": {}} for name in ("P1", "P2")]


def test_a_deletion_that_is_refused_is_that_user_s_outcome_and_the_next_goes_on(run: FakeRunContext) -> None:
    refused = Canned(400, {"errors": [{"code": "invalid", "title": "Invalid input.", "detail": CANARY}]})
    found = Canned(200, {"data": [profile("P1", "ada")]})
    with scripted_server(found, refused, Canned(200, {"data": []})) as server:
        assert klaviyo(server.url).erase(["ada", "bob"], run) == [
            Outcome("rejected", 400, "invalid", "Invalid input."),
            Outcome("delivered", 200, "not_found"),
        ]


def test_a_deletion_answered_with_another_success_is_none(run: FakeRunContext) -> None:
    with (
        scripted_server(Canned(200, {"data": [profile("P1", "ada")]}), Canned(200, {})) as server,
        pytest.raises(UnavailableError) as refusal,
    ):
        klaviyo(server.url).erase(["ada"], run)
    assert refusal.value.code == "unknown_reply"
