"""Unsendable values: a value that no CRM can accept affects only its own row."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import CircuitOpenError
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destinations.salesforce.rows import as_csv
from crm_sync.diff import changes
from crm_sync.field_mapping import METADATA_FIELDS
from crm_sync.sync import SyncCounts, sync
from jobs.transform.dbt import Window
from sandbox.local_crm.server import LocalCrm
from tests.support.sync.builders import (
    FINISHED,
    GRANTED,
    MAPPING,
    PENDING,
    SCORED,
    TEN,
    RecordingDestination,
    braze,
    deliveries,
    fill,
    marts_in,
    outcomes,
    pending,
    pending_users,
    plan,
    row_of,
    run,
    written,
)
from tests.support.sync.tables import SyncTables
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import CRM_STATE, TIMESTAMP

NAN, INFINITE = float("nan"), float("inf")
# Python's times end with the year 9999, a warehouse's times do not.
SECOND = 1_000_000
IN_10_000 = 253_402_300_800 * SECOND
BEFORE_1 = -62_135_596_801 * SECOND


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


def batch(*rows: dict[str, Any]) -> pa.RecordBatch:
    """Rows of crm_pending; times may be microseconds."""
    return pa.RecordBatch.from_pylist(list(rows), schema=PENDING)


# One row


@pytest.mark.parametrize(
    ("name", "value", "is_sent"),
    [
        ("churn_probability", NAN, False),
        ("churn_probability", INFINITE, False),
        ("churn_probability", -INFINITE, False),
        ("churn_probability", 1e308, True),
        ("churn_probability", 5e-324, True),
        ("churn_probability", None, True),
        ("voucher_valid_until", IN_10_000, False),
        ("voucher_valid_until", IN_10_000 - 1, True),
        ("voucher_valid_until", BEFORE_1, False),
        ("voucher_valid_until", BEFORE_1 + SECOND, True),
        ("voucher_valid_until", 2**63 - 1, False),  # DuckDB's infinity
        ("churn_scored_at", 2**63 - 1, False),
        ("churn_risk_band", "\x00\u2028\U0001f600", True),
    ],
)
def test_a_value_is_sent_or_its_row_is_unsendable_for_that_field(name: str, value: Any, is_sent: bool) -> None:
    found = changes(batch(row_of("ada", **{name: value}), row_of("ben")), MAPPING)
    assert [change.external_id for change in found.changes] == (["ada", "ben"] if is_sent else ["ben"])
    assert [(change.external_id, change.attributes, fault) for change, fault in found.unsendable] == (
        [] if is_sent else [("ada", {}, name)]
    )


@pytest.mark.parametrize("before", [SCORED | {"churn_probability": NAN}, SCORED])
def test_what_is_not_to_be_sent_may_be_whatever_it_is(before: dict[str, Any]) -> None:
    """It may be acknowledged already, or be a metadata field of a row without other differences."""
    assert changes(batch(row_of("ada", before)), MAPPING).unsendable == []
    assert changes(batch(row_of("ada", before | SCORED, churn_scored_at=IN_10_000)), MAPPING).unsendable == []


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float64(): st.floats(width=64),
    pa.string(): st.text(st.characters(codec="utf-8"), max_size=5),
    pa.bool_(): st.booleans(),
    TIMESTAMP: st.sampled_from([0, IN_10_000, IN_10_000 - 1, BEFORE_1, BEFORE_1 + SECOND, 2**63 - 1, 1 - 2**63]),
}
STATES = st.fixed_dictionaries({name: st.none() | VALUES[kind] for name, kind in CRM_STATE.items()})


@settings(max_examples=200)
@given(st.lists(st.tuples(STATES, STATES, st.booleans()), max_size=4))
def test_whatever_the_rows_hold_what_is_sent_has_words_and_no_row_is_lost(
    drawn: list[tuple[dict[str, Any], dict[str, Any], bool]],
) -> None:
    rows = [
        row_of(f"u{number}", before, **desired) | {"is_in_doubt": is_in_doubt}
        for number, (desired, before, is_in_doubt) in enumerate(drawn)
    ]
    found = changes(batch(*rows), MAPPING)
    for change in found.changes:
        assert json.loads(json.dumps(change.attributes, allow_nan=False).encode()) == change.attributes
    assert as_csv(found.changes, "id")
    sent, unsendable = {change.row for change in found.changes}, {change.row for change, _ in found.unsendable}
    assert not sent & unsendable
    for number in set(range(len(rows))) - sent - unsendable:
        desired, before, is_in_doubt = drawn[number]
        assert not is_in_doubt or all(value is None for value in desired.values())
        differing = {name for name in CRM_STATE if desired[name] is not None and desired[name] != before[name]}
        assert differing <= set(METADATA_FIELDS)


# A sync


def test_it_is_one_dead_letter_and_the_rest_lands(warehouse: DuckDBWarehouse, crm: LocalCrm) -> None:
    users = pending_users(warehouse, 10)
    pending(warehouse, "ada", churn_probability=NAN, **GRANTED)
    pending(warehouse, "ben", churn_probability=INFINITE)
    pending(warehouse, "eve", before=SCORED | GRANTED, **FINISHED)
    counts, stopped = run(warehouse, braze(crm))
    assert stopped is None
    assert outcomes(warehouse) == dict.fromkeys([*users, "eve"], "delivered") | {"ada": "rejected", "ben": "rejected"}
    assert (counts.delivered, counts.rejected, counts.errors) == (11, 2, {"unsendable": 2})
    assert sorted(crm.store.profiles()) == sorted([*users, "eve"])
    row = deliveries(warehouse)["ada"]
    assert (row["http_status"], row["error_code"], row["fields_sent"]) == (None, "unsendable", "")
    assert row["error_reason"] == "not sent: the value of churn_probability cannot be sent to a CRM"
    assert {row[name] for name in CRM_STATE} == {None}


def test_a_sync_of_nothing_else_asks_the_crm_nothing(warehouse: DuckDBWarehouse) -> None:
    pending(warehouse, "ada", churn_probability=NAN)
    counts, stopped = run(warehouse, RecordingDestination())
    assert (counts, stopped) == (SyncCounts(differing=1, rejected=1, errors={"unsendable": 1}, audience=0), None)
    assert written(warehouse, "sending") == []


def test_many_of_them_keep_nobody_from_being_sent_and_are_told_of_at_the_end(warehouse: DuckDBWarehouse) -> None:
    """They would be sent first, and the circuit breaker would stop at 50, although it is only for the CRM's rejections."""
    users = pending_users(warehouse, 40)
    fill(warehouse, [row_of(f"x{number}", churn_probability=NAN) for number in range(60)])
    crm = RecordingDestination(max_batch=7)
    counts, stopped = run(warehouse, crm, plan(warehouse, max_rejected_ratio=0.5))
    assert sorted(crm.arrived) == users
    assert (counts.delivered, counts.rejected, counts.deferred) == (40, 60, {})
    assert isinstance(stopped, CircuitOpenError)
    assert str(stopped) == (
        "60 of 100 users have a score or a time that cannot be sent to a CRM; the others were sent. "
        "See winback dead-letters, and which model scored them: winback status"
    )


def test_half_of_them_are_not_too_many(warehouse: DuckDBWarehouse) -> None:
    pending_users(warehouse, 50)
    fill(warehouse, [row_of(f"x{number}", churn_probability=NAN) for number in range(50)])
    _, stopped = run(warehouse, RecordingDestination(max_batch=50), plan(warehouse, max_rejected_ratio=0.5))
    assert stopped is None


# With tables built by dbt


def test_it_is_tried_again_by_itself_once_the_score_is_another() -> None:
    tables = SyncTables()
    window = Window(TEN, TEN, TEN, fold_from_at=TEN - timedelta(days=1))

    def sync_and_fold(minute: int) -> list[str]:
        crm, run_id, at = RecordingDestination(), f"run-{minute}", datetime(2026, 6, 15, 10, minute, tzinfo=UTC)
        log = DeliveryLog(tables.warehouse, run_id, 2, lambda: at)
        sync(tables.warehouse, crm, MAPPING, replace(plan(tables.warehouse), run_id=run_id), log=log)
        tables.fold(window)
        return crm.arrived

    try:
        tables.desire("ada", **SCORED | {"churn_probability": NAN})
        tables.desire("ben", **SCORED)
        assert sync_and_fold(1) == ["ben"]
        assert tables.rows("select rejected_code, is_in_doubt from marts.crm_acknowledged where user_id = 'ada'") == [
            ("unsendable", False)
        ]
        assert tables.rows("select * from marts.crm_pending") == []
        assert sync_and_fold(2) == []
        tables.desire("ada", **SCORED)
        assert sync_and_fold(3) == ["ada"]
        assert tables.rows("select * from marts.crm_pending") == []
    finally:
        tables.close()
