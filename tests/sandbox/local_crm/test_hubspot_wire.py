"""HubSpot API of the local CRM, over HTTP: it behaves like HubSpot, and its replies match HubSpot's own description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from crm_sync.destinations.hubspot.client import payload
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.hubspot import ERASE, ID, KEY, PROPERTIES, UPSERT, as_described, asked_as, changes, post
from tests.support.crm.local_api import Asked


class Clock:
    now = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crm(tmp_path: Path, clock: Clock) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY, clock=clock) as server:
        yield server


@pytest.mark.parametrize(
    "change",
    [
        {"properties": {"churn_probability": 0.5}},
        {"properties": {"voucher_eligible": True}},
        {"properties": {"voucher_eligible": None}},
        {"properties": ["churn_probability"]},
        {"id": 7},
        {"idProperty": None},
        {"idProperty": "churn_risk_band"},
        {"idProperty": "no_such_property"},
        {"id": "b-user"},
        {"objectWriteTraceId": "1"},
        {"objectWriteTraceId": 0},
    ],
)
def test_the_fake_refuses_a_whole_batch_as_hubspot_does(crm: LocalCrm, change: dict[str, Any]) -> None:
    body = payload(changes("a-user", "b-user"), ID)
    assert post(crm, UPSERT, body | {"inputs": [body["inputs"][0] | change, body["inputs"][1]]}).status_code == 400
    assert crm.store.profiles() == {}
    assert post(crm, UPSERT, body).status_code == 200


def test_without_trace_ids_one_bad_row_refuses_them_all(crm: LocalCrm) -> None:
    body = payload([Change("a-user", {"no_such_property": "x"}), *changes("b-user")], ID)
    for each in body["inputs"]:
        del each["objectWriteTraceId"]
    refused = post(crm, UPSERT, body)
    assert (refused.status_code, refused.json()["category"]) == (400, "VALIDATION_ERROR")
    assert "PROPERTY_DOESNT_EXIST" in refused.json()["message"]
    assert crm.store.profiles() == {}


@pytest.mark.parametrize("inputs", [None, [], {}, ["a"], [{}], "x"])
def test_the_fake_takes_no_other_body(crm: LocalCrm, inputs: Any) -> None:
    assert post(crm, UPSERT, {"inputs": inputs}).status_code == 400


def test_the_limit_is_announced_enforced_by_policy_and_lifted(crm: LocalCrm, clock: Clock) -> None:
    crm.desk.allowances["hubspot.batch"].requests = 2
    body = payload(changes("a-user"), ID)
    told = post(crm, UPSERT, body).headers
    assert {name: told[f"X-HubSpot-RateLimit-{name}"] for name in ("Max", "Remaining", "Interval-Milliseconds")} == {
        "Max": "2",
        "Remaining": "1",
        "Interval-Milliseconds": "10000",
    }
    assert (told["X-HubSpot-RateLimit-Daily"], told["X-HubSpot-RateLimit-Daily-Remaining"]) == ("625000", "624999")
    clock.now += timedelta(seconds=6)
    assert post(crm, UPSERT, body).status_code == 200
    clock.now += timedelta(seconds=3.9)
    over = post(crm, UPSERT, body)
    assert (over.status_code, over.json()["policyName"], "Retry-After" in over.headers) == (
        429,
        "TEN_SECONDLY_ROLLING",
        False,
    )
    clock.now += timedelta(seconds=0.2)  # the window slides: the first is 10 s ago, the second is not
    assert [post(crm, UPSERT, body).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    "definition",
    [
        None,
        {},
        {"name": "Upper"},
        {"type": "text"},
        {"fieldType": "checkbox"},
        {"type": "bool", "fieldType": "booleancheckbox"},
        {"label": ""},
    ],
)
def test_the_fake_makes_only_what_hubspot_would(crm: LocalCrm, definition: Any) -> None:
    whole = {"name": "p", "label": "P", "groupName": "contactinformation", "type": "string", "fieldType": "text"}
    path = f"{PROPERTIES}/batch/create"
    wrong = whole | definition if definition else definition
    assert post(crm, path, {"inputs": [whole, wrong]}).status_code == 400
    assert [post(crm, path, {"inputs": [whole]}).status_code for _ in range(2)] == [201, 409]
    key = {"Authorization": f"Bearer {KEY}"}
    gone = [requests.delete(f"{crm.url}{PROPERTIES}/p", headers=key, timeout=10) for _ in range(2)]
    assert [each.status_code for each in gone] == [204, 404]


# The vendor's description


def test_every_reply_of_the_fake_matches_the_vendors_description(crm: LocalCrm) -> None:
    from openapi_core.contrib.requests import RequestsOpenAPIResponse  # noqa: PLC0415

    openapi = as_described(crm.url)
    good, mixed = changes("ada", "bob"), [*changes("ada"), Change("bob", {"no_such_property": "x"})]
    bodies: list[tuple[str, Any, int]] = [
        (UPSERT, payload(good, ID), 200),
        (UPSERT, payload(mixed, ID), 207),
        (UPSERT, payload([*good, *good], ID), 400),
        (ERASE, {"objectId": "ada", "idProperty": ID}, 204),
        (ERASE, {"objectId": "who", "idProperty": ID}, 404),
    ]
    for path, body, status in bodies:
        response = post(crm, path, body)
        assert response.status_code == status
        content = json.dumps(body).encode()
        asked = Asked("POST", path, {"content-type": "application/json", "authorization": f"Bearer {KEY}"}, content)
        openapi.validate_response(asked_as(crm.url, asked), RequestsOpenAPIResponse(response))
    crm.desk.allowances["hubspot.batch"].requests = 0
    over, other = post(crm, UPSERT, payload(good, ID)), post(crm, UPSERT, payload(good, ID), key="other")
    assert (over.status_code, other.status_code) == (429, 429)
    crm.desk.allowances["hubspot.batch"].is_on = False
    denied = post(crm, UPSERT, payload(good, ID), key="other")
    assert denied.status_code == 401
    asked = Asked("POST", UPSERT, {"content-type": "application/json", "authorization": "Bearer x"}, b"{}")
    for response in (over, denied):
        openapi.validate_response(asked_as(crm.url, asked), RequestsOpenAPIResponse(response))
