"""Helpers for tests of HubSpot: batches, replies, and HubSpot's own API description."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from crm_sync.destination import Outcome
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.hubspot.client import HubSpot, HubSpotOptions
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Asked
from tests.support.vendor_specs import find_or_skip

KEY = "kEy-7f3a9c51-canary"
ID = "winback_user_id"
UPSERT, ERASE = "/crm/v3/objects/contacts/batch/upsert", "/crm/v3/objects/contacts/gdpr-delete"
PROPERTIES = "/crm/v3/properties/contacts"
DELIVERED = Outcome("delivered", 200)
Connect = Callable[..., HubSpot]


@contextmanager
def connecting() -> Iterator[Connect]:
    """Connect to addresses, and close the connections at the end."""
    with ExitStack() as stack:

        def connect(url: str, key: str = KEY, budget_seconds: float = 120.0, **options: Any) -> HubSpot:
            hubspot = HubSpot(url, key, HubSpotOptions(**options), RetryBudget(budget_seconds))
            stack.callback(hubspot.close)
            return hubspot

        yield connect


def changes(*external_ids: str, **attributes: Any) -> list[Change]:
    return [Change(each, attributes or {"churn_probability": 0.5}) for each in external_ids]


def post(crm: LocalCrm, path: str, body: object, key: str = KEY) -> requests.Response:
    return requests.post(crm.url + path, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=10)


def result(trace: object = None, user: str | None = None, **more: Any) -> dict[str, Any]:
    # Each user has a contact of their own unless `more` overrides it.
    said = {"id": f"9{trace}{user}", "new": True, "properties": {} if user is None else {ID: user}, **more}
    return said if trace is None else said | {"objectWriteTraceId": trace}


def error(*traces: object, **more: Any) -> dict[str, Any]:
    said = {"status": "error", "category": "VALIDATION_ERROR", "message": "Property values were not valid"}
    return said | {"context": {"objectWriteTraceId": list(traces)}} | more


def complete(*results: Any, errors: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "status": "COMPLETE",
        "results": list(results),
        **({"errors": errors} if errors is not None else {}),
        **more,
    }


def described() -> Any:
    """Return HubSpot's own description with fixes that tools need.

    Null examples are removed, errors get a media type, empty content is removed, and OAuth is not checked.
    """
    path = find_or_skip("hubspot_contacts_v3.json")
    pytest.importorskip("openapi_core")

    def repaired(node: Any) -> Any:
        if isinstance(node, list):
            return [repaired(each) for each in node]
        if not isinstance(node, dict):
            return node
        unfit = {("example", "null"), ("content", "{}")}
        kept = {k: v for k, v in node.items() if (k, json.dumps(v)) not in unfit and k != "security"}
        return {"application/json" if k == "*/*" else k: repaired(v) for k, v in kept.items()}

    return repaired(json.loads(path.read_text()))


def as_described(url: str) -> Any:
    """Load the description with the request's server; skip the test if it or its library is missing."""
    description = described() | {"servers": [{"url": url}]}
    from openapi_core import OpenAPI  # noqa: PLC0415

    return OpenAPI.from_dict(description)


def asked_as(url: str, asked: Asked) -> Any:
    from openapi_core.contrib.requests import RequestsOpenAPIRequest  # noqa: PLC0415

    headers = {name: asked.headers[name] for name in ("content-type", "authorization")}
    return RequestsOpenAPIRequest(requests.Request(asked.method, url + asked.path, headers=headers, data=asked.content))
