"""Is exactly what differs sent to the CRM, in its own words, and does the CRM then hold what we believe it holds?"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_sync.fields import RIDE_ALONG, Change, FieldMapping, change, load_fields
from warehouse.errors import ContractError
from warehouse.tables import CRM_STATE

SHIPPED = Path(__file__).parents[1] / "config/crm_fields.yml"
MAPPING = load_fields(SHIPPED)

NINE, TEN = datetime(2026, 6, 15, 9, tzinfo=UTC), datetime(2026, 6, 15, 10, tzinfo=UTC)
NEXT_WEEK = datetime(2026, 6, 22, 9, tzinfo=UTC)
NOTHING: dict[str, Any] = dict.fromkeys(CRM_STATE)
ELIGIBLE: dict[str, Any] = {
    "churn_probability": 0.8421,
    "churn_risk_band": "high",
    "churn_reasons": "short last visit; many errors in total",
    "churn_scored_at": NINE,
    "churn_model_version": "20260601-1",
    "is_voucher_eligible": True,
    "voucher_reason": "granted",
    "voucher_valid_until": NEXT_WEEK,
    "experiment_arm": "treatment",
}


def row(desired: dict[str, Any], acknowledged: dict[str, Any], *, is_withdrawal: bool = False) -> dict[str, Any]:
    """A row of crm_pending."""
    before = {f"acknowledged_{name}": value for name, value in acknowledged.items()}
    return {"user_id": "ada", "desired_hash": "d1", "is_withdrawal": is_withdrawal, **desired, **before}


def test_a_user_the_crm_never_heard_of_is_sent_whole_in_the_wire_s_own_types() -> None:
    assert change(row(ELIGIBLE, NOTHING), MAPPING) == Change(
        external_id="ada",
        desired_hash="d1",
        is_withdrawal=False,
        attributes={
            "churn_probability": 0.8421,
            "churn_risk_band": "high",
            "churn_reasons": ["short last visit", "many errors in total"],
            "churn_scored_at": "2026-06-15T09:00:00Z",
            "churn_model_version": "20260601-1",
            "voucher_eligible": True,
            "voucher_reason": "granted",
            "voucher_valid_until": "2026-06-22T09:00:00Z",
            "experiment_arm": "treatment",
        },
        state=ELIGIBLE,
    )


def test_a_withdrawal_takes_away_what_may_be_cleared_and_says_why() -> None:
    finished = ELIGIBLE | {
        "churn_probability": None,
        "churn_risk_band": None,
        "churn_reasons": None,
        "is_voucher_eligible": False,
        "voucher_reason": "completed",
        "voucher_valid_until": None,
    }
    found = change(row(finished, ELIGIBLE, is_withdrawal=True), MAPPING)
    assert found.is_withdrawal
    assert found.attributes == {
        "churn_probability": None,
        "churn_risk_band": None,
        "churn_reasons": None,
        "voucher_eligible": False,
        "voucher_reason": "completed",
        "voucher_valid_until": None,
    }
    assert found.state == finished


@pytest.mark.parametrize(
    ("news", "attributes"),
    [
        ({}, {}),
        ({"churn_probability": 0.7}, {"churn_probability": 0.7}),
        ({"churn_probability": 0.0}, {"churn_probability": 0.0}),
        ({"churn_reasons": "long last visit"}, {"churn_reasons": ["long last visit"]}),
        ({"churn_reasons": "last action: a, b"}, {"churn_reasons": ["last action: a, b"]}),
        ({"is_voucher_eligible": False}, {"voucher_eligible": False}),
        ({"voucher_valid_until": TEN}, {"voucher_valid_until": "2026-06-15T10:00:00Z"}),
        # When and by what model: told with a change, never alone.
        ({"churn_scored_at": TEN}, {}),
        ({"churn_model_version": "20260602-1"}, {}),
        ({"churn_scored_at": TEN, "churn_model_version": "20260602-1"}, {}),
        (
            {"churn_scored_at": TEN, "churn_risk_band": "low"},
            {"churn_scored_at": "2026-06-15T10:00:00Z", "churn_risk_band": "low"},
        ),
        # Absent: sent as null where it may clear, not sent elsewhere.
        ({"churn_reasons": None}, {"churn_reasons": None}),
        ({"experiment_arm": None}, {}),
        ({"voucher_reason": None, "is_voucher_eligible": None}, {}),
        ({"experiment_arm": None, "churn_risk_band": "low"}, {"churn_risk_band": "low"}),
    ],
)
def test_only_what_differs_is_sent(news: dict[str, Any], attributes: dict[str, Any]) -> None:
    assert change(row(ELIGIBLE | news, ELIGIBLE), MAPPING).attributes == attributes


def test_the_state_keeps_what_the_crm_has_where_an_absent_value_may_not_clear() -> None:
    found = change(row(ELIGIBLE | {"experiment_arm": None, "churn_risk_band": "low"}, ELIGIBLE), MAPPING)
    assert found.state == ELIGIBLE | {"churn_risk_band": "low"}


def test_what_was_not_sent_is_not_believed_to_be_there() -> None:
    assert change(row(ELIGIBLE | {"churn_scored_at": TEN}, ELIGIBLE), MAPPING).state == ELIGIBLE


def test_nothing_is_cleared_that_was_never_there() -> None:
    assert change(row(NOTHING, NOTHING), MAPPING).attributes == {}


def test_what_is_not_in_the_mapping_never_leaves() -> None:
    crowded = row(ELIGIBLE, NOTHING) | {"email": "ada@example.org", "income": 40_000, "acknowledged_at": NINE}
    assert change(crowded, MAPPING) == change(row(ELIGIBLE, NOTHING), MAPPING)


def test_the_log_s_list_of_fields_has_names_and_no_values() -> None:
    found = change(row(ELIGIBLE | {"is_voucher_eligible": False, "churn_risk_band": "low"}, ELIGIBLE), MAPPING)
    assert found.fields_sent == "churn_risk_band,voucher_eligible"


# The file

FILE: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())


def with_fields(**changes: Any) -> dict[str, Any]:
    """The file that ships, with some fields replaced; None removes one."""
    fields = {name: value for name, value in (FILE["fields"] | changes).items() if value is not None}
    return FILE | {"fields": fields}


def test_fields_may_have_other_names_in_the_crm(tmp_path: Path) -> None:
    path = tmp_path / "crm_fields.yml"
    path.write_text(yaml.safe_dump(with_fields(experiment_arm={"property": "Arm_2026", "clearable": True})))
    renamed = load_fields(path)
    assert change(row(ELIGIBLE | {"experiment_arm": None}, ELIGIBLE), renamed).attributes == {"Arm_2026": None}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (with_fields(experiment_arm=None), "missing fields: ['experiment_arm']"),
        (with_fields(income={"property": "income"}), "unknown fields: ['income']"),
        (with_fields(experiment_arm={"property": "voucher_reason"}), "two fields are written to one property"),
        (with_fields(experiment_arm={"property": "external_id"}), "identifies a user: ['external_id']"),
        (with_fields(experiment_arm={"property": "email"}), "identifies a user: ['email']"),
        (with_fields(experiment_arm={"property": "with space"}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": "_update_existing_only"}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": ""}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": "arm", "clearble": True}), "fields.experiment_arm.clearble"),
        (with_fields(experiment_arm={"clearable": True}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm="arm"), "fields.experiment_arm"),
        (FILE | {"churn_probability_step": 1.5}, "churn_probability_step"),
        (FILE | {"churn_probability_step": -0.1}, "churn_probability_step"),
        ({"fields": FILE["fields"]}, "churn_probability_step"),
        (FILE | {"field": {}}, "field"),
        ([], "crm_fields.yml"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_file_and_the_field(tmp_path: Path, content: Any, named: str) -> None:
    path = tmp_path / "crm_fields.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ContractError) as refusal:
        load_fields(path)
    assert "crm_fields.yml is no field mapping" in str(refusal.value)
    assert named in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"fields: {", b"fields: \xe4"])
def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "crm_fields.yml"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"crm_fields\.yml is no field mapping"):
        load_fields(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"crm_fields\.yml"):
        load_fields(tmp_path / "crm_fields.yml")


# Laws

law = settings(deadline=None)
TIMES = st.sampled_from([NINE, TEN, NEXT_WEEK])
STATES = st.fixed_dictionaries(
    {
        "churn_probability": st.none() | st.sampled_from([0.0, 0.35, 0.8421, 1.0]),
        "churn_risk_band": st.none() | st.sampled_from(["low", "high"]),
        "churn_reasons": st.none() | st.sampled_from(["a", "a; b", "b; a", "a; b; c"]),
        "churn_scored_at": st.none() | TIMES,
        "churn_model_version": st.none() | st.sampled_from(["1", "2"]),
        "is_voucher_eligible": st.none() | st.booleans(),
        "voucher_reason": st.none() | st.sampled_from(["granted", "holdout"]),
        "voucher_valid_until": st.none() | TIMES,
        "experiment_arm": st.none() | st.sampled_from(["treatment", "holdout"]),
    }
)
MAPPINGS = st.builds(
    lambda flags: FieldMapping.model_validate(
        {
            "churn_probability_step": 0.05,
            "fields": {n: {"property": f"crm_{n}", "clearable": n in flags} for n in CRM_STATE},
        }
    ),
    st.sets(st.sampled_from(sorted(CRM_STATE))),
)


def held(state: dict[str, Any], mapping: FieldMapping) -> dict[str, Any]:
    """What a CRM holds of this state: its property names and types, and no property for what is absent."""
    wire: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, datetime):
            wire[mapping.fields[name].property] = value.isoformat().replace("+00:00", "Z")
        elif value is not None:
            wire[mapping.fields[name].property] = value.split("; ") if name == "churn_reasons" else value
    return wire


@law
@given(STATES, STATES, MAPPINGS)
def test_a_crm_that_applies_the_change_holds_the_state_and_needs_no_second_one(
    desired: dict[str, Any], acknowledged: dict[str, Any], mapping: FieldMapping
) -> None:
    found = change(row(desired, acknowledged), mapping)
    profile = held(acknowledged, mapping) | found.attributes
    assert {name: value for name, value in profile.items() if value is not None} == held(found.state, mapping)
    assert change(row(desired, found.state), mapping).attributes == {}


@law
@given(STATES, STATES, MAPPINGS)
def test_the_state_is_the_desired_one_but_for_what_may_not_be_cleared_or_never_travels_alone(
    desired: dict[str, Any], acknowledged: dict[str, Any], mapping: FieldMapping
) -> None:
    found = change(row(desired, acknowledged), mapping)
    behind = {name for name in CRM_STATE if found.state[name] != desired[name]}
    kept = {name for name in behind if desired[name] is None and not mapping.fields[name].clearable}
    assert behind - kept <= (set() if found.attributes else set(RIDE_ALONG))
    assert all(found.state[name] == acknowledged[name] for name in behind)
