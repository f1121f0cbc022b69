"""Helpers for tests of Klaviyo: batches, replies, and Klaviyo's own API description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Response, request

from crm_sync.destination import Outcome
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.klaviyo.client import Klaviyo, KlaviyoOptions
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext
from tests.support.vendor_specs import find, find_or_skip

KEY = "kEy-7f3a9c51-canary"

PROFILES, PRIVACY = "klaviyo_profiles.json", "klaviyo_data_privacy.json"
DELIVERED = Outcome("delivered", 200)
UNCONFIRMED = Outcome("deferred", 200, "unconfirmed")
JOBS, DELETIONS = "/api/profile-bulk-import-jobs", "/api/data-privacy-deletion-jobs"
HEADERS = {
    "Authorization": f"Klaviyo-API-Key {KEY}",
    "revision": "2026-07-15",
    "Content-Type": "application/vnd.api+json",
}

START = datetime(2026, 6, 15, 10, tzinfo=UTC)


@cache
def description(name: str) -> Any:
    openapi_core = pytest.importorskip("openapi_core")
    return openapi_core.OpenAPI.from_dict(json.loads(find_or_skip(name).read_text()))


def held_against_the_description(response: Response, contradictions: list[str]) -> Response:
    """Record contradictions to the description: in accepted requests, and in every reply."""
    from openapi_core.contrib.flask import FlaskOpenAPIRequest, FlaskOpenAPIResponse  # noqa: PLC0415 - absent in places
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415

    class Asked(FlaskOpenAPIRequest):  # type: ignore[misc]  # it has no types
        host_url = "https://a.klaviyo.com"

        def __init__(self) -> None:
            super().__init__(request)
            # The only variable of a path, by each name that the description has for it.
            self.parameters.path = {name: v for v in (request.view_args or {}).values() for name in ("id", "job_id")}

    if request.path.startswith("/api/"):
        openapi = description(PRIVACY if request.path == DELETIONS else PROFILES)
        try:
            if response.status_code < 400:
                openapi.validate_request(Asked())
            openapi.validate_response(Asked(), FlaskOpenAPIResponse(response))
        except OpenAPIError as error:
            contradictions.append(f"{request.method} {request.path} {response.status}: {error!r} {error.__cause__!r}")
    return response


@contextmanager
def described_crm(folder: Path, run: FakeRunContext, key: str = KEY) -> Iterator[LocalCrm]:
    """The local CRM with the run's clock, so that waits and limits agree without real time passing.

    Its Klaviyo requests and replies are checked against Klaviyo's own description, if that is available.
    """
    with LocalCrm(folder / "crm.db", api_key=key, clock=lambda: START + timedelta(seconds=run.clock())) as server:
        contradictions: list[str] = []
        if find(PROFILES) and find(PRIVACY):
            server.app.after_request(lambda response: held_against_the_description(response, contradictions))
        yield server
    assert contradictions == []


def klaviyo(url: str, budget_seconds: float = 120.0, key: str = KEY, **options: Any) -> Klaviyo:
    return Klaviyo(url, key, KlaviyoOptions(**options), RetryBudget(budget_seconds))


def changes(*external_ids: str, **attributes: Any) -> list[Change]:
    return [Change(external_id, attributes or {"score": 0.5}) for external_id in external_ids]


def job(status: str = "complete", total: int = 1, completed: int = 1, failed: int = 0, name: str = "J1") -> Any:
    counts = {"total_count": total, "completed_count": completed, "failed_count": failed}
    return {"data": {"type": "profile-bulk-import-job", "id": name, "attributes": {"status": status, **counts}}}


def error(pointer: str | None = None, external_id: str | None = None, detail: str = "It is invalid.") -> Any:
    words = {"code": "invalid", "title": "Invalid input.", "detail": detail, "source": {"pointer": pointer}}
    payload = {"original_payload": {"external_id": external_id}} if external_id else {}
    return {"type": "import-error", "id": "E1", "attributes": {**words, **payload}}


def at(index: int) -> str:
    return f"/data/attributes/profiles/data/{index}/attributes/external_id"


def rejected(reason: str = "It is invalid.") -> Outcome:
    return Outcome("rejected", 200, "invalid", reason)


QUEUED, COMPLETE = Canned(202, job("queued", 1, 0)), Canned(200, job())
