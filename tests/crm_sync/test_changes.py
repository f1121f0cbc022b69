"""Differences: only changed fields are sent, and the CRM then holds the acknowledged state."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.diff import Change, Value, changes
from crm_sync.field_mapping import KINDS, METADATA_FIELDS, FieldMapping
from tests.support.sync.builders import MAPPING, NINE, PENDING, TEN
from warehouse.tables import CRM_STATE

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


def row(
    desired: Mapping[str, Any], acknowledged: Mapping[str, Any], user_id: str = "ada", **more: Any
) -> dict[str, Any]:
    """A row of crm_pending."""
    before = {f"acknowledged_{name}": value for name, value in acknowledged.items()}
    return {
        "user_id": user_id,
        "desired_hash": "d1",
        "is_withdrawal": False,
        "is_in_doubt": False,
        **desired,
        **before,
        **more,
    }


def batch(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict(each) for each in rows], schema=PENDING)


def attributes(desired: Mapping[str, Any], acknowledged: Mapping[str, Any]) -> dict[str, Value] | None:
    """The attributes that one user's row sends; None if nothing changed."""
    found = changes(batch([row(desired, acknowledged)]), MAPPING).changes
    return found[0].attributes if found else None


def test_a_user_the_crm_never_heard_of_is_sent_whole_in_the_wire_s_own_types() -> None:
    found = changes(batch([row(ELIGIBLE, NOTHING)]), MAPPING)
    assert found.changes == [
        Change(
            external_id="ada",
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
            is_withdrawal=False,
            row=0,
        )
    ]
    assert found.states.to_pylist() == [{"user_id": "ada", "desired_hash": "d1", **ELIGIBLE}]


def test_a_withdrawal_takes_away_what_may_be_cleared_and_says_why() -> None:
    finished = ELIGIBLE | {
        "churn_probability": None,
        "churn_risk_band": None,
        "churn_reasons": None,
        "is_voucher_eligible": False,
        "voucher_reason": "completed",
        "voucher_valid_until": None,
    }
    found = changes(batch([row(finished, ELIGIBLE, is_withdrawal=True)]), MAPPING)
    assert found.changes[0].is_withdrawal
    assert found.changes[0].attributes == {
        "churn_probability": None,
        "churn_risk_band": None,
        "churn_reasons": None,
        "voucher_eligible": False,
        "voucher_reason": "completed",
        "voucher_valid_until": None,
    }
    assert found.states.to_pylist() == [{"user_id": "ada", "desired_hash": "d1", **finished}]


@pytest.mark.parametrize(
    ("news", "sent"),
    [
        ({}, None),
        ({"churn_probability": 0.7}, {"churn_probability": 0.7}),
        ({"churn_probability": 0.0}, {"churn_probability": 0.0}),
        ({"churn_reasons": "long last visit"}, {"churn_reasons": ["long last visit"]}),
        ({"churn_reasons": "last action: a, b"}, {"churn_reasons": ["last action: a, b"]}),
        ({"is_voucher_eligible": False}, {"voucher_eligible": False}),
        ({"voucher_valid_until": TEN}, {"voucher_valid_until": "2026-06-15T10:00:00Z"}),
        # Metadata: sent with a change, never alone.
        ({"churn_scored_at": TEN}, None),
        ({"churn_model_version": "20260602-1"}, None),
        ({"churn_scored_at": TEN, "churn_model_version": "20260602-1"}, None),
        (
            {"churn_scored_at": TEN, "churn_risk_band": "low"},
            {"churn_scored_at": "2026-06-15T10:00:00Z", "churn_risk_band": "low"},
        ),
        # A null is sent only for a clearable field.
        ({"churn_reasons": None}, {"churn_reasons": None}),
        ({"experiment_arm": None}, None),
        ({"voucher_reason": None, "is_voucher_eligible": None}, None),
        ({"experiment_arm": None, "churn_risk_band": "low"}, {"churn_risk_band": "low"}),
    ],
)
def test_only_what_differs_is_sent(news: dict[str, Any], sent: dict[str, Any] | None) -> None:
    assert attributes(ELIGIBLE | news, ELIGIBLE) == sent


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        (datetime(2026, 6, 15, 10, 0, 0, 999_999, tzinfo=UTC), "2026-06-15T10:00:00Z"),
        (datetime(2026, 12, 31, 23, 59, 59, 1, tzinfo=UTC), "2026-12-31T23:59:59Z"),
        (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "2026-03-29T01:30:00Z"),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00Z"),
    ],
)
def test_times_are_told_in_utc_to_the_second_and_never_ahead(moment: datetime, told: str) -> None:
    assert attributes(ELIGIBLE | {"voucher_valid_until": moment}, ELIGIBLE) == {"voucher_valid_until": told}


def test_the_state_keeps_what_the_crm_has_where_an_absent_value_may_not_clear() -> None:
    found = changes(batch([row(ELIGIBLE | {"experiment_arm": None, "churn_risk_band": "low"}, ELIGIBLE)]), MAPPING)
    assert found.states.to_pylist() == [{"user_id": "ada", "desired_hash": "d1", **ELIGIBLE, "churn_risk_band": "low"}]


def test_of_a_user_in_doubt_every_field_is_sent_and_whatever_may_clear_is_cleared() -> None:
    """The CRM may hold values that it never confirmed. Only a null of a field that is not clearable is not sent."""
    desired = ELIGIBLE | {"churn_reasons": None, "experiment_arm": None}
    found = changes(batch([row(desired, NOTHING | desired, is_in_doubt=True)]), MAPPING).changes
    assert found[0].attributes == {
        "churn_probability": 0.8421,
        "churn_risk_band": "high",
        "churn_reasons": None,
        "churn_scored_at": "2026-06-15T09:00:00Z",
        "churn_model_version": "20260601-1",
        "voucher_eligible": True,
        "voucher_reason": "granted",
        "voucher_valid_until": "2026-06-22T09:00:00Z",
    }


def test_nothing_is_cleared_that_was_never_there() -> None:
    assert attributes(NOTHING, NOTHING) is None


def test_what_is_not_in_the_mapping_never_leaves() -> None:
    crowded = pa.RecordBatch.from_pylist(
        [row(ELIGIBLE, NOTHING) | {"email": "ada@example.org", "income": 40_000}],
        schema=PENDING.append(pa.field("email", pa.string())).append(pa.field("income", pa.int64())),
    )
    found = changes(crowded, MAPPING)
    assert found.changes == changes(batch([row(ELIGIBLE, NOTHING)]), MAPPING).changes
    assert found.states.schema.names == ["user_id", "desired_hash", *MAPPING.fields]


def test_no_rows_are_no_changes() -> None:
    found = changes(batch([]), MAPPING)
    assert (found.changes, found.states.num_rows) == ([], 0)


def test_a_read_of_rows_keeps_their_order_and_knows_which_row_is_whose() -> None:
    rows = [row(ELIGIBLE, ELIGIBLE if number % 3 == 0 else NOTHING, f"u{number}") for number in range(7)]
    found = changes(batch(rows), MAPPING)
    assert [(each.external_id, each.row) for each in found.changes] == [("u1", 1), ("u2", 2), ("u4", 4), ("u5", 5)]
    assert found.states.column("user_id").to_pylist() == [f"u{number}" for number in range(7)]


# Laws

TIMES = st.sampled_from([NINE, TEN, NEXT_WEEK, datetime(2026, 6, 15, 9, 0, 0, 1, tzinfo=UTC)])
STATES = st.fixed_dictionaries(
    {
        "churn_probability": st.none() | st.sampled_from([0.0, 0.35, 0.8421, 1.0]),
        "churn_risk_band": st.none() | st.sampled_from(["low", "high", ""]),
        "churn_reasons": st.none() | st.sampled_from(["a", "a; b", "b; a", "a; b; c", "", "a;b"]),
        "churn_scored_at": st.none() | TIMES,
        "churn_model_version": st.none() | st.sampled_from(["1", "2"]),
        "is_voucher_eligible": st.none() | st.booleans(),
        "voucher_reason": st.none() | st.sampled_from(["granted", "holdout"]),
        "voucher_valid_until": st.none() | TIMES,
        "experiment_arm": st.none() | st.sampled_from(["treatment", "holdout"]),
    }
)
MAPPINGS = st.builds(
    lambda clearable: FieldMapping.model_validate(
        {
            "churn_probability_step": 0.05,
            "fields": {n: {"property": f"crm_{n}", "clearable": n in clearable} for n in CRM_STATE},
        }
    ),
    st.sets(st.sampled_from(sorted(CRM_STATE))),
)
# In half of the examples the CRM holds most of the desired state. Otherwise nearly every field of every row would change.
PAIRS = st.tuples(STATES, STATES, st.sets(st.sampled_from(sorted(CRM_STATE)))).map(
    lambda drawn: (drawn[0], drawn[0] | {name: drawn[1][name] for name in drawn[2]})
) | st.tuples(STATES, STATES)


def told(name: str, value: Any) -> Value:
    """A value as it is sent, computed in plain Python."""
    if value is None:
        return None
    if KINDS[name] == "time":
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value.split("; ") if KINDS[name] == "texts" else value  # type: ignore[no-any-return]


def one_by_one(rows: Sequence[Mapping[str, Any]], mapping: FieldMapping) -> list[tuple[Change, dict[str, Any]]]:
    """The changes and the resulting states, computed row by row in plain Python."""
    found = []
    for number, each in enumerate(rows):
        state, sent = {}, {}
        for name, target in mapping.fields.items():
            desired, acknowledged = each[name], each[f"acknowledged_{name}"]
            state[name] = acknowledged if desired is None and not target.clearable else desired
            is_told = state[name] is not None or target.clearable
            if state[name] != acknowledged or (each["is_in_doubt"] and is_told):
                sent[target.property] = told(name, state[name])
        if set(sent) - {mapping.fields[name].property for name in METADATA_FIELDS}:
            found.append((Change(each["user_id"], sent, each["is_withdrawal"], number), state))
    return found


@given(st.lists(st.tuples(PAIRS, st.booleans(), st.booleans()), max_size=8), MAPPINGS)
def test_columns_give_what_rows_one_by_one_would(
    drawn: list[tuple[tuple[dict[str, Any], dict[str, Any]], bool, bool]], mapping: FieldMapping
) -> None:
    rows = [
        row(pair[0], pair[1], f"u{number}", desired_hash=f"d{number}", is_withdrawal=is_withdrawal, is_in_doubt=doubt)
        for number, (pair, is_withdrawal, doubt) in enumerate(drawn)
    ]
    found, expected = changes(batch(rows), mapping), one_by_one(rows, mapping)
    assert found.changes == [change for change, _ in expected]
    states = found.states.to_pylist()
    for change, state in expected:
        assert states[change.row] == {"user_id": change.external_id, "desired_hash": f"d{change.row}", **state}


@given(PAIRS, MAPPINGS)
def test_a_crm_that_applies_the_change_holds_the_state_and_needs_no_second_one(
    pair: tuple[dict[str, Any], dict[str, Any]], mapping: FieldMapping
) -> None:
    desired, acknowledged = pair
    found = changes(batch([row(desired, acknowledged)]), mapping)
    for change in found.changes:
        state = {name: value for name, value in found.states.to_pylist()[0].items() if name in CRM_STATE}
        profile = held(acknowledged, mapping) | change.attributes
        assert {name: value for name, value in profile.items() if value is not None} == held(state, mapping)
        assert changes(batch([row(desired, state)]), mapping).changes == []


def held(state: Mapping[str, Any], mapping: FieldMapping) -> dict[str, Value]:
    """The CRM's properties for this state; a null has no property."""
    return {mapping.fields[n].property: told(n, value) for n, value in state.items() if value is not None}


@given(PAIRS, MAPPINGS)
def test_the_state_is_the_desired_one_but_for_what_may_not_be_cleared(
    pair: tuple[dict[str, Any], dict[str, Any]], mapping: FieldMapping
) -> None:
    desired, acknowledged = pair
    found = changes(batch([row(desired, acknowledged)]), mapping)
    for change in found.changes:
        state = found.states.to_pylist()[change.row]
        behind = {name for name in CRM_STATE if state[name] != desired[name]}
        assert all(desired[name] is None and not mapping.fields[name].clearable for name in behind)
        assert all(state[name] == acknowledged[name] for name in behind)
