"""How does a run hold the lease while it works, and let go of it at the end?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.errors import WinbackError
from jobs.context import House
from warehouse import lease as leases

# A run may outlive its sending deadline by so much: the audience of the next hour, the log, the report.
_BEYOND_DEADLINE = timedelta(minutes=15)


@dataclass
class Held:
    """A lease that is kept while work goes on. `build_from` is where the run's build must begin, UTC."""

    house: House
    build_from: datetime
    lease: leases.Lease | None = None
    is_mixed: bool = False
    _length: timedelta = field(init=False)

    def __post_init__(self) -> None:
        self._length = timedelta(seconds=self.house.settings.lease_seconds)

    def keep(self) -> None:
        """Renew the lease once a third of it has passed; called wherever work comes up for air.

        Raises: RetryableError when another run took over.
        """
        now = self.house.now()
        if self.lease and self._length and now >= self.lease.taken_at + self._length / 3:
            self.lease = leases.renew(self.house.warehouse, self.lease, now, self._length)


@contextmanager
def leased(house: House, run_id: str, window_from: datetime) -> Iterator[Held]:
    """Hold the lease for a run whose window begins at `window_from`, UTC, and give it back when the run came to a good end.

    It merely ends when the run failed, or another one was at it meanwhile (`is_mixed`): the next run then builds again from where
    this one began. Where the warehouse lets one process in at a time there is nothing to lease.

    Raises: BusyError while another run has it.
    """
    if house.warehouse.is_exclusive:
        yield Held(house, window_from)
        return
    length = timedelta(seconds=house.settings.lease_seconds)
    lease = leases.take(house.warehouse, run_id, window_from, house.now(), length)
    longest = timedelta(seconds=house.settings.run_deadline_seconds) + _BEYOND_DEADLINE
    unfinished = leases.unfinished_from(house.warehouse, lease, longest)
    held = Held(house, min(window_from, unfinished or window_from), lease)
    try:
        yield held
    except BaseException:
        # It failed, but it is over: nobody need wait for it. What it left is the next run's to build again.
        _expire(held)
        raise
    if held.is_mixed:
        _expire(held)
    elif held.lease:
        leases.release(house.warehouse, held.lease, house.now())


def _expire(held: Held) -> None:
    """Have the lease end now, where the warehouse still answers."""
    try:
        if held.lease:
            leases.renew(held.house.warehouse, held.lease, held.house.now(), timedelta(0))
    except WinbackError:
        return  # it runs out by itself
