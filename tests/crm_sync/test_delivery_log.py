"""Delivery log: outcomes are written as the CRM returned them, and none is lost when an append fails."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import Outcome
from crm_sync.diff import Change, Changed, changes
from tests.support.sync.builders import (
    ATTEMPTED,
    GRANTED,
    MAPPING,
    PENDING,
    SCORED,
    deliveries,
    log_of,
    marts_in,
    outcomes,
    row_of,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import CRM_STATE

DELIVERED = Outcome("delivered", 201)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


def changed(*users: str) -> Changed:
    return changes(pa.RecordBatch.from_pylist([row_of(user) for user in users], schema=PENDING), MAPPING)


def test_a_delivery_is_logged_with_the_state_it_left_in_the_crm(warehouse: DuckDBWarehouse) -> None:
    reasons = "short last visit; many errors in total"
    rows = [row_of("ada", churn_reasons=reasons, **GRANTED)]
    found = changes(pa.RecordBatch.from_pylist(rows, schema=PENDING), MAPPING)
    log = log_of(warehouse)
    log.write(found.changes, found.states, [DELIVERED])
    log.flush()
    assert deliveries(warehouse) == {
        "ada": {
            "run_id": "00000002-run",
            "epoch": 2,
            "user_id": "ada",
            "desired_hash": "hash-of-ada",
            "fields_sent": (
                "churn_probability,churn_risk_band,churn_reasons,churn_scored_at,churn_model_version,"
                "voucher_eligible,voucher_reason,voucher_valid_until,experiment_arm"
            ),
            "attempted_at": ATTEMPTED,
            "outcome": "delivered",
            "http_status": 201,
            "error_code": None,
            "error_reason": None,
            **SCORED,
            "churn_reasons": reasons,
            **GRANTED,
            "crm_number": 0,
        }
    }


def test_every_row_has_the_number_of_the_crm(warehouse: DuckDBWarehouse) -> None:
    found = changed("ada", "bob", "cyd")
    log = DeliveryLog(warehouse, "00000002-run", 2, lambda: ATTEMPTED, crm_number=5)
    log.intend(found)
    log.write(found.changes[:2], found.states, [DELIVERED, Outcome("rejected", 400, "no_such")])
    log.forgo(found.changes[2:], found.states)
    log.flush()
    rows = warehouse.query("select outcome, crm_number from ops.deliveries").to_pylist()
    assert {row["outcome"] for row in rows} == {"sending", "delivered", "rejected", "deferred"}
    assert {row["crm_number"] for row in rows} == {5}


def test_a_rejection_is_logged_with_why_and_without_a_state(warehouse: DuckDBWarehouse) -> None:
    found = changed("ada", "bob")
    log = log_of(warehouse)
    log.write(found.changes, found.states, [DELIVERED, Outcome("rejected", 400, "no_such", "it does not have ...")])
    log.flush()
    row = deliveries(warehouse)["bob"]
    assert (row["outcome"], row["http_status"], row["error_code"]) == ("rejected", 400, "no_such")
    assert (row["error_reason"], row["desired_hash"]) == ("it does not have ...", "hash-of-bob")
    assert {name: row[name] for name in CRM_STATE} == dict.fromkeys(CRM_STATE)


def test_who_got_no_word_is_not_logged(warehouse: DuckDBWarehouse) -> None:
    found = changed("ada", "bob", "cyd")
    log = log_of(warehouse)
    log.write(found.changes, found.states, [Outcome("deferred"), DELIVERED, Outcome("deferred", 200, "unconfirmed")])
    log.flush()
    assert outcomes(warehouse) == {"bob": "delivered"}


def test_each_user_is_logged_with_their_own_state_whatever_part_of_the_read_was_sent(
    warehouse: DuckDBWarehouse,
) -> None:
    rows = [row_of(f"u{number}", churn_probability=number / 10) for number in range(6)]
    rows[1] |= {f"acknowledged_{name}": value for name, value in SCORED.items()} | {"churn_probability": 0.5}
    found = changes(pa.RecordBatch.from_pylist(rows, schema=PENDING), MAPPING)
    assert [change.external_id for change in found.changes] == ["u0", "u2", "u3", "u4", "u5"]
    log = log_of(warehouse)
    log.write(found.changes[3:], found.states, [DELIVERED, DELIVERED])
    log.write(found.changes[1:2], found.states, [DELIVERED])
    log.flush()
    held = {user: row["churn_probability"] for user, row in deliveries(warehouse).items()}
    assert held == {"u2": 0.2, "u4": 0.4, "u5": 0.5}


def test_one_outcome_too_few_is_no_log_at_all(warehouse: DuckDBWarehouse) -> None:
    found = changed("ada", "bob")
    log = log_of(warehouse)
    with pytest.raises(ValueError, match="shorter"):
        log.write(found.changes, found.states, [DELIVERED])
    log.flush()
    assert deliveries(warehouse) == {}


def test_what_is_about_to_be_sent_is_kept_at_once_with_the_state_it_will_leave(warehouse: DuckDBWarehouse) -> None:
    log = log_of(warehouse)
    log.intend(changed())
    log.intend(changed("ada"))
    rows = warehouse.query("select * from ops.deliveries").to_pylist()
    assert [(row["user_id"], row["outcome"], row["http_status"]) for row in rows] == [("ada", "sending", None)]
    assert {name: rows[0][name] for name in CRM_STATE} == dict.fromkeys(CRM_STATE) | SCORED
    assert rows[0]["fields_sent"].startswith("churn_probability,")


def test_what_was_not_sent_after_all_is_taken_back_without_a_state(warehouse: DuckDBWarehouse) -> None:
    log, found = log_of(warehouse), changed("ada", "bob")
    log.intend(found)
    log.forgo([], found.states)
    log.forgo(found.changes[1:], found.states)
    log.flush()
    rows = warehouse.query("select * from ops.deliveries where outcome = 'deferred'").to_pylist()
    assert [row["user_id"] for row in rows] == ["bob"]
    assert {name: rows[0][name] for name in CRM_STATE} == dict.fromkeys(CRM_STATE)


def test_rows_are_gathered_until_they_are_worth_an_append(warehouse: DuckDBWarehouse) -> None:
    warehouse.rows_per_append = 3
    found = changed("ada", "bob", "cyd", "dan")
    log = log_of(warehouse)
    seen = []
    for change in found.changes:
        log.write([change], found.states, [DELIVERED])
        seen.append(len(deliveries(warehouse)))
    log.flush()
    assert (seen, len(deliveries(warehouse))) == ([0, 0, 3, 3], 4)


def test_a_second_flush_writes_nothing_twice(warehouse: DuckDBWarehouse) -> None:
    found = changed("ada")
    log = log_of(warehouse)
    log.flush()
    log.write(found.changes, found.states, [DELIVERED])
    log.flush()
    log.flush()
    assert outcomes(warehouse) == {"ada": "delivered"}


def test_what_could_not_be_appended_is_kept_for_the_next_flush(
    warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError("the disk is full")

    found = changed("ada")
    log = log_of(warehouse)
    log.write(found.changes, found.states, [DELIVERED])
    with monkeypatch.context() as broken:
        broken.setattr(warehouse, "append", full)
        with pytest.raises(OSError, match="full"):
            log.flush()
    log.flush()
    assert outcomes(warehouse) == {"ada": "delivered"}


@pytest.mark.parametrize(
    ("attributes", "logged"),
    [
        ({"churn_risk_band": "low", "voucher_eligible": False}, "churn_risk_band,voucher_eligible"),
        ({"churn_risk_band": None}, "churn_risk_band"),
    ],
)
def test_the_log_s_list_of_fields_has_names_and_no_values(
    warehouse: DuckDBWarehouse, attributes: dict[str, str | bool | None], logged: str
) -> None:
    log = log_of(warehouse)
    log.write([Change("ada", dict(attributes))], changed("ada").states, [DELIVERED])
    log.flush()
    assert deliveries(warehouse)["ada"]["fields_sent"] == logged
