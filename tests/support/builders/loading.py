"""Builders for tests of loading: rows of each file, and a load that must be refused and change nothing."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from core.errors import ContractError
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import Loaded, load
from warehouse.tables import RAW

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

HEAD = "Rows are data rows, counted from 1 without the header."
EVENTS = "event_id,user_id,event_name,occurred_at,loaded_at,fields_filled_ratio"
EVENT = "e1,u1,step_viewed,2026-02-01T10:00:00Z,2026-02-01T10:05:00Z,0.5"
USERS = "user_id,created_at,updated_at,marketing_consent,age,income,previous_year_filing"
USER = "u1,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z,true,34,1000,yes"
REDEMPTIONS = "redemption_id,user_id,campaign,redeemed_at,loaded_at"
REDEMPTION = "r1,u1,spring,2026-02-02T00:00:00Z,2026-02-02T00:00:00Z"
OTHER = "the same as in the warehouse or in an earlier row, but the other columns differ,"
HEADERS = {"events": EVENTS, "users": USERS, "redemptions": REDEMPTIONS}

CLOCK = "Check that it is in UTC and this computer's clock."
FUTURE = f"in the future (after 2026-03-01 12:00:00 UTC) in row 1. {CLOCK}"

ZONE = "End each in Z or an offset such as +01:00."

FINITE = "not a finite number in row 1. Write digits and a decimal point, or leave it empty."


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def event(**changes: str) -> str:
    return row(EVENTS, EVENT, changes)


def user(**changes: str) -> str:
    return row(USERS, USER, changes)


def row(header: str, example: str, changes: dict[str, str]) -> str:
    return ",".join((dict(zip(header.split(","), example.split(","), strict=True)) | changes).values())


def event_table(**columns: Any) -> pa.Table:
    at = pa.array([NOW - timedelta(days=9)], pa.timestamp("us", "UTC"))
    start = {"event_id": ["e1"], "user_id": ["u1"], "event_name": ["step_viewed"], "occurred_at": at, "loaded_at": at}
    return pa.table({name: values for name, values in (start | columns).items() if values is not None})


def contents(warehouse: DuckDBWarehouse) -> dict[str, list[dict[str, Any]]]:
    return {key: warehouse.query(f'from "raw"."{table.name}" order by all').to_pylist() for key, table in RAW.items()}


def load_text(warehouse: DuckDBWarehouse, folder: Path, key: str, *rows: str) -> Loaded:
    (folder / f"{key}.csv").write_text(lines(*rows))
    return load(warehouse, {key: folder / f"{key}.csv"}, now=NOW)[key]


def refusal(warehouse: DuckDBWarehouse, files: Mapping[str, Path | Sequence[Path]]) -> list[str]:
    """Load files that must be refused, beside a valid one; return the message's lines after the first.

    The tables, which already have rows, must stay the same, and no other file or table may be left behind.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_text(warehouse, folder, "events", EVENTS, event(event_id="resident"))
        load_text(warehouse, folder, "users", USERS, user(user_id="resident"))
        before = contents(warehouse)
        (folder / "right.csv").write_text(lines(REDEMPTIONS, REDEMPTION))
        with pytest.raises(ContractError) as caught:
            load(warehouse, {"redemptions": folder / "right.csv", **files}, now=NOW)
    assert contents(warehouse) == before
    assert warehouse.query("from duckdb_tables() where temporary").num_rows == 0
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    first, *rest = str(caught.value).split("\n")
    assert re.fullmatch(rf"Nothing was loaded: \d+ problems?\. {re.escape(HEAD)}", first)
    return rest
