"""Run lease: who holds it, and which earlier runs did not end cleanly.

A lease saves waste: two runs at once do the same work, and one of them in vain. Decisions do not need it, for they are committed
under a unique key. The tables that dbt builds on do: a run that was overtaken may have written rows of its own, older view into
them. So every run leaves a row when it takes the lease and one when it gives it back, and a run that finds one that was never
given back builds once more from where that one's window began, which is right whatever had been built before.

A DuckDB file is held by one process, and no lease is taken; docs/adr/0016-a-lease-and-what-it-leaves.md.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from core.clock import UNIX_EPOCH
from core.errors import RetryableError, RunInProgressError
from warehouse.interface import Reader, Warehouse
from warehouse.tables import LEASES

# Contenders that meet at one number try the next; more than a few at once is no schedule but a mistake.
_ATTEMPTS = 5
# Clocks of two machines may differ by so much; what is further ahead of a later lease was taken by a wrong clock.
_SKEW = timedelta(days=1)
# A run's id: its epoch, and for an hourly run the time at which it began; others name their command there.
_HOURLY = re.compile(r"\d+-\d{8}T\d{6}Z-")


@dataclass(frozen=True)
class Lease:
    """A row of `ops.leases`; times UTC."""

    lease: int
    run_id: str
    taken_at: datetime
    expires_at: datetime
    window_from: datetime
    is_released: bool = False

    def keeps_out(self, now: datetime) -> bool:
        """Whether others must wait, UTC. One that begins later than it lasts was taken by a clock that was ahead."""
        length = self.expires_at - self.taken_at
        return not self.is_released and self.taken_at - length <= now < self.expires_at


def newest(warehouse: Reader) -> Lease | None:
    """The lease with the highest number."""
    rows = warehouse.query(
        f"select * from {warehouse.relation('ops', 'leases')} order by lease desc limit 1"
    ).to_pylist()
    return Lease(**rows[0]) if rows else None


def take(warehouse: Warehouse, run_id: str, window_from: datetime, now: datetime, length: timedelta) -> Lease:
    """Take the lease. A length of nothing keeps nobody out, but leaves the row that tells of this run.

    Raises: RunInProgressError while another run has it.
    """
    for _ in range(_ATTEMPTS):
        last = newest(warehouse)
        if last and last.keeps_out(now):
            raise RunInProgressError(
                f"Another run is at it: {last.run_id} has the lease until {last.expires_at:%H:%M:%S} UTC, and may renew it. "
                "If it was killed, the first run after that goes on.",
                is_hourly=bool(_HOURLY.match(last.run_id)),
            )
        mine = Lease(last.lease + 1 if last else 0, run_id, now, now + length, window_from)
        if _append(warehouse, mine):
            return mine
    last = newest(warehouse)
    is_hourly = bool(last and _HOURLY.match(last.run_id))
    raise RunInProgressError("Other runs are just beginning, and one of them has the lease.", is_hourly=is_hourly)


def renew(warehouse: Warehouse, mine: Lease, now: datetime, length: timedelta) -> Lease:
    """Keep the lease for longer.

    Raises: RetryableError when another run has taken it meanwhile: whatever this one wrote from now on could be older than what
    is there.
    """
    next_one = replace(mine, lease=mine.lease + 1, taken_at=now, expires_at=now + length)
    if _append(warehouse, next_one):
        return next_one
    raise RetryableError("Another run took over, for this one's lease had run out. It does the rest.")


def release(warehouse: Warehouse, mine: Lease, now: datetime) -> bool:
    """Give the lease back; False when another run took it meanwhile, and the two may have mixed."""
    return _append(warehouse, replace(mine, lease=mine.lease + 1, expires_at=now, is_released=True))


def _append(warehouse: Warehouse, mine: Lease) -> bool:
    """Append a row; False if its number is another run's.

    It may be there and yet be ours: where the reply to a load job was lost, the warehouse says only that it has one of that name.
    """
    if warehouse.append_once(LEASES, asdict(mine)):
        return True
    sql = f"select run_id from {warehouse.relation('ops', 'leases')} where lease = $lease"
    rows = warehouse.query(sql, {"lease": mine.lease}).to_pylist()
    return [row["run_id"] for row in rows] == [mine.run_id]


def unfinished_from(warehouse: Reader, before: Lease, longest: timedelta) -> datetime | None:
    """Where the earliest window begins that a run may have left half done before this lease; None when all came to an end.

    `longest` is how long a run can live: whoever might still have been alive when the last run that ended well began may have
    written after it.
    """
    leases = warehouse.relation("ops", "leases")
    sql = f"select lease, taken_at from {leases} where is_released and lease < $lease order by lease desc limit 1"
    ended_well = warehouse.query(sql, {"lease": before.lease}).to_pylist()
    # Until a run has ended well nothing is forgotten, however long ago. That run may have renewed its lease `longest` after it
    # began, and whoever is in doubt began no more than `longest` before that. What came after it is all read, whatever its clock.
    number, taken_at = (ended_well[0]["lease"], ended_well[0]["taken_at"]) if ended_well else (0, None)
    since = min(taken_at, before.taken_at) - 2 * longest if taken_at else UNIX_EPOCH
    sql = f"select * from {leases} where (taken_at >= $since or lease >= $number) and lease < $lease order by lease"
    rows = warehouse.query(sql, {"since": since, "number": number, "lease": before.lease}).to_pylist()
    return _unfinished_from(in_order([Lease(**row) for row in rows], before.taken_at), longest)


def in_order(leases: list[Lease], now: datetime) -> list[Lease]:
    """Correct the times of leases that a clock far ahead took: a lease was taken before the next one, and before now, UTC."""
    corrected = []
    for lease in reversed(leases):
        corrected.append(replace(lease, taken_at=now) if lease.taken_at > now + _SKEW else lease)
        now = min(now, lease.taken_at)
    return corrected[::-1]


def _unfinished_from(leases: list[Lease], longest: timedelta) -> datetime | None:
    began: dict[str, Lease] = {}
    released: set[str] = set()
    for lease in leases:
        began.setdefault(lease.run_id, lease)
        if lease.is_released:
            released.add(lease.run_id)
    good = [began[run_id] for run_id in released]

    def is_over(first: Lease) -> bool:
        """A run that came after it, and began when it could not be alive any more, has ended well."""
        return any(later.lease > first.lease and later.taken_at > first.taken_at + longest for later in good)

    doubtful = [first.window_from for run_id, first in began.items() if run_id not in released and not is_over(first)]
    return min(doubtful, default=None)
