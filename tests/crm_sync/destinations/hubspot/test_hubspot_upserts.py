"""Upserts to HubSpot: requests follow its specification, and its contacts get the values. Uses real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import BatchRefusedError, MisconfiguredError, Outcome
from crm_sync.destinations.hubspot.client import payload
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.every_crm import ODD_IDS
from tests.support.crm.hubspot import (
    DELIVERED,
    ERASE,
    ID,
    KEY,
    UPSERT,
    Connect,
    as_described,
    asked_as,
    changes,
    complete,
    connecting,
    result,
)
from tests.support.crm.local_api import DATE_SECONDS, Asked, Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    """A CRM that uses the run's clock."""
    start = datetime.fromtimestamp(DATE_SECONDS, UTC)
    with LocalCrm(tmp_path / "crm.db", api_key=KEY, clock=lambda: start + timedelta(seconds=run.clock())) as server:
        yield server


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.82, "0.82"),
        (1.0, "1.0"),
        (0.0001, "0.0001"),
        (1e-07, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (3, "3"),
        (True, "true"),
        (False, "false"),
        ("high", "high"),
        ("2026-06-15T10:00:00Z", "2026-06-15T10:00:00Z"),
        (["short last visit", "many errors"], "short last visit;many errors"),
        (["one"], "one"),
        ([], ""),
        (None, ""),
    ],
)
def test_every_value_is_sent_as_text(value: Any, text: str) -> None:
    (sent,) = payload([Change("ada", {"p": value})], ID)["inputs"]
    assert sent == {"id": "ada", "idProperty": ID, "objectWriteTraceId": "0", "properties": {ID: "ada", "p": text}}


def test_a_request_says_whose_it_is_and_traces_no_user(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, complete(result("0"), result("1")))) as script:
        connected(script.url).send(changes("ada", "bob"), run)
    (asked,) = script.asked
    assert (asked.method, asked.path) == ("POST", UPSERT)
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["user-agent"] == "winback (00000007-test)"
    assert [each["objectWriteTraceId"] for each in asked.body["inputs"]] == ["0", "1"]


def test_object_type_id_property_and_version_are_options(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, complete(result("0")))) as script:
        options = {"object_type": "2-123456", "id_property": "tax_user_id", "api_path": "/crm/v4"}
        connected(script.url, **options).send(changes("ada"), run)
    (asked,) = script.asked
    assert asked.path == "/crm/v4/objects/2-123456/batch/upsert"
    assert asked.body["inputs"][0]["idProperty"] == "tax_user_id"


def test_the_property_that_identifies_is_never_overwritten_by_a_field(connected: Connect, run: FakeRunContext) -> None:
    with (
        scripted_server(Canned(200, complete(result("0")))) as script,
        pytest.raises(ContractError, match="winback_user_id"),
    ):
        connected(script.url).send([Change("ada", {ID: "bob"})], run)
    assert script.asked == []


# Stored values


def test_a_full_batch_is_100_users_and_lands_whole_and_typed(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    hubspot = connected(crm.url)
    attributes = {
        "churn_probability": 0.82,
        "churn_risk_band": "high",
        "churn_reasons": ["short last visit", "many errors"],
        "churn_scored_at": "2026-06-15T10:00:00Z",
        "voucher_eligible": True,
    }
    assert hubspot.max_batch == 100
    batch = changes(*(f"user-{n}" for n in range(hubspot.max_batch)), **attributes)
    assert hubspot.send(batch, run) == [DELIVERED] * 100
    assert crm.store.profiles() == {f"user-{n}": attributes for n in range(100)}
    assert run.waits == []


def test_one_more_than_hubspot_takes_is_refused_and_changes_nothing(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    with pytest.raises(BatchRefusedError) as refusal:
        connected(crm.url).send(changes(*map(str, range(101))), run)
    assert (refusal.value.http_status, refusal.value.code) == (400, "validation_error")
    assert crm.store.profiles() == {}


def test_an_error_for_a_row_is_that_row_s_outcome_and_the_others_land(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    fault(crm, kind="row_error", external_ids=["b-user", "d-user"])
    delivered = Outcome("delivered", 207)
    refused = Outcome("rejected", 207, "validation_error", "The contact is on the blocklist")
    outcomes = connected(crm.url).send(changes("a-user", "b-user", "c-user", "d-user"), run)
    assert outcomes == [delivered, refused, delivered, refused]
    assert sorted(crm.store.profiles()) == ["a-user", "c-user"]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"churn_probability": "ada@example.org"}, "invalid_integer"),
        ({"churn_probability": float("nan")}, "invalid_integer"),
        ({"voucher_eligible": "yes"}, "invalid_option"),
        ({"churn_scored_at": "yesterday"}, "invalid_date"),
    ],
)
def test_a_value_of_another_type_rejects_its_row_and_names_the_property(
    crm: LocalCrm, connected: Connect, run: FakeRunContext, attributes: dict[str, Any], code: str
) -> None:
    batch = [Change("a-user", attributes), *changes("b-user")]
    reason = f"Property values were not valid: {next(iter(attributes))}"
    assert connected(crm.url).send(batch, run) == [
        Outcome("rejected", 207, code, reason),
        Outcome("delivered", 207),
    ]
    assert crm.store.profiles() == {"b-user": {"churn_probability": 0.5}}


def test_a_property_that_hubspot_lost_stops_the_run_and_what_landed_is_acknowledged(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    batch = [Change("a-user", {"no_such_property": "x"}), *changes("b-user")]
    with pytest.raises(MisconfiguredError, match="property_doesnt_exist") as stop:
        connected(crm.url).send(batch, run)
    reason = "Property values were not valid: no_such_property"
    assert stop.value.outcomes == [
        Outcome("deferred", 207, "property_doesnt_exist", reason),
        Outcome("delivered", 207),
    ]
    assert crm.store.profiles() == {"b-user": {"churn_probability": 0.5}}


# The vendor's specification

EVERYTHING = [
    Change("ada", {"a": 0.5, "b": True, "c": None, "d": ["x", "y"], "e": "2026-06-15T10:00:00Z", "f": "text"}),
    *(Change(each, {"a": None}) for each in ODD_IDS),
]


def test_every_request_matches_the_vendors_description(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, complete()), Canned(204)) as script:
        hubspot = connected(script.url)
        hubspot.send(EVERYTHING, run)
        hubspot.erase(ODD_IDS, run)
        openapi = as_described(script.url)
        for asked in script.asked:
            openapi.validate_request(asked_as(script.url, asked))
    assert {asked.path for asked in script.asked} == {UPSERT, ERASE}


def test_the_description_would_notice_a_value_that_is_no_text() -> None:
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415

    body = {"inputs": [{"id": "ada", "idProperty": ID, "properties": {"churn_probability": 0.5}}]}
    headers = {"content-type": "application/json", "authorization": "Bearer x"}
    url = "https://api.hubapi.com"
    with pytest.raises(OpenAPIError):
        as_described(url).validate_request(asked_as(url, Asked("POST", UPSERT, headers, json.dumps(body).encode())))
