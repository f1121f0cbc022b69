"""Helpers for tests of the local CRM: a fixed clock, and shortcuts for HTTP requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from sandbox.local_crm.server import LocalCrm

KEY = {"Authorization": "Bearer test-key"}
START = datetime(2026, 11, 23, 9, 0, 0, 250_000, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@contextmanager
def serving(folder: Path, clock: Clock | None = None, **options: Any) -> Iterator[LocalCrm]:
    with LocalCrm(folder / "crm.db", api_key="test-key", clock=clock or Clock(), **options) as server:
        yield server


def post(crm: LocalCrm, path: str, body: object, run_id: str | None = None) -> requests.Response:
    agent = {"User-Agent": f"winback ({run_id})"} if run_id else {}
    return requests.post(crm.url + path, json=body, headers={**KEY, **agent}, timeout=10)


def track(crm: LocalCrm, *attributes: object, run_id: str | None = None) -> requests.Response:
    return post(crm, "/users/track", {"attributes": attributes}, run_id)


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def counters(crm: LocalCrm) -> Any:
    return requests.get(crm.url + "/_control/requests", timeout=10).json()


def page(crm: LocalCrm, path: str) -> str:
    response = requests.get(crm.url + path, timeout=10)
    assert response.status_code == 200
    return response.text


def scored(external_id: str, **changes: object) -> dict[str, object]:
    return {
        "external_id": external_id,
        "churn_probability": 0.8421,
        "churn_risk_band": "high",
        "churn_reasons": ["Left at the income step"],
        "voucher_eligible": True,
        "voucher_reason": "granted",
        "voucher_valid_until": "2026-11-30T09:00:00Z",
        "experiment_arm": "treatment",
    } | changes
