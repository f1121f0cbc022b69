"""Adapters: allowed hosts, property names and documented limits of each CRM.

tests/crm_sync/destinations/test_connect.py tests how they are applied.
"""

from __future__ import annotations

import pytest

from core.errors import ContractError
from crm_sync.destinations.adapter import Limit
from crm_sync.destinations.factory import ADAPTERS, check_host
from crm_sync.destinations.klaviyo.client import KlaviyoOptions


@pytest.mark.parametrize(
    ("name", "url", "is_allowed"),
    [
        ("hubspot", "https://api.hubapi.com", True),
        ("hubspot", "https://api-eu1.hubapi.com", True),
        ("hubspot", "https://nothubapi.com", False),
        ("hubspot", "https://api.hubapi.com.example.org", False),
        ("klaviyo", "https://a.klaviyo.com", True),
        ("klaviyo", "https://b.a.klaviyo.com", False),
        ("klaviyo", "https://a.klaviyo.com.example.org", False),
        ("salesforce", "https://example.my.salesforce.com", True),
        ("salesforce", "https://example--uat.sandbox.my.salesforce.com", True),
        ("salesforce", "https://salesforce.com.example.org", False),
        ("salesforce", "https://notsalesforce.com", False),
    ],
)
def test_the_key_goes_to_the_crm_s_own_hosts_only(name: str, url: str, is_allowed: bool) -> None:
    if is_allowed:
        check_host(ADAPTERS[name], url, ())
    else:
        with pytest.raises(ContractError, match="WINBACK_CRM_URL"):
            check_host(ADAPTERS[name], url, ())


NAMES = {
    "hubspot": ["churn_risk_2"],
    "salesforce": ["Churn__c", "Churn_Risk_Band__c", "Description", "x9__c", "winback__Churn__c", "Band__pc"],
}
NO_NAMES = {
    "hubspot": ["Churn", "1churn", "churn-risk", "churn risk", "_churn", "c" * 101, ""],
    "salesforce": [
        *("_a__c", "9a__c", "a__b", "Churn___c", "Churn__x", "Chu-rn__c", "Churn_", "a__b__c__c", "", "ä__c"),
    ],
}


@pytest.mark.parametrize(
    ("crm", "name", "is_one"),
    [
        *[(crm, name, True) for crm, names in NAMES.items() for name in names],
        *[(crm, name, False) for crm, names in NO_NAMES.items() for name in names],
    ],
)
def test_only_what_a_crm_can_call_a_property_is_a_name(crm: str, name: str, is_one: bool) -> None:
    assert bool(ADAPTERS[crm].property_pattern.fullmatch(name)) is is_one


def test_klaviyo_s_limits_are_as_documented() -> None:
    assert KlaviyoOptions() == KlaviyoOptions(
        max_batch=10_000,
        max_in_flight=2,
        limits=(Limit(requests=150, seconds=60), Limit(requests=10, seconds=1)),
        lookup_limits=(Limit(requests=750, seconds=60), Limit(requests=75, seconds=1)),
        deletion_limits=(Limit(requests=60, seconds=60), Limit(requests=3, seconds=1)),
        revision="2026-07-15",
        max_body_bytes=5_000_000,
    )
