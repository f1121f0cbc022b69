"""Run lease: who holds it, and which earlier runs did not end cleanly.

A lease avoids wasted work: of two concurrent runs, one works in vain. Decisions are safe without it, because they are committed
under a unique key. The tables that dbt builds are not: a run that lost its lease may have written rows from an older state.
So every run appends a row when it takes the lease and another when it releases it. A run that finds an unreleased lease rebuilds
from the start of that run's window, which is correct whatever was built before.

With DuckDB no lease is taken, because one process holds the file: docs/adr/0016-a-lease-and-what-it-leaves.md.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from core.clock import UNIX_EPOCH
from core.errors import RetryableError, RunInProgressError
from warehouse.interface import Reader, Warehouse
from warehouse.tables import LEASES

# Runs that compete for one number try the next. More than a few at once are a mistake in the schedule.
_ATTEMPTS = 5
# Maximum difference between two machines' clocks. A lease further ahead of a later one was taken with a wrong clock.
_SKEW = timedelta(days=1)
# A run's id: its epoch, then the start time of an hourly run or the name of another command.
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
        """Whether other runs must wait at `now`, UTC. A lease taken further ahead than its length came from a wrong clock."""
        length = self.expires_at - self.taken_at
        return not self.is_released and self.taken_at - length <= now < self.expires_at


def newest(warehouse: Reader) -> Lease | None:
    """The lease with the highest number."""
    rows = warehouse.query(
        f"select * from {warehouse.relation('ops', 'leases')} order by lease desc limit 1"
    ).to_pylist()
    return Lease(**rows[0]) if rows else None


def take(warehouse: Warehouse, run_id: str, window_from: datetime, now: datetime, length: timedelta) -> Lease:
    """Take the lease. A length of zero keeps no run out, but records this run.

    Raises: RunInProgressError while another run holds it.
    """
    for _ in range(_ATTEMPTS):
        last = newest(warehouse)
        if last and last.keeps_out(now):
            raise RunInProgressError(
                f"Another run is in progress: {last.run_id} has the lease until {last.expires_at:%H:%M:%S} UTC and may renew "
                "it. If it was killed, the first run after that time continues.",
                is_hourly=bool(_HOURLY.match(last.run_id)),
            )
        mine = Lease(last.lease + 1 if last else 0, run_id, now, now + length, window_from)
        if _append(warehouse, mine):
            return mine
    last = newest(warehouse)
    is_hourly = bool(last and _HOURLY.match(last.run_id))
    raise RunInProgressError("Other runs are starting, and one of them has the lease.", is_hourly=is_hourly)


def renew(warehouse: Warehouse, mine: Lease, now: datetime, length: timedelta) -> Lease:
    """Extend the lease.

    Raises: RetryableError if another run has taken it meanwhile, because further writes of this run could be older than its rows.
    """
    next_one = replace(mine, lease=mine.lease + 1, taken_at=now, expires_at=now + length)
    if _append(warehouse, next_one):
        return next_one
    raise RetryableError("Another run took over, because this run's lease had expired. The other run does the rest.")


def release(warehouse: Warehouse, mine: Lease, now: datetime) -> bool:
    """Release the lease. Returns False if another run took it meanwhile; the rows of both may be mixed."""
    return _append(warehouse, replace(mine, lease=mine.lease + 1, expires_at=now, is_released=True))


def _append(warehouse: Warehouse, mine: Lease) -> bool:
    """Append a row. Returns False if its number belongs to another run.

    An existing row may be ours: if the reply to a load job was lost, the warehouse only reports a job with that name.
    """
    if warehouse.append_once(LEASES, asdict(mine)):
        return True
    sql = f"select run_id from {warehouse.relation('ops', 'leases')} where lease = $lease"
    rows = warehouse.query(sql, {"lease": mine.lease}).to_pylist()
    return [row["run_id"] for row in rows] == [mine.run_id]


def unfinished_from(warehouse: Reader, before: Lease, longest: timedelta) -> datetime | None:
    """Return the start of the earliest window that a run before this lease may have left unfinished; None if there is none.

    `longest` is the maximum run time. A run that may have been alive when the last clean run began may have written after it.
    """
    leases = warehouse.relation("ops", "leases")
    sql = f"select lease, taken_at from {leases} where is_released and lease < $lease order by lease desc limit 1"
    ended_well = warehouse.query(sql, {"lease": before.lease}).to_pylist()
    # Look back two maximum run times before the last clean finish; without one, look at all leases. The clean run may have
    # renewed its lease `longest` after its start, and a doubtful run began at most `longest` earlier. All leases after it are
    # read, whatever their clocks.
    number, taken_at = (ended_well[0]["lease"], ended_well[0]["taken_at"]) if ended_well else (0, None)
    since = min(taken_at, before.taken_at) - 2 * longest if taken_at else UNIX_EPOCH
    sql = f"select * from {leases} where (taken_at >= $since or lease >= $number) and lease < $lease order by lease"
    rows = warehouse.query(sql, {"since": since, "number": number, "lease": before.lease}).to_pylist()
    return _unfinished_from(in_order([Lease(**row) for row in rows], before.taken_at), longest)


def in_order(leases: list[Lease], now: datetime) -> list[Lease]:
    """Correct the times of leases taken with a clock far ahead: a lease was taken before the next one and before now, UTC."""
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
        """Whether a later run, begun when this one could no longer be alive, has ended cleanly."""
        return any(later.lease > first.lease and later.taken_at > first.taken_at + longest for later in good)

    doubtful = [first.window_from for run_id, first in began.items() if run_id not in released and not is_over(first)]
    return min(doubtful, default=None)
