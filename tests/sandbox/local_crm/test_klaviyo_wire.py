"""Klaviyo API of the local CRM, over HTTP, in cases that the destination does not reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import DELETIONS, HEADERS, JOBS, KEY, PROFILES, at, described_crm, description
from tests.support.crm.local_api import FakeRunContext


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


def ask(crm: LocalCrm, method: str, path: str, body: object = None, **headers: str) -> requests.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    return requests.request(method, crm.url + path, data=content, headers={**HEADERS, **headers}, timeout=10)


def import_of(*profiles: object) -> Any:
    return {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": list(profiles)}}}}


def user(external_id: object = "ada", **properties: object) -> Any:
    return {"type": "profile", "attributes": {"external_id": external_id, "properties": properties}}


def finished(crm: LocalCrm, body: object) -> Any:
    job_id = ask(crm, "POST", JOBS, body).json()["data"]["id"]
    return [ask(crm, "GET", f"{JOBS}/{job_id}").json()["data"]["attributes"] for _ in range(2)][-1]


def test_a_job_goes_on_with_each_poll_and_writes_when_it_is_complete(crm: LocalCrm) -> None:
    begun = ask(crm, "POST", JOBS, import_of(user(score=0.5)))
    assert (begun.status_code, begun.json()["data"]["attributes"]["status"]) == (202, "queued")
    statuses = []
    for _ in range(3):
        polled = ask(crm, "GET", f"{JOBS}/{begun.json()['data']['id']}").json()["data"]["attributes"]
        statuses.append((polled["status"], polled["completed_count"], len(crm.store.profiles())))
    assert statuses == [("processing", 0, 0), ("complete", 1, 1), ("complete", 1, 1)]
    assert len(crm.store.history("ada")) == 1


def test_an_import_passes_over_a_null_as_klaviyo_does(crm: LocalCrm) -> None:
    finished(crm, import_of(user(score=0.5, band="high")))
    finished(crm, import_of(user(score=None)))
    assert crm.store.profiles() == {"ada": {"score": 0.5, "band": "high"}}


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({"data": {"type": "profile"}}, 400, "/data"),
        (import_of(), 400, "/data/attributes/profiles/data"),
        (import_of(*[user()] * 10_001), 400, "/data/attributes/profiles/data"),
        (import_of(user(), {"type": "profile"}), 400, "/data/attributes/profiles/data/1"),
        (import_of(user(None)), 400, at(0)),
        (import_of(user("")), 400, at(0)),
        (import_of(user(), user(text="x" * 100_000)), 400, "/data/attributes/profiles/data/1"),
        (
            import_of({"type": "profile", "attributes": {"external_id": "ada", "subscriptions": {}}}),
            400,
            "/data/attributes/profiles/data/0/attributes/subscriptions",
        ),
        (
            import_of({**user(), "meta": {"patch_properties": {"unset": {}}}}),
            400,
            "/data/attributes/profiles/data/0/meta/patch_properties/unset",
        ),
        (b" " * 5_000_001, 413, None),
    ],
)
def test_a_malformed_or_too_large_import_is_refused_whole(
    crm: LocalCrm, body: object, status: int, pointer: str | None
) -> None:
    response = ask(crm, "POST", JOBS, body)
    (wrong,) = response.json()["errors"]
    assert (response.status_code, wrong["source"].get("pointer")) == (status, pointer)
    assert response.headers["Content-Type"] == "application/vnd.api+json"
    assert crm.store.profiles() == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Klaviyo-API-Key another"}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 401),
        ({"revision": ""}, 400),
        ({"Content-Type": "application/json"}, 415),
    ],
)
def test_a_request_without_its_headers_is_refused(crm: LocalCrm, headers: dict[str, str], status: int) -> None:
    assert ask(crm, "POST", JOBS, import_of(user()), **headers).status_code == status


def test_a_request_over_the_limit_is_told_when_to_come_back_and_nothing_else(
    crm: LocalCrm, run: FakeRunContext
) -> None:
    replies = [ask(crm, "GET", JOBS) for _ in range(11)]
    assert [reply.status_code for reply in replies] == [200] * 10 + [429]
    assert [replies[9].headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["150", "140", "60"]
    assert replies[10].headers["Retry-After"] == "1"
    assert "RateLimit-Remaining" not in replies[10].headers
    run.sleep(1)
    assert ask(crm, "GET", JOBS).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{JOBS}/unknown", 404),
        (f"{JOBS}/unknown/import-errors", 404),
        (f"{JOBS}?page[size]=0", 400),
        (f"{JOBS}?page[size]=101", 400),
        (f"{JOBS}?page[cursor]=%21", 400),
        ("/api/profiles", 400),
        ('/api/profiles?filter=equals(email,"ada")', 400),
    ],
)
def test_what_is_not_there_or_not_understood_is_said_so(crm: LocalCrm, path: str, status: int) -> None:
    assert ask(crm, "GET", path).status_code == status


@pytest.mark.parametrize(
    "found",
    [
        {"type": "profile", "attributes": {}},
        {"type": "profile", "id": "!", "attributes": {}},
        {"type": "profile", "id": "YWRh", "attributes": {"email": "ada@example.org"}},
    ],
)
def test_a_deletion_needs_exactly_one_id(crm: LocalCrm, found: object) -> None:
    finished(crm, import_of(user()))
    body = {"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": found}}}}
    assert ask(crm, "POST", DELETIONS, body).status_code == 400
    assert sorted(crm.store.profiles()) == ["ada"]


@pytest.mark.parametrize(
    "body", [{}, import_of({"type": "person", "attributes": {}}), import_of({"type": "profile"}), import_of(user(7))]
)
def test_the_description_finds_fault_with_a_malformed_import(body: object, crm: LocalCrm) -> None:
    exceptions = pytest.importorskip("openapi_core.exceptions")
    from openapi_core.contrib.requests import RequestsOpenAPIRequest  # noqa: PLC0415 - absent in places

    asked = requests.Request("POST", "https://a.klaviyo.com" + JOBS, headers=HEADERS, data=json.dumps(body))
    with pytest.raises(exceptions.OpenAPIError):
        description(PROFILES).validate_request(RequestsOpenAPIRequest(asked))
