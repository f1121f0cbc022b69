"""The CRMs that a warehouse has served, one after another: `ops.crms`.

What a CRM acknowledged holds for that CRM alone. Each row of `ops.deliveries` therefore has the number of a CRM, and deliveries
with a number below `state_from` of the newest row do not count any more. The number is a unique key: a change of CRM is one
append, and two processes that change it at once cannot both succeed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from core.errors import RetryableError
from warehouse.interface import Reader, Warehouse
from warehouse.tables import CRMS

FIRST, REPLACED, MOVED, FORGETTING, SWITCHED = "first", "replaced", "moved", "forgetting", "switched"


@dataclass(frozen=True)
class ServedCrm:
    """A row of `ops.crms`. `crm` is the identity of a CRM, `adopted_at` is UTC.

    `kind`: `first`; `replaced` (the CRM before had confirmed nothing); `moved` (the same CRM at another address, its state is
    kept); `forgetting` (a switch has begun) and `switched` (it is complete).
    """

    number: int
    crm: str
    adopted_at: datetime
    state_from: int
    kind: str

    @property
    def is_complete(self) -> bool:
        """Whether the tables hold what this row says. A switch that was killed is not complete."""
        return self.kind != FORGETTING


def newest(warehouse: Reader) -> ServedCrm | None:
    """Return the CRM that the warehouse serves now, or None before the first run that recorded one."""
    sql = f"select * from {warehouse.relation(CRMS.layer, CRMS.name)} order by number desc limit 1"
    rows = warehouse.query(sql).to_pylist()
    return ServedCrm(**rows[0]) if rows else None


def state_from(warehouse: Reader) -> int:
    """Return the first number whose deliveries count; 0 before the first record."""
    last = newest(warehouse)
    return last.state_from if last else 0


def adopt(warehouse: Warehouse, mine: ServedCrm) -> ServedCrm:
    """Append the row of a CRM, and return it.

    Raises: RetryableError if another process has appended a row with this number.
    """
    if not warehouse.append_once(CRMS, asdict(mine)):
        # After a lost reply the row may be there and be ours.
        found = newest(warehouse)
        if found is None or (found.number, found.crm, found.kind) != (mine.number, mine.crm, mine.kind):
            raise RetryableError("Another process has changed the CRM at the same time. Run the same command again.")
    return mine


def left_behind(warehouse: Reader) -> dict[str | None, datetime]:
    """Return the CRMs whose state was forgotten, with the time (UTC): they keep what they hold. None is one without a record."""
    sql = f"select * from {warehouse.relation(CRMS.layer, CRMS.name)} order by number"
    left: dict[str | None, datetime] = {}
    before: ServedCrm | None = None
    for row in [ServedCrm(**row) for row in warehouse.query(sql).to_pylist()]:
        if row.kind == FORGETTING and (before is None or before.is_complete):
            left[before.crm if before else None] = row.adopted_at
        before = row
    if before:
        left.pop(before.crm, None)
    return left
