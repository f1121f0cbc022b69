"""All CRMs: they store, clear and erase, and a repeated request has no further effect. Uses real HTTP.

The tests of a single CRM are in its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import Destination, Outcome
from crm_sync.destinations.factory import ADAPTERS
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.every_crm import ODD_IDS, change, connected
from tests.support.crm.klaviyo import described_crm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault

KEY = "kEy-7f3a9c51-canary"
Connect = Callable[..., Destination]


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run, KEY) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect, and close the connections at the end."""
    made: list[Destination] = []

    def connect(name: str, url: str, key: str = KEY, **options: Any) -> Destination:
        made.append(connected(name, url, key, **options))
        return made[-1]

    yield connect
    for destination in made:
        destination.close()


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [outcome.kind for outcome in outcomes]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_property_is_cleared_where_it_is_told_and_kept_where_it_is_not(
    name: str, crm: LocalCrm, connect: Connect, run: FakeRunContext
) -> None:
    destination = connect(name, crm.url)
    told: dict[str, Any] = {
        "churn_probability": 0.7,
        "churn_reasons": ["a", "b"],
        "churn_risk_band": "high",
        "voucher_eligible": True,
    }
    destination.send([change(name, "ada", **told), change(name, "eve", **told)], run)
    for _ in range(2):
        ada = change(name, "ada", churn_probability=None, churn_reasons=None, voucher_eligible=False)
        assert kinds(destination.send([ada], run)) == ["delivered"]
    assert crm.store.profiles() == {"ada": {"churn_risk_band": "high", "voucher_eligible": False}, "eve": told}
    # Sending it twice has no further effect.
    assert [change.field for change in crm.store.history("ada")].count("voucher_eligible") == 2


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_external_id_of_any_characters_is_that_user_s_alone(
    name: str, crm: LocalCrm, connect: Connect, run: FakeRunContext
) -> None:
    destination = connect(name, crm.url)
    batch = [change(name, each, churn_probability=0.5) for each in (*ODD_IDS, "plain")]
    assert kinds(destination.send(batch, run)) == ["delivered"] * len(batch)
    assert crm.store.profiles() == {each: {"churn_probability": 0.5} for each in (*ODD_IDS, "plain")}
    assert kinds(destination.erase(ODD_IDS, run)) == ["delivered"] * len(ODD_IDS)
    assert list(crm.store.profiles()) == ["plain"]


# A known user together with an unknown one, then a user who is already deleted.
ERASED = {
    # Braze returns the number of deletions, not which users.
    "braze": [Outcome("delivered", 201), Outcome("delivered", 201), Outcome("delivered", 201, "not_found")],
    "hubspot": [Outcome("delivered", 204), *[Outcome("delivered", 404, "not_found")] * 2],
    "klaviyo": [Outcome("delivered", 202), *[Outcome("delivered", 200, "not_found")] * 2],
    "salesforce": [Outcome("delivered", 200), *[Outcome("delivered", 200, "not_found")] * 2],
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_whom_a_crm_does_not_know_is_erased_already(
    name: str, crm: LocalCrm, connect: Connect, run: FakeRunContext
) -> None:
    destination = connect(name, crm.url)
    destination.send([change(name, each, churn_probability=0.5) for each in ("ada", "bob")], run)
    assert destination.erase(["ada", "who"], run) + destination.erase(["ada"], run) == ERASED[name]
    assert (list(crm.store.profiles()), crm.store.history("ada")) == (["bob"], [])


TROUBLES: dict[str, dict[str, Any]] = {
    "lost reply": {"kind": "lose_reply", "times": 2},
    "repeated by a proxy": {"kind": "duplicate_reply"},
    "reset": {"kind": "reset", "times": 2},
    "reset in the reply": {"kind": "reset", "at": "reply", "times": 2},
    "503 with seconds": {"kind": "status", "status": 503, "retry_after": 7},
    "429": {"kind": "status", "status": 429},
    "page": {"kind": "garbage", "times": 2},
}
# For a page instead of the requested resource see klaviyo/test_klaviyo_limits.py, salesforce/test_salesforce_results.py.
NO_PAGE = TROUBLES.keys() - {"page"}
STEPS = {
    "braze.track": TROUBLES,
    "hubspot.batch": TROUBLES,
    **{f"klaviyo.{step}": NO_PAGE for step in ("import", "poll")},
    **{f"salesforce.{step}": NO_PAGE for step in ("open", "upload", "close", "job", "results")},
}


@pytest.mark.parametrize(("step", "trouble"), [(step, each) for step, found in STEPS.items() for each in sorted(found)])
def test_trouble_at_any_step_passes_and_the_state_is_applied_once(
    step: str, trouble: str, crm: LocalCrm, connect: Connect, run: FakeRunContext
) -> None:
    fault(crm, endpoint=step, **TROUBLES[trouble])
    name = step.partition(".")[0]
    batch = [change(name, each, churn_probability=0.5) for each in ("ada", "bob")]
    assert kinds(connect(name, crm.url, limits=()).send(batch, run)) == ["delivered"] * 2
    assert [each for each in crm.desk.faults.waiting if each.times] == []  # it was hit
    assert crm.store.profiles() == {"ada": {"churn_probability": 0.5}, "bob": {"churn_probability": 0.5}}
    assert [(each.before, each.after) for each in crm.store.history("ada")] == [(None, 0.5)]
    assert "503" not in trouble or 7 in run.waits


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_wrong_key_names_the_settings_and_changes_nothing(
    name: str, crm: LocalCrm, connect: Connect, run: FakeRunContext
) -> None:
    with pytest.raises(ContractError, match=r"HTTP 401 to /\S+\. Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY"):
        connect(name, crm.url, key="another").send([change(name, "ada", churn_probability=0.5)], run)
    assert (crm.store.profiles(), [list(each) for each in crm.desk.by_endpoint.values()]) == ({}, [["401"]])


# The body of each CRM's refusal.
REFUSALS: dict[str, Any] = {
    "braze": {"message": "Invalid API key"},
    "hubspot": {"category": "MISSING_SCOPES"},
    "klaviyo": {},
    "salesforce": [{"errorCode": "INVALID_SESSION_ID", "message": "no"}],
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404])
def test_a_refused_key_or_address_or_a_redirect_names_the_settings_at_once(
    name: str, status: int, connect: Connect, run: FakeRunContext
) -> None:
    said = Canned(status, REFUSALS[name], {"Location": "http://127.0.0.1:9/"})
    with scripted_server(said) as script, pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"):
        connect(name, script.url).send([change(name, "ada", churn_probability=0.5)], run)
    assert (len(script.asked), run.waits) == (1, [])


@pytest.mark.parametrize(
    ("name", "accepts"),
    [
        ("braze", "application/json"),
        ("hubspot", "application/json"),
        ("klaviyo", "application/vnd.api+json"),
        ("salesforce", "application/json"),
    ],
)
def test_each_request_says_which_form_of_a_reply_it_takes(
    name: str, accepts: str, connect: Connect, run: FakeRunContext
) -> None:
    """A server with several formats would choose one by itself."""
    with scripted_server(Canned(401, {})) as server:
        destination = connect(name, server.url)
        with pytest.raises(ContractError):
            destination.send([change(name, "ada", churn_risk_band="high")], run)
        with pytest.raises(ContractError):
            destination.erase(["ada"], run)
    assert [asked.headers["accept"] for asked in server.asked] == [accepts] * 2
