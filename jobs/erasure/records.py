"""Records of erasures in `ops.erasures`: tombstones and receipts, with hashes in place of user ids."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from jobs.context import JobContext
from warehouse.interface import Reader
from warehouse.tables import ERASURES

TOMBSTONE, CRM = "tombstone", "crm"


@dataclass(frozen=True)
class Receipt:
    """Result of one step. `outcome` is written, deleted, rejected, deferred, or kept (the table belongs to the app)."""

    step: str
    outcome: str
    count_rows: int | None = None
    http_status: int | None = None
    error_code: str | None = None


@dataclass(frozen=True)
class Tombstone:
    """A requested erasure; times UTC. The dictionary holds the last outcome on record for each step."""

    erasure_id: str
    user_hash: str
    requested_at: datetime
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UnconfirmedErasures:
    """Users whose erasure the CRM has not confirmed, and the time of the oldest request, UTC."""

    count_users: int
    oldest_at: datetime


class ReceiptLog:
    """Collects the receipts of an erasure and appends them at once: BigQuery allows 1,500 load jobs per table and day."""

    def __init__(self, context: JobContext, tombstone: Tombstone) -> None:
        self._house, self._tombstone = context, tombstone
        self.receipts: list[Receipt] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, receipt: Receipt) -> None:
        """Add the receipt of a step. A repeated outcome is recorded again only if more rows were deleted."""
        self.receipts.append(receipt)
        tombstone = self._tombstone
        if receipt.count_rows or tombstone.told.get(receipt.step) != receipt.outcome:
            of_erasure = {
                "erasure_id": tombstone.erasure_id,
                "user_hash": tombstone.user_hash,
                "requested_at": tombstone.requested_at,
            }
            self._rows.append(of_erasure | {"recorded_at": self._house.now()} | asdict(receipt))

    def write(self) -> None:
        """Append the receipts to `ops.erasures`."""
        if self._rows:
            self._house.warehouse.append(ERASURES, pa.Table.from_pylist(self._rows, schema=ERASURES.schema))


def write_tombstone(context: JobContext, user_hash: str) -> Tombstone:
    """Write the tombstone, or return the existing one."""
    sql = f"""
        select erasure_id, requested_at, step, outcome from {_erasures(context.warehouse)}
        where user_hash = $user_hash order by recorded_at
    """
    rows = context.warehouse.query(sql, {"user_hash": user_hash}).to_pylist()
    found = next((row for row in rows if row["step"] == TOMBSTONE), None)
    if found:
        told = {row["step"]: row["outcome"] for row in rows}
        return Tombstone(found["erasure_id"], user_hash, found["requested_at"], told)
    now = context.now()
    tombstone = Tombstone(f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}", user_hash, now)
    receipts = ReceiptLog(context, tombstone)
    receipts.add(Receipt(TOMBSTONE, "written"))
    receipts.write()
    return tombstone


def tombstones(warehouse: Reader, since: datetime) -> list[Tombstone]:
    """Return the tombstones written since then (UTC)."""
    sql = f"""
        select erasure_id, user_hash, requested_at from {_erasures(warehouse)}
        where step = '{TOMBSTONE}' and recorded_at >= $since
    """
    return [Tombstone(**row) for row in warehouse.query(sql, {"since": since}).to_pylist()]


def has_tombstone_sql(warehouse: Reader, hashed: str) -> str:
    """Return SQL that is true if the hash belongs to a user with a tombstone written since $since."""
    return f"{hashed} in (select user_hash from {_erasures(warehouse)} where step = '{TOMBSTONE}' and recorded_at >= $since)"


def unconfirmed(warehouse: Reader) -> UnconfirmedErasures | None:
    """Count the users whose erasure the CRM has not confirmed; returns None if there are none.

    Without a receipt the erasure was interrupted. A run in progress may re-create a user after the CRM has erased them, and the
    second deletion may fail. The last receipt therefore counts.
    """
    sql = f"""
        with words as (
            select user_hash, outcome from {_erasures(warehouse)}
            where step = '{CRM}'
            qualify row_number() over (partition by user_hash order by recorded_at desc) = 1
        )

        select count(distinct asked.user_hash) as count_users, min(asked.requested_at) as oldest_at
        from {_erasures(warehouse)} as asked
        left join words on asked.user_hash = words.user_hash
        where asked.step = '{TOMBSTONE}' and coalesce(words.outcome, 'none') != 'deleted'
    """
    (row,) = warehouse.query(sql).to_pylist()
    return UnconfirmedErasures(int(row["count_users"]), row["oldest_at"]) if row["count_users"] else None


def _erasures(warehouse: Reader) -> str:
    return warehouse.relation(ERASURES.layer, ERASURES.name)
