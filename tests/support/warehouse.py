"""Helpers for tests of the warehouses: rows of any of our tables, and epochs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

from warehouse import ledger
from warehouse.interface import Warehouse
from warehouse.tables import AUDITS, TIMESTAMP, Table

INDIA = timezone(timedelta(hours=5, minutes=30))
MOMENT = datetime(2026, 5, 20, 21, 30, 0, 123456, tzinfo=INDIA)
VALUES: dict[pa.DataType, Any] = {
    pa.string(): 'O\'Brien "ä" \\ ; -- $x @y',
    pa.float64(): 0.1,
    pa.int64(): 2**53 + 1,  # a double would lose it
    pa.bool_(): False,
    TIMESTAMP: MOMENT,
}
FAILED = {"reason": "internalError", "message": "An internal error occurred."}


def full_row(table: Table, **values: Any) -> dict[str, Any]:
    return {column.name: VALUES[column.type] for column in table.columns} | values


def sparse_row(table: Table, **values: Any) -> dict[str, Any]:
    return {c.name: VALUES[c.type] if c.required else None for c in table.columns} | values


def rows_of(table: Table, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=table.schema)


def audits(*numbers: int, audit_id: str = "a") -> pa.Table:
    """Return this many rows of a table without partitions, numbered."""
    return rows_of(AUDITS, *(full_row(AUDITS, audit_id=audit_id, count_rows=number) for number in numbers))


def numbers_in(warehouse: Warehouse) -> list[int]:
    found = warehouse.query(f"select count_rows from {warehouse.relation('ops', 'audits')} order by count_rows")
    numbers: list[int] = found.column("count_rows").to_pylist()
    return numbers


def epoch(number: int, run_id: str) -> ledger.Epoch:
    return ledger.Epoch(number, run_id, "hourly", MOMENT, MOMENT, 3, 2, 1, 1, MOMENT.astimezone(UTC))
