"""Erasure: the user is gone from every table and from the CRM, and the result names what is left."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from core.errors import ContractError, RetryableError
from crm_sync.destination import Outcome
from crm_sync.destinations.braze import Braze
from tests.support.builders.erase import RECEIPTS, eligible, erased, erased_and_killed, outcomes, places_of
from tests.support.environment import API_KEY, NOW, World
from tests.support.run_assertions import restore_crm, take_crm_down
from warehouse.duckdb.warehouse import DuckDBWarehouse


def test_no_column_of_any_table_holds_an_erased_user_nor_does_the_crm(told: World) -> None:
    user = eligible(told)
    before = {place.rpartition(".")[0] for place in places_of(told, user)}

    answer = erased(told, user)

    assert before >= {"raw.app_events", "raw.users", "ops.decisions", "ops.deliveries", "marts.crm_profiles"}
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None
    assert answer.problem is None
    deleted = {receipt.step for receipt in answer.receipts if receipt.count_rows}
    assert deleted == before


def test_receipts_recognise_a_user_without_naming_them(told: World) -> None:
    user = eligible(told)
    erased(told, user)

    rows = told.query("select * from ops.erasures")
    assert {row["user_hash"] for row in rows} == {hashlib.sha256(user.encode()).hexdigest()}
    assert {row["requested_at"] for row in rows} == {NOW}
    assert outcomes(told) == {row["step"]: "deleted" for row in rows} | {"tombstone": "written"}
    assert [row for row in rows if row["step"] in ("tombstone", "crm")][1]["http_status"] == 201
    assert user not in str(rows)


# The tombstone, deliveries, the CRM, the first tables, some in the middle, and 22, where the receipts are written.
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 12, 22])
def test_killed_at_any_step_it_is_finished_by_the_same_command(told: World, place: int) -> None:
    user = eligible(told)
    erased_and_killed(told, user, place)

    answer = erased(told, user)

    assert answer.problem is None
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None
    assert set(outcomes(told)) == {receipt.step for receipt in answer.receipts}
    assert set(outcomes(told).values()) == {"written", "deleted"}


def test_erased_again_there_is_nothing_to_do_and_no_receipt_to_add(told: World) -> None:
    user = eligible(told)
    first = erased(told, user)
    receipts = told.query(RECEIPTS)

    second = erased(told, user)

    assert second.erasure_id == first.erasure_id
    assert second.problem is None
    assert told.query(RECEIPTS) == receipts


def test_an_id_that_nobody_knows_gets_a_tombstone_and_the_crm_is_asked(told: World) -> None:
    answer = erased(told, "someone's id; drop table raw.users --")

    assert answer.problem is None
    crm = next(receipt for receipt in answer.receipts if receipt.step == "crm")
    assert (crm.outcome, crm.error_code) == ("deleted", "not_found")
    assert {receipt.count_rows for receipt in answer.receipts} == {None, 0}
    assert outcomes(told)["tombstone"] == "written"


def test_a_crm_that_is_down_is_told_by_the_next_command_and_the_tables_are_done_already(told: World) -> None:
    user = eligible(told)
    take_crm_down(told)
    first = erased(told, user)
    restore_crm(told)

    assert isinstance(first.problem, RetryableError)
    assert "Run the same command again" in str(first.problem)
    assert user not in str(first.problem)
    assert places_of(told, user) == []
    assert told.crm.store.profile(user)
    assert [r for r in told.query(RECEIPTS) if r["step"] == "crm"] == [
        {"step": "crm", "outcome": "deferred", "count_rows": None, "http_status": None, "error_code": "unavailable"}
    ]

    second = erased(told, user)

    assert second.problem is None
    assert told.crm.store.profile(user) is None
    assert [r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm"] == ["deferred", "deleted"]


class Refusing(Braze):
    """A CRM that refuses with a message that names the user."""

    def erase(self, external_ids: Any, run: Any) -> list[Outcome]:
        return [Outcome("rejected", 400, f"user_{each}_is_protected") for each in external_ids]


def test_a_refusal_is_told_without_the_user_whom_it_names(told: World) -> None:
    user = eligible(told)
    answer = erased(told, user, destination=Refusing(told.crm.url, API_KEY))

    assert isinstance(answer.problem, RetryableError)
    crm = next(receipt for receipt in answer.receipts if receipt.step == "crm")
    assert (crm.outcome, crm.http_status, crm.error_code) == ("rejected", 400, "withheld")
    assert user not in str(answer.as_dict())
    assert places_of(told, user) == []


def test_a_wrong_key_is_a_contract_error_after_the_tables_are_done(told: World) -> None:
    user = eligible(told)
    answer = erased(told, user, destination=Braze(told.crm.url, "wrong"))

    assert isinstance(answer.problem, ContractError)
    assert outcomes(told)["crm"] == "deferred"
    assert places_of(told, user) == []


def test_a_table_that_cannot_be_deleted_from_does_not_keep_the_rest(
    told: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = eligible(told)
    delete = DuckDBWarehouse.delete_users

    def failing(self: DuckDBWarehouse, table: Any, *args: Any) -> int:
        if table.name == "int_sessions":
            raise RetryableError("The warehouse is out of reach.")
        return delete(self, table, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DuckDBWarehouse, "delete_users", failing)
        answer = erased(told, user)

    assert isinstance(answer.problem, RetryableError)
    assert "intermediate.int_sessions may still hold rows" in str(answer.problem)
    assert places_of(told, user) == ["intermediate.int_sessions.user_id"]
    assert erased(told, user).problem is None
    assert places_of(told, user) == []
