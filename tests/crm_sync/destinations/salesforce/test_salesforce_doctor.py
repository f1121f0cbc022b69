"""Doctor for Salesforce: what it finds, and whether the commands it prints create what is missing."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from crm_sync.destinations.factory import check_names
from crm_sync.destinations.salesforce.client import ADAPTER
from crm_sync.field_mapping import load_fields
from sandbox.local_crm.apis.salesforce import described
from sandbox.local_crm.apis.salesforce_jobs import canonical
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import DELIVERED, ID_FIELD, KEY, changes, refused, salesforce, wire

MAPPING = load_fields(Path(__file__).parents[4] / "examples/salesforce/crm_fields.yml")


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


def test_an_org_with_all_fields_is_found_in_order(crm: LocalCrm, run: FakeRunContext) -> None:
    wire(crm).fields["ownerid"] = described("OwnerId", "reference", nillable=False, defaultedOnCreate=True)
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    assert [(finding.state, finding.says) for finding in findings] == [
        ("ok", "Winback_User_Id__c is a unique external id of Contact"),
        ("ok", "Contact has all 9 fields with fitting types"),
        ("ok", "The org has used 1 of its 100,000 API requests in 24 hours"),
    ]
    assert (crm.store.profiles(), wire(crm).jobs) == ({}, {})


def test_the_commands_for_what_is_missing_make_it(crm: LocalCrm, run: FakeRunContext) -> None:
    wire(crm).fields.clear()
    destination = salesforce(crm.url)
    missing = destination.examine(MAPPING.kinds, run)
    assert [finding.state for finding in missing[:2]] == ["failed", "failed"]
    commands = [line for finding in missing for line in finding.do if line.startswith("curl ")]
    assert len(commands) == 10
    for command in commands:
        path, body = re.search(r'"\$WINBACK_CRM_URL(\S+)".* -d \'(.*)\'$', command).groups()  # type: ignore[union-attr]
        headers = {"Authorization": f"Bearer {KEY}"}
        assert requests.post(crm.url + path, json=json.loads(body), headers=headers, timeout=10).status_code == 201
    assert [finding.state for finding in destination.examine(MAPPING.kinds, run)] == ["ok", "ok", "ok"]
    assert destination.send(changes("ada", Churn_Probability__c=0.8421), run) == [DELIVERED]


@pytest.mark.parametrize(
    ("field", "facts", "said"),
    [
        (ID_FIELD, {"unique": False}, "Winback_User_Id__c is not unique"),
        (ID_FIELD, {"caseSensitive": None}, "Winback_User_Id__c is not case-sensitive"),
        (
            ID_FIELD,
            {"externalId": False, "caseSensitive": False},
            "Winback_User_Id__c is not an external id, case-sensitive",
        ),
        (
            "Churn_Probability__c",
            {"type": "string"},
            "winback cannot write to these fields of Contact: Churn_Probability__c",
        ),
        ("Churn_Probability__c", {"scale": 2}, "winback cannot write to these fields of Contact: Churn_Probability__c"),
        (
            "Voucher_Eligible__c",
            {"type": "string"},
            "winback cannot write to these fields of Contact: Voucher_Eligible__c",
        ),
        ("Churn_Scored_At__c", {"type": "date"}, "winback cannot write to these fields of Contact: Churn_Scored_At__c"),
        (
            "Experiment_Arm__c",
            {"updateable": False},
            "winback cannot write to these fields of Contact: Experiment_Arm__c",
        ),
    ],
)
def test_a_field_that_cannot_take_the_values_is_named(
    crm: LocalCrm, run: FakeRunContext, field: str, facts: dict[str, object], said: str
) -> None:
    wire(crm).fields[field.lower()] |= facts
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    (failed,) = [finding for finding in findings if finding.state == "failed"]
    assert failed.says.endswith(said)
    assert failed.do


@pytest.mark.parametrize(
    ("field", "facts", "said"),
    [
        ("Churn_Risk_Band__c", {"restrictedPicklist": True, "type": "picklist"}, "accept only their listed values"),
        ("LastName", {"nillable": False}, "does not create a Contact without LastName"),
    ],
)
def test_what_may_reject_users_is_a_warning(
    crm: LocalCrm, run: FakeRunContext, field: str, facts: dict[str, object], said: str
) -> None:
    wire(crm).fields[field.lower()] = described(field, "string") | facts
    findings = salesforce(crm.url).examine(MAPPING.kinds, run)
    (warning,) = [finding for finding in findings if finding.state == "warning"]
    assert said in warning.says


def test_names_that_no_custom_field_has_are_answered_with_the_example(crm: LocalCrm, run: FakeRunContext) -> None:
    finding = salesforce(crm.url).examine({"churn_risk_band": "text"}, run)[1]
    assert (finding.state, finding.do) == (
        "failed",
        ("The names of custom fields end in __c: map to such names, as in examples/salesforce/crm_fields.yml.",),
    )


@pytest.mark.parametrize(
    ("reply", "state", "said"),
    [
        (refused(401, "INVALID_SESSION_ID"), "failed", "HTTP 401"),
        (refused(404, "NOT_FOUND"), "failed", "HTTP 404"),
        (Canned(200, {"fields": 7}), "failed", "in an unknown shape"),
        (
            Canned(200, {"fields": [], "createable": True, "updateable": False}),
            "failed",
            "may not create and edit Contact",
        ),
    ],
)
def test_an_object_that_cannot_be_looked_at_is_a_finding(
    reply: Canned, state: str, said: str, run: FakeRunContext
) -> None:
    with scripted_server(reply) as script:
        (finding,) = salesforce(script.url).examine(MAPPING.kinds, run)
    assert finding.state == state
    assert said in finding.says


def test_requests_nearly_used_up_are_a_warning(run: FakeRunContext) -> None:
    usage = {"Sforce-Limit-Info": "api-usage=4500/5000; per-app-api-usage=17/250(appName=x)"}
    with scripted_server(Canned(200, {"fields": []}, usage)) as script:
        finding = salesforce(script.url).examine({}, run)[-1]
    assert (finding.state, finding.says) == ("warning", "The org has used 4,500 of its 5,000 API requests in 24 hours")


def test_the_example_mapping_is_one_for_salesforce_and_for_the_local_crm(crm: LocalCrm) -> None:
    check_names(ADAPTER, MAPPING)
    assert {name.lower() for name in MAPPING.kinds} | {ID_FIELD.lower()} == set(wire(crm).fields)
    assert {canonical(name) for name in MAPPING.kinds} == {
        *("churn_probability", "churn_risk_band", "churn_reasons", "churn_scored_at", "churn_model_version"),
        *("voucher_eligible", "voucher_reason", "voucher_valid_until", "experiment_arm"),
    }
