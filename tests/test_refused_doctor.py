"""What the doctor says of a CRM that refuses every request for a reason that is not in the key."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from crm_sync.destination import Finding, UnavailableError
from crm_sync.destinations.connect import ADAPTERS
from jobs.findings_crm import crm as examined
from jobs.settings import Settings
from tests.crm_wire_kit import Patience, Said, saying
from tests.crms_kit import SALESFORCE_FIELDS, connected
from tests.hubspot_kit import error as hubspot_error
from tests.sync_kit import MAPPING

STATUSES = [402, 405, 407, 410, 411, 415, 421, 426, 431, 451]
KEYS = ("scope", "permission", "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY", "does not show this key")


def examine(name: str, said: Said) -> list[Finding]:
    mapping = SALESFORCE_FIELDS if name == "salesforce" else MAPPING
    with saying(said) as script, ExitStack() as stack:
        destination = connected(name, script.url, "key")
        stack.callback(destination.close)
        return destination.examine(mapping.kinds, Patience())


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_request_that_is_refused_is_not_all_right_and_no_matter_of_the_key(name: str, status: int) -> None:
    first, *others = examine(name, Said(status, {}))
    assert first.state == "failed"
    assert f"HTTP {status}" in first.says
    told = " ".join(f"{each.says} {each.do}" for each in (first, *others) if each.state != "ok")
    assert not [words for words in KEYS if words in told]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_comes_with_what_it_must_be_allowed(name: str, status: int) -> None:
    first = examine(name, Said(status, {}))[0]
    assert first.state == "failed"
    assert first.do


@pytest.mark.parametrize("revision", [{"source": {"header": "revision"}}, {"detail": "Invalid revision 2019-01-01"}])
def test_klaviyo_s_word_on_the_revision_is_about_the_version(revision: dict[str, Any]) -> None:
    (first, _) = examine("klaviyo", Said(400, {"errors": [{"status": 400, "code": "invalid", **revision}]}))
    assert (first.state, "revision" in first.says, first.do) == ("failed", True, ())


@pytest.mark.parametrize(("status", "words"), [(477, "another data centre"), (423, "keeps the contacts locked")])
def test_hubspot_s_not_now_is_told_as_such(status: int, words: str) -> None:
    with pytest.raises(UnavailableError, match=words) as said:
        examine("hubspot", Said(status, hubspot_error()))
    assert said.value.has_answered


@pytest.fixture
def settings() -> Settings:
    return Settings(crm="hubspot", retry_budget_seconds=0.001)


def test_the_doctor_says_what_the_crm_answered(settings: Settings) -> None:
    with saying(Said(477, {})) as script:
        (finding,) = examined(settings.model_copy(update={"crm_url": script.url}))
    assert (finding.state, "moving this account" in finding.says) == ("failed", True)
    assert not [words for words in KEYS if words in f"{finding}"]
