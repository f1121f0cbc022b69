"""How does a run hold the lease while it works, and let go of it at the end?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.errors import WinbackError
from jobs.context import JobContext
from warehouse import lease as leases

# A run may outlive its sending deadline by so much: the audience of the next hour, the log, the report.
_BEYOND_DEADLINE = timedelta(minutes=15)


@dataclass
class LeaseGuard:
    """A lease that is kept while work goes on. `build_from` is where the run's build must begin, UTC."""

    context: JobContext
    build_from: datetime
    lease: leases.Lease | None = None
    may_have_interleaved: bool = False
    _length: timedelta = field(init=False)

    def __post_init__(self) -> None:
        self._length = timedelta(seconds=self.context.settings.lease_seconds)

    def keep(self) -> None:
        """Renew the lease once a third of it has passed; called wherever work comes up for air.

        Raises: RetryableError when another run took over.
        """
        now = self.context.now()
        if self.lease and self._length and now >= self.lease.taken_at + self._length / 3:
            self.lease = leases.renew(self.context.warehouse, self.lease, now, self._length)


@contextmanager
def leased(context: JobContext, run_id: str, window_from: datetime) -> Iterator[LeaseGuard]:
    """Hold the lease for a run whose window begins at `window_from`, UTC, and give it back when the run came to a good end.

    It merely ends when the run failed, or when another run may have written meanwhile (`may_have_interleaved`): the next run then
    builds again from where this one began. Where the warehouse lets one process in at a time there is nothing to lease.

    Raises: RunInProgressError while another run has it.
    """
    if context.warehouse.is_exclusive:
        yield LeaseGuard(context, window_from)
        return
    length = timedelta(seconds=context.settings.lease_seconds)
    lease = leases.take(context.warehouse, run_id, window_from, context.now(), length)
    longest = timedelta(seconds=context.settings.run_deadline_seconds) + _BEYOND_DEADLINE
    unfinished = leases.unfinished_from(context.warehouse, lease, longest)
    held = LeaseGuard(context, min(window_from, unfinished or window_from), lease)
    try:
        yield held
    except BaseException:
        # It failed, but it is over: nobody need wait for it. What it left is the next run's to build again.
        _expire(held)
        raise
    if held.may_have_interleaved:
        _expire(held)
    elif held.lease:
        leases.release(context.warehouse, held.lease, context.now())


def _expire(held: LeaseGuard) -> None:
    """Have the lease end now, where the warehouse still answers."""
    try:
        if held.lease:
            leases.renew(held.context.warehouse, held.lease, held.context.now(), timedelta(0))
    except WinbackError:
        return  # it runs out by itself
