"""`winback status` shows users whose erasure the CRM has not confirmed yet."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.context import open_context
from jobs.erasure.records import UnconfirmedErasures, unconfirmed
from jobs.output import checks as screens
from jobs.status import status
from tests.support.environment import settings_in
from tests.support.sync.builders import RecordingDestination
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import ERASURES

NINE = datetime(2026, 6, 15, 9, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    made = DuckDBWarehouse(tmp_path / "winback.duckdb")
    made.prepare()
    yield made
    made.close()


def receipts(warehouse: DuckDBWarehouse, user: str, hour: int, *told: str) -> None:
    """Write a request at `hour`, and its receipts, one minute apart."""
    asked = NINE.replace(hour=hour)
    rows = [
        {
            "erasure_id": f"of-{user}",
            "user_hash": user,
            "requested_at": asked,
            "recorded_at": asked + timedelta(minutes=minute),
            "step": step,
            "outcome": outcome,
        }
        for minute, (step, outcome) in enumerate(each.split(" ") for each in ("tombstone written", *told))
    ]
    warehouse.append(ERASURES, pa.Table.from_pylist(rows, schema=ERASURES.schema))


@pytest.mark.parametrize(
    ("told", "is_confirmed"),
    [
        (["crm deleted", "raw.users deleted"], True),
        (["crm deferred", "crm deleted"], True),
        (["crm deleted", "crm deleted"], True),
        ([], False),
        (["crm deferred"], False),
        (["crm rejected"], False),
        (["ops.deliveries deleted", "marts.crm_profiles deleted"], False),
        # A run in progress had sent the user to the CRM again.
        (["crm deleted", "crm deferred"], False),
        (["crm deferred", "crm deleted", "crm rejected"], False),
    ],
)
def test_the_crm_s_last_word_counts(warehouse: DuckDBWarehouse, told: list[str], is_confirmed: bool) -> None:
    receipts(warehouse, "ada", 9, *told)
    assert unconfirmed(warehouse) == (None if is_confirmed else UnconfirmedErasures(1, NINE))


def test_users_are_counted_and_the_oldest_wish_is_told(warehouse: DuckDBWarehouse) -> None:
    receipts(warehouse, "ada", 8, "crm deleted")
    receipts(warehouse, "ben", 10, "crm deferred")
    receipts(warehouse, "eve", 9, "crm rejected")
    receipts(warehouse, "eve", 11)  # two concurrent commands may each write a tombstone
    assert unconfirmed(warehouse) == UnconfirmedErasures(2, NINE)


def test_nobody_asked_is_nobody_open(warehouse: DuckDBWarehouse) -> None:
    assert unconfirmed(warehouse) is None


def lines_of_status(folder: Path) -> list[str]:
    with open_context(settings_in(folder), destination=RecordingDestination()) as context:
        answer = status(context)
    out = io.StringIO()
    screens.status(Console(file=out, width=80), answer)
    return [line for line in out.getvalue().splitlines() if "erase" in line]


def test_status_has_one_line_that_says_how_many_since_when_and_what_to_do(
    warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    receipts(warehouse, "ben", 10, "crm deferred")
    receipts(warehouse, "eve", 9, "crm rejected")
    warehouse.close()
    assert lines_of_status(tmp_path) == [
        "erasures         2 not confirmed by the CRM, the oldest requested 2026-06-15 09:00 UTC: winback erase USER_ID again "
        "(docs/runbook/erasure-not-finished.md)"
    ]


def test_status_has_no_such_line_when_everybody_is_erased(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    receipts(warehouse, "ada", 8, "crm deleted")
    warehouse.close()
    assert lines_of_status(tmp_path) == []
