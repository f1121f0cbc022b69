"""Doctor for a CRM that refuses every request for a reason other than the key."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from crm_sync.destination import Finding, UnavailableError
from crm_sync.destinations.factory import ADAPTERS
from jobs.doctor.crm import crm as examined
from tests.support.crm.every_crm import SALESFORCE_FIELDS, connected
from tests.support.crm.hubspot import error as hubspot_error
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.sync.builders import MAPPING

STATUSES = [402, 405, 406, 407, 410, 411, 414, 415, 416, 417, 418, 421, 426, 428, 431, 451, 499]
KEYS = ("scope", "permission", "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY", "does not show this key")


def examine(name: str, said: Canned) -> list[Finding]:
    mapping = SALESFORCE_FIELDS if name == "salesforce" else MAPPING
    with scripted_server(said) as script, ExitStack() as stack:
        destination = connected(name, script.url, "key")
        stack.callback(destination.close)
        return destination.examine(mapping.kinds, FakeRunContext())


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_request_that_is_refused_is_not_all_right_and_no_matter_of_the_key(name: str, status: int) -> None:
    first, *others = examine(name, Canned(status, {}))
    assert first.state == "failed"
    assert f"HTTP {status}" in first.says
    told = " ".join(f"{each.says} {each.do}" for each in (first, *others) if each.state != "ok")
    assert not [words for words in KEYS if words in told]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", [409, 413, 422])
def test_only_a_400_is_the_answer_to_a_request_without_users(name: str, status: int, settings: Settings) -> None:
    """All three mean a fault of the request, not of the key."""
    folder = Path(__file__).parents[3] / ("examples/salesforce" if name == "salesforce" else "config")
    with scripted_server(Canned(status, {})) as script:
        found = examined(settings.model_copy(update={"crm": name, "crm_url": script.url, "config": folder}))
    assert (found[0].state, str(status) in found[0].says) == ("failed", True)
    assert not [words for words in KEYS if words in str(found)]


UNKNOWN = [
    Canned(204),
    Canned(200, {}),
    Canned(206, {"ok": True}),
    Canned(203, []),
    Canned(226, "ok"),
    Canned(200, b"<html>"),
]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("said", UNKNOWN, ids=lambda said: str(said.status))
def test_a_success_of_unknown_shape_is_not_all_right(name: str, said: Canned, settings: Settings) -> None:
    folder = Path(__file__).parents[3] / ("examples/salesforce" if name == "salesforce" else "config")
    with scripted_server(said) as script:
        found = examined(settings.model_copy(update={"crm": name, "crm_url": script.url, "config": folder}))
    assert found[0].state == "failed"


def test_a_lock_is_told_before_the_doctor_s_patience_ends() -> None:
    with (
        scripted_server(Canned(423, hubspot_error())) as script,
        pytest.raises(UnavailableError, match="keeps the contacts locked"),
    ):
        connected("hubspot", script.url, "key").examine(MAPPING.kinds, FakeRunContext(seconds_left=20))


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_comes_with_what_it_must_be_allowed(name: str, status: int) -> None:
    first = examine(name, Canned(status, {}))[0]
    assert first.state == "failed"
    assert first.do


@pytest.mark.parametrize("revision", [{"source": {"header": "revision"}}, {"detail": "Invalid revision 2019-01-01"}])
def test_klaviyo_s_word_on_the_revision_is_about_the_version(revision: dict[str, Any]) -> None:
    (first, _) = examine("klaviyo", Canned(400, {"errors": [{"status": 400, "code": "invalid", **revision}]}))
    assert (first.state, "revision" in first.says, first.do) == ("failed", True, ())


@pytest.mark.parametrize(("status", "words"), [(477, "another data centre"), (423, "keeps the contacts locked")])
def test_hubspot_s_not_now_is_told_as_such(status: int, words: str) -> None:
    with pytest.raises(UnavailableError, match=words) as said:
        examine("hubspot", Canned(status, hubspot_error()))
    assert said.value.has_answered


@pytest.fixture
def settings() -> Settings:
    return Settings(crm="hubspot", retry_budget_seconds=0.001)


def test_the_doctor_says_what_the_crm_answered(settings: Settings) -> None:
    with scripted_server(Canned(477, {})) as script:
        (finding,) = examined(settings.model_copy(update={"crm_url": script.url}))
    assert (finding.state, "moving this account" in finding.says) == ("failed", True)
    assert not [words for words in KEYS if words in f"{finding}"]
