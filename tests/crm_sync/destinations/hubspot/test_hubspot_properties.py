"""Doctor for HubSpot: what it finds, and whether the commands it prints create what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from crm_sync.destination import Outcome
from crm_sync.destinations.hubspot.client import HubSpot
from crm_sync.field_mapping import KINDS, Kind, load_fields
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.hubspot import ID, KEY, PROPERTIES, UPSERT, changes, connecting
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server

Connect = Callable[..., HubSpot]


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


WANTED: dict[str, Kind] = {
    "p_number": "number",
    "p_text": "text",
    "p_flag": "flag",
    "p_time": "time",
    "p_texts": "texts",
}


def defined(name: str, type_: str, field_type: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, "fieldType": field_type, **more}


FITTING = {
    ID: defined(ID, "string", "text", hasUniqueValue=True),
    "p_number": defined("p_number", "number", "number"),
    "p_text": defined("p_text", "string", "text"),
    "p_flag": defined("p_flag", "bool", "booleancheckbox"),
    "p_time": defined("p_time", "datetime", "date"),
    "p_texts": defined("p_texts", "string", "textarea"),
}
YES_NO = [{"value": "true"}, {"value": "false"}]


@pytest.mark.parametrize(
    ("other", "state", "says"),
    [
        (None, "ok", "HubSpot has all 5 properties, and identifies users by winback_user_id"),
        (defined("p_flag", "enumeration", "booleancheckbox", options=YES_NO), "ok", "all 5"),
        (defined("p_text", "string", "textarea"), "ok", "all 5"),
        (defined("p_texts", "enumeration", "checkbox", options=[]), "warning", "an option of: p_texts"),
        (defined("p_text", "enumeration", "select", options=[]), "warning", "an option of: p_text"),
        (defined("p_text", "enumeration", "checkbox", options=[]), "failed", "another type in HubSpot: p_text"),
        (
            defined("p_flag", "enumeration", "booleancheckbox", options=[{"value": "yes"}]),
            "failed",
            "another type in HubSpot: p_flag",
        ),
        (defined("p_flag", "enumeration", "booleancheckbox"), "failed", "another type in HubSpot: p_flag"),
        (defined("p_flag", "string", "text"), "failed", "another type in HubSpot: p_flag"),
        (defined("p_number", "string", "text"), "failed", "another type in HubSpot: p_number"),
        (defined("p_time", "date", "date"), "failed", "another type in HubSpot: p_time"),
        (defined("p_number", "number", "number", calculated=True), "failed", "another type in HubSpot: p_number"),
        (
            defined("p_number", "number", "number", modificationMetadata={"readOnlyValue": True}),
            "failed",
            "another type in HubSpot: p_number",
        ),
        (defined(ID, "string", "text", hasUniqueValue=False), "failed", "does not hold unique texts"),
        (defined(ID, "number", "number", hasUniqueValue=True), "failed", "does not hold unique texts"),
        (defined(ID, "string", "text"), "failed", "does not hold unique texts"),
    ],
)
def test_a_property_fits_or_is_named(
    connected: Connect, run: FakeRunContext, other: dict[str, Any] | None, state: str, says: str
) -> None:
    listed = FITTING | ({other["name"]: other} if other else {})
    with scripted_server(Canned(400, {}), Canned(200, {"results": list(listed.values())})) as script:
        access, finding = connected(script.url).examine(WANTED, run)
    assert (access.state, finding.state) == ("ok", state)
    assert says in finding.says


def test_what_is_missing_comes_with_the_request_that_makes_it(
    crm: LocalCrm, connected: Connect, run: FakeRunContext
) -> None:
    hubspot = connected(crm.url, id_property="tax_user_id")
    _, finding = hubspot.examine(WANTED | {"churn_risk_band": "text"}, run)
    assert finding.state == "failed"
    assert finding.says == "HubSpot lacks the properties tax_user_id, p_number, p_text, p_flag, p_time, p_texts"
    sentence, command = finding.do
    assert "crm.schemas.contacts.write" in sentence
    assert KEY not in command
    words = shlex.split(command.replace("$WINBACK_CRM_API_KEY", KEY))
    assert words[:4] == ["curl", "-X", "POST", f"{crm.url}{PROPERTIES}/batch/create"]
    headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
    made = requests.post(words[3], data=words[words.index("-d") + 1], headers=headers, timeout=10)
    assert made.status_code == 201
    assert [each.state for each in hubspot.examine(WANTED, run)] == ["ok", "ok"]
    values = {"p_number": 0.5, "p_text": "x", "p_flag": True, "p_time": "2026-06-15T10:00:00Z", "p_texts": ["a", "b"]}
    assert hubspot.send(changes("ada", **values), run) == [Outcome("delivered", 200)]
    assert crm.store.profile("ada") == values


def test_the_fake_has_what_the_shipped_mapping_writes(crm: LocalCrm, connected: Connect, run: FakeRunContext) -> None:
    mapping = load_fields(Path(__file__).parents[4] / "config/crm_fields.yml")
    assert [each.state for each in connected(crm.url).examine(mapping.kinds, run)] == ["ok", "ok"]
    assert set(mapping.kinds.values()) == set(KINDS.values())
    assert crm.store.profiles() == {}


def test_a_field_mapped_to_what_identifies_is_found(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(400, {}), Canned(200, {"results": list(FITTING.values())})) as script:
        findings = connected(script.url).examine(WANTED | {ID: "text"}, run)
    assert [each.state for each in findings] == ["ok", "failed"]


def test_a_key_without_permission_is_told_which(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(403, {"category": "MISSING_SCOPES"})) as script:
        access, properties = connected(script.url).examine(WANTED, run)
    assert (access.state, properties.state) == ("failed", "skipped")
    assert "crm.objects.contacts.write" in access.do[0]
    assert "crm.schemas.contacts.read" in properties.do[0]


@pytest.mark.parametrize("body", [[], {}, {"results": "all"}, {"results": None}])
def test_a_list_of_unknown_shape_is_not_judged(connected: Connect, run: FakeRunContext, body: Any) -> None:
    with scripted_server(Canned(400, {}), Canned(200, body)) as script:
        assert [each.state for each in connected(script.url).examine(WANTED, run)] == ["ok", "skipped"]


def test_an_examination_writes_nothing(connected: Connect, run: FakeRunContext) -> None:
    with scripted_server(Canned(400, {}), Canned(200, {"results": []})) as script:
        connected(script.url).examine(WANTED, run)
    assert [(each.method, each.path) for each in script.asked] == [
        ("POST", UPSERT),
        ("GET", PROPERTIES),
    ]
    assert script.asked[0].body == {"inputs": []}
